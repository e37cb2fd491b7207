"""`headway data ingest`: captures of other data sets and tools, one command per format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from data.ingest.job import Format

app = typer.Typer(
    no_args_is_help=True,
    help="Convert captures of other data sets and tools: in parallel, going on where it stopped, from and to "
    "folders or object storage.",
    rich_markup_mode="markdown",
)

Source = Annotated[str, typer.Argument(help="where the data lie: a folder, file:// or s3://; read in place")]
Out = Annotated[str, typer.Option(help="dataset to write: a folder, file:// or s3://")]
Subjects = Annotated[str, typer.Option(help="only these: names or patterns, such as 306,31*")]
First = Annotated[int, typer.Option(min=0, help="at most so many subjects, the first by name; 0 for all")]
Cameras = Annotated[str, typer.Option(help="only these: names or patterns, with commas between")]
Every = Annotated[int, typer.Option(min=1, help="every n-th frame of a sequence")]
Frames = Annotated[int, typer.Option(min=0, help="at most so many frames of a sequence; 0 for all")]
Workers = Annotated[int, typer.Option(min=1, help="processes; the result does not depend on it")]
PerShard = Annotated[int, typer.Option(min=1, help="captures after which a shard is full")]
Licence = Annotated[str, typer.Option(help="travels with the dataset")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="leave broken parts out and name them in the dataset")]


def convert(
    format: Format,
    source: str,
    out: str,
    *,
    subjects: str = "",
    first: int = 0,
    cameras: str = "",
    every: int = 1,
    frames: int = 0,
    workers: int = 1,
    per_shard: int = 64,
    licence: str = "unknown",
    keep_going: bool = False,
) -> None:
    """Run an importer with a bar, or lines where there is no terminal, and print what came out."""
    from rich.console import Console

    from cluster.display import counter
    from data.ingest.job import Selection, ingest

    console = Console(highlight=False)
    select = Selection(
        subjects=_names(subjects),
        most_subjects=first or None,
        every=every,
        most_frames=frames or None,
        cameras=_names(cameras),
    )
    with counter("captures", console) as progress:
        info = ingest(
            format,
            source,
            out,
            select=select,
            workers=workers,
            per_shard=per_shard,
            licence=licence,
            keep_going=keep_going,
            progress=progress,
            report=lambda line: console.print(line, markup=False, soft_wrap=True),
        )
    for name, error in info.provenance.get("skipped", {}).items():
        print(f"left out: {name}: {error}")
    print(f"{info.url}: {info.subjects} subjects, {info.captures} captures, fingerprint {info.fingerprint}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@app.command("nerfstudio")
def ingest_nerfstudio(
    source: Source,
    out: Out,
    front: Annotated[str, typer.Option(help="name of the camera that sees the face, where masks do not tell")] = "",
    subjects: Subjects = "",
    first: First = 0,
    cameras: Cameras = "",
    every: Every = 1,
    frames: Frames = 0,
    workers: Workers = 1,
    per_shard: PerShard = 64,
    licence: Licence = "unknown",
    keep_going: KeepGoing = False,
) -> None:
    """Convert nerfstudio captures (transforms.json) or Blender ones (transforms_train.json, ...).

    SOURCE is a capture or a folder of captures. Cameras are turned from OpenGL camera-to-world to OpenCV
    world-to-camera, and the scene is moved, turned and scaled to the canonical head frame. Frames with a
    `timestep_index` become one capture per time step.

    **Example:** `headway data ingest nerfstudio captures/anna --out out/data/anna`
    """
    from data.ingest.nerfstudio import Nerfstudio

    convert(
        Nerfstudio(front or None),
        source,
        out,
        subjects=subjects,
        first=first,
        cameras=cameras,
        every=every,
        frames=frames,
        workers=workers,
        per_shard=per_shard,
        licence=licence,
        keep_going=keep_going,
    )
