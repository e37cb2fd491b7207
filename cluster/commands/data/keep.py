"""Commands that keep datasets: verify, index, reshard, subset."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.text import size
from configs import UserError

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
    licence: Annotated[str, typer.Option(help="travels with the dataset; --again keeps the one that is there")] = "",
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
        info = reindex(folder, licence=licence or None, workers=workers, again=again, progress=progress, report=print)
    _print_made(info)


Source = Annotated[str, typer.Argument(help="dataset to read: a folder, file:// or s3://")]
Out = Annotated[str, typer.Argument(help="dataset to write: a folder, file:// or s3://")]
ShardMb = Annotated[float, typer.Option(min=0.001, help="MB after which a shard is full")]
PerShard = Annotated[int, typer.Option(min=0, help="captures after which a shard is full, instead of --shard-mb")]
Processes = Annotated[int, typer.Option(min=1, help="processes; the result does not depend on it")]


def reshard(
    source: Source,
    out: Out,
    shard_mb: ShardMb = 256.0,
    per_shard: PerShard = 0,
    image_size: Annotated[str, typer.Option(help="fit images to HxW, such as 512x512; K follows")] = "",
    format: Annotated[str, typer.Option(help="encode images anew: jpg, webp, avif or png")] = "",
    quality: Annotated[int, typer.Option(min=0, max=100, help="of what is encoded; 0: jpg 92, webp 90, avif 80")] = 0,
    views: Annotated[str, typer.Option(help="keep these cameras only: names with commas between")] = "",
    first_views: Annotated[int, typer.Option(min=0, help="keep the first n cameras of each rig; 0 for all")] = 0,
    shuffle: Annotated[int | None, typer.Option(help="seed of another order of captures in the shards")] = None,
    exclude: Annotated[Path | None, typer.Option(help="leave these captures out; also verify's list")] = None,
    workers: Processes = 1,
) -> None:
    """Write a dataset anew in other shards, smaller, or elsewhere; streamed, and going on where it stopped.

    Images keep their bytes unless a size or a format is asked for. Licence and provenance travel along. A run draws
    captures from all over a dataset anyway: --shuffle is for readers that go from end to end.

    **Example:** `headway data reshard s3://bucket/heads s3://bucket/heads-256 --image-size 256x256 --format webp`
    """
    from data.keep.choose import Choice, read_list
    from data.keep.recode import Recoding
    from data.keep.reshard import reshard as write

    cameras = tuple(name.strip() for name in views.split(",") if name.strip())
    recoding = Recoding(_size_of(image_size), format or None, quality or None, cameras, first_views or None)
    choice = Choice(excluded=() if exclude is None else read_list(exclude))
    with transfer("read", _console()) as progress:
        info = write(
            source,
            out,
            choice=choice,
            recoding=recoding,
            shard_mb=shard_mb,
            per_shard=per_shard or None,
            shuffle=shuffle,
            workers=workers,
            progress=progress,
            report=print,
        )
    _print_made(info)


def subset(
    source: Source,
    out: Out,
    subjects: Annotated[int, typer.Option(min=0, help="the first n of the nested order, as data.subjects")] = 0,
    subject_list: Annotated[Path | None, typer.Option(help="everybody in this file, a name per line")] = None,
    captures: Annotated[Path | None, typer.Option(help="the captures in this file, a name per line")] = None,
    exclude: Annotated[Path | None, typer.Option(help="leave these out: captures, subjects, verify's list")] = None,
    shard_mb: ShardMb = 256.0,
    per_shard: PerShard = 0,
    workers: Processes = 1,
) -> None:
    """Copy some subjects or captures of a dataset; several options restrict together.

    `--subjects 100` copies exactly those that `data.subjects=100` trains on, whatever the seed: 100 are among 1,000.
    Training on a part needs no copy: `data.subjects` reads it out of the whole dataset. A copy is for giving away, or
    for another place.

    **Example:** `headway data subset s3://bucket/heads out/hundred --subjects 100`
    """
    from data.keep.choose import Choice, read_list
    from data.keep.reshard import reshard as write

    lists = [None if path is None else read_list(path) for path in (subject_list, captures, exclude)]
    choice = Choice(subjects or None, lists[0], lists[1], lists[2] or ())
    if choice == Choice():
        hint = "--subjects, --subject-list, --captures or --exclude; `headway data reshard` copies everything"
        raise UserError("nothing says what is wanted", where="headway data subset", hint=hint)
    with transfer("read", _console()) as progress:
        info = write(
            source,
            out,
            choice=choice,
            shard_mb=shard_mb,
            per_shard=per_shard or None,
            workers=workers,
            made_by="headway data subset",
            progress=progress,
            report=print,
        )
    _print_made(info)


def _size_of(text: str) -> tuple[int, int] | None:
    """`HxW`, or nothing."""
    height, _, width = text.lower().partition("x")
    if not text:
        return None
    if not (height.isdigit() and width.isdigit()):
        raise UserError(f"{text!r} is no size", where="--image-size", hint="height x width, such as 512x512")
    return int(height), int(width)


def _print_made(info: DatasetInfo) -> None:
    made = f"{info.subjects} subjects, {info.captures} captures, {info.views} views, {info.shards} shards"
    print(f"{info.url}: {made}, {size(info.bytes)}, fingerprint {info.fingerprint}")


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def once(lines: Callable[[int, int], None], unit: float) -> Callable[[float, float], None]:
    """Passes counts on in whole units, the end once and not before it."""
    ended = False

    def tell(done: float, total: float) -> None:
        nonlocal ended
        whole = max(1, round(total / unit))
        if done < total or not ended:
            lines(min(whole - 1, int(done / unit)) if done < total else whole, whole)
        ended = done >= total

    return tell


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
            yield once(lines, 1e6)
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
