"""`headway data`: make, convert and look at datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from configs import UserError

app = typer.Typer(no_args_is_help=True, help="Make, convert and look at datasets.", rich_markup_mode="markdown")
ingest = typer.Typer(no_args_is_help=True, help="Convert captures of other formats.", rich_markup_mode="markdown")
app.add_typer(ingest, name="ingest")


@app.command()
def synth(
    out: Annotated[str, typer.Argument(help="dataset to write: a folder, file:// or s3://")],
    subjects: Annotated[int, typer.Option(min=1, help="how many people")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="another seed, other people")] = 0,
    first: Annotated[int, typer.Option(min=0, help="number of the first; person n is the same in every dataset")] = 0,
    frames: Annotated[int, typer.Option(min=1, help="expressions per person")] = 1,
    rig: Annotated[int, typer.Option(help="cameras: 16 or 80")] = 16,
    image_size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels")] = "128x128",
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Make up people and photograph them with a studio's rig of cameras.

    A person is a pure function of the seed and its number, so two datasets can share people or share none. Made by
    ray casting a textured mesh; interrupted, the same command goes on.

    **Example:** `headway data synth out/data/train --subjects 200` and, for people the model must not see,
    `headway data synth out/data/test --subjects 20 --first 1000000`
    """
    synth_with_progress(
        out,
        subjects,
        seed=seed,
        first=first,
        frames=frames,
        rig=cast(Literal[16, 80], rig),  # another number is refused by name below
        image_size=parse_size(image_size),
        workers=workers,
    )


def synth_with_progress(
    out: str,
    subjects: int,
    *,
    seed: int = 0,
    first: int = 0,
    frames: int = 1,
    rig: Literal[16, 80] = 16,
    image_size: tuple[int, int] = (128, 128),
    workers: int = 2,
) -> None:
    """`data.synth.synthesise` with a bar, or lines where there is no terminal."""
    from cluster.display import counter
    from data.synth import synthesise

    with counter("people") as progress:
        synthesise(
            out,
            subjects,
            seed=seed,
            first=first,
            frames=frames,
            rig=rig,
            image_size=image_size,
            workers=workers,
            progress=progress,
        )


@ingest.command("nerfstudio")
def ingest_nerfstudio(
    folders: Annotated[list[Path], typer.Argument(help="folders with a transforms.json, or folders of such folders")],
    out: Annotated[str, typer.Option(help="dataset to write: a folder, file:// or s3://")],
    licence: Annotated[str, typer.Option(help="travels with the dataset")] = "unknown",
    front: Annotated[str | None, typer.Option(help="name of the camera that sees the face, where masks do not")] = None,
) -> None:
    """Convert nerfstudio captures (transforms.json, OpenGL camera-to-world) and say what was done to them.

    Cameras are turned to OpenCV world-to-camera, and the scene is moved, turned and scaled to the canonical head frame.

    **Example:** `headway data ingest nerfstudio captures/anna --out out/data/anna`
    """
    from data.ingest.nerfstudio import ingest

    info = ingest(folders, out, print, licence=licence, front=front)
    print(f"{info.url}: fingerprint {info.fingerprint}")


@app.command()
def stats(dataset: Annotated[str, typer.Argument(help="a folder, file://, s3://")]) -> None:
    """Print what a dataset holds: people, captures, views, bytes, fingerprint, licence.

    **Example:** `headway data stats out/data/train`
    """
    from dataclasses import asdict

    from data.dataset import Dataset

    with Dataset.open(dataset) as opened:
        described = asdict(opened.info)
    width = max(map(len, described))
    for name, value in described.items():
        print(f"{name.replace('_', ' '):<{width}}  {value}")


def parse_size(text: str) -> tuple[int, int]:
    """`128` or `128x96` (height x width) in pixels.

    Raises:
        UserError: anything else.
    """
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"'{text}' is no image size", where="--image-size", hint="HEIGHTxWIDTH, for example 128x128")
    height, width = int(parts[0]), int(parts[-1])
    return height, width
