"""Save: every rank writes the slices that it owns; the manifest, written last, makes them a checkpoint."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

from configs import dump_config
from trainer.checkpoint.manifest import MANIFEST, EngineRecord, Manifest, Parameter
from trainer.checkpoint.shards import SHARD, nbytes, write_shard
from trainer.checkpoint.snapshot import Engines, Snapshot, take
from trainer.checkpoint.staging import Tensors
from trainer.checkpoint.storage import Folder, Written
from trainer.distributed import (
    Group,
    agree_on_failure,
    all_reduce_sum,
    broadcast_object,
    gather_objects,
    raise_together,
)


def save(engines: Engines, directory: str, state: dict[str, Any]) -> None:
    """Write a checkpoint at an accumulation boundary, and return when it is there. Collective.

    Args:
        engines: as `take`.
        directory: path or fsspec URL of this checkpoint alone.
        state: whatever else the run needs to go on, as JSON.

    Raises:
        UserError: no room, or no permission; on every rank.
        ValueError: in the middle of an accumulation, whose gradients would be lost.
    """
    publish(take(engines, state), directory)


def publish(snapshot: Snapshot, directory: str, group: Group = None) -> str:
    """Make every rank's snapshot a checkpoint. Collective over `group`; may run in a thread of its own.

    Whoever reads `directory` meanwhile sees what was there before; if it fails on any rank, nothing of it stays.

    Returns:
        the name of this rank's shard.

    Raises:
        UserError: no room, or no permission; on every rank.
    """
    _finish_copy(snapshot, group)  # before anything that may fail: the training waits for it
    folder, rank, world = Folder(directory), dist.get_rank(), dist.get_world_size()
    needed = int(all_reduce_sum([float(nbytes(snapshot.tensors))], group)[0])
    attempt = broadcast_object(secrets.token_hex(4), group=group)
    name = f"shard-{rank:05d}-of-{world:05d}-{attempt}.safetensors"
    try:
        written = _write(folder, name, snapshot.tensors, needed, group)
    except BaseException:
        folder.remove([name])
        raise
    gathered = gather_objects((written, snapshot.records), group)
    failure = agree_on_failure(_commit(folder, snapshot, gathered, needed) if gathered else None, group)
    if failure is not None:
        folder.remove([name])
        raise failure
    return name


def _finish_copy(snapshot: Snapshot, group: Group) -> None:
    """The snapshot's tensors are its own afterwards; fails on every rank if it fails on any."""
    failure: Exception | None = None
    try:
        if snapshot.copy is not None:
            snapshot.copy.make()
    except Exception as error:
        failure = error
    raise_together(failure, group)


def _write(folder: Folder, name: str, tensors: Tensors, needed: int, group: Group) -> Written:
    """This rank's file; fails on every rank if it fails on any."""
    written: Written | None = None
    failure: Exception | None = None
    try:
        written = write_shard(folder, name, tensors)
    except OSError as error:
        failure = folder.explain(error, needed)
    except Exception as error:
        failure = error
    raise_together(failure, group)
    assert written is not None
    return written


def _commit(
    folder: Folder, snapshot: Snapshot, gathered: list[tuple[Written, dict[str, EngineRecord]]], needed: int
) -> Exception | None:
    """Rank 0: put the pieces together, check that nothing is missing, and let the checkpoint be seen."""
    records = {name: _merge([records[name] for _, records in gathered]) for name in snapshot.records}
    shards = [vars(written) for written, _ in gathered]
    try:
        manifest = Manifest.model_validate(
            {
                "step": snapshot.step,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "world_size": len(gathered),
                "config": dump_config(snapshot.config),
                "config_hash": snapshot.config.hash,
                "architecture": snapshot.architecture,
                "versions": _versions(),
                "state": snapshot.state,
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
