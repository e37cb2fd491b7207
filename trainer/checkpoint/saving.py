"""Save: every rank writes the slices that it owns; the manifest, written last, makes them a checkpoint.

The three parts (`collect`, `write_shard`, `_commit`) are apart so that the second can leave the training thread.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import secrets
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs import dump_config
from trainer.checkpoint import randomness
from trainer.checkpoint.manifest import (
    AVERAGE,
    MANIFEST,
    MASTER,
    EngineRecord,
    Manifest,
    Parameter,
    architecture,
    buffer_key,
    piece_key,
)
from trainer.checkpoint.shards import nbytes, write_shard
from trainer.checkpoint.storage import Folder, Written
from trainer.distributed import agree_on_failure, all_reduce_sum, broadcast_object, gather_objects, raise_together
from trainer.engine import MODEL, Engine
from trainer.masters import Fragment

SHARD = re.compile(r"^shard-\d{5,}-of-\d{5,}-[0-9a-f]{8}\.safetensors$")
Tensors = dict[str, Tensor]
Engines = Engine | Mapping[str, Engine]


def named(engines: Engines) -> Mapping[str, Engine]:
    """Engines by name; a single one is the model's."""
    return {MODEL: engines} if isinstance(engines, Engine) else engines


def save(engines: Engines, directory: str, state: dict[str, Any]) -> None:
    """Write a checkpoint at an accumulation boundary. Collective.

    Whoever reads `directory` meanwhile sees what was there before; if the save fails on any rank, nothing of it stays.

    Args:
        engines: what is saved, `model` among them: fp32 masters, optimiser state, average, buffers, steps of each.
        directory: path or fsspec URL of this checkpoint alone.
        state: whatever else the run needs to go on, as JSON.

    Raises:
        UserError: no room, or no permission; on every rank.
        ValueError: in the middle of an accumulation, whose gradients would be lost.
    """
    engines = named(engines)
    if any(engine.deepspeed.micro_steps % engine.config.engine.accumulation for engine in engines.values()):
        raise ValueError("a checkpoint holds no gradients: save at an accumulation boundary")
    folder = Folder(directory)
    rank, world = dist.get_rank(), dist.get_world_size()
    tensors, records = randomness.capture(), dict[str, EngineRecord]()
    for key, engine in engines.items():
        owned, records[key] = collect(engine, key)
        tensors |= owned
    needed = int(all_reduce_sum([float(nbytes(tensors))])[0])
    attempt = broadcast_object(secrets.token_hex(4))
    name = f"shard-{rank:05d}-of-{world:05d}-{attempt}.safetensors"
    try:
        written = _write(folder, name, tensors, needed)
    except BaseException:
        folder.remove([name])
        raise
    gathered = gather_objects((written, records))
    failure = agree_on_failure(_commit(folder, engines, gathered, state, needed) if gathered else None)
    if failure is not None:
        folder.remove([name])
        raise failure


def collect(engine: Engine, name: str) -> tuple[Tensors, EngineRecord]:
    """What this rank owns of an engine: tensors that share memory with it, and where they belong."""
    masters, average = engine.masters, engine.average
    rank, world = dist.get_rank(), dist.get_world_size()
    flats = masters.flats()
    tensors: Tensors = {}
    parameters: dict[str, Parameter] = {}
    for fragment in masters.fragments:
        low, high = 0, fragment.numel
        if fragment.replicated:
            low, high = fragment.numel * rank // world, fragment.numel * (rank + 1) // world
        values = {MASTER: masters.slice_of(fragment, flats)} | _moments(engine, fragment)
        if average is not None and fragment.owner is not None:
            values[AVERAGE] = masters.slice_of(fragment, average.flats)
        start = fragment.start + low
        if high > low:
            for kind, value in values.items():
                tensors[piece_key(name, fragment.name, kind, start)] = value[low:high].float()
        parameters[fragment.name] = Parameter(
            shape=fragment.shape,
            trains=fragment.owner is not None,
            step=_step(engine, fragment),
            kinds=tuple(values),
            pieces=[(start, high - low, rank)] if high > low else [],
        )
    if rank == 0:
        tensors |= {buffer_key(name, key): buffer for key, buffer in persistent_buffers(engine.module).items()}
    return tensors, _describe(engine, parameters)


def persistent_buffers(module: nn.Module) -> Tensors:
    """Buffers that belong to the state dict, by name."""
    kept = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        for name in part._buffers
        if name not in part._non_persistent_buffers_set
    }
    return {name: buffer for name, buffer in module.named_buffers() if name in kept}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Whole shapes of parameters and persistent buffers, also where DeepSpeed has cut them up."""
    parameters = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in module.named_parameters()}
    return parameters | {name: tuple(b.shape) for name, b in persistent_buffers(module).items()}


def _moments(engine: Engine, fragment: Fragment) -> Tensors:
    """The optimiser's own tensors for a slice: those shaped like the tensor it updates."""
    if fragment.owner is None:
        return {}
    owner = engine.masters.owners[fragment.owner]
    state = engine.masters.optimizer.state.get(owner, {})
    found = {kind: value for kind, value in state.items() if torch.is_tensor(value) and value.shape == owner.shape}
    return {k: v.detach().view(-1).narrow(0, fragment.offset, fragment.numel) for k, v in found.items()}


def _step(engine: Engine, fragment: Fragment) -> float | None:
    if fragment.owner is None:
        return None
    state = engine.masters.optimizer.state.get(engine.masters.owners[fragment.owner], {})
    return float(state["step"]) if "step" in state else None


def _describe(engine: Engine, parameters: dict[str, Parameter]) -> EngineRecord:
    named = dict(engine.module.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    groups = engine.masters.optimizer.param_groups
    return EngineRecord(
        steps=engine.steps,
        zero_stage=engine.config.engine.zero_stage,
        precision=engine.config.engine.precision,
        optimizer=type(engine.masters.optimizer).__name__,
        groups=[{k: v for k, v in group.items() if isinstance(v, int | float | str | tuple)} for group in groups],
        parameters=parameters,
        tied={name: first[id(p)] for name, p in named.items() if first[id(p)] != name},
        buffers={name: tuple(buffer.shape) for name, buffer in persistent_buffers(engine.module).items()},
    )


def _write(folder: Folder, name: str, tensors: Tensors, needed: int) -> Written:
    """This rank's file; fails on every rank if it fails on any."""
    written: Written | None = None
    failure: Exception | None = None
    try:
        written = write_shard(folder, name, tensors)
    except OSError as error:
        failure = folder.explain(error, needed)
    except Exception as error:
        failure = error
    raise_together(failure)
    assert written is not None
    return written


def _commit(
    folder: Folder,
    engines: Mapping[str, Engine],
    gathered: list[tuple[Written, dict[str, EngineRecord]]],
    state: dict[str, Any],
    needed: int,
) -> Exception | None:
    """Rank 0: put the pieces together, check that nothing is missing, and let the checkpoint be seen."""
    records = {name: _merge([records[name] for _, records in gathered]) for name in engines}
    shards = [vars(written) for written, _ in gathered]
    model = engines[MODEL]
    try:
        manifest = Manifest.model_validate(
            {
                "step": model.steps,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "world_size": len(gathered),
                "config": dump_config(model.config),
                "config_hash": model.config.hash,
                "architecture": architecture({name: shapes_of(engine.module) for name, engine in engines.items()}),
                "versions": _versions(),
                "state": state,
                "engines": records,
                "shards": shards,
            }
        )
        manifest.check()
        folder.commit(MANIFEST, manifest.to_bytes())
    except OSError as error:
        return folder.explain(error, needed)
    except Exception as error:
        return error
    _sweep(folder, manifest)
    return None


def _sweep(folder: Folder, manifest: Manifest) -> None:
    """Remove what earlier attempts at this same directory left."""
    kept = {shard.file for shard in manifest.shards}
    with suppress(OSError):
        stale = [name for name in folder.sizes() if SHARD.match(name) and name not in kept]
        folder.remove(stale)


def _merge(records: list[EngineRecord]) -> EngineRecord:
    """All ranks' pieces in one record."""
    merged: dict[str, Parameter] = {}
    for record in records:
        for name, parameter in record.parameters.items():
            known = merged.setdefault(name, parameter.model_copy(update={"pieces": []}))
            if (known.shape, known.kinds, known.step) != (parameter.shape, parameter.kinds, parameter.step):
                raise ValueError(f"{name}: ranks disagree on its shape, its kinds or its step")
            known.pieces.extend(parameter.pieces)
    order = {name: merged[name] for name in sorted(merged)}
    return records[0].model_copy(update={"parameters": order})


@cache
def _versions() -> dict[str, str]:
    """Of everything that decides what a checkpoint means."""
    found = {"python": platform.python_version()}
    for package in ("headway", "torch", "deepspeed", "accelerate"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | _commit_of_this_code()


def _commit_of_this_code() -> dict[str, str]:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"commit": done.stdout.strip()} if done.returncode == 0 else {}
