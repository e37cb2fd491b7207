"""`headway data synth`: made-up people."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import typer

from configs import UserError


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
