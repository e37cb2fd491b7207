"""One forward pass: photos of somebody, a checkpoint, and out comes a head to look at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from configs import UserError
from data.capture import Capture
from data.dataset import capture_views
from data.locate import open_capture
from data.views import Cameras, Views
from models.gaussians import Gaussians
from models.system import Prediction, composite, predict
from trainer.evaluation import evaluation_views, measure
from trainer.export.ply import write_ply
from trainer.inference import load_system
from trainer.pictures import Row, contact_sheet, save_animation, wrapped
from trainer.viewing import frontal_cameras

FRAMES = 48
TURN = math.radians(75)  # to either side; nothing saw the back unless the sources did


@dataclass(frozen=True)
class ReconstructReport:
    """What `headway reconstruct` made.

    Attributes:
        capture: its name.
        source, held_back: camera names.
        gaussians: how many.
        metrics: on the held-back views; empty where none were left.
        ply, turntable, sheet: files.
    """

    capture: str
    source: tuple[str, ...]
    held_back: tuple[str, ...]
    gaussians: int
    metrics: dict[str, float]
    ply: str
    turntable: str
    sheet: str


def reconstruct(
    checkpoint: str,
    location: str,
    out: Path,
    *,
    source_views: int = 4,
    progress: Callable[[str], None] = lambda _: None,
) -> ReconstructReport:
    """Make a head from a capture.

    A system that follows expressions is told the capture's coefficients; a capture that names none of ARKit's counts as
    neutral.

    Args:
        checkpoint: folder of a checkpoint.
        location: a capture folder, or `DATASET#capture`.
        out: folder for `head.ply`, `turntable.webp`, `views.png` and `report.json`.
        source_views: how many views the network sees; the others are held back and measured.
        progress: told what happens.

    Raises:
        UserError: no such checkpoint or capture, or fewer views than asked for.
    """
    progress("loading the checkpoint")
    system, config = load_system(checkpoint)
    capture = open_capture(location)
    source_names, held = choose_views(capture, source_views)
    size = config.data.image_size
    source = capture_views(capture, source_names, size)
    progress("predicting")
    with torch.no_grad():
        prediction = predict(system, source)
    out.mkdir(parents=True, exist_ok=True)
    head = prediction.foreground[0]
    write_ply(head, out / "head.ply")
    progress("rendering the turntable")
    save_animation(turntable(prediction.foreground, source.cameras), out / "turntable.webp")
    metrics = _compare(prediction, source, capture_views(capture, held, size) if held else None, out / "views.png")
    report = ReconstructReport(
        capture=capture.name,
        source=source_names,
        held_back=held,
        gaussians=len(head),
        metrics=metrics,
        ply=str(out / "head.ply"),
        turntable=str(out / "turntable.webp"),
        sheet=str(out / "views.png"),
    )
    (out / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    return report


def choose_views(capture: Capture, source_views: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sources spread around the head; everything else is held back."""
    count = len(capture.cameras)
    if source_views > count:
        raise UserError(f"has {count} views, {source_views} were asked for", where=f"capture {capture.name}")
    source, held = evaluation_views(capture.name, capture.cameras, capture.centers, source_views, count - source_views)
    return tuple(source), tuple(held)


@torch.no_grad()
def turntable(head: Gaussians, cameras: Cameras, frames: int = FRAMES, height: int = 256) -> Tensor:
    """A swing around the head on white, `[frames, 3, h, w]`, at the sources' mean distance and field of view."""
    distance = cameras.centers[0].norm(dim=-1).mean().item()
    width = round(height * cameras.width / cameras.height)
    focal = cameras.K[0, :, 1, 1].mean().item() * height / cameras.height
    angles = [TURN * math.sin(2 * math.pi * frame / frames) for frame in range(frames)]
    swing = frontal_cameras(angles, (height, width), distance=distance, focal=focal)
    return composite(Prediction(head, None, {}), swing, background=torch.ones(3)).images[0]


def _compare(prediction: Prediction, source: Views, held: Views | None, path: Path) -> dict[str, float]:
    shown = held if held is not None else source
    images = composite(prediction, shown.cameras).images.clamp(0, 1)
    contact_sheet(wrapped(Row.small(source.images[0], shown.images[0], images[0]))).save(path)
    return measure(images, held.images) if held is not None else {}
