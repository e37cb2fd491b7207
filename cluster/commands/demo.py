"""`headway demo`: the whole way once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="settings to change, for example trainer.steps=50"),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for everything; captures in it are used again")] = Path("out/demo"),
    subjects: Annotated[int, typer.Option(min=2, help="people to train on")] = 112,
    unseen: Annotated[int, typer.Option(min=1, help="people to keep aside")] = 16,
) -> None:
    """Make people up, train on two workers, and reconstruct somebody whom the model never saw.

    Takes a few minutes on two CPU cores. What it measured is in OUT/summary.json.

    **Example:** `headway demo`, or in a hurry `headway demo trainer.steps=50 --subjects 16 --unseen 2 --out out/quick`
    """
    from rich.console import Console

    from cluster.demo import DemoSettings, run_demo
    from cluster.display import display
    from cluster.text import duration

    console = Console(highlight=False, soft_wrap=True, markup=False)
    settings = DemoSettings(out, subjects, unseen, tuple(overrides or ()))
    summary = run_demo(settings, display(console), console.print)
    console.print(f"\ndone in {duration(summary['seconds'])}; {unseen} people never seen, from 4 photos each:")
    for name, meaning in (
        ("psnr_unseen", "the trained model"),
        ("psnr_untrained", "the network before training"),
        ("psnr_mean_head", "the mean training image of each camera"),
    ):
        console.print(f"  {summary[name]:6.2f} dB  {meaning}")
    console.print(f"\nlook at the turntable:  {summary['turntable']}")
    console.print(f"         the sheet:      {summary['sheet']}")
    console.print(f"         the head (PLY): {summary['ply']}")
    console.print(f"         the run:        .venv/bin/mlflow ui --backend-store-uri {summary['mlflow_uri']}")
    console.print(f"         all figures:    {out / 'summary.json'}")
