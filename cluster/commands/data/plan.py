"""`headway data plan`: what a run would ask of its store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.commands.train import Overrides
from cluster.text import duration, size
from configs import Config, UserError, load_config

if TYPE_CHECKING:
    from data.plan.model import Plan, Site
    from data.plan.regular import Numbers
    from data.plan.simulate import Simulation

Cloud = Literal["s3", "gcs", "azure"]


def plan(
    config: Annotated[str, typer.Argument(help="a preset or a YAML file")],
    overrides: Overrides = None,
    captures: Annotated[
        int | None, typer.Option(min=1, help="describe a dataset instead of opening data.train")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="described: captures of each subject")] = 1,
    views: Annotated[int, typer.Option(min=1, help="described: cameras")] = 16,
    image_kb: Annotated[float, typer.Option(min=0.1, help="described: size of an image, KB")] = 50.0,
    mask_kb: Annotated[float, typer.Option(min=0.0, help="described: size of a mask, KB; 0 for none")] = 4.0,
    ranks: Annotated[int | None, typer.Option(min=1, help="workers; each keeps its share of the batch")] = None,
    samples_per_second: Annotated[float | None, typer.Option(min=1e-6, help="the run's speed, all workers")] = None,
    step_seconds: Annotated[float | None, typer.Option(min=1e-6, help="the run's speed, as a step's time")] = None,
    link_mbit: Annotated[float, typer.Option(min=0.1, help="between the store and each worker, Mbit/s")] = 500.0,
    latency_ms: Annotated[float, typer.Option(min=0.01, help="of a request to the store")] = 30.0,
    cloud: Annotated[Cloud, typer.Option(help="list prices, US regions, 2025")] = "s3",
    request_price: Annotated[float | None, typer.Option(min=0, help="dollars per million GET requests")] = None,
    egress_price: Annotated[float | None, typer.Option(min=0, help="dollars per GB that leaves the region")] = None,
    picture: Annotated[Path | None, typer.Option(help="write a PNG that explains the order")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print numbers for machines")] = False,
) -> None:
    """Say what a run would ask of its store, before it is submitted.

    Requests, bytes, cost, caches, whether the link suffices. Every rank's samples and requests of a few first, middle
    and last steps are computed exactly, for as many ranks and captures as you like, and the promises of the order are
    checked on them. Where data.train can be opened its index is used; no image is read.

    **Example:** `headway data plan headsup-base data.train=s3://bucket/heads --samples-per-second 40` and, for what
    does not exist yet, `headway data plan headsup-base --ranks 1024 --captures 100000000 --views 80`
    """
    from data.plan.model import CLOUDS, Prices, Site
    from data.plan.picture import draw_order
    from data.plan.regular import Numbers

    run = load_config(config, overrides or [])
    listed = CLOUDS[cloud]
    prices = Prices(
        listed.million_requests if request_price is None else request_price,
        listed.gigabyte_out if egress_price is None else egress_price,
    )
    site = Site(link_mbit, latency_ms / 1000, run.data.store.in_flight, prices)
    numbers = Numbers(captures, frames, views, int(1000 * image_kb), int(1000 * mask_kb)) if captures else None
    planned, simulated = _compute(run, numbers, ranks, site, _speed(samples_per_second, step_seconds))
    show = _as_json if as_json else _as_text
    print(show(planned, simulated, site))
    if picture:
        try:
            draw_order(run.run.seed).save(picture)
        except (OSError, ValueError) as error:
            raise UserError(f"the picture cannot be written ({error})", where=str(picture)) from None


def _speed(samples_per_second: float | None, step_seconds: float | None) -> Callable[[int], float | None]:
    """Samples per second, given the size of a batch."""
    if step_seconds is None:
        return lambda _: samples_per_second
    if samples_per_second is not None:
        raise UserError("the speed is given twice", where="--step-seconds", hint="leave out --samples-per-second")
    return lambda batch: batch / step_seconds


def _compute(
    config: Config, numbers: Numbers | None, ranks: int | None, site: Site, speed: Callable[[int], float | None]
) -> tuple[Plan, Simulation]:
    from rich.console import Console

    from cluster.display import counter
    from data.plan.demand import Demand
    from data.plan.estimate import make_plan
    from data.plan.holding import made_up, on_ranks, open_holdings
    from data.plan.simulate import chosen_steps, simulate

    config = config if ranks is None else on_ranks(config, ranks)
    holdings = open_holdings(config.data) if numbers is None else made_up(numbers, config.data)
    demand = Demand(holdings, config.data, config.run.seed, site.cost)
    planned = make_plan(demand, config, site, speed(config.data.batch_size))
    with counter("ranks", Console(stderr=True, highlight=False)) as progress:
        simulated = simulate(demand, config, chosen_steps(config.trainer.steps), progress)
    return planned, simulated


def _as_json(plan: Plan, simulated: Simulation, site: Site) -> str:
    from data.plan.warn import warnings

    found = {"plan": asdict(plan), "simulation": asdict(simulated), "warnings": warnings(plan, site)}
    found["plan"]["per_sample"]["used"] = plan.per_sample.used
    return json.dumps(found, indent=1)


def _as_text(plan: Plan, simulated: Simulation, site: Site) -> str:
    from data.plan.warn import warnings

    each, whole, cache = plan.per_sample, plan.whole, plan.cache
    lines = [
        f"{plan.steps:,} steps of {plan.batch_size:,} captures on {plan.workers:,} workers: {plan.samples:,} samples",
        "",
        *_datasets(plan),
        "",
        f"a sample   reads {each.views:.1f} of {each.cameras:.0f} views in {each.requests:.1f} requests: "
        f"{size(each.asked)}, {each.used:.0%} of them used",
        f"the run    {_count(whole.requests)} requests (${whole.request_dollars:,.2f}) and {size(whole.bytes)} "
        f"(free inside the region, ${whole.egress_dollars:,.2f} out of it)",
        *_speeds(plan, site),
        f"the links  of {site.link_mbit:,.0f} Mbit/s carry {plan.link_samples_per_second:,.1f} samples/s in all",
        f"a cache    of {size(cache.all_bytes)} holds all that may be asked; an epoch asks {size(cache.epoch_bytes)}",
        *_simulated(simulated),
    ]
    found = warnings(plan, site)
    return "\n".join([*lines, *([""] if found else []), *(f"! {warning}" for warning in found)])


def _datasets(plan: Plan) -> list[str]:
    rows = [("dataset", "share", "subjects", "captures", "epochs", "all seen after", "views/subject", "size")]
    for part in plan.datasets:
        after = f"{part.steps_to_see_all:,} steps"
        numbers = (f"{part.share:.1%}", f"{part.subjects:,}", f"{part.captures:,}", f"{part.epochs:,.2f}", after)
        rows.append((part.where, *numbers, f"{part.views_per_subject:,.1f}", size(part.bytes)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _speeds(plan: Plan, site: Site) -> list[str]:
    rates = plan.rates
    if rates is None:
        return ["speed      unknown: --samples-per-second or --step-seconds tells what the store must give"]
    return [
        f"speed      {rates.samples_per_second:,.1f} samples/s: {rates.requests_per_second:,.0f} requests/s and "
        f"{size(rates.bytes_per_second)}/s in all",
        f"a worker   {rates.worker_requests_per_second:,.1f} requests/s, {rates.in_flight:,.1f} of them in flight, and "
        f"{size(rates.worker_bytes_per_second)}/s, {rates.link_used:.0%} of its link",
        f"time       {duration(rates.seconds)}; every capture has been seen after {duration(rates.seconds_to_see_all)}",
    ]


def _simulated(found: Simulation) -> list[str]:
    steps = ", ".join(f"{step:,}" for step in found.steps)
    promises = (
        ("every rank takes the same number", found.equal_steps),
        ("one rank alone would see the same sequence", found.same_as_one_rank),
        ("no capture twice in an epoch", found.no_repeats),
    )
    kept = "; ".join(text if good else f"BROKEN: {text}" for text, good in promises)
    hot, load = found.hot, found.load
    return [
        f"the order  {found.samples:,} samples of steps {steps} computed: {kept}",
        f"shards     {hot.requests:,.0f} requests a step to {hot.touched:,.0f} of {found.shards:,} shards, at most "
        f"{hot.busiest:,} to one ({hot.mean:,.2g} on average)",
        f"balance    the rank that reads most in a step reads {load.slowest:.2f} times the mean",
        f"simulated  in {found.seconds:.1f} s and {found.peak_memory_mb:,.0f} MB",
    ]


def _count(number: float) -> str:
    for unit in ("", " thousand", " million"):
        if number < 10_000:
            return f"{number:,.0f}{unit}"
        number /= 1000
    return f"{number:,.0f} billion"
