"""The plan of a run: what it will ask of its store, for how long, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from configs.schema import Config
from data.order import SampleOrder
from data.plan.demand import Demand
from data.plan.model import CachePlan, DatasetPlan, PerSample, Plan, Rates, Site, Whole

_LOOKED_AT = 512  # samples spread over the run, of which the means are taken


def make_plan(demand: Demand, config: Config, site: Site, samples_per_second: float | None = None) -> Plan:
    """Plan a run.

    Args:
        demand: of this config.
        config: of the run; its data, trainer.steps and cluster.workers count.
        site: where it reads from.
        samples_per_second: the run's speed over all workers, where it is known.
    """
    batch, steps, workers = config.data.batch_size, config.trainer.steps, config.cluster.workers
    each = _per_sample(demand, batch, steps)
    datasets = _datasets(demand, batch, steps, each)
    samples = batch * steps
    return Plan(
        workers=workers,
        batch_size=batch,
        steps=steps,
        samples=samples,
        datasets=datasets,
        per_sample=each,
        whole=Whole(
            requests=round(samples * each.requests),
            bytes=round(samples * each.asked),
            request_dollars=samples * each.requests / 1e6 * site.prices.million_requests,
            egress_dollars=samples * each.asked / 1e9 * site.prices.gigabyte_out,
        ),
        cache=CachePlan(
            epoch_bytes=round(sum(part.epoch for part in datasets) * each.asked),
            all_bytes=round(sum(part.captures for part in datasets) * each.needed * each.cameras / each.views),
            second_epoch_hits=min(1.0, each.views / each.cameras) / workers,
        ),
        link_samples_per_second=workers * site.link_mbit * 1e6 / 8 / each.asked,
        rates=_rates(samples_per_second, batch, steps, workers, each, datasets, site) if samples_per_second else None,
    )


def _per_sample(demand: Demand, batch: int, steps: int) -> PerSample:
    """Means over samples that are spread evenly over the run."""
    count = min(_LOOKED_AT, batch * steps)
    positions = [batch * steps * number // count for number in range(count)]
    seen = [one for position in positions for one in demand.of(position - position % batch, position, 1)]
    cameras = [demand.layout_of(one.sample).view_counts()[one.sample.source_row] for one in seen]
    return PerSample(
        views=float(np.mean([one.views for one in seen])),
        cameras=float(np.mean(cameras)),
        requests=float(np.mean([len(one.shards) for one in seen])),
        needed=float(np.mean([one.needed for one in seen])),
        asked=float(np.mean([one.asked for one in seen])),
    )


def _datasets(demand: Demand, batch: int, steps: int, each: PerSample) -> tuple[DatasetPlan, ...]:
    sampler = demand.sampler
    found = []
    for holding, order, share in zip(demand.holdings, sampler.orders, sampler.mixture.shares, strict=True):
        captures = order.captures
        samples = batch * steps * share
        found.append(
            DatasetPlan(
                where=holding.layout.where,
                share=share,
                subjects=captures.subjects,
                captures=len(captures),
                epoch=len(order),
                epochs=samples / len(order),
                steps_per_epoch=math.ceil(len(order) / (batch * share)),
                steps_to_see_all=math.ceil(len(order) * _turns(order) / (batch * share)),
                views_per_subject=samples * each.views / captures.subjects,
                bytes=round(holding.bytes * len(captures) / len(holding.layout)),
            )
        )
    return tuple(found)


def _turns(order: SampleOrder) -> int:
    """Epochs until every capture has come."""
    return 1 if len(order) == len(order.captures) else order.captures.most_frames


def _rates(
    speed: float, batch: int, steps: int, workers: int, each: PerSample, datasets: Sequence[DatasetPlan], site: Site
) -> Rates:
    requests, size = speed * each.requests, speed * each.asked
    return Rates(
        samples_per_second=speed,
        seconds=batch * steps / speed,
        seconds_to_see_all=max(part.steps_to_see_all for part in datasets) * batch / speed,
        requests_per_second=requests,
        bytes_per_second=size,
        worker_requests_per_second=requests / workers,
        worker_bytes_per_second=size / workers,
        link_used=size / workers * 8 / (site.link_mbit * 1e6),
        in_flight=requests / workers * site.latency,
    )
