"""`headway animate`: a face that moves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.use import Checkpoint


def animate(
    checkpoint: Checkpoint,
    capture: Annotated[str, typer.Argument(help="a neutral face: a capture's folder, or DATASET#CAPTURE")],
    out: Annotated[Path, typer.Option(help="folder for the video and the pictures, or a video: clip.mp4, clip.webp")],
    coefficients: Annotated[
        str | None, typer.Option(help="JSON or CSV with frames of ARKit coefficients in [0, 1]")
    ] = None,
    driver: Annotated[
        str | None, typer.Option(help="another person, DATASET#SUBJECT or a capture, whose expressions are used")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="play built-in expressions; what happens without a driver")
    ] = False,
    views: Annotated[int | None, typer.Option(min=1, help="source views; default: as the latents were made")] = None,
) -> None:
    """Animate one person by ARKit coefficients, from a file, from somebody else's captures, or a demo.

    The capture's views are encoded once; the animator gives a latent for every frame, and the frozen decoder a head.

    **Example:** `headway animate talker out/data/test#s1000000_f000 --demo --out out/talk`
    """
    from cluster.runs import find_checkpoint
    from configs import UserError
    from trainer.animate import animate

    if demo and (coefficients or driver):
        raise UserError("--demo plays its own expressions", hint="leave out --coefficients and --driver")
    report = animate(
        find_checkpoint(checkpoint),
        capture,
        out,
        coefficients_file=coefficients,
        driver=driver,
        views=views,
        progress=lambda doing: print(f"{doing} ..."),
    )
    print(f"{report.capture}: {report.frames} frames from {', '.join(report.source)}")
    if report.note:
        print(f"  note: {report.note}")
    for name in ("video", "sheet"):
        print(f"  {name}: {getattr(report, name)}")
