"""Ray on this machine and elsewhere: what is joined, what is started, what is refused."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.session import ROOT, cluster_address, worker_environment
from configs import load_config


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray head in processes of its own, with a token of its own."""
    folder = Path(tempfile.mkdtemp(prefix="hwt-", dir="/tmp"))
    (folder / "token").write_text(secrets.token_hex(32))
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    port = free_port()
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--num-cpus=2", "--include-dashboard=false"]
    command += [f"--ray-client-server-port={free_port()}", "--disable-usage-stats", "--object-store-memory=100000000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(60)
    for left in psutil.wait_procs(family, timeout=3)[1]:
        left.kill()
    subprocess.run(["rm", "-rf", str(folder)], check=False)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_exists_is_joined_and_left_running(head: str, small: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", "from cluster.cli import main; main()", "train", "headsup-nano", "--name", "r"]
    command += ["--address", head, *small, "trainer.steps=8"]
    for outcome in ("done: step 8 of 8", "done: step 8 of 8"):  # the second finds the run finished
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert outcome in done.stdout
        assert f"2 workers on {head}" in done.stdout


def test_rays_own_variable_names_the_cluster_where_the_config_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("headsup-nano")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(config) is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster_address(config) == "head:6379"
    assert cluster_address(load_config("headsup-nano", ["cluster.address=other:1"])) == "other:1"


def test_workers_get_threads_an_accelerator_and_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    variables = worker_environment(load_config("headsup-nano", ["run.threads=3"]))
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["DS_ACCELERATOR"] == "cpu"
    assert variables["PYTHONPATH"].split(":") == [str(ROOT), "/somewhere"]
    assert "DS_ACCELERATOR" not in worker_environment(load_config("headsup-base"))


def test_a_machine_without_a_free_port_is_told_so(tmp_path: Path) -> None:
    """In a network of its own whose only two ports are taken."""
    code = (
        "import socket\n"
        "taken = [socket.socket() for _ in range(2)]\n"
        "for port, each in zip((40000, 40001), taken): each.bind(('127.0.0.1', port)); each.listen()\n"
        "from cluster.cli import main; main(['train', 'headsup-nano'])"
    )
    narrow = "ip link set lo up && echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range"
    if subprocess.run(["unshare", "-n", "sh", "-c", narrow], capture_output=True, check=False).returncode:
        pytest.skip("a network of its own needs root")
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", f'{narrow} && exec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("headway: 127.0.0.1: no free port on this machine")
    assert "Traceback" not in done.stderr
