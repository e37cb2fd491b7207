"""Commands that keep datasets: verify, index, reshard, subset."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.text import size

if TYPE_CHECKING:
    from rich.console import Console

    from data.manifest import DatasetInfo

Workers = Annotated[int, typer.Option(min=1, help="shards at a time; the result does not depend on it")]
_SHOWN = 20


def verify(
    dataset: Annotated[str, typer.Argument(help="a folder, file:// or s3://; committed or not")],
    pixels: Annotated[bool, typer.Option("--pixels", help="also decode every image and mask")] = False,
    out: Annotated[Path | None, typer.Option(help="write the bad members here, for data.quarantine")] = None,
    workers: Workers = 4,
) -> None:
    """Read everything again and name each bad member.

    Sizes and SHA-256 of shards, the checksum of every member, whether the tars' own headers and the captures'
    descriptions agree with the index, and members that the index does not know. Goes on to the end whatever it finds.
    A run passes over what was found with `data.quarantine=bad.txt`; `headway data subset --exclude bad.txt` writes a
    dataset without it. Exit code 0: whole; 1: something is bad.

    **Example:** `headway data verify s3://bucket/heads --pixels --out bad.txt`
    """
    from data.keep.verify import verify as read_all

    with transfer("read", _console()) as progress:
        report = read_all(dataset, pixels=pixels, workers=workers, progress=progress)
    shown = report.findings if out is None else report.findings[:_SHOWN]
    for finding in shown:
        print(f"{finding.where}: {finding.what}")
    if len(shown) < len(report.findings):
        print(f"and {len(report.findings) - len(shown)} more in {out}")
    for note in report.notes:
        print(f"note: {note}")
    read = f"{report.shards} shards, {report.members} members, {size(report.bytes)}"
    wrong = f"{len(report.bad_members)} bad members"
    if shards := len(report.findings) - len(report.bad_members):
        wrong += f", {shards} complaints about whole shards"
    print(f"{report.url}: {read}: {wrong if report.findings else 'whole'}")
    if out is not None:
        report.write(out)
        print(f"list: {out}")
    if report.findings:
        raise typer.Exit(1)


def index(
    folder: Annotated[str, typer.Argument(help="a folder, file:// or s3:// with tars in it or in its folder shards/")],
    licence: Annotated[str, typer.Option(help="travels with the dataset")] = "unknown",
    again: Annotated[bool, typer.Option("--again", help="make the index of a dataset anew")] = False,
    workers: Workers = 4,
) -> None:
    """Make a dataset of WebDataset tars that somebody else wrote, without rewriting them.

    Each tar is read once from end to end; only `parts/`, `index/` and `dataset.json` are added. Samples are called
    `{subject}_{frame}` and consist of a `.json` (docs/data.md), `.{camera}.jpg` (png, webp, avif) and, where there are
    masks, `.{camera}.mask.png`. Compressed tars, links, odd or huge members, and samples that are no captures are
    refused by name. An interrupted call goes on where it stopped.

    **Example:** `headway data index s3://bucket/their-tars --licence CC-BY-4.0`
    """
    from data.keep.reindex import reindex

    with transfer("read", _console()) as progress:
        info = reindex(folder, licence=licence, workers=workers, again=again, progress=progress, report=print)
    _print_made(info)


def _print_made(info: DatasetInfo) -> None:
    made = f"{info.subjects} subjects, {info.captures} captures, {info.views} views, {info.shards} shards"
    print(f"{info.url}: {made}, {size(info.bytes)}, fingerprint {info.fingerprint}")


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def transfer(what: str, console: Console) -> Iterator[Callable[[int, int], object]]:
    """A bar in bytes with their rate, or a line every few seconds where there is no terminal.

    Yields:
        To be called with how many bytes are done and how many there are.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from cluster.display import counter

    if not console.is_terminal:
        with counter(f"{what} MB", console) as lines:
            yield lambda done, total: lines(round(done / 1e6), max(1, round(total / 1e6)))
        return
    columns = (
        TextColumn(what),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=5) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
