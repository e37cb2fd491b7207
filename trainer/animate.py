"""A face that moves: one capture, one animator, and coefficients over time become a video."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs import Config, UserError
from data.arkit import coefficients
from data.capture import Capture
from data.dataset import capture_views
from data.latents import LatentSet
from data.latents.track import Track, demo_track, driver_track, read_track
from data.locate import open_capture
from data.views import Cameras, Views
from models.animator import Model
from models.system import Prediction, composite, prediction_of
from trainer.inference import load_model
from trainer.latents import FrozenBase, encode, open_base
from trainer.pictures import ANIMATIONS, GAP, check_animation, save_animation, to_image
from trainer.reconstruct import choose_views
from trainer.viewing import frontal_cameras

HEIGHT, SHEET = 256, 10
TURN = 0.25  # radians to either side, so that the video shows that the head is one
BATCH = 16
EXPRESSIVE = 0.5  # sum of coefficients above which a capture is hardly neutral


@dataclass(frozen=True)
class AnimateReport:
    """What `headway animate` made.

    Attributes:
        capture: its name.
        source: camera names that the neutral latent was encoded from.
        frames: how many.
        video, sheet: files.
        note: what to know of the result; empty where there is nothing.
    """

    capture: str
    source: tuple[str, ...]
    frames: int
    video: str
    sheet: str
    note: str


def animate(
    checkpoint: str,
    location: str,
    out: Path,
    *,
    coefficients_file: str | None = None,
    driver: str | None = None,
    views: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> AnimateReport:
    """Animate the person of a capture.

    Args:
        checkpoint: of an animator.
        location: a capture folder or `DATASET#capture` with a neutral face.
        out: folder for `animation.webp`, `faces.png` and `report.json`; or a video, `clip.mp4` or `clip.webp`, beside
            which `clip-faces.png` and `clip-report.json` are written.
        coefficients_file: JSON or CSV (`data.latents.track.read_track`).
        driver: `DATASET#subject` or a capture, whose coefficients are used; without it and a file, a demo plays.
        views: source views that the neutral latent is encoded from; default as the latents that it learned from.
        progress: told what happens.

    Raises:
        UserError: not an animator, its base is gone, no such capture, bad coefficients, or a video that cannot be
            written.
    """
    video, sheet, told = _places(out)
    track, photos = _track(coefficients_file, driver)
    progress("loading the checkpoints")
    animator, frozen, trained_views = open_animator(checkpoint)
    capture = open_capture(location)
    source, _ = choose_views(capture, views or min(trained_views, len(capture.cameras)))
    seen = capture_views(capture, source, frozen.config.data.image_size)
    progress("encoding the neutral face")
    neutral = encode(frozen.system, seen)
    progress(f"animating {len(track.values)} frames")
    images = render_track(animator, frozen, neutral, torch.from_numpy(track.values), _swing(seen, len(track.values)))
    video.parent.mkdir(parents=True, exist_ok=True)
    save_animation(images, video, track.seconds)
    still = Track(track.values[list(track.keys) or _strongest(track.values)])
    _sheet(animator, frozen, neutral, still, seen, photos[:SHEET]).save(sheet)
    report = AnimateReport(
        capture=capture.name,
        source=source,
        frames=len(track.values),
        video=str(video),
        sheet=str(sheet),
        note=_note(capture),
    )
    told.write_text(json.dumps(asdict(report), indent=2) + "\n")
    return report


def _places(out: Path) -> tuple[Path, Path, Path]:
    """Of the video, the sheet and the report."""
    if out.suffix not in ANIMATIONS:
        return out / "animation.webp", out / "faces.png", out / "report.json"
    check_animation(out)
    return out, out.with_name(f"{out.stem}-faces.png"), out.with_name(f"{out.stem}-report.json")


def open_animator(checkpoint: str) -> tuple[Model, FrozenBase, int]:
    """An animator, the base whose latents it animates, and the source views of the latents that it learned from.

    Raises:
        UserError: another system's checkpoint, or the base is not where the config or the latents say.
    """
    system, config = load_model(checkpoint)
    if not isinstance(system, Model):
        hint = "train one: headway train headsup-nano-animation data.train=LATENTS"
        raise UserError(f"is a {config.model.system}, not an animator", where=checkpoint, hint=hint)
    path, weights, views = _named_base(system, config)
    return system, open_base(path, weights), views


def _named_base(animator: Model, config: Config) -> tuple[str, str | None, int]:
    """Checkpoint and digest of the base, and the latents' source views, from the latents where they still are."""
    path = animator.config.base.path
    try:
        with LatentSet.open(config.data.train) as latents:
            info = latents.info
    except UserError as error:
        if path is None:
            hint = "say where the base is when you train: model.base.path=CHECKPOINT"
            raise UserError(
                f"the latents that name the base are gone: {error}", where="data.train", hint=hint
            ) from None
        return path, None, config.evaluation.source_views
    return path or info.base.checkpoint, info.base.weights, info.origin.views


@torch.no_grad()
def render_track(
    animator: Model, frozen: FrozenBase, neutral: Tensor, values: Tensor, cameras: Cameras, batch: int = BATCH
) -> Tensor:
    """Frames `[n, 3, h, w]` on white.

    Args:
        neutral: Z `[1, c, h, w]`, not whitened.
        values: `[n, 52]` coefficients.
        cameras: `[1, n]`, one for each frame.
        batch: frames at a time.
    """
    frames = []
    for start in range(0, len(values), batch):
        some = slice(start, start + batch)
        heads = prediction_of(frozen.system.decode(animator.animate(neutral, values[some]))).foreground
        own = cameras.map(lambda tensor, some=some: tensor[0, some, None])
        frames.append(composite(Prediction(heads, None, {}), own, background=torch.ones(3)).images[:, 0])
    return torch.cat(frames).clamp(0, 1)


def _track(file: str | None, driver: str | None) -> tuple[Track, list[Tensor]]:
    """What to play, and photos of the driver at its keys."""
    if file is not None and driver is not None:
        raise UserError("coefficients come from a file or from a driver", where="--coefficients, --driver")
    if file is not None:
        return read_track(file), []
    if driver is None:
        return demo_track(), []
    track, names = driver_track(driver)
    url = driver.partition("#")[0]
    captures = [open_capture(f"{url}#{name}" if "#" in driver else driver) for name in names[:SHEET]]
    return track, [_frontal_photo(capture) for capture in captures]


def _frontal_photo(capture: Capture) -> Tensor:
    """The photo `[3, HEIGHT, w]` that looks most squarely into the face."""
    towards = capture.centers / np.linalg.norm(capture.centers, axis=1, keepdims=True)
    best = int(np.argmax(towards[:, 2]))
    height, width = capture.sizes[best]
    size = (HEIGHT, round(HEIGHT * width / height))
    return capture_views(capture, [capture.cameras[best]], size).images[0, 0]


def _swing(seen: Views, frames: int) -> Cameras:
    """A slow swing from side to side, at the sources' mean distance and field of view."""
    turns = max(1, round(frames / 120))
    angles = [TURN * float(np.sin(2 * np.pi * turns * frame / frames)) for frame in range(frames)]
    return _cameras(seen, angles)


def _cameras(seen: Views, angles: list[float]) -> Cameras:
    cameras = seen.cameras
    size = (HEIGHT, round(HEIGHT * cameras.width / cameras.height))
    focal = cameras.K[0, :, 1, 1].mean().item() * HEIGHT / cameras.height
    return frontal_cameras(angles, size, distance=cameras.centers[0].norm(dim=-1).mean().item(), focal=focal)


def _strongest(values: np.ndarray) -> list[int]:
    """Frames spread over the track: the one of most expression in each part."""
    parts = np.array_split(np.arange(len(values)), min(SHEET, len(values)))
    return [int(part[np.argmax(values[part].sum(axis=1))]) for part in parts]


def _sheet(animator: Model, frozen: FrozenBase, neutral: Tensor, track: Track, seen: Views, photos: list[Tensor]):
    """The neutral face and the keys, under the driver's photos where there are some."""
    values = torch.cat([torch.zeros(1, track.values.shape[1]), torch.from_numpy(track.values[:SHEET])])
    faces = list(render_track(animator, frozen, neutral, values, _cameras(seen, [0.0] * len(values))))
    lines = [faces]
    if photos:
        blank = torch.ones_like(faces[0])
        own = [torch.nn.functional.interpolate(p[None], faces[0].shape[-2:], mode="area")[0] for p in photos]
        lines = [[blank, *own], faces]
    elif len(faces) > 6:
        half = -(-len(faces) // 2)
        lines = [faces[:half], [*faces[half:], *[torch.ones_like(faces[0])] * (2 * half - len(faces))]]
    gap = torch.ones(3, faces[0].shape[-2], GAP)
    joined = [torch.cat([part for face in line for part in (face, gap)], dim=-1) for line in lines]
    return to_image(torch.cat(joined, dim=-2))


def _note(capture: Capture) -> str:
    shown = float(np.clip(coefficients(capture.expression), 0, 1).sum())
    if shown <= EXPRESSIVE:
        return ""
    return f"{capture.name} is not neutral (its coefficients sum up to {shown:.1f}): its expression stays in the result"
