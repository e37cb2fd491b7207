"""A run whose driver is killed, interrupted and resumed, by real signals to a real command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from cluster.session import ROOT
from trainer.checkpoint import latest, load_weights

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


class Headway:
    """A `headway` command in a process group of its own, as a shell would start it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from cluster.cli import main; main()", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def until(self, beginning: str) -> None:
        """Read on to a line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith(beginning):
                return
        raise AssertionError("\n".join(self.lines))

    def press_ctrl_c(self) -> None:
        """A terminal sends it to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Exit code; what was printed is in `lines`."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait()

    def family(self) -> list[psutil.Process]:
        """Everything it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)


def all_gone(family: list[psutil.Process], seconds: float) -> bool:
    """Whether all processes end within some seconds."""
    return not psutil.wait_procs(family, timeout=seconds)[1]


def test_a_run_that_is_killed_interrupted_and_resumed_ends_as_an_undisturbed_one(
    small: list[str], tmp_path: Path
) -> None:
    settings = [*small, "trainer.steps=150", "checkpoint.every=20"]
    plain = Headway(tmp_path, "train", "headsup-nano", "--name", "plain", *settings)
    assert plain.wait() == 0, plain.lines
    assert plain.lines[-1].strip().startswith("MLflow: run ")

    killed = Headway(tmp_path, "train", "headsup-nano", "--name", "hard", *settings)
    while not list(tmp_path.glob("out/runs/hard/checkpoints/step-*/manifest.json")):
        assert killed.process.poll() is None
        time.sleep(0.05)
    family = killed.family()
    killed.process.kill()
    killed.wait()
    # Ray's two agents ask for their dead head for a minute, everything else goes at once.
    agents = [process for process in family if process.is_running() and "Agent" in process.name()]
    assert all_gone([process for process in family if process not in agents], 15)

    interrupted = Headway(tmp_path, "resume", "hard")
    interrupted.until("training")
    family = interrupted.family()
    interrupted.press_ctrl_c()
    assert interrupted.wait() == 130, interrupted.lines
    assert interrupted.lines[-1] == "go on with: headway resume hard"
    assert any(line.startswith("saved and stopped: step") for line in interrupted.lines)
    assert all_gone(family, 10)

    again = Headway(tmp_path, "resume", "hard")
    assert again.wait() == 0, again.lines
    assert all_gone(agents, 180)
    left, right = (
        load_weights(str(latest(str(tmp_path / f"out/runs/{name}/checkpoints")))) for name in ("plain", "hard")
    )
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_second_ctrl_c_ends_it_at_once_and_leaves_no_process(small: list[str], tmp_path: Path) -> None:
    run = Headway(tmp_path, "train", "headsup-nano", "--name", "r", *small, "trainer.steps=100000")
    run.until("training 2")
    family = run.family()
    began = time.monotonic()
    run.press_ctrl_c()
    time.sleep(0.1)  # two at the same instant are one signal
    run.press_ctrl_c()
    assert run.wait() == 130, "\n".join(run.lines)
    assert time.monotonic() - began < 30
    assert run.lines[-1] == "ended at once; go on from the newest checkpoint: headway resume r"
    assert all_gone(family, 10)


def test_a_mistake_found_by_a_worker_is_one_message(small: list[str], tmp_path: Path) -> None:
    run = Headway(tmp_path, "train", "headsup-nano", *small, "data.train=nowhere")
    assert run.wait() == 2
    assert sum("nowhere" in line for line in run.lines) == 1
    assert not any("Traceback" in line for line in run.lines)
