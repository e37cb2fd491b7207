"""The batch script from its first line to its last on one machine, `srun` and `scontrol` played by short scripts."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.manifests import ManifestSettings, slurm
from cluster.reach import place
from cluster.runs import resolve
from cluster.session import ROOT
from configs import load_config
from tests.cluster.test_session import free_port

# Like SLURM's: a step is a process that ends with the signal that its srun gets.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >>"$REQUEUED"
"""


@pytest.fixture
def allocation(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a batch script on two nodes that are this machine."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    job = str(os.getpid())
    yield {
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "HOME": os.environ.get("HOME", "/"),
        "DS_ACCELERATOR": "cpu",
        "HEADWAY_HEAD_IP": "127.0.0.1",
        "HEADWAY_PORT": str(free_port()),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NUM_NODES": "2",
        "SLURMD_NODENAME": socket.gethostname(),
        "REQUEUED": str(tmp_path / "requeued"),
    }
    shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)


def write(folder: Path, overrides: list[str]) -> Path:
    """A script for two machines of one processor each."""
    config = load_config("headsup-nano", [f"tracking.uri=sqlite:///{folder}/mlflow.db", *overrides])
    placed = place(resolve(config, folder), here=False, shared=["/"])
    path = folder / "job.sh"
    path.write_text(slurm(placed, ManifestSettings(node_cpus=1)))
    return path


def start(path: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with open(path.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            ["bash", str(path)], cwd=path.parent, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def log_of(path: Path) -> str:
    return path.with_suffix(".log").read_text()


def left_of(environment: dict[str, str]) -> list[str]:
    """Command lines of processes that belong to the job and are still there."""
    mark, found = f"SLURM_JOB_ID={environment['SLURM_JOB_ID']}", []
    for process in psutil.process_iter():
        try:
            theirs = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if mark in theirs and process.status() != psutil.STATUS_ZOMBIE:
            found.append(" ".join(process.cmdline())[:120])
    return found


def wait_for_nothing(environment: dict[str, str]) -> list[str]:
    """Ray's agents notice within seconds that their node has ended."""
    end = time.monotonic() + 60
    while (left := left_of(environment)) and time.monotonic() < end:
        time.sleep(0.5)
    return left


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_train_and_leave_nothing_behind(allocation: dict[str, str], small: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, [*small, "trainer.steps=4", "checkpoint.every=0"])
    done = start(path, allocation)
    assert done.wait(600) == 0, log_of(path)
    assert "done: step 4 of 4" in log_of(path)
    assert not (tmp_path / ".headway-headsup-nano/token").exists()
    assert not (tmp_path / "requeued").exists()
    assert wait_for_nothing(allocation) == []


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_whose_time_is_up_saves_and_goes_back_into_the_queue(
    allocation: dict[str, str], small: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, [*small, "trainer.steps=100000", "checkpoint.every=0"])
    job = start(path, allocation)
    end = time.monotonic() + 600
    while "training " not in log_of(path) and job.poll() is None and time.monotonic() < end:
        time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    assert job.wait(300) == 128 + signal.SIGTERM, log_of(path)
    assert "saved and stopped" in log_of(path)
    assert (tmp_path / "requeued").read_text() == f"requeue {allocation['SLURM_JOB_ID']}\n"
    assert any((tmp_path / "out/runs/headsup-nano/checkpoints").glob("step-*"))
    assert wait_for_nothing(allocation) == []


def test_a_port_in_use_is_one_message(allocation: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path, [])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job = start(path, {**allocation, "HEADWAY_PORT": str(port)})
        assert job.wait(60) == 1
    assert log_of(path) == f"headway: port {port} of 127.0.0.1 is in use; set HEADWAY_PORT\n"


def test_a_node_without_ray_is_one_message(allocation: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path, [])
    job = start(path, {**allocation, "PATH": "/usr/bin:/bin"})
    assert job.wait(60) == 1
    assert log_of(path).startswith("headway: no ray on this node")
