"""How well an animator does on people and expressions it never saw: its own protocol, beside copying and the truth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from configs import Config, UserError
from data.dataset import Dataset
from data.latents import LatentSet
from data.views import Views
from models.animator import Model
from models.gaussians import Gaussians
from models.system import Prediction, composite, predict, prediction_of
from models.template import load_template
from trainer.distributed import Distributed, broadcast_object, gather_objects
from trainer.evaluation import SHEET_ROWS, Evaluation
from trainer.face_parts import masked_psnr, part_masks
from trainer.latents import FrozenBase, open_base, source_cameras
from trainer.objectives.losses import psnr, structural_similarity
from trainer.pictures import Row

KINDS, PHOTO = ("", "copy_", "true_"), "photo_"
STRONG = 3  # one in three expressions, those whose coefficients sum up to most

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
        means of `psnr`, `ssim`, `face_psnr`, `eyes_psnr`, `mouth_psnr` (in the boxes of `trainer.face_parts`, over
        cameras and expressions that see the part) against photos and `decoded_psnr` (against the true latent's
        rendering); the same with `copy_` for the neutral latent unchanged, `true_` for the encoded one, which the
        animator learns to hit, and `photo_` for the neutral photo by the same camera, which says how little there is
        to move; `gain_` for how much the prediction is above the copy, `headroom_` for how much the true latent is;
        both once more as `strong_` over the third of strongest expressions; `latent_l1` on whitened latents.
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
    strong = strongest(held_out.latents, names)
    return _collect(found, rows, names, strong, _protocol(held_out, config, names))


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


def strongest(latents: LatentSet, names: Sequence[str]) -> list[str]:
    """The third of `names`, at least one, whose coefficients sum up to most."""
    sums = {name: float(latents.coefficients(name).sum()) for name in names}
    return sorted(names, key=lambda name: (-sums[name], name))[: -(-len(names) // STRONG)]


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
        neutral = self._held_out.latents.neutral_of(name)
        cameras = source_cameras(captures, name, origin.views, self._targets)[1]
        photos = captures.views(name, cameras, origin.image_size).to(self._device)
        heads = prediction_of(self._held_out.base.system.decode(latents)).foreground
        background = self._background(neutral)
        images = dict(zip(KINDS, (_render(heads[n : n + 1], background, photos) for n in range(3)), strict=True))
        if set(cameras) <= set(captures.cameras(neutral)):
            images[PHOTO] = captures.views(neutral, cameras, origin.image_size).images.to(self._device)
        parts = part_masks(self._mesh, photos.cameras)
        found: dict[str, float] = {}
        for kind, image in images.items():
            measured = _measure(image, photos.images, parts)
            if kind in ("", "copy_"):
                measured["decoded_psnr"] = psnr(image, images["true_"]).mean().item()
            found |= {f"{kind}{metric}": value for metric, value in measured.items()}
        return found | _differences(found), Row.small(images["copy_"][0], photos.images[0], images[""][0])

    @torch.no_grad()
    def _predict_background(self, neutral: str) -> Gaussians | None:
        captures, origin = self._held_out.captures, self._held_out.latents.info.origin
        source = captures.views(neutral, source_cameras(captures, neutral, origin.views)[0], origin.image_size)
        return predict(self._held_out.base.system, source.to(self._device)).background


def _render(head: Gaussians, background: Gaussians | None, photos: Views) -> Tensor:
    return composite(Prediction(head, background, {}), photos.cameras).images.clamp(0, 1)


def _measure(images: Tensor, photos: Tensor, parts: Mapping[str, Tensor]) -> dict[str, float]:
    found = {
        "psnr": psnr(images, photos).mean().item(),
        "ssim": structural_similarity(images, photos).mean().item(),
    }
    seen = {part: mask for part, mask in parts.items() if mask.any()}
    return found | {f"{part}_psnr": masked_psnr(images, photos, mask) for part, mask in seen.items()}


def _differences(found: Mapping[str, float]) -> dict[str, float]:
    """What prediction and true latent have above the copy, in dB."""
    pairs = {"gain_": "", "headroom_": "true_"}
    metrics = [metric for metric in found if metric.endswith("psnr") and f"copy_{metric}" in found]
    return {
        f"{name}{metric}": found[f"{kind}{metric}"] - found[f"copy_{metric}"]
        for name, kind in pairs.items()
        for metric in metrics
        if f"{kind}{metric}" in found
    }


def _protocol(held_out: HeldOut, config: Config, names: Sequence[str]) -> str:
    origin, people = held_out.latents.info.origin, len({name.rpartition("_")[0] for name in names})
    height, width = origin.image_size
    settings = f"{origin.views}source-{config.evaluation.target_views}target-{height}x{width}-full"
    return f"animation-{people}subjects-{len(names)}expressions-{settings}"


def _collect(
    found: dict[str, dict[str, float]],
    rows: dict[str, Row],
    names: Sequence[str],
    strong: Sequence[str],
    protocol: str,
) -> Evaluation:
    """Bring the ranks' expressions together; the mean does not depend on how they were shared out."""
    everybody = {name: one for part in broadcast_object(gather_objects(found)) or [] for name, one in part.items()}
    shown = names[:: max(1, len(names) // SHEET_ROWS)][:SHEET_ROWS]
    mine = {name: row for name, row in rows.items() if name in shown}
    pictures = {name: row for part in gather_objects(mine) or [] for name, row in part.items()}
    each = {name: everybody[name] for name in names}
    means = _means(each.values())
    of_strong = _means([each[name] for name in strong])
    means |= {f"strong_{m}": value for m, value in of_strong.items() if m.startswith(("gain_", "headroom_"))}
    return Evaluation(protocol, means, each, [pictures[name] for name in shown if name in pictures])


def _means(each: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric over the expressions that have it: not every target camera sees a face."""
    kinds = dict.fromkeys(kind for metrics in each for kind in metrics)
    values = {kind: [metrics[kind] for metrics in each if kind in metrics] for kind in kinds}
    return {kind: sum(some) / len(some) for kind, some in values.items()}
