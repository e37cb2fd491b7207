"""Held-out evaluation by a named protocol: a number without its protocol means nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from configs import Config, UserError
from configs.objectives.reconstruction import LpipsConfig
from data.dataset import Dataset
from data.order import digest
from data.viewpoints import draw_views
from data.views import Views
from models.system import Forward, composite, predict
from trainer.distributed import Distributed, broadcast_object, gather_objects, initialise
from trainer.inference import load_system
from trainer.objectives.losses import lpips_distance, perceptual, psnr, structural_similarity
from trainer.pictures import Row

SHEET_ROWS = 8


@dataclass(frozen=True)
class Evaluation:
    """What held-out subjects measure.

    Attributes:
        protocol: how it was measured; numbers compare only under the same one.
        means: `psnr` (dB), `ssim` and, where measured, `lpips`: mean over views, then over a subject's captures, then
            over subjects.
        subjects: the same for every subject.
        rows: pictures of the first captures; on rank 0 only.
    """

    protocol: str
    means: dict[str, float]
    subjects: dict[str, dict[str, float]]
    rows: list[Row] = field(repr=False, default_factory=list)


def protocol_name(config: Config, subjects: int) -> str:
    """`heldout-16subjects-4source-4target-128x128-full`: full images, spread sources, other views as targets.

    `-allframes` at its end where every capture of a subject counts, not the first alone.
    """
    height, width = config.data.image_size
    settings = config.evaluation
    views = f"{settings.source_views}source-{settings.target_views}target"
    frames = "-allframes" if settings.frames == "all" else ""
    return f"heldout-{subjects}subjects-{views}-{height}x{width}-full{frames}"


def evaluate(forward: Forward, dataset: Dataset, config: Config, world: Distributed) -> Evaluation:
    """Measure the first capture of every held-out subject, or all captures; collective.

    Args:
        forward: the system or the engine around it.
        dataset: held-out subjects.
        config: `evaluation` and `data.image_size` say how.
        world: captures are shared out over its ranks.
    """
    captures = evaluation_captures(dataset, config)
    names = list(captures)
    mine = names[world.rank :: world.world_size]
    # Sharded forwards are collective: every rank must make as many, so the short ones repeat a capture.
    padded = mine + names[:1] * (-(-len(names) // world.world_size) - len(mine))
    lpips = _perceptual(config, world)
    found: dict[str, dict[str, float]] = {}
    rows: dict[str, Row] = {}
    for index, name in enumerate(padded):
        source, target = (views.to(world.device) for views in held_out_views(dataset, name, config))
        prediction = render_held_out(forward, source, target)
        if index < len(mine):
            found[name] = measure(prediction, target.images, lpips)
            if name in names[:SHEET_ROWS]:
                rows[name] = Row.small(source.images[0], target.images[0], prediction[0])
    return _collect(found, rows, captures, config)


def evaluate_checkpoint(
    location: str,
    url: str,
    *,
    subjects: int | None = None,
    source_views: int | None = None,
    target_views: int | None = None,
    frames: Literal["first", "all"] | None = None,
) -> Evaluation:
    """Measure a checkpoint by itself, in this process.

    Args:
        location: folder of the checkpoint.
        url: dataset of held-out subjects.
        subjects, source_views, target_views, frames: instead of what the checkpoint's config says.
    """
    system, config = load_system(location)
    asked = {"subjects": subjects, "source_views": source_views, "target_views": target_views, "frames": frames}
    settings = config.evaluation.model_copy(update={name: value for name, value in asked.items() if value is not None})
    config = config.model_copy(update={"evaluation": settings})
    world = initialise(os.cpu_count() or 1, config.run.seed)
    with Dataset.open(url) as dataset:
        return evaluate(system.to(world.device), dataset, config, world)


def evaluation_captures(dataset: Dataset, config: Config) -> dict[str, str]:
    """The captures to measure, and whose each is: of the first subjects the first one, or all."""
    subjects = dataset.subjects[: config.evaluation.subjects]
    last = None if config.evaluation.frames == "all" else 1
    return {name: subject for subject in subjects for name in dataset.captures_of(subject)[:last]}


def held_out_views(dataset: Dataset, name: str, config: Config) -> tuple[Views, Views]:
    """Source and target views of a capture, the same ones every time."""
    size = config.data.image_size
    source, target = _held_out_cameras(dataset, name, config)
    return dataset.views(name, source, size), dataset.views(name, target, size)


def _held_out_cameras(dataset: Dataset, name: str, config: Config) -> tuple[list[str], list[str]]:
    settings, cameras, centers = config.evaluation, dataset.cameras(name), dataset.centers(name)
    return evaluation_views(name, cameras, centers, settings.source_views, settings.target_views)


def evaluation_views(
    name: str, cameras: Sequence[str], centers: NDArray[np.float64], sources: int, targets: int
) -> tuple[list[str], list[str]]:
    """Camera names for evaluation: sources spread around the head, targets from the rest; `name` decides."""
    source, target = draw_views(centers, sources, targets, method="spread", key=digest("evaluation", name))
    return [cameras[view] for view in source], [cameras[view] for view in target]


@torch.no_grad()
def render_held_out(forward: Forward, source: Views, target: Views) -> Tensor:
    """What the prediction from `source` looks like at `target`, `[1, view, 3, h, w]` in [0, 1]."""
    return composite(predict(forward, source), target.cameras).images.clamp(0, 1)


@torch.no_grad()
def measure(prediction: Tensor, target: Tensor, lpips: nn.Module | None = None) -> dict[str, float]:
    """Metrics of one capture's views `[1, view, 3, h, w]`.

    SSIM has the usual 11x11 Gaussian window (Wang et al. 2004), LPIPS the network of the config.
    """
    ssim = structural_similarity(prediction, target).mean().item()
    metrics = {"psnr": psnr(prediction, target).mean().item(), "ssim": ssim}
    if lpips is not None:
        metrics["lpips"] = lpips_distance(lpips, prediction, target).mean().item()
    return metrics


def mean_image_baseline(train: Dataset, test: Dataset, config: Config, subjects: int = 64) -> Evaluation:
    """The mean training image of every camera, measured as a prediction: what knowing nobody gives.

    Args:
        train: its first `subjects` subjects are averaged, camera by camera.
        test: held-out subjects, seen by cameras of the same names.
        config: the protocol.
        subjects: more change the mean by less than 0.1 dB.
    """
    size = config.data.image_size
    means: dict[str, Tensor] = {}
    chosen = [train.captures_of(subject)[0] for subject in train.subjects[:subjects]]
    found, rows = {}, {}
    captures = evaluation_captures(test, config)
    for name in captures:
        source, target = _held_out_cameras(test, name, config)
        for camera in set(target) - set(means):
            means[camera] = torch.stack([train.views(c, [camera], size).images[0, 0] for c in chosen]).mean(dim=0)
        truth = test.views(name, target, size).images
        prediction = torch.stack([means[camera] for camera in target])[None]
        found[name] = measure(prediction, truth)
        rows[name] = Row.small(test.views(name, source, size).images[0], truth[0], prediction[0])
    measured = _by_subject(found, captures)
    protocol = protocol_name(config, len(measured))
    return Evaluation(protocol, average(measured), measured, list(rows.values())[:SHEET_ROWS])


def average(subjects: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over subjects, or whatever has measured the same."""
    kinds = next(iter(subjects.values()))
    return {kind: sum(metrics[kind] for metrics in subjects.values()) / len(subjects) for kind in kinds}


def _perceptual(config: Config, world: Distributed) -> nn.Module | None:
    if not config.evaluation.lpips:
        return None
    settings = getattr(config.objective, "lpips", LpipsConfig())
    network = perceptual(settings)
    if network is None:
        raise UserError("needs a backbone", where="evaluation.lpips", hint="set objective.lpips.weights")
    return network.to(world.device)


def _by_subject(found: dict[str, dict[str, float]], captures: dict[str, str]) -> dict[str, dict[str, float]]:
    """Mean over the captures of each subject."""
    subjects: dict[str, dict[str, dict[str, float]]] = {}
    for name, subject in captures.items():
        subjects.setdefault(subject, {})[name] = found[name]
    return {subject: average(its) for subject, its in subjects.items()}


def _collect(
    found: dict[str, dict[str, float]], rows: dict[str, Row], captures: dict[str, str], config: Config
) -> Evaluation:
    """Bring the ranks' captures together; the mean does not depend on how they were shared out."""
    everybody = {
        name: metrics for part in broadcast_object(gather_objects(found)) or [] for name, metrics in part.items()
    }
    pictures = {name: row for part in gather_objects(rows) or [] for name, row in part.items()}
    subjects = _by_subject(everybody, captures)
    shown = [pictures[name] for name in captures if name in pictures]
    return Evaluation(protocol_name(config, len(subjects)), average(subjects), subjects, shown)
