"""A background save is of the moment it began, bit for bit, however late its copy is made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import global_batch, make_engine, run_ranks, train_steps

from trainer import checkpoint
from trainer.checkpoint import Saver
from trainer.checkpoint.staging import Copy, Staging

LAYOUTS = [{"zero_stage": stage, "precision": "fp32"} for stage in range(4)]
LAYOUTS += [{"zero_stage": stage, "precision": "bf16"} for stage in (0, 1, 3)] + [{"zero_stage": 2, "offload": "cpu"}]


def late_copies() -> threading.Event:
    """From now on copies of this process begin only when something asks for their end, or sets this."""
    gate, make, wait = threading.Event(), Copy.make, Copy.wait

    def late(self: Copy) -> None:
        gate.wait(60)  # for nothing, if a change of the weights forgets to ask: then the copy is of the change
        gate.clear()
        make(self)

    def ask(self: Copy) -> None:
        gate.set()
        wait(self)

    Copy.make, Copy.wait = late, ask
    return gate


def files_of(directory: str) -> list[tuple[str, int]]:
    """Digest and size of every shard."""
    return [(shard.sha256, shard.bytes) for shard in checkpoint.describe(directory).shards]


def halfway(engine: Any) -> None:
    """Forward and backward of the next step, without its update."""
    images, targets = (part.chunk(2)[torch.distributed.get_rank()] for part in global_batch(engine.steps))
    engine.backward(F.mse_loss(engine(images).float(), targets))


def save_late(root: str, layouts: list[dict[str, Any]], held: bool) -> list[tuple[bool, bool]]:
    """For each layout, whether a late save is the synchronous one of the same moment, in digests and in manifest."""
    gate, same = late_copies(), []
    for number, layout in enumerate(layouts):
        engines = {
            "model": make_engine(dropout=0.3, engine=layout),
            "critic": make_engine(engine=layout, trainer={"ema_decay": 0.0}),
        }
        at_once = Saver(f"{root}/at-once-{number}", background=False)
        late = Saver(f"{root}/late-{number}")
        for engine in engines.values():
            train_steps(engine, 2)
        at_once.save(engines, {"consumed": 12})
        late.save(engines, {"consumed": 12})
        if not held:
            for engine in engines.values():
                engine._until = None
        for engine in reversed(engines.values()):
            halfway(engine)
        torch.rand(3)
        for engine in engines.values():
            engine.step()
        gate.set()
        late.wait()
        gate.clear()
        one, other = checkpoint.describe(at_once.newest), checkpoint.describe(late.newest)
        same.append((files_of(at_once.newest) == files_of(late.newest), one.engines == other.engines))
    return same


def test_a_late_copy_is_the_synchronous_save_bit_for_bit(tmp_path: Path) -> None:
    for found in run_ranks(2, save_late, str(tmp_path), LAYOUTS, True):
        assert found == [(True, True)] * len(LAYOUTS)


def test_without_the_wait_it_would_be_another(tmp_path: Path) -> None:
    stages = [{"zero_stage": stage} for stage in (0, 3)]
    for found in run_ranks(2, save_late, str(tmp_path), stages, False):
        assert found == [(False, True)] * 2


def change_weights_otherwise(root: str) -> list[bool]:
    """A swap with the average, a load, new weights and a second save, each right after a save."""
    late_copies()
    engine, saver, same = make_engine(engine={"zero_stage": 2}), Saver(f"{root}/late"), []
    train_steps(engine, 1)
    checkpoint.save(engine, f"{root}/first", {})

    def swap() -> None:
        with engine.averaged():
            engine.module(global_batch(0)[0])

    changes: list[Callable[[], Any]] = [
        swap,
        lambda: checkpoint.load(engine, f"{root}/first"),
        lambda: checkpoint.start_from({"model": engine}, f"{root}/first"),
        lambda: saver.save(engine, {}),
    ]
    for number, change in enumerate(changes):
        train_steps(engine, 1)
        directory = f"{root}/expected-{number}"
        checkpoint.save(engine, directory, {})
        saver.save(engine, {})
        if number == len(changes) - 1:  # only a save itself does not ask: it waits for the one before to be written
            engine.settle()
        change()
        engine.settle()
        saver.wait()
        same.append(files_of(directory) == files_of(saver.newest))
    return same


def test_whatever_else_changes_weights_waits_too(tmp_path: Path) -> None:
    assert run_ranks(2, change_weights_otherwise, str(tmp_path)) == [[True] * 4] * 2


def fail_to_copy(root: str) -> tuple[list[str], int, str]:
    """The copy of the second save finds no memory on rank 1."""
    engine, saver, make = make_engine(engine={"zero_stage": 1}), Saver(root), Copy.make

    def no_memory(self: Copy) -> None:
        self._targets = [target[:0] for target in self._targets]
        make(self)

    newest = []
    for step in range(3):
        train_steps(engine, 1)
        Copy.make = no_memory if step == 1 and torch.distributed.get_rank() == 1 else make
        saver.save(engine, {})
        saver.settle()
        newest.append(saver.newest[-1])
    return newest, engine.steps, saver.newest


def test_a_copy_that_fails_is_a_save_that_fails_on_every_rank(tmp_path: Path) -> None:
    for found in run_ranks(2, fail_to_copy, str(tmp_path)):
        assert found == (["1", "1", "3"], 3, f"{tmp_path}/step-00000003")


# --- the copy itself --------------------------------------------------------------------------------------------------


def test_early_is_copied_at_once_and_late_when_it_is_made() -> None:
    early, late = {"buffer": torch.zeros(3)}, {"master": torch.zeros(3)}
    tensors, copy = Staging().begin(early, late)
    early["buffer"] += 1
    late["master"] += 1
    copy.make()
    assert tensors["buffer"].tolist() == [0.0] * 3
    assert tensors["master"].tolist() == [1.0] * 3


def test_memory_is_kept_where_it_fits() -> None:
    staging = Staging()
    first, copy = staging.begin({}, {"a": torch.ones(3), "b": torch.ones(4)})
    copy.make()
    second, copy = staging.begin({}, {"a": torch.ones(3) * 2, "b": torch.ones(5)})
    copy.make()
    assert first["a"].data_ptr() == second["a"].data_ptr()
    assert first["b"].data_ptr() != second["b"].data_ptr()
    assert second["a"].tolist() == [2.0] * 3


@pytest.mark.parametrize("ready", [True, False])
def test_only_a_wait_that_stalls_is_told_of(ready: bool) -> None:
    told: list[str] = []
    inside = threading.Event()

    @contextmanager
    def stalled() -> Iterator[None]:
        told.append("stalled")
        inside.set()
        yield

    _, copy = Staging(stalled).begin({}, {"master": torch.zeros(3)})
    maker = threading.Thread(target=lambda: (ready or inside.wait(60), copy.make()))
    maker.start()
    if ready:
        maker.join()
    copy.wait()
    maker.join()
    assert told == ([] if ready else ["stalled"])


def test_what_waits_for_a_copy_that_failed_goes_on() -> None:
    _, copy = Staging().begin({}, {"master": torch.zeros(3)})
    copy._targets = [torch.zeros(2)]
    with pytest.raises(RuntimeError):
        copy.make()
    copy.wait()
