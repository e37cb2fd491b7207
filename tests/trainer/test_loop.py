"""The loop: the same bits twice, the same bits after a kill, and a word for everything that goes wrong."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from configs import Config, UserError, dump_config
from data.dataset import Dataset
from data.manifest import commit
from data.shards import write_shard
from trainer.loop import train
from trainer.observer import Diverged, Progress, Silent

MakeConfig = Callable[..., Config]
SCRIPT = Path(__file__).with_name("train_and_record.py")


def start(config: Config, record: Path, ranks: int = 1) -> list[subprocess.Popen[bytes]]:
    """Processes that train `config` together."""
    path = record.with_suffix(".yaml")
    path.write_text(dump_config(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(path), str(record)],
            env={**os.environ, **address, **of_rank(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(ranks)
    ]


def of_rank(rank: int) -> dict[str, str]:
    """Ranks hash strings differently, as processes of different hosts do."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "PYTHONPATH": os.getcwd(),
        "PYTHONHASHSEED": str(100 + rank),
    }


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    assert [process.wait(timeout=240) for process in processes] == [0] * len(processes)


def losses(record: Path) -> dict[int, str]:
    """Step -> loss; a step done twice must have come out the same."""
    found: dict[int, str] = {}
    for line in record.read_text().splitlines():
        step, loss = line.split()
        assert found.setdefault(int(step), loss) == loss, f"step {step} differs from its first time"
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


@pytest.mark.parametrize("ranks", [1, 2])
def test_two_runs_are_bitwise_equal_and_so_is_a_killed_one(ranks: int, tiny: MakeConfig, tmp_path: Path) -> None:
    common = ["trainer.steps=12", "checkpoint.every=4", "trainer.ema_decay=0.9", f"cluster.workers={ranks}"]
    records = [tmp_path / f"{name}.txt" for name in ("first", "second", "killed")]
    configs = [tiny(*common, f"run.name={record.stem}") for record in records]
    for config, record in zip(configs[:2], records[:2], strict=True):
        finish(start(config, record, ranks))
    doomed = start(configs[2], records[2], ranks)
    # Somewhere between the first checkpoint and the end; where exactly, the machine decides.
    wait_for(lambda: records[2].exists() and len(losses(records[2])) >= 6)
    for process in doomed:
        process.send_signal(signal.SIGKILL)
    for process in doomed:
        process.wait()
    assert len(losses(records[2])) < 12, "it ended before the kill"
    finish(start(configs[2], records[2], ranks))
    first, second, killed = (losses(record) for record in records)
    assert len(first) == 12
    assert first == second == killed


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [("sgd", 1e-5), ("adam", 1e-4)])
def test_every_zero_stage_on_two_ranks_is_one_process(
    optimizer: str, tolerance: float, tiny: MakeConfig, tmp_path: Path
) -> None:
    common = ["trainer.steps=20", "data.test=null", f"optimizer.name={optimizer}"]
    curves = {}
    for name, ranks, stage in [("alone", 1, 0), *((f"stage{stage}", 2, stage) for stage in range(4))]:
        record = tmp_path / f"{name}.txt"
        config = tiny(*common, f"run.name={name}", f"engine.zero_stage={stage}", f"cluster.workers={ranks}")
        finish(start(config, record, ranks))
        curves[name] = torch.tensor([float.fromhex(loss) for loss in losses(record).values()])
    assert len(curves["alone"]) == 20
    for name, curve in curves.items():
        torch.testing.assert_close(curve, curves["alone"], rtol=tolerance, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_an_observer_s_wish_to_stop_saves_and_a_resume_goes_on(tiny: MakeConfig) -> None:
    class Impatient(Silent):
        seen: list[Progress]

        def __init__(self) -> None:
            self.seen = []

        def report(self, progress: Progress) -> None:
            self.seen.append(progress)

        def should_stop(self) -> bool:
            return len([p for p in self.seen if p.phase == "training"]) >= 3

    observer = Impatient()
    config = tiny("trainer.steps=6")
    summary = train(config, observer)
    assert not summary.finished
    assert 0 < summary.steps < 6
    assert Path(summary.checkpoint).name == f"step-{summary.steps:08d}"
    again = train(config)
    assert again.finished
    assert again.steps == 6
    assert {"starting", "training", "saving", "done"} <= {p.phase for p in observer.seen}


def test_training_improves_and_evaluates(tiny: MakeConfig) -> None:
    summary = train(tiny("trainer.steps=30", "trainer.evaluate_at_start=true", "trainer.images_every=10"))
    assert summary.finished
    assert summary.metrics["psnr"] > summary.untrained["psnr"] + 0.5
    assert summary.protocol == "heldout-2subjects-2source-2target-48x48-full"


def test_another_dataset_under_a_checkpoint_is_refused_by_both_names(tiny: MakeConfig, people: Path) -> None:
    train(tiny("trainer.steps=1", "data.test=null"))
    with pytest.raises(UserError) as caught:
        train(tiny("trainer.steps=2", "data.test=null", f"data.train={people}/unseen"))
    for folder in ("train", "unseen"):
        assert Dataset.open(str(people / folder)).fingerprint in str(caught.value)


def test_a_shard_written_anew_under_a_checkpoint_is_refused_by_both_names(
    tiny: MakeConfig, people: Path, tmp_path: Path
) -> None:
    url = str(shutil.copytree(people / "train", tmp_path / "moving"))
    changes = ["data.test=null", f"data.train={url}"]
    train(tiny("trainer.steps=1", *changes))
    with Dataset.open(url) as before:
        captures = [before.capture(name) for name in before.captures[:2]]
    write_shard(url, 0, captures[::-1])
    after = commit(url)
    assert after.fingerprint != before.fingerprint
    with pytest.raises(UserError) as caught:
        train(tiny("trainer.steps=2", *changes))
    for fingerprint in (before.fingerprint, after.fingerprint, url):
        assert fingerprint in str(caught.value)


def test_other_weights_of_a_mixture_under_a_checkpoint_are_refused(tiny: MakeConfig, people: Path) -> None:
    def mixed(steps: int, weight: float) -> Config:
        mixture = f"data.mixture=[{{url: {people}/unseen, weight: {weight}}}]"
        return tiny(f"trainer.steps={steps}", "data.test=null", mixture)

    train(mixed(1, 1.0))
    assert train(mixed(2, 1.0)).steps == 2
    with pytest.raises(UserError, match=r"the checkpoint was trained on dataset [0-9a-f]{64}, but .*is [0-9a-f]{64}"):
        train(mixed(3, 2.0))


def test_another_architecture_under_a_checkpoint_is_refused(tiny: MakeConfig) -> None:
    train(tiny("trainer.steps=1", "data.test=null"))
    with pytest.raises(UserError, match="encoder"):
        train(tiny("trainer.steps=2", "data.test=null", "model.encoder_channels=[8, 32]"))


def test_a_loss_that_is_no_number_names_the_samples(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer.objectives.reconstruction as reconstruction

    monkeypatch.setattr(reconstruction, "psnr", lambda a, b: torch.full(a.shape[:2], 1.0))
    real = reconstruction.dissimilarity
    monkeypatch.setattr(reconstruction, "dissimilarity", lambda a, b: real(a, b) * float("nan"))
    with pytest.raises(Diverged, match=r"the loss of model is nan at step 0; samples: s\d+"):
        train(tiny("trainer.steps=2", "data.test=null"))


def test_missing_data_is_named(tiny: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        train(tiny(f"data.train={tmp_path}/nowhere"))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_accumulation_sees_the_same_global_batches(accumulation: int, tiny: MakeConfig) -> None:
    summary = train(tiny("trainer.steps=3", f"engine.accumulation={accumulation}", "data.test=null"))
    assert summary.steps == 3
