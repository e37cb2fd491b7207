"""How well an animator does on people and expressions it never saw: its own protocol, beside copying and the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from configs import Config, UserError
from data.dataset import Dataset
from data.latents import LatentSet
from data.mesh import HeadMesh, vertex_normals
from data.views import Cameras, Views
from models.animator import Model
from models.gaussians import Gaussians
from models.system import Prediction, composite, predict, prediction_of
from models.template import load_template
from trainer.distributed import Distributed, broadcast_object, gather_objects
from trainer.evaluation import SHEET_ROWS, Evaluation, average
from trainer.latents import FrozenBase, open_base, source_cameras
from trainer.objectives.losses import psnr, structural_similarity
from trainer.pictures import Row

MOVES = 0.003  # metres: what a blendshape moves by more than that is the face
FACING, VISIBLE, MARGIN = 0.2, 0.3, 0.1
KINDS = ("", "copy_", "true_")

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class HeldOut:
    """Where unseen expressions come from.

    Attributes:
        latents: of held-out subjects.
        captures: that the latents were made of, for the photos.
        base: the frozen decoder.
    """

    latents: LatentSet
    captures: Dataset
    base: FrozenBase

    @staticmethod
    def open(latents: LatentSet, base: FrozenBase | None, path: str | None) -> HeldOut:
        """The captures and the base that the latents name; `base` or its `path` where they are known already.

        Raises:
            UserError: one of them is not there any more, or is another one.
        """
        info = latents.info
        captures = Dataset.open(info.origin.url, fingerprint=info.origin.fingerprint)
        if base is not None and base.base.weights != info.base.weights:
            hint = "make data.train and data.test with one checkpoint"
            raise UserError("other weights made these latents than those of data.train", where=latents.url, hint=hint)
        return HeldOut(latents, captures, base or open_base(path or info.base.checkpoint, info.base.weights))


def evaluate_animation(
    forward: Predict, animator: Model, held_out: HeldOut, config: Config, world: Distributed
) -> Evaluation:
    """Animate the neutral latent of every held-out subject to each of its expressions, and render; collective.

    Photos by cameras that neither latent has seen are the measure. The background is the one that the base predicts
    from the neutral capture's source views, the same for everything that is compared.

    Args:
        forward: the animator or the engine around it.
        animator: whitens.
        held_out: latents, photos, decoder.
        config: `evaluation.subjects` and `evaluation.target_views` say how much.
        world: expressions are shared out over its ranks.

    Returns:
        means of `psnr`, `ssim`, `face_psnr` (in the box of what expressions move, where a camera sees it) against
        photos and `decoded_psnr` (against the true latent's rendering); the same with `copy_` for the neutral latent
        unchanged and `true_` for the encoded one, which the animator learns to hit; `gain_` for how much the
        prediction is above the copy; `latent_l1` on whitened latents.
    """
    names = expressions_of(held_out.latents, config.evaluation.subjects)
    mine = names[world.rank :: world.world_size]
    # Sharded forwards are collective: every rank must make as many, so the short ones repeat one.
    padded = mine + names[:1] * (-(-len(names) // world.world_size) - len(mine))
    found: dict[str, dict[str, float]] = {}
    rows: dict[str, Row] = {}
    scene = _Scenes(held_out, config.evaluation.target_views, world.device)
    for number, name in enumerate(padded):
        latents = _three(forward, animator, held_out.latents, name, world.device)
        if number < len(mine):
            found[name], rows[name] = scene.measure(name, latents)
            found[name] |= _distances(animator, latents)
    return _collect(found, rows, names, _protocol(held_out, config, names))


def expressions_of(latents: LatentSet, subjects: int | None = None) -> list[str]:
    """Captures of the first `subjects` that are not their neutral ones.

    Raises:
        UserError: there are none.
    """
    everything = [name for subject in latents.subjects[:subjects] for name in latents.captures_of(subject)]
    names = [name for name in everything if latents.neutral_of(name) != name]
    if not names:
        hint = "animation is measured on subjects with several frames (`headway data synth --frames 6`)"
        raise UserError("nobody shows more than one expression", where=latents.url, hint=hint)
    return names


@torch.no_grad()
def _three(forward: Predict, animator: Model, latents: LatentSet, name: str, device: torch.device) -> Tensor:
    """Z `[3, c, h, w]`: predicted, copied, true."""
    neutral, true = latents.latents([latents.neutral_of(name), name]).to(device).split(1)
    white = forward(animator.whiten(neutral), latents.coefficients(name)[None].to(device)).float()
    return torch.cat([animator.unwhiten(white), neutral, true])


def _distances(animator: Model, latents: Tensor) -> dict[str, float]:
    predicted, copied, true = animator.whiten(latents)
    return {"latent_l1": (predicted - true).abs().mean().item(), "copy_latent_l1": (copied - true).abs().mean().item()}


class _Scenes:
    """Renders latents where photos were taken."""

    def __init__(self, held_out: HeldOut, targets: int, device: torch.device) -> None:
        self._held_out, self._targets, self._device = held_out, targets, device
        held_out.base.system.to(device)
        self._background = lru_cache(maxsize=1)(self._predict_background)  # names come subject by subject
        settings = getattr(held_out.base.config.model, "template", None)
        self._mesh = (load_template(settings.name, settings.path) if settings else load_template("headway")).mesh

    @torch.no_grad()
    def measure(self, name: str, latents: Tensor) -> tuple[dict[str, float], Row]:
        """Metrics and a picture of Z `[3, c, h, w]`: predicted, copied, true."""
        captures, origin = self._held_out.captures, self._held_out.latents.info.origin
        cameras = source_cameras(captures, name, origin.views, self._targets)[1]
        photos = captures.views(name, cameras, origin.image_size).to(self._device)
        heads = prediction_of(self._held_out.base.system.decode(latents)).foreground
        background = self._background(self._held_out.latents.neutral_of(name))
        images = [_render(heads[n : n + 1], background, photos) for n in range(3)]
        face = face_boxes(self._mesh, photos.cameras)
        found: dict[str, float] = {}
        for kind, image in zip(KINDS, images, strict=True):
            measured = _measure(image, photos.images, images[2], face)
            found |= {f"{kind}{metric}": value for metric, value in measured.items()}
        metrics = [metric for metric in found if f"copy_{metric}" in found and metric != "ssim"]
        found |= {f"gain_{metric}": found[metric] - found[f"copy_{metric}"] for metric in metrics}
        found.pop("true_decoded_psnr")
        return found, Row.small(images[1][0], photos.images[0], images[0][0])

    @torch.no_grad()
    def _predict_background(self, neutral: str) -> Gaussians | None:
        captures, origin = self._held_out.captures, self._held_out.latents.info.origin
        source = captures.views(neutral, source_cameras(captures, neutral, origin.views)[0], origin.image_size)
        return predict(self._held_out.base.system, source.to(self._device)).background


def _render(head: Gaussians, background: Gaussians | None, photos: Views) -> Tensor:
    return composite(Prediction(head, background, {}), photos.cameras).images.clamp(0, 1)


def _measure(images: Tensor, photos: Tensor, true: Tensor, face: Tensor) -> dict[str, float]:
    found = {
        "psnr": psnr(images, photos).mean().item(),
        "ssim": structural_similarity(images, photos).mean().item(),
        "decoded_psnr": psnr(images, true).mean().item(),
    }
    if face.any():
        found["face_psnr"] = masked_psnr(images, photos, face)
    return found


def masked_psnr(images: Tensor, photos: Tensor, masks: Tensor) -> float:
    """PSNR in dB over the pixels of `masks` `[b, v, 1, h, w]`, mean over the views that have some."""
    pixels = masks.sum(dim=(-3, -2, -1)).float()
    error = ((images - photos).square() * masks).sum(dim=(-3, -2, -1)) / (images.shape[-3] * pixels.clamp(min=1))
    return (-10 * torch.log10(error[pixels > 0].clamp(min=1e-10))).mean().item()


def face_boxes(mesh: HeadMesh, cameras: Cameras) -> Tensor:
    """Boxes around what expressions move, `[b, v, 1, h, w]`; empty where a camera does not see the face.

    Args:
        mesh: the neutral template; people differ, so the box has a margin of a tenth.
        cameras: `[b, v]`.
    """
    moved = np.linalg.norm(mesh.expressions, axis=-1).max(axis=0) > MOVES
    points, normals = mesh.vertices[moved], vertex_normals(mesh.vertices, mesh.faces)[moved]
    points, normals = (torch.from_numpy(part).to(cameras.K) for part in (points, normals))
    towards = torch.nn.functional.normalize(cameras.centers[..., None, :] - points, dim=-1)
    facing = (towards * normals).sum(-1) > FACING
    pixels = cameras.project(points)[0]
    least = pixels.masked_fill(~facing[..., None], torch.inf).amin(dim=-2)
    most = pixels.masked_fill(~facing[..., None], -torch.inf).amax(dim=-2)
    margin = MARGIN * (most - least)
    sides = [torch.arange(size, device=points.device) + 0.5 for size in (cameras.width, cameras.height)]
    (left, top), (right, bottom) = (part.unbind(-1) for part in (least - margin, most + margin))
    inside_x = (sides[0] >= left[..., None]) & (sides[0] <= right[..., None])
    inside_y = (sides[1] >= top[..., None]) & (sides[1] <= bottom[..., None])
    visible = facing.float().mean(-1) > VISIBLE
    return (inside_y[..., :, None] & inside_x[..., None, :] & visible[..., None, None])[..., None, :, :]


def _protocol(held_out: HeldOut, config: Config, names: Sequence[str]) -> str:
    origin, people = held_out.latents.info.origin, len({name.rpartition("_")[0] for name in names})
    height, width = origin.image_size
    settings = f"{origin.views}source-{config.evaluation.target_views}target-{height}x{width}-full"
    return f"animation-{people}subjects-{len(names)}expressions-{settings}"


def _collect(
    found: dict[str, dict[str, float]], rows: dict[str, Row], names: Sequence[str], protocol: str
) -> Evaluation:
    """Bring the ranks' expressions together; the mean does not depend on how they were shared out."""
    everybody = {name: one for part in broadcast_object(gather_objects(found)) or [] for name, one in part.items()}
    shown = names[:: max(1, len(names) // SHEET_ROWS)][:SHEET_ROWS]
    mine = {name: row for name, row in rows.items() if name in shown}
    pictures = {name: row for part in gather_objects(mine) or [] for name, row in part.items()}
    each = {name: everybody[name] for name in names}
    return Evaluation(protocol, _means(each), each, [pictures[name] for name in shown if name in pictures])


def _means(each: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means of all metrics; those of the face over the expressions whose targets show one."""
    faces = [metric for metrics in each.values() for metric in metrics if "face" in metric]
    plain = {name: {m: v for m, v in metrics.items() if m not in faces} for name, metrics in each.items()}
    seen = {name: {m: metrics[m] for m in faces} for name, metrics in each.items() if all(m in metrics for m in faces)}
    return average(plain) | (average(seen) if faces else {})
