"""`headway reconstruct` and `headway evaluate`: what a checkpoint can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

Checkpoint = Annotated[str, typer.Argument(help="a checkpoint's folder, or a run (its newest checkpoint is taken)")]


def reconstruct(
    checkpoint: Checkpoint,
    capture: Annotated[str, typer.Argument(help="a capture's folder, or DATASET#CAPTURE")],
    out: Annotated[Path, typer.Option(help="folder for the PLY, the turntable and the pictures")],
    views: Annotated[int, typer.Option(min=1, help="source views; the others are held back and measured")] = 4,
) -> None:
    """Make a 3D head of a capture in one forward pass.

    Writes a standard 3DGS PLY, a turntable, and a sheet that compares the held-back views with their prediction.

    **Example:** `headway reconstruct first captures/anna --out out/anna`
    """
    from cluster.runs import find_checkpoint
    from trainer.reconstruct import reconstruct

    report = reconstruct(
        find_checkpoint(checkpoint), capture, out, source_views=views, progress=lambda doing: print(f"{doing} ...")
    )
    print(f"{report.capture}: {report.gaussians} Gaussians from {', '.join(report.source)}")
    if report.metrics:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in report.metrics.items())
        print(f"  held back {len(report.held_back)} views: {figures}")
    for name in ("ply", "turntable", "sheet"):
        print(f"  {name}: {getattr(report, name)}")


def evaluate(
    checkpoint: Checkpoint,
    dataset: Annotated[str, typer.Argument(help="held-out people: a folder, file:// or s3://")],
    subjects: Annotated[int | None, typer.Option(min=1, help="only the first n people")] = None,
    views: Annotated[int | None, typer.Option(min=1, help="source views; default: as trained")] = None,
    target_views: Annotated[int | None, typer.Option(min=1, help="views measured; default: as trained")] = None,
    frames: Annotated[
        Literal["first", "all"] | None,
        typer.Option(help="each person's first capture, or the mean over all of them; default: as trained"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Measure a checkpoint on people whom it never saw; the numbers come with the name of their protocol.

    **Example:** `headway evaluate first out/data/test --subjects 16`
    """
    from cluster.runs import find_checkpoint
    from trainer.evaluation import evaluate_checkpoint

    found = evaluate_checkpoint(
        find_checkpoint(checkpoint),
        dataset,
        subjects=subjects,
        source_views=views,
        target_views=target_views,
        frames=frames,
    )
    if as_json:
        print(json.dumps({"protocol": found.protocol, **found.means}))
        return
    print(found.protocol)
    for name, value in found.means.items():
        print(f"  {name}: {value:.4g}")
