"""What a run asks of a cluster, and whether the cluster has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.text import count, duration, size
from configs import Config

if TYPE_CHECKING:
    from data.plan.model import Plan, Site
    from trainer.describe import Description


@dataclass(frozen=True)
class Node:
    """A machine of a cluster: its address, and what Ray may hand out there."""

    address: str
    cpus: float
    gpus: float


def fitting(config: Config, nodes: Sequence[Node]) -> int:
    """How many workers of this config find room; a unit of them cannot be split between machines."""
    want = config.cluster
    shares = [
        min(node.cpus / want.cpus_per_worker, node.gpus / want.gpus_per_worker if want.gpus_per_worker else math.inf)
        for node in nodes
    ]
    return sum(math.floor(share + 1e-6) // want.workers_per_unit * want.workers_per_unit for share in shares)


def shortage(config: Config, nodes: Sequence[Node]) -> str | None:
    """What keeps the run from starting; None where as many workers find room as it takes."""
    want, fit = config.cluster, fitting(config, nodes)
    if fit >= want.fewest:
        return None
    each = f"{want.cpus_per_worker:g} CPU" + (f" and {want.gpus_per_worker:g} GPU" if want.gpus_per_worker else "")
    workers = "1 worker" if want.fewest == 1 else f"{want.fewest} workers"
    found = f"{fit} fit on {there(nodes)}" if nodes else "no node is up yet"
    return f"{workers} of {each} are wanted, {found}"


def there(nodes: Sequence[Node]) -> str:
    """`3 nodes with 24 CPU and 8 GPU (at most 8 and 4 on one)`."""
    if not nodes:
        return "no node is up yet"
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if len(nodes) == 1:
        return f"1 node with {cpus:g} CPU and {gpus:g} GPU"
    most = f"{max(node.cpus for node in nodes):g} and {max(node.gpus for node in nodes):g}"
    return f"{len(nodes)} nodes with {cpus:g} CPU and {gpus:g} GPU (at most {most} on one)"


def resources(config: Config) -> list[str]:
    """Lines on processors."""
    want = config.cluster
    workers = "1 worker" if want.fewest == 1 else f"{want.fewest} workers"
    total_cpus, total_gpus = want.workers * want.cpus_per_worker, want.workers * want.gpus_per_worker
    return [
        f"processors {workers}, each {want.cpus_per_worker:g} CPU and {want.gpus_per_worker:g} GPU: "
        f"{total_cpus:g} CPU and {total_gpus:g} GPU in all"
    ]


def memory(found: Description) -> list[str]:
    """Lines on memory, from `trainer.describe`: exact for weights and optimisers, estimated for activations."""
    lines = []
    for name, network in found.networks.items():
        chosen = network.memory[network.stage]
        where = f"{size(chosen.device)} on the device" + (f", {size(chosen.host)} on the host" if chosen.host else "")
        lines.append(
            f"memory     {name}: {count(network.total)} parameters, ZeRO {network.stage}, {network.precision}: "
            f"{where} of each worker"
        )
    if found.arithmetic is not None:
        activations = found.arithmetic.activations / (2 if found.precision == "bf16" else 1)
        lines.append(f"           and about {size(activations)} of activations, without rendering and losses")
    return lines


def bandwidth(plan: Plan, site: Site) -> list[str]:
    """Lines on the store, from `data.plan`."""
    each, rates = plan.per_sample, plan.rates
    lines = [
        f"store      {size(each.asked)} in {each.requests:.1f} requests a sample, {size(plan.whole.bytes)} in all; "
        f"links of {site.link_mbit:,.0f} Mbit/s carry {plan.link_samples_per_second:,.1f} samples/s"
    ]
    if rates is None:
        return [*lines, "           --samples-per-second N says what the store must give"]
    return [
        *lines,
        f"           at {rates.samples_per_second:,.1f} samples/s: {size(rates.bytes_per_second)}/s and "
        f"{rates.requests_per_second:,.0f} requests/s in all, {rates.link_used:.0%} of each worker's link, "
        f"for {duration(rates.seconds)}",
    ]
