"""`headway data ingest`: captures of other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Convert captures of other formats.", rich_markup_mode="markdown")


@app.command("nerfstudio")
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
