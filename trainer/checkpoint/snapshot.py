"""What a checkpoint holds of a run at one moment: this rank's slices, and what there is to say about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from configs import Config
from trainer.checkpoint import randomness
from trainer.checkpoint.manifest import AVERAGE, MASTER, EngineRecord, Parameter, architecture, buffer_key, piece_key
from trainer.checkpoint.staging import Copy, Staging, Tensors
from trainer.engine import MODEL, Engine
from trainer.masters import Fragment

Engines = Engine | Mapping[str, Engine]


@dataclass(frozen=True)
class Snapshot:
    """One rank's part of a checkpoint.

    Attributes:
        tensors: what this rank owns of all engines, and its random generators, by the keys of its shard; theirs only
            once `copy`, where there is one, has been made.
        records: where they belong, by engine.
        step: optimiser steps done by the model.
        config: of the model's engine.
        architecture: digest of all engines' parameter names and shapes.
        state: whatever else the run needs to go on, as JSON.
    """

    tensors: Tensors
    records: dict[str, EngineRecord]
    step: int
    config: Config
    architecture: str
    state: dict[str, Any]
    copy: Copy | None = None


def named(engines: Engines) -> Mapping[str, Engine]:
    """Engines by name; a single one is the model's."""
    return {MODEL: engines} if isinstance(engines, Engine) else engines


def take(engines: Engines, state: dict[str, Any], staging: Staging | None = None) -> Snapshot:
    """This rank's part, at an accumulation boundary.

    Args:
        engines: what is saved, `model` among them: fp32 masters, optimiser state, average, buffers, steps of each.
        state: as in `Snapshot`.
        staging: where to copy to; without it the tensors share the engines' memory. Buffers are copied at once, for a
            forward pass may change them; the rest by `Snapshot.copy`, for which the engines' next change waits.

    Raises:
        ValueError: in the middle of an accumulation, whose gradients would be lost.
    """
    engines = named(engines)
    if any(engine.deepspeed.micro_steps % engine.config.engine.accumulation for engine in engines.values()):
        raise ValueError("a checkpoint holds no gradients: save at an accumulation boundary")
    early, late, records = randomness.capture(), Tensors(), dict[str, EngineRecord]()
    for key, engine in engines.items():
        owned, records[key] = _collect(engine, key)
        late |= owned
        if dist.get_rank() == 0:
            early |= {buffer_key(key, name): buffer for name, buffer in persistent_buffers(engine.module).items()}
    tensors, copy = staging.begin(early, late) if staging else (early | late, None)
    if copy is not None:
        for engine in engines.values():
            engine.hold(copy.wait)
    return Snapshot(
        tensors,
        records,
        engines[MODEL].steps,
        engines[MODEL].config,
        architecture({name: shapes_of(engine.module) for name, engine in engines.items()}),
        state,
        copy,
    )


def _collect(engine: Engine, name: str) -> tuple[Tensors, EngineRecord]:
    """What this rank owns of an engine: parts of what an update changes, sharing its memory, and where they belong."""
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
