"""Reading checkpoints without an engine: what there is, and the weights alone. Needs no process group."""

from __future__ import annotations

import torch
from torch import Tensor

from configs import UserError
from trainer.checkpoint.manifest import AVERAGE, MASTER, Manifest, read_manifest
from trainer.checkpoint.pieces import Pieces
from trainer.checkpoint.retention import step_directory, steps_in
from trainer.checkpoint.sources import Sources
from trainer.checkpoint.storage import Folder
from trainer.engine import MODEL


def latest(folder: str) -> str | None:
    """The newest whole checkpoint among `step-00000100` folders, or None.

    Whole means committed, with every file there at its full length; `load` verifies the digests.
    """
    for step in reversed(steps_in(folder)):
        directory = step_directory(folder, step)
        try:
            describe(directory)
        except UserError:
            continue
        return directory
    return None


def describe(directory: str) -> Manifest:
    """Step, config, versions, parameters and sizes of a checkpoint.

    Raises:
        UserError: not a checkpoint, or files are missing or cut short.
    """
    return read_manifest(Folder(directory))


def load_weights(directory: str, *, ema: bool = True, engine: str = MODEL) -> dict[str, Tensor]:
    """A model's state dict in fp32, in one process and without DeepSpeed.

    Args:
        directory: path or URL of a checkpoint.
        ema: the moving average where the run kept one.
        engine: whose; the system's, or the name of a network that was trained beside it.

    Raises:
        UserError: not a checkpoint, a damaged one, or one without that engine.
    """
    folder = Folder(directory)
    manifest = read_manifest(folder)
    if engine not in manifest.engines:
        raise UserError(f"holds no '{engine}'", where=directory, hint=f"it has: {', '.join(manifest.engines)}")
    sources = Sources(folder, manifest.shards)
    for index in range(len(manifest.shards)):
        sources.verify(index)
    record = manifest.engines[engine]
    weights: dict[str, Tensor] = {}
    with Pieces(sources, manifest, engine) as pieces:
        for name, parameter in record.parameters.items():
            kind = AVERAGE if ema and AVERAGE in parameter.kinds else MASTER
            flat = torch.empty(parameter.numel)
            pieces.read(name, kind, 0, flat)
            weights[name] = flat.view(parameter.shape)
        for name in record.buffers:
            weights[name] = pieces.buffer(name)
    return weights | {alias: weights[name] for alias, name in record.tied.items()}
