"""Saves beside the training: what they cost in correctness (nothing), which stay, and what a kill or a fault leaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import make_engine, run_ranks, train_steps
from torch import Tensor

from configs import UserError
from trainer import checkpoint
from trainer.checkpoint import Retention, Saver, saving, storage
from trainer.checkpoint.retention import kept, steps_in
from trainer.checkpoint.storage import Folder


def whole(directory: str) -> dict[str, Tensor]:
    return checkpoint.load_weights(directory, ema=False)


# --- beside the training ----------------------------------------------------------------------------------------------


def save_both_ways(root: str) -> tuple[list[float], list[float], str]:
    """Losses of a run that never saves, of one that saves at every step while a slow disk is still writing."""
    quiet = train_steps(make_engine(engine={"zero_stage": 2}), 4)
    chunks = storage._chunks

    def slow(view: memoryview) -> Iterator[memoryview]:
        time.sleep(0.01)
        yield from chunks(view)

    storage._chunks = slow
    engine, saver, losses = make_engine(engine={"zero_stage": 2}), Saver(root), []
    for step in range(4):
        losses += train_steps(engine, 1)
        saver.save(engine, {"consumed": step})
    saver.wait()
    storage._chunks = chunks
    for step in range(1, 5):
        again = make_engine(engine={"zero_stage": 2})
        assert checkpoint.load(again, f"{root}/step-{step:08d}") == {"consumed": step - 1}
        assert train_steps(again, 4 - step) == losses[step:]
    return quiet, losses, saver.newest


def test_training_goes_on_and_the_checkpoint_is_of_its_step(tmp_path: Path) -> None:
    for quiet, losses, newest in run_ranks(2, save_both_ways, str(tmp_path)):
        assert quiet == losses
        assert newest == f"{tmp_path}/step-00000004"


def save_on_a_stuck_disk(root: str) -> tuple[int, bool, bool]:
    """Steps done while the disk did nothing, and whether the checkpoint was there only afterwards, of its step."""
    engine, saver, go_on = make_engine(), Saver(root), threading.Event()
    train_steps(engine, 1)
    chunks = storage._chunks

    def stuck(view: memoryview) -> Iterator[memoryview]:
        go_on.wait()
        yield from chunks(view)

    storage._chunks = stuck
    saver.save(engine, {})
    before = checkpoint.latest(root)
    train_steps(engine, 2)
    go_on.set()
    saver.wait()
    return engine.steps, before is None, checkpoint.describe(checkpoint.latest(root) or "").step == 1


def test_nothing_waits_for_a_stuck_disk(tmp_path: Path) -> None:
    assert run_ranks(1, save_on_a_stuck_disk, str(tmp_path))[0] == (3, True, True)


# --- which stay -------------------------------------------------------------------------------------------------------

METRICS = st.dictionaries(
    st.integers(1, 500), st.one_of(st.just({}), st.builds(lambda psnr: {"psnr": psnr}, st.floats(0, 50)))
)


@given(METRICS, st.integers(1, 5), st.integers(0, 50), st.sampled_from([None, "psnr"]))
def test_what_stays(found: dict[int, dict[str, float]], last: int, every: int, best: str | None) -> None:
    stay = kept(found, Retention(last, every, best))
    assert stay <= found.keys()
    assert set(sorted(found)[-last:]) <= stay
    if every:
        assert {step for step in found if step % every == 0} <= stay
    measured = {step: metrics["psnr"] for step, metrics in found.items() if metrics}
    if best and measured:
        assert max(measured.values()) in {measured.get(step) for step in stay}
    most = last + bool(best) + (sum(step % every == 0 for step in found) if every else 0)
    assert len(stay) <= most


def test_without_a_limit_all_stay() -> None:
    assert kept({1: {}, 2: {}, 30: {}}, Retention(0, 10, None)) == {1, 2, 30}


def save_often(root: str) -> list[list[int]]:
    engine, seen = make_engine(), []
    saver = Saver(root, Retention(last=2, every=4, best="psnr"))
    os.makedirs(f"{root}/step-00000001/")  # a save that never ended
    for psnr in (20.0, 25.0, 21.0, 22.0, 23.0, 24.0, 24.5):
        train_steps(engine, 1)
        saver.save(engine, {"metrics": {"psnr": psnr}} if engine.steps > 1 else {})
        saver.wait()
        seen.append(steps_in(root))
    return seen


def test_the_last_the_best_and_every_fourth_stay(tmp_path: Path) -> None:
    assert run_ranks(1, save_often, str(tmp_path))[0] == [
        [1],
        [1, 2],
        [2, 3],
        [2, 3, 4],
        [2, 4, 5],
        [2, 4, 5, 6],
        [2, 4, 6, 7],
    ]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def save_on_a_bad_disk(root: str) -> list[str]:
    """Two saves in a row fail, one works, then all fail."""
    engine, saver, told = make_engine(), Saver(root, tolerated=2), []
    if torch.distributed.get_rank() == 1:
        write_shard, fail = saving.write_shard, iter([True, True, False, True, True, True])

        def bad(*args: Any) -> Any:
            if next(fail):
                raise PermissionError(13, "read-only")
            return write_shard(*args)

        saving.write_shard = bad
    for _ in range(7):
        train_steps(engine, 1)
        try:
            saver.save(engine, {})
        except UserError as error:
            told.append(f"step {engine.steps}: {error}")
    return [*told, saver.newest]


def test_failed_saves_are_survived_but_not_for_ever(tmp_path: Path) -> None:
    results = run_ranks(2, save_on_a_bad_disk, str(tmp_path))
    assert results[0] == results[1]
    message, newest = results[0]
    assert "step 7: " in message
    assert "step-00000006" in message
    assert newest == f"{tmp_path}/step-00000003"
    assert steps_in(str(tmp_path)) == [3]


def go_on_from_damage(root: str) -> tuple[str, Any, str]:
    engine = make_engine()
    for step in (1, 2, 3):
        train_steps(engine, 1)
        checkpoint.save(engine, f"{root}/step-{step:08d}", {"consumed": step})
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        shard = next(Path(f"{root}/step-00000003").glob("shard-00001*"))
        content = bytearray(shard.read_bytes())
        content[-100] ^= 1
        shard.write_bytes(content)
        next(Path(f"{root}/step-00000002").glob("shard-00000*")).unlink()
        Path(f"{root}/step-00000009").mkdir()
    torch.distributed.barrier()
    directory, state = checkpoint.load_newest(engine, root) or ("", {})
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        Path(f"{root}/step-00000001/manifest.json").write_text("{}")
    torch.distributed.barrier()
    try:
        checkpoint.load_newest(engine, root)
    except checkpoint.Damaged as error:
        return directory, state, str(error)
    return directory, state, "loaded"


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    for directory, state, message in run_ranks(2, go_on_from_damage, str(tmp_path)):
        assert directory == f"{tmp_path}/step-00000001"
        assert state == {"consumed": 1}
        assert "step-00000003" in message  # with nothing whole left it is the newest that is told of


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert run_ranks(1, _newest_of_nothing, f"{tmp_path}/none")[0] is None


def _newest_of_nothing(root: str) -> object:
    return checkpoint.load_newest(make_engine(), root)


# --- kills ------------------------------------------------------------------------------------------------------------


def install_killer(after: int) -> None:
    """Die by SIGKILL when this process is about to touch the disk for the `after`-th time."""
    left = [after]

    def deadly(work: Callable[..., Any]) -> Callable[..., Any]:
        def touch(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return work(*args, **kwargs)

        return touch

    chunks = storage._chunks
    storage._chunks = lambda view: map(deadly(lambda chunk: chunk), chunks(view))
    storage.CHUNK = 2**18
    Folder.open = deadly(Folder.open)
    for name in ("fsync", "replace", "remove", "rmdir", "makedirs"):
        setattr(os, name, deadly(getattr(os, name)))


def killed_everywhere(root: str) -> list[str]:
    """What is newest and whole after a kill at every single write of a save that also removes an older one."""
    engine = make_engine(engine={"zero_stage": 0})
    wanted: dict[int, dict[str, Tensor]] = {}
    for step in (1, 2):
        train_steps(engine, 1)
        checkpoint.save(engine, f"{root}/step-{step:08d}", {})
        wanted[step] = whole(f"{root}/step-{step:08d}")
    train_steps(engine, 1)
    checkpoint.save(engine, f"{root}-3/step-00000003", {})
    wanted[3] = whole(f"{root}-3/step-00000003")
    found: list[str] = []
    for after in range(200):
        child = os.fork()
        if child == 0:
            install_killer(after)
            saver = Saver(root, Retention(last=2), background=False)
            saver.save(engine, {})
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        newest = checkpoint.latest(root) or ""
        weights = whole(newest)
        step = int(newest[-8:])
        assert all(torch.equal(weights[name], wanted[step][name]) for name in weights), newest
        found.append(newest[-1])
        if ended == 0:
            return found
        assert ended == -signal.SIGKILL
    return [*found, "never done"]


def test_a_kill_at_any_write_leaves_a_whole_checkpoint_newest(tmp_path: Path) -> None:
    found = run_ranks(1, killed_everywhere, f"{tmp_path}/run")[0]
    assert found == sorted(found)  # the older one until the commit, the newer one ever after
    assert found.count("2") > 10
    assert found.count("3") > 2
    assert steps_in(f"{tmp_path}/run") == [2, 3]


def killed_beside_the_training(root: str, after: int) -> None:
    engine, saver = make_engine(engine={"zero_stage": 1}), Saver(root)
    train_steps(engine, 1)
    saver.save(engine, {})
    saver.wait()
    train_steps(engine, 1)
    if torch.distributed.get_rank() == 1:
        install_killer(after)
    saver.save(engine, {})
    train_steps(engine, 1)
    saver.wait()


@pytest.mark.parametrize("after", [0, 2])
def test_a_rank_killed_in_the_background_leaves_the_previous_one(tmp_path: Path, after: int) -> None:
    with pytest.raises(AssertionError, match=r"died|closed by peer|reset by peer"):
        run_ranks(2, killed_beside_the_training, str(tmp_path), after)
    assert checkpoint.latest(str(tmp_path)) == f"{tmp_path}/step-00000001"
    assert whole(f"{tmp_path}/step-00000001")


@pytest.mark.parametrize("name", ["step-00000001", "step-123", "other"])
def test_other_folders_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert steps_in(str(tmp_path)) == ([1] if name == "step-00000001" else [])
