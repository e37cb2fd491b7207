"""Load: every rank reads whatever slices its own layout needs, whoever wrote them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from configs import UserError
from trainer.checkpoint import randomness
from trainer.checkpoint.manifest import (
    AVERAGE,
    MASTER,
    Damaged,
    EngineRecord,
    Manifest,
    Parameter,
    read_manifest,
)
from trainer.checkpoint.pieces import Pieces
from trainer.checkpoint.retention import committed, step_directory
from trainer.checkpoint.snapshot import Engines, named, persistent_buffers, shapes_of
from trainer.checkpoint.sources import Sources
from trainer.checkpoint.storage import Folder
from trainer.distributed import broadcast_object, gather_objects, raise_together
from trainer.engine import MODEL, Engine

Shapes = dict[str, tuple[int, ...]]
log = logging.getLogger(__name__)


def load(engines: Engines, directory: str, local: str | None = None) -> dict[str, Any]:
    """Put engines where a checkpoint stands, at any world size, ZeRO stage and precision. Collective.

    Masters, optimiser state and average are exactly those saved; at the world size and stage of the save, training
    goes on bitwise as if it had not stopped. Random generators are restored where the world size is that of the save.
    Hyper-parameters come from the engines' configs, not from the checkpoint.

    Args:
        engines: by name, or the model's.
        directory: path or fsspec URL of the checkpoint.
        local: folder of this node's copies of shards, read where they are what the manifest names.

    Returns:
        The `state` that was saved.

    Raises:
        UserError: not a checkpoint, a damaged one, or one of other engines, another architecture or optimiser; on
            every rank.
    """
    engines, folder = named(engines), Folder(directory)
    manifest, sources = _examine_together(folder, engines, engines, moments=True, local=local)
    for name, engine in engines.items():
        record = manifest.engines[name]
        _put(engine, sources, manifest, name, moments=True)
        engine.steps = record.steps
        engine.deepspeed.global_steps = record.steps
        engine.deepspeed.micro_steps = 0
    if manifest.world_size == dist.get_world_size():
        with Pieces(sources, manifest, MODEL) as pieces:
            _together(lambda: randomness.restore(pieces.randomness(dist.get_rank())))
    if local is not None:
        log.info("%s: %d shards came from %s", directory, len(sources.copies), local)
    return manifest.state


def load_newest(engines: Engines, folder: str, local: str | None = None) -> tuple[str, dict[str, Any]] | None:
    """Put engines where the newest whole checkpoint of a run stands; damaged ones are passed over, saying so.

    Collective. A folder whose save never ended is no checkpoint and is passed over in silence.

    Returns:
        Its directory and its `state`; None where there is no checkpoint.

    Raises:
        Damaged: all that there are.
        UserError: as `load`.
    """
    damage: Damaged | None = None
    for step in reversed(broadcast_object(committed(folder) if dist.get_rank() == 0 else [])):
        directory = step_directory(folder, step)
        try:
            return directory, load(engines, directory, local)
        except Damaged as error:
            log.warning("%s; looking for an older checkpoint", error)
            damage = damage or error
    if damage is not None:
        raise damage
    return None


def start_from(engines: Engines, directory: str) -> list[str]:
    """Give engines the weights of a checkpoint and nothing else of it: a new stage of training. Collective.

    Optimisers, averages, schedules and data begin anew.

    Returns:
        names of the engines whose weights it held; `model` is one of them.

    Raises:
        UserError: as `load`, but for engines that the checkpoint does not have and for other optimisers.
    """
    engines, folder = named(engines), Folder(directory)
    manifest, sources = _examine_together(folder, engines, {MODEL: engines[MODEL]}, moments=False)
    found = [name for name in engines if name in manifest.engines]
    for name in found:
        _put(engines[name], sources, manifest, name, moments=False)
    return found


def _put(engine: Engine, sources: Sources, manifest: Manifest, name: str, moments: bool) -> None:
    """Weights and buffers of one engine, and its moments and average if asked."""
    record = manifest.engines[name]
    engine.settle()
    buffers = persistent_buffers(engine.module)
    with Pieces(sources, manifest, name) as pieces:
        with engine.masters.published():
            _together(lambda: _fill(engine, record, pieces, moments))
        # All are in one shard, which is not near the other ranks.
        found = _together(lambda: {name: pieces.buffer(name) for name in buffers} if dist.get_rank() == 0 else {})
    for key, value in broadcast_object(found).items():
        buffers[key].copy_(value)


def _examine_together(
    folder: Folder, engines: Mapping[str, Engine], needed: Iterable[str], moments: bool, local: str | None = None
) -> tuple[Manifest, Sources]:
    """Read the manifest, compare models, and verify the files, shared out among the ranks; what to read them from."""
    manifest: Manifest = _together(lambda: _examine(folder, engines, needed, moments))
    sources = Sources(folder, manifest.shards, Folder(local) if local else None, hold=True)
    read = _to_read(engines, manifest)
    _together(lambda: sources.find_near(read))
    missing = gather_objects(read - sources.copies)
    shares = broadcast_object(_share_out(missing) if missing else [])
    _together(lambda: [sources.verify(index) for index in shares[dist.get_rank()]])
    sources.trust(index for share in shares for index in share)
    return manifest, sources


def _to_read(engines: Mapping[str, Engine], manifest: Manifest) -> set[int]:
    """Shards that this rank is going to read."""
    rank = dist.get_rank()
    found = {0} if rank == 0 else set[int]()  # the buffers
    if manifest.world_size == dist.get_world_size():
        found.add(rank)  # its random generators
    for name in engines.keys() & manifest.engines.keys():
        parameters = manifest.engines[name].parameters
        for fragment in engines[name].masters.fragments:
            end = fragment.start + fragment.numel
            for start, numel, shard in parameters[fragment.name].pieces:
                if start < end and fragment.start < start + numel:
                    found.add(shard)
    return found


def _share_out(missing: list[set[int]]) -> list[list[int]]:
    """Who verifies what: each shard that ranks miss goes to one of them, for it need not read it twice."""
    shares: list[list[int]] = [[] for _ in missing]
    for shard in sorted(set().union(*missing)):
        takers = [rank for rank, indices in enumerate(missing) if shard in indices]
        shares[shard if shard in takers else takers[shard % len(takers)]].append(shard)
    return shares


def _examine(folder: Folder, engines: Mapping[str, Engine], needed: Iterable[str], moments: bool) -> Manifest:
    """Read the manifest and compare models."""
    manifest = read_manifest(folder)
    absent = [name for name in needed if name not in manifest.engines]
    if absent:
        hint = "begin a new run with run.start_from to train more networks than a checkpoint has"
        raise UserError(f"holds no '{absent[0]}', only {', '.join(manifest.engines)}", where=folder.url, hint=hint)
    for name, engine in engines.items():
        if name not in manifest.engines:
            continue
        check_architecture(manifest.engines[name], shapes_of(engine.module), folder.url)
        saved, wanted = manifest.engines[name].optimizer, type(engine.masters.optimizer).__name__
        if moments and saved != wanted:
            raise UserError(f"holds the state of {saved}", where=folder.url, hint=f"optimizer.name asks for {wanted}")
    return manifest


def check_architecture(record: EngineRecord, wanted: Shapes, where: str) -> None:
    """Names and shapes agree.

    Raises:
        UserError: with the first parameters that differ.
    """
    saved: Shapes = {name: p.shape for name, p in record.parameters.items()} | record.buffers
    differences = [
        f"{name}: {_shape(saved.get(name))} in the checkpoint, {_shape(wanted.get(name))} in the model"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError("a checkpoint of another architecture", where=where, hint="\n  ".join(differences[:3]) + more)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _fill(engine: Engine, record: EngineRecord, pieces: Pieces, moments: bool) -> None:
    """Masters of this rank and, if asked, moments and average."""
    masters, average = engine.masters, engine.average
    if moments:
        _make_room(engine, record)
    flats = masters.flats()
    for fragment in masters.fragments:
        saved = record.parameters[fragment.name]
        pieces.read(fragment.name, MASTER, fragment.start, masters.slice_of(fragment, flats))
        if fragment.owner is None or not moments:
            continue
        state = masters.optimizer.state.get(masters.owners[fragment.owner], {})
        for kind in _moments(saved):
            target = state[kind].view(-1).narrow(0, fragment.offset, fragment.numel)
            pieces.read(fragment.name, kind, fragment.start, target)
    if average is None:
        return
    average.restart()
    for fragment in masters.fragments if moments else ():
        if fragment.owner is not None and AVERAGE in record.parameters[fragment.name].kinds:
            pieces.read(fragment.name, AVERAGE, fragment.start, masters.slice_of(fragment, average.flats))


def _make_room(engine: Engine, record: EngineRecord) -> None:
    """Give every owner the state that torch would make at its first update.

    Parameters that share an owner share torch's count of updates; they differ only where ZeRO 0 saved one that got
    no gradient for a while, and then the largest count holds.
    """
    masters = engine.masters
    members: list[list[Parameter]] = [[] for _ in masters.owners]
    for fragment in masters.fragments:
        if fragment.owner is not None:
            members[fragment.owner].append(record.parameters[fragment.name])
    everything = [p for p in record.parameters.values() if p.trains]
    for owner, parameters in zip(masters.owners, members, strict=True):
        parameters = parameters or everything  # nothing but padding
        # Sorted: a set of strings has another order in every process, and ranks compare the kinds they save.
        kinds = sorted({kind for p in parameters for kind in _moments(p)})
        step = max((p.step for p in parameters if p.step is not None), default=None)
        state = masters.optimizer.state[owner]
        for kind in list(state):
            if kind not in kinds and kind != "step":
                del state[kind]
        for kind in kinds:
            if state.get(kind) is None:
                state[kind] = torch.zeros_like(owner, requires_grad=False)
            state[kind].zero_()
        if step is None:
            state.pop("step", None)
        else:
            state["step"] = torch.tensor(step, dtype=torch.float32, device=owner.device)
        if not state:
            del masters.optimizer.state[owner]


def _moments(parameter: Parameter) -> list[str]:
    return [kind for kind in parameter.kinds if kind not in (MASTER, AVERAGE)]


def _together(work: Callable[[], Any]) -> Any:
    """What `work` gives, or its failure on every rank."""
    result, error = None, None
    try:
        result = work()
    except Exception as caught:
        error = caught
    raise_together(error)
    return result
