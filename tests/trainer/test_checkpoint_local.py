"""Copies on the node: read where they are what the manifest names, not trusted further, and no save fails for them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ranks import make_engine, run_ranks, train_steps
from test_checkpoint_faults import message_of, small_disk  # noqa: F401 - a fixture

from configs import Config, UserError
from trainer import checkpoint
from trainer.checkpoint import Saver, storage
from trainer.checkpoint.local import LocalCopies
from trainer.checkpoint.storage import Folder
from trainer.loop import train
from trainer.observer import Silent


def on_rank_0(work: Callable[[], Any]) -> None:
    """Between two barriers."""
    dist.barrier()
    if dist.get_rank() == 0:
        work()
    dist.barrier()


def spoil(folder: str, pattern: str = "*.safetensors") -> None:
    """Change a byte of every shard."""
    for path in Path(folder).glob(pattern):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)


def go_on(root: str, local: str, stage: int) -> str | list[float]:
    """The next losses of a new engine that goes on from the newest checkpoint, or why it cannot."""
    engine = make_engine(engine={"zero_stage": stage})
    why = message_of(lambda: checkpoint.load_newest(engine, root, local))
    return train_steps(engine, 2) if why == "no error" else why


def save_with_copies(root: str, local: str, stage: int) -> list[float]:
    engine, saver = make_engine(engine={"zero_stage": stage}), Saver(root, local=local)
    for _ in range(2):
        train_steps(engine, 1)
        saver.save(engine, {})
    saver.wait()
    return train_steps(engine, 2)


def restart_on_one_node(root: str, local: str) -> list[Any]:
    expected = save_with_copies(root, local, 2)
    files = sorted(path.name for path in Path(local).iterdir())
    newest = sorted(path.name for path in Path(f"{root}/step-00000002").glob("*.safetensors"))
    found = [files == newest]
    on_rank_0(lambda: shutil.copytree(root, f"{root}-whole"))
    on_rank_0(lambda: spoil(f"{root}/step-00000002"))
    found.append(go_on(root, local, 2) == expected)  # it can only have come from the copies
    on_rank_0(lambda: spoil(local, "shard-00001*"))
    found.append("SHA-256" in str(checkpoint_of(f"{root}/step-00000002", local)))
    found.append(go_on(f"{root}-whole", local, 2) == expected)  # from the checkpoint, where the copy is damaged
    on_rank_0(lambda: [path.unlink() for path in Path(local).glob("shard-00000*")])
    found.append(go_on(f"{root}-whole", local, 2) == expected)  # and where there is none
    return found


def checkpoint_of(directory: str, local: str) -> str:
    return message_of(lambda: checkpoint.load(make_engine(engine={"zero_stage": 2}), directory, local))


def test_a_restart_reads_copies_that_are_whole_and_else_the_checkpoint(tmp_path: Path) -> None:
    assert run_ranks(2, restart_on_one_node, f"{tmp_path}/run", f"{tmp_path}/near") == [[True] * 5] * 2


def restart_on_two_nodes(root: str, local: str) -> list[Any]:
    """Each rank's folder is another, as on two nodes; ranks may come back on the other one."""
    mine, others = (f"{local}/node{rank}" for rank in (dist_rank(), 1 - dist_rank()))
    found = []
    for stage in (0, 3):
        folder = f"{root}-{stage}"
        expected = save_with_copies(folder, mine, stage)
        found.append(go_on(folder, mine, stage) == expected)
        found.append(go_on(folder, others, stage) == expected)
        on_rank_0(lambda folder=folder: spoil(f"{folder}/step-00000002"))
        newest = f"{folder}/step-00000002"
        why = message_of(
            lambda stage=stage, newest=newest: checkpoint.load(make_engine(engine={"zero_stage": stage}), newest, mine)
        )
        # At ZeRO 0 every rank reads all shards, and the other node's lies only in the checkpoint.
        found.append(("SHA-256" in why) == (stage == 0))
    return found


def dist_rank() -> int:
    make_engine()
    return dist.get_rank()


def test_nodes_of_their_own_may_be_exchanged_and_nothing_unverified_is_read(tmp_path: Path) -> None:
    assert run_ranks(2, restart_on_two_nodes, f"{tmp_path}/run", f"{tmp_path}/near") == [[True] * 6] * 2


class StopOnce(Silent):
    """Asks for the end of a run after its first step."""

    def should_stop(self) -> bool:
        """At once."""
        return True


def test_a_run_goes_on_from_its_copies_and_leaves_none(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("trainer.steps=2", f"checkpoint.local={tmp_path}/near")
    near, far = tmp_path / "near" / config.run.name, Path(config.checkpoints) / "step-00000001"
    assert train(config, StopOnce()).steps == 1
    assert sorted(path.name for path in near.iterdir()) == sorted(path.name for path in far.glob("*.safetensors"))
    spoil(str(far))
    summary = train(config)
    assert summary.finished
    assert not near.exists()


def load_in_another_layout(root: str, local: str) -> bool:
    engine = make_engine(engine={"zero_stage": 3})
    checkpoint.load_newest(engine, root, local)
    plain = make_engine(engine={"zero_stage": 1})
    checkpoint.load_newest(plain, root)
    return train_steps(engine, 2) == pytest.approx(train_steps(plain, 2), rel=1e-6)


def test_copies_serve_another_layout_too(tmp_path: Path) -> None:
    run_ranks(2, save_with_copies, f"{tmp_path}/run", f"{tmp_path}/near", 2)
    spoil(f"{tmp_path}/near", "shard-00000*")
    assert all(run_ranks(3, load_in_another_layout, f"{tmp_path}/run", f"{tmp_path}/near"))


def save_twice(root: str, local: str) -> tuple[str, list[str]]:
    engine, saver = make_engine(), Saver(root, local=local)
    for _ in range(2):
        train_steps(engine, 1)
        saver.save(engine, {})
        saver.wait()
    left = sorted(path.name for path in Path(local).glob("*")) if Path(local).is_dir() else []
    saver.forget()
    return saver.newest, left


def test_a_full_disk_for_copies_fails_no_save(tmp_path: Path, small_disk: Path) -> None:  # noqa: F811
    newest, left = run_ranks(1, save_twice, str(tmp_path / "run"), str(small_disk / "near"))[0]
    assert newest == f"{tmp_path}/run/step-00000002"
    assert left == []


def test_a_folder_that_cannot_be_made_fails_no_save(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    newest, left = run_ranks(1, save_twice, str(tmp_path / "run"), str(tmp_path / "file" / "near"))[0]
    assert (newest, left) == (f"{tmp_path}/run/step-00000002", [])


def test_one_save_is_kept_and_none_after_the_end(tmp_path: Path) -> None:
    _, left = run_ranks(1, save_twice, str(tmp_path / "run"), str(tmp_path / "near"))[0]
    assert len(left) == 1
    assert not (tmp_path / "near").exists()


def test_only_a_folder_of_the_node_will_do() -> None:
    with pytest.raises(UserError, match=r"checkpoint\.local"):
        LocalCopies("memory://near")


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    copies = LocalCopies(str(tmp_path))
    for digits in ("0123abcd", "deadbeef"):
        copies.keep(f"shard-00000-of-00001-{digits}.safetensors", {"a": torch.zeros(3)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt",
        "shard-00000-of-00001-deadbeef.safetensors",
    ]
    copies.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@given(st.binary(max_size=200), st.integers(1, 9), st.integers(1, 5))
def test_a_file_comes_whole_in_many_requests(content: bytes, request: int, at_once: int) -> None:
    folder = Folder("memory://fetched")
    folder.commit("file", content)
    before, storage.REQUEST, storage.AT_ONCE = (storage.REQUEST, storage.AT_ONCE), request, at_once
    try:
        found, digest = folder.fetch("file", len(content))
    finally:
        storage.REQUEST, storage.AT_ONCE = before
    assert bytes(found) == content
    assert digest == hashlib.sha256(content).hexdigest()
