"""Saves that fail or are killed, checkpoints that do not fit, and what else a run leans on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import SmallNet, global_batch, make_engine, run_ranks, train_steps

from configs import UserError
from trainer import checkpoint
from trainer.checkpoint import storage


def message_of(work: Any) -> str:
    try:
        work()
    except UserError as error:
        return str(error)
    return "no error"


# --- what a whole checkpoint gives back -------------------------------------------------------------------------------


def save_and_read_weights(root: str) -> dict[str, Any]:
    engine = make_engine(engine={"zero_stage": 2})
    train_steps(engine, 3)
    checkpoint.save(engine, f"{root}/step-00000003", {"consumed": 18})
    own = {name: value.clone() for name, value in engine.module.state_dict().items()}
    with engine.averaged():
        averaged = {name: value.clone() for name, value in engine.module.state_dict().items()}
    again = engine.module.state_dict()
    return {"own": own, "averaged": averaged, "restored": all(torch.equal(own[name], again[name]) for name in own)}


def test_weights_load_without_deepspeed(tmp_path: Path) -> None:
    found = run_ranks(2, save_and_read_weights, str(tmp_path))[0]
    assert found["restored"]
    directory = checkpoint.latest(str(tmp_path))
    assert directory is not None
    plain = checkpoint.load_weights(directory, ema=False)
    averaged = checkpoint.load_weights(directory)
    assert plain.keys() == found["own"].keys()
    assert all(torch.equal(plain[name], found["own"][name]) for name in plain)
    assert all(torch.equal(averaged[name], found["averaged"][name]) for name in averaged)
    assert not torch.equal(plain["head.weight"], averaged["head.weight"])
    network = SmallNet()
    network.load_state_dict(averaged, strict=True)
    assert network.eval()(global_batch(0)[0]).isfinite().all()


def test_the_page_on_checkpoints_reads_one_without_headway(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    code = page.read_text().split("```python\n")[1].split("```")[0]
    run_ranks(2, save_and_read_weights, str(tmp_path))
    command = [sys.executable, "-c", code, f"{tmp_path}/step-00000003"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["3", str(sum(p.numel() for p in SmallNet().parameters()))]


def test_a_checkpoint_describes_itself(tmp_path: Path) -> None:
    run_ranks(2, save_and_read_weights, str(tmp_path))
    manifest = checkpoint.describe(f"{tmp_path}/step-00000003")
    assert (manifest.step, manifest.world_size, manifest.state) == (3, 2, {"consumed": 18})
    assert manifest.versions["torch"] == torch.__version__
    assert "zero_stage: 2" in manifest.config
    record = manifest.engines["model"]
    assert (record.zero_stage, record.precision, record.optimizer) == (2, "fp32", "Adam")
    assert record.tied == {"second.weight": "first.weight"}
    assert record.buffers == {"forwards": (1,)}
    assert not record.parameters["frozen.weight"].trains
    assert record.parameters["frozen.weight"].kinds == ("master",)
    assert set(record.parameters["head.weight"].kinds) == {"master", "exp_avg", "exp_avg_sq", "ema"}
    assert manifest.bytes == sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))


def resume_with_dropout(root: str, save: bool) -> list[float]:
    engine = make_engine(dropout=0.3, engine={"zero_stage": 1, "accumulation": 3})
    if save:
        np.random.seed(3)  # noqa: NPY002
        train_steps(engine, 3)
        checkpoint.save(engine, root, {})
        assert engine.module.forwards.item() == 9
    else:
        checkpoint.load(engine, root)
        assert engine.module.forwards.item() == 9
    return [*train_steps(engine, 4), float(np.random.rand())]  # noqa: NPY002


def test_random_generators_and_buffers_go_on(tmp_path: Path) -> None:
    first = run_ranks(2, resume_with_dropout, f"{tmp_path}/c", True)
    second = run_ranks(2, resume_with_dropout, f"{tmp_path}/c", False)
    assert first == second


def roll_back(root: str) -> list[list[float]]:
    losses = []
    for stage in range(4):
        engine = make_engine(engine={"zero_stage": stage})
        train_steps(engine, 2)
        checkpoint.save(engine, f"{root}/{stage}", {})
        after = train_steps(engine, 3)
        checkpoint.load(engine, f"{root}/{stage}")
        losses += [after, train_steps(engine, 3)]
    return losses


def test_an_engine_can_be_put_back(tmp_path: Path) -> None:
    losses = run_ranks(2, roll_back, str(tmp_path))[0]
    assert losses[::2] == losses[1::2]


def start_average_late(root: str) -> tuple[bool, bool]:
    engine = make_engine(trainer={"ema_decay": 0.0})
    train_steps(engine, 2)
    checkpoint.save(engine, root, {})
    late = make_engine(trainer={"ema_decay": 0.5})
    checkpoint.load(late, root)
    same = all(torch.equal(a, b) for a, b in zip(late.average.flats, late.masters.flats(), strict=True))
    without = make_engine(trainer={"ema_decay": 0.0})
    checkpoint.save(late, f"{root}-late", {})
    checkpoint.load(without, f"{root}-late")
    return same, without.average is None


def test_an_average_may_begin_or_end_with_a_resume(tmp_path: Path) -> None:
    assert run_ranks(1, start_average_late, f"{tmp_path}/c")[0] == (True, True)


def save_before_the_first_step(root: str) -> bool:
    for optimizer in ({}, {"name": "sgd"}, {"name": "sgd", "momentum": 0.9}):
        engine = make_engine(optimizer=optimizer, engine={"zero_stage": 2})
        checkpoint.save(engine, root, {})
        expected = train_steps(engine, 4)
        checkpoint.save(engine, root, {})
        expected_after = train_steps(engine, 2)
        stepped = make_engine(optimizer=optimizer, engine={"zero_stage": 2})
        checkpoint.load(stepped, root)
        if train_steps(stepped, 2) != expected_after:
            return False
        fresh = make_engine(optimizer=optimizer, engine={"zero_stage": 2})
        checkpoint.save(fresh, root, {})
        checkpoint.load(stepped, root)
        if train_steps(stepped, 4) != expected:
            return False
    return True


def test_before_the_first_step_and_with_other_optimisers(tmp_path: Path) -> None:
    assert run_ranks(2, save_before_the_first_step, f"{tmp_path}/c") == [True, True]


def through_an_object_store(environment: dict[str, str], url: str) -> tuple[str | None, list[float], list[float], str]:
    os.environ.update(environment)
    engine = make_engine(engine={"zero_stage": 3})
    train_steps(engine, 2)
    checkpoint.save(engine, f"{url}/step-00000002", {"consumed": 12})
    checkpoint.save(engine, f"{url}/step-00000002", {"consumed": 12})
    newest = checkpoint.latest(url)
    fresh = make_engine(engine={"zero_stage": 3})
    assert checkpoint.load(fresh, newest or "") == {"consumed": 12}
    message = message_of(lambda: checkpoint.save(engine, "s3://no-such-bucket/step-00000002", {}))
    weights = checkpoint.load_weights(newest or "")
    assert weights["wide.weight"].shape == (257, 512)
    return newest, train_steps(engine, 2), train_steps(fresh, 2), message


def test_object_stores_hold_checkpoints() -> None:
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/heads", method="PUT"))
        results = run_ranks(2, through_an_object_store, environment, "s3://heads/runs/a/checkpoints")
    finally:
        server.stop()
    newest, went_on, resumed, message = results[0]
    assert newest == "s3://heads/runs/a/checkpoints/step-00000002"
    assert went_on == resumed
    assert "s3://no-such-bucket" in message
    assert results[1][3] == message


# --- what does not fit ------------------------------------------------------------------------------------------------


def load_misfits(root: str) -> dict[str, str]:
    engine = make_engine()
    train_steps(engine, 1)
    checkpoint.save(engine, root, {})
    other = make_engine(optimizer={"name": "sgd"})
    messages = {"optimizer": message_of(lambda: checkpoint.load(other, root))}
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        record = json.loads(Path(root, "manifest.json").read_text())
        damaged = Path(root, record["shards"][1]["file"])
        content = bytearray(damaged.read_bytes())
        content[-3] ^= 16
        damaged.write_bytes(content)
    torch.distributed.barrier()
    messages["shard"] = message_of(lambda: checkpoint.load(engine, root))
    messages["nothing"] = message_of(lambda: checkpoint.load(engine, f"{root}/nothing"))
    from trainer.engine import Engine

    class Wider(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(257, 4)
            self.first = torch.nn.Linear(4, 3)

    wider = Engine(Wider(), engine.config)
    messages["architecture"] = message_of(lambda: checkpoint.load(wider, root))
    return messages


def test_misfits_give_one_message_on_every_rank(tmp_path: Path) -> None:
    results = run_ranks(2, load_misfits, f"{tmp_path}/step-00000001")
    assert results[0] == results[1]
    messages = results[0]
    assert "Adam" in messages["optimizer"]
    assert "shard-00001-of-00002" in messages["shard"]
    assert "SHA-256" in messages["shard"]
    assert "not a checkpoint" in messages["nothing"]
    assert "head.bias: [3] in the checkpoint, [4] in the model" in messages["architecture"]


def save_between_boundaries(root: str) -> str:
    engine = make_engine(engine={"accumulation": 2})
    engine.backward(engine(global_batch(0)[0]).sum())
    engine.step()
    try:
        checkpoint.save(engine, root, {})
    except ValueError as error:
        return f"{error} {os.path.exists(root)}"
    return "saved"


def test_gradients_are_not_lost_in_silence(tmp_path: Path) -> None:
    assert "accumulation boundary False" in run_ranks(1, save_between_boundaries, f"{tmp_path}/c")[0]


# --- saves that fail --------------------------------------------------------------------------------------------------


def save_on_a_full_disk(root: str) -> tuple[str, list[str]]:
    engine = make_engine()
    train_steps(engine, 1)
    checkpoint.save(engine, f"{root}/step-00000001", {})
    train_steps(engine, 1)
    if torch.distributed.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    message = message_of(lambda: checkpoint.save(engine, f"{root}/step-00000002", {}))
    torch.distributed.barrier()
    return message, sorted(os.listdir(root))


def test_a_rank_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    results = run_ranks(2, save_on_a_full_disk, str(tmp_path))
    assert results[0] == results[1]
    message, left = results[0]
    assert "no room" in message
    assert "MB" in message
    assert "step-00000002" in message
    assert left == ["step-00000001"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where that is permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("may not mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def save_once(directory: str) -> str:
    engine = make_engine()
    train_steps(engine, 1)
    return message_of(lambda: checkpoint.save(engine, directory, {}))


def test_a_full_file_system_says_what_was_needed(small_disk: Path) -> None:
    message = run_ranks(1, save_once, f"{small_disk}/runs/step-00000001")[0]
    assert "no room for the checkpoint: it needs 2." in message
    assert "are free" in message
    assert list(small_disk.rglob("*.safetensors")) == []


def killed_while_saving(root: str, written: int) -> None:
    """Save once; then the last rank dies by SIGKILL when its second save has written so many bytes, or commits."""
    engine = make_engine(engine={"zero_stage": 1})
    train_steps(engine, 1)
    checkpoint.save(engine, f"{root}/step-00000001", {"consumed": 6})
    train_steps(engine, 1)
    left = written if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1 else 10**9
    chunks = storage._chunks

    def dying(view: memoryview) -> Iterator[memoryview]:
        nonlocal left
        for chunk in chunks(view):
            if len(chunk) > left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= len(chunk)
            yield chunk

    storage._chunks = dying
    replace = os.replace

    def die_before_commit(source: Any, target: Any) -> None:
        if left < 10**8:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = die_before_commit
    checkpoint.save(engine, f"{root}/step-00000002", {"consumed": 12})


@pytest.mark.parametrize(("world", "written"), [(1, 0), (1, 5_000), (1, 700_000), (1, 10**7), (2, 100), (2, 700_000)])
def test_a_kill_during_a_save_leaves_the_previous_one_newest(tmp_path: Path, world: int, written: int) -> None:
    with pytest.raises(AssertionError, match=r"died|closed by peer|reset by peer"):
        run_ranks(world, killed_while_saving, str(tmp_path), written)
    assert checkpoint.latest(str(tmp_path)) == f"{tmp_path}/step-00000001"
    assert checkpoint.load_weights(f"{tmp_path}/step-00000001")


def save_over_remains(root: str) -> list[str]:
    engine = make_engine()
    train_steps(engine, 2)
    checkpoint.save(engine, f"{root}/step-00000002", {"consumed": 12})
    checkpoint.save(engine, f"{root}/step-00000002", {"consumed": 13})
    return sorted(os.listdir(f"{root}/step-00000002"))


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="died"):
        run_ranks(1, killed_while_saving, str(tmp_path), 700_000)
    remains = list((tmp_path / "step-00000002").iterdir())
    assert len(remains) == 1
    files = run_ranks(1, save_over_remains, str(tmp_path))[0]
    assert len(files) == 2
    assert remains[0].name not in files
    assert checkpoint.describe(f"{tmp_path}/step-00000002").state == {"consumed": 13}
