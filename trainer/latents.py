"""Every capture through a frozen encoder, and the latents into shards; and the frozen base that they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from configs import Config, UserError
from data.dataset import Dataset
from data.latents.manifest import Base, LatentInfo, Origin, commit_latents
from data.latents.shards import Floats, Latent, existing_latents, write_latents
from data.urls import check_url
from data.views import Views
from models.system import LatentSystem, latent_system
from trainer.evaluation import evaluation_views
from trainer.inference import load_system

RECIPE = 1
"""Number of the way captures are encoded: shards of another one are made again on resuming."""
SHARD_BYTES = 64 * 2**20
_CALIBRATION = ("world_to_camera", "K")


@dataclass(frozen=True)
class FrozenBase:
    """A checkpoint whose latents make heads.

    Attributes:
        system: in eval mode; nothing in it asks for gradients.
        config: that it was trained with.
        base: names it in a set's manifest.
    """

    system: LatentSystem
    config: Config
    base: Base


def open_base(checkpoint: str, weights: str | None = None) -> FrozenBase:
    """Load the base of a set of latents.

    Args:
        checkpoint: its folder or URL.
        weights: digest that its weights must have.

    Raises:
        UserError: no checkpoint, one whose latents alone make no head, or other weights than asked for.
    """
    system, config = load_system(checkpoint)
    frozen = latent_system(system).requires_grad_(False)
    digest = weights_digest(frozen.state_dict())
    if weights not in (None, digest):
        hint = "decode latents with the checkpoint that made them, or run `headway latents` with this one"
        raise UserError("these weights did not make the latents", where=checkpoint, hint=hint)
    return FrozenBase(frozen, config, Base(check_url(checkpoint), digest))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values: the same for the same model wherever its checkpoint lies."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().float().cpu().contiguous()
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def encode_dataset(
    checkpoint: str,
    url: str,
    out: str,
    *,
    views: int | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatentInfo:
    """Write the latent of every capture of a dataset.

    Interrupted, the same call goes on with the shards that are not there yet; done, it changes nothing. The set
    becomes visible when all shards are there.

    Args:
        checkpoint: of the frozen base.
        url: dataset of captures.
        out: URL of the set of latents.
        views: source views of each capture, spread as evaluation spreads them and the same for all frames of a
            subject, so that what differs between its latents is its face; default is that of the base's evaluation.
        batch_size: captures encoded at a time; changes nothing but speed.
        progress: told (captures done, captures in all).

    Raises:
        UserError: a checkpoint whose latents alone make no head, no captures, or fewer cameras than `views`.
    """
    frozen = open_base(checkpoint)
    sources = views or frozen.config.evaluation.source_views
    size = frozen.config.data.image_size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen.system.to(device)
    with Dataset.open(url) as dataset:
        origin = Origin(dataset.url, dataset.fingerprint, sources, size)
        plan = _plan(frozen, origin, len(dataset))
        there = existing_latents(out)
        parts = {n: there[n] for n, (_, note) in plan.items() if n in there and there[n].note == note}
        done = sum(len(plan[number][0]) for number in parts)
        progress(done, len(dataset))
        for number, (rows, note) in plan.items():
            if number in parts:
                continue
            latents = _counted(_encode(frozen, dataset, origin, rows, batch_size, device), done, len(dataset), progress)
            parts[number] = write_latents(out, number, latents, note)
            done += len(rows)
        return commit_latents(out, frozen.base, origin, parts.values(), dataset.info.licence)


def source_cameras(dataset: Dataset, name: str, views: int, targets: int = 0) -> tuple[list[str], list[str]]:
    """Cameras that a capture is encoded from, and `targets` others; the subject decides, so all its frames agree.

    Raises:
        UserError: fewer cameras than that.
    """
    row = dataset.index.row(name)
    cameras = dataset.cameras(name)
    if len(cameras) < views + targets:
        what = f"has {len(cameras)} cameras, {views + targets} are needed"
        raise UserError(what, where=f"{dataset.url}, capture {name}", hint="ask for fewer with --views")
    subject = dataset.index.text("subject", row)
    # Sources are drawn before targets, so how many targets are drawn does not change them.
    return evaluation_views(subject, cameras, dataset.centers(name), views, targets)


@torch.no_grad()
def encode(system: LatentSystem, views: Views) -> Tensor:
    """Z `[b, c, h, w]` of source views in float32."""
    return system.encode(views.images, views.cameras.world_to_camera, views.cameras.K).float()


def _plan(frozen: FrozenBase, origin: Origin, count: int) -> dict[int, tuple[range, str]]:
    """Rows of every shard, and the note that tells whether a shard is the wanted one."""
    channels, height, width = frozen.system.latent_shape
    each = max(1, SHARD_BYTES // (4 * channels * height * width))
    plan = {}
    for number, first in enumerate(range(0, count, each)):
        rows = range(first, min(first + each, count))
        said = [RECIPE, frozen.base.weights, origin.fingerprint, origin.views, origin.image_size, rows.start, rows.stop]
        plan[number] = rows, hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    return plan


def _encode(
    frozen: FrozenBase, dataset: Dataset, origin: Origin, rows: range, batch_size: int, device: torch.device
) -> Iterator[Latent]:
    """Latents in the order of the rows; the next batch is read while this one is encoded."""
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with ThreadPoolExecutor(1, "headway-encode") as pool:
        ahead = pool.submit(_read, dataset, batches[0], origin)
        for number, batch in enumerate(batches):
            views = ahead.result()
            if number + 1 < len(batches):
                ahead = pool.submit(_read, dataset, batches[number + 1], origin)
            latents = encode(frozen.system, views.to(device)).cpu().numpy()
            yield from (_latent(dataset, row, latent) for row, latent in zip(batch, latents, strict=True))


def _read(dataset: Dataset, rows: Sequence[int], origin: Origin) -> Views:
    """Source views of some captures as one batch."""
    names = [dataset.index.text("name", row) for row in rows]
    cameras = [source_cameras(dataset, name, origin.views)[0] for name in names]
    each = [dataset.views(name, some, origin.image_size) for name, some in zip(names, cameras, strict=True)]
    world_to_camera, K = (torch.cat([getattr(views.cameras, part) for views in each]) for part in _CALIBRATION)
    images, masks = torch.cat([views.images for views in each]), torch.cat([views.masks for views in each])
    return Views(images, masks, replace(each[0].cameras, world_to_camera=world_to_camera, K=K))


def _latent(dataset: Dataset, row: int, latents: Floats) -> Latent:
    index = dataset.index
    described = json.loads(bytes(dataset.fetch([index.sample_range(row)]).result()[0]))
    subject, frame = index.text("subject", row), index.text("frame", row)
    return Latent(subject, frame, latents, described["expression"], described["meta"])


def _counted(
    latents: Iterator[Latent], done: int, total: int, progress: Callable[[int, int], None]
) -> Iterator[Latent]:
    for count, latent in enumerate(latents, start=1):
        yield latent
        progress(done + count, total)
