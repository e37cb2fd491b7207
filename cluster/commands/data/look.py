"""Commands that look at a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def stats(
    dataset: Annotated[str, typer.Argument(help="a folder, file://, s3://")],
    picture: Annotated[
        Path | None, typer.Option(help="write a PNG: the most common rig around the head, histograms")
    ] = None,
) -> None:
    """Print what a dataset holds: people, frames, views, sizes, formats, masks, bytes, fingerprint, licence.

    Reads the index only, whatever the size of the shards.

    **Example:** `headway data stats out/data/train --picture rig.png`
    """
    from data.dataset import Dataset
    from data.inspect.summary import summarise

    with Dataset.open(dataset) as opened:
        summary = summarise(opened)
    for line in summary.lines():
        print(line)
    if picture is not None:
        from data.inspect.rig_picture import draw_dataset

        _write(picture, draw_dataset(summary))


def check_cameras(
    captures: Annotated[str, typer.Argument(help="DATASET, DATASET#capture or a nerfstudio folder")],
    out: Annotated[
        Path | None,
        typer.Option(help="write a picture: the head in the views of the first capture that is wrong, or of the first"),
    ] = None,
    number: Annotated[int, typer.Option("--captures", min=1, help="how many of a dataset, spread over it")] = 3,
) -> None:
    """Say whether cameras are right and, if not, in which convention they likely are: what makes most white images.

    Tries what cameras are commonly mistaken for (inverse, OpenGL axes, units, transposed or mirrored matrices, K of
    another image, y down or z up) and scores each by the images: masks against their visual hull, colours of
    neighbouring views, keypoints. A folder with transforms.json is judged as it is, before it is ingested.
    Exit code 0: right; 1: likely wrong, with the likely repair.

    **Example:** `headway data check-cameras out/data/train --out cameras.png`
    """
    import io

    from data.inspect.cameras import captures_at, check_capture
    from data.inspect.picture import draw_verdict

    pages, wrong = [], []
    for capture, raw in captures_at(captures, number):
        verdict = check_capture(capture, raw)
        print("\n".join(verdict.lines()))
        if not verdict.right:
            wrong.append(verdict)
        if out is not None and (not pages or (len(wrong) == 1 and not verdict.right)):
            pages = [draw_verdict(capture, verdict)]
    if out is not None and pages:
        buffer = io.BytesIO()
        pages[0].save(buffer, "JPEG" if out.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=88)
        _write(out, buffer.getvalue())
    if wrong:
        raise typer.Exit(1)


def _write(path: Path, data: bytes) -> None:
    from configs import UserError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", where=str(path)) from None
    print(f"picture: {path}")
