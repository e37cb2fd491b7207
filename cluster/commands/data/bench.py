"""`headway data bench`: how fast a dataset gives batches here."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.commands.data.keep import once
from cluster.commands.train import Overrides
from cluster.text import size
from configs import UserError, load_config

if TYPE_CHECKING:
    from configs.schema import DataConfig
    from data.bench import Measured


def bench(
    target: Annotated[str, typer.Argument(help="a dataset (folder, file://, s3://), a preset or a YAML file")],
    overrides: Overrides = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="captures of each batch")] = None,
    source_views: Annotated[int | None, typer.Option(min=1, help="views that the network sees")] = None,
    target_views: Annotated[int | None, typer.Option(min=1, help="views that supervise")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="height and width of the images")] = None,
    readers: Annotated[int | None, typer.Option(min=1, help="threads that decode in each process")] = None,
    loaders: Annotated[int | None, typer.Option(min=0, help="processes that load; 0 for threads of this one")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="how long to measure after the first batch")] = 20.0,
    step_seconds: Annotated[float, typer.Option(min=0.0, help="what a training step would take")] = 0.0,
    compare: Annotated[
        Literal["bare"] | None, typer.Option(help="bare: also decode the same members from memory, without a stream")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print numbers for machines")] = False,
) -> None:
    """Measure how fast a dataset gives batches on this machine, with the stream that runs use.

    Samples and images per second, time to the first batch, latency of samples, share of waiting, bytes and requests,
    descriptors, threads and memory at start and end. With a config, what it says of data; with a dataset, defaults,
    and no decoded views are kept in memory. `--step-seconds` tells whether a run of such steps would wait.

    **Example:** `headway data bench s3://bucket/heads --batch-size 8 --image-size 256 --readers 4 --compare bare`
    """
    given = {
        "batch_size": batch_size,
        "source_views": source_views,
        "target_views": target_views,
        "image_size": [image_size, image_size] if image_size else None,
        "readers": readers,
        "loaders": loaders,
    }
    data = _config(target, overrides or [], {name: value for name, value in given.items() if value is not None})
    from rich.console import Console

    from cluster.display import counter
    from data.bench import measure

    with counter("seconds", Console(stderr=True, highlight=False)) as count:
        found = measure(
            data,
            seconds=seconds,
            step_seconds=step_seconds,
            bare=compare is not None,
            progress=once(count, 1.0),
        )
    print(_as_json(data, found) if as_json else _as_text(data, found, step_seconds))


def _config(target: str, overrides: list[str], given: dict[str, object]) -> DataConfig:
    from configs.load import presets
    from configs.schema import DataConfig

    if target in presets() or target.endswith((".yaml", ".yml")):
        return load_config(target, [*overrides, *(f"data.{name}={value}" for name, value in given.items())]).data
    if overrides:
        hint = "a dataset has none: use the options, or give a preset and data.train=URL"
        raise UserError("overrides change a config", where=overrides[0], hint=hint)
    return DataConfig.model_validate({"train": target, "cache_mb": 0, **given})


def _as_json(data: DataConfig, found: Measured) -> str:
    rates = {name: getattr(found, name) for name in ("samples_per_second", "images_per_second", "over_bare")}
    return json.dumps({"data": data.model_dump(), **asdict(found), **rates}, indent=1)


def _as_text(data: DataConfig, found: Measured, step_seconds: float) -> str:
    sources, (height, width) = data.source_views, data.image_size
    shown = f"{sources[0]}" if sources[0] == sources[1] else f"{sources[0]} to {sources[1]}"
    loading = f"{data.loaders} processes of {data.readers} threads" if data.loaders else f"{data.readers} threads"
    batch = f"batches of {data.batch_size}, {shown} + {data.target_views} views of {height} x {width}"
    lines = [
        f"{data.train}: {batch}, {loading}",
        f"samples    {found.samples_per_second:,.1f}/s, {found.images_per_second:,.0f} images/s; {found.batches} "
        f"batches in {found.seconds:.1f} s",
        f"first      batch after {found.first_batch:.2f} s, from opening the dataset",
    ]
    if found.latency_p50 is not None and found.latency_p99 is not None:
        p50, p99 = 1000 * found.latency_p50, 1000 * found.latency_p99
        lines.append(f"latency    of a sample, from asking to decoded: p50 {p50:,.1f} ms, p99 {p99:,.1f} ms")
    lines.append(f"waiting    {found.waiting:.0%} of the time, at {step_seconds:g} s a step")
    return "\n".join([*lines, *_traffic(found), _resources(found), *_bare(found)])


def _traffic(found: Measured) -> list[str]:
    traffic = found.traffic
    if traffic is None:
        return []
    if not traffic.requests:
        each = size(traffic.bytes_needed / found.samples)
        return [f"bytes      {size(traffic.bytes_needed)} of members, {each} a sample"]
    over = f", {traffic.bytes_asked / traffic.bytes_needed:.3f} asked per byte needed" if traffic.bytes_needed else ""
    return [
        f"bytes      {size(traffic.bytes_asked)} asked, {size(traffic.bytes_needed)} needed{over}",
        f"requests   {traffic.requests:,}, {traffic.requests / found.samples:.1f} a sample; {traffic.hedges:,} hedged, "
        f"{traffic.failures:,} failed; {size(traffic.from_cache)} from the disk cache",
    ]


def _resources(found: Measured) -> str:
    start, end = found.start, found.end
    return (
        f"resources  {start.descriptors} descriptors, {start.threads} threads, {size(start.memory)} at the start; "
        f"{end.descriptors}, {end.threads}, {size(end.memory)} at the end"
    )


def _bare(found: Measured) -> list[str]:
    if found.bare is None or found.over_bare is None:
        return []
    return [f"bare       decoding alone: {found.bare:,.1f} samples/s; the stream makes {found.over_bare:.0%} of that"]
