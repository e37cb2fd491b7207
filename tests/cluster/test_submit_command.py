"""`headway submit` and `headway jobs` as a person meets them: mistakes first, then a real cluster."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from cluster.cli import main
from cluster.session import ROOT
from tests.cluster.test_session import free_port


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


COMMANDS = [
    ["submit"],
    ["jobs", "list"],
    ["jobs", "status"],
    ["jobs", "logs"],
    ["jobs", "stop"],
    ["cluster", "manifest"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: list[str], capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert f"headway {' '.join(command)}" in out.split("Example:")[1]


NOWHERE = ["--address", "127.0.0.1:1"]
MISTAKES = [
    (["submit", "headsup-nano"], "which cluster?", "RAY_API_SERVER_ADDRESS"),
    (["submit", "headsup-nono", *NOWHERE], "no preset or file", "did you mean 'headsup-nano'?"),
    (["submit", "headsup-nano", "data.batchsize=8", *NOWHERE], "unknown key 'data.batchsize'", "did you mean"),
    (["submit", "headsup-nano", "--name", "../escape", *NOWHERE], "run.name", ""),
    (["submit", "headsup-nano", *NOWHERE], "nothing answers there", "http://HOST:8265"),
    (["submit", "headsup-nano", "--address", "ray://head:10001"], "not the address of a Ray dashboard", "8265"),
    (["submit", "headsup-nano", "--address", "http://u:hunter2@h"], "credentials do not belong", "RAY_AUTH_TOKEN_PATH"),
    (["submit", "headsup-nano", "--env", "NOVALUE", *NOWHERE], "a variable is NAME=VALUE", "NCCL_DEBUG=INFO"),
    (["submit", "headsup-nano", "--env", "a b=hunter2", *NOWHERE], "a variable is NAME=VALUE", ""),
    (["jobs", "list"], "which cluster?", "RAY_API_SERVER_ADDRESS"),
    (["jobs", "list", *NOWHERE], "nothing answers there", "http://HOST:8265"),
    (["jobs", "status", "x", *NOWHERE], "nothing answers there", ""),
    (["jobs", "logs", "-f", "x", *NOWHERE], "nothing answers there", ""),
    (["jobs", "stop", "x", *NOWHERE], "nothing answers there", ""),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), MISTAKES, ids=lambda value: " ".join(value)[:50])
def test_a_mistake_gives_one_message_and_exit_code_2(arguments, message, hint, capsys, monkeypatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("headway: ")
    assert message in err
    assert hint in err
    assert "Traceback" not in err
    assert "hunter2" not in err


def test_a_dry_run_needs_no_cluster_and_says_what_the_run_asks_for(captures: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    wanted = ["submit", "headsup-nano", f"data.train={captures}", "cluster.workers=4", "cluster.gpus_per_worker=0.5"]
    code, out, err = run(capsys, *wanted, "--dry-run", "--samples-per-second", "10", "--link-mbit", "100")
    assert (code, err) == (0, "")
    for words in ("4 workers, each 1 CPU and 0.5 GPU: 4 CPU and 2 GPU in all", "parameters, ZeRO 2", "of activations"):
        assert words in out
    assert "links of 100 Mbit/s" in out
    assert "at 10.0 samples/s:" in out
    assert "/s and" in out


def test_a_dry_run_goes_on_where_the_data_are_not_here(capsys, monkeypatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    code, out, _ = run(capsys, "submit", "headsup-nano", "data.train=/nowhere", "--dry-run")
    assert code == 0
    assert "store      unknown: " in out
    assert "there is no dataset here" in out


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray head with a dashboard in processes of its own: own ports, folder and token, loopback only."""
    folder = Path(tempfile.mkdtemp(prefix="hwt-", dir="/tmp"))
    (folder / "token").write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    port = free_port()
    options = {"port": free_port(), "dashboard-port": port, "ray-client-server-port": free_port()}
    options |= {"dashboard-agent-listen-port": free_port(), "temp-dir": folder, "num-cpus": 2}
    options |= {"node-ip-address": "127.0.0.1", "dashboard-host": "127.0.0.1", "object-store-memory": 100_000_000}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with open(folder / "head.log", "w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ})
    try:
        yield _answering(f"http://127.0.0.1:{port}", (folder / "token").read_text(), head)
    finally:
        family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.terminate()  # it would take half a minute to end them one after the other
        for left in psutil.wait_procs(family, timeout=3)[1]:
            left.kill()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _answering(url: str, token: str, head: subprocess.Popen[bytes]) -> str:
    """The URL, when the head's own node has joined; by HTTP alone, as Ray keeps the first token a process reads."""
    end, ask = time.monotonic() + 120, {"Authorization": f"Bearer {token}"}
    while time.monotonic() < end and head.poll() is None:
        with contextlib.suppress(requests.RequestException, KeyError):
            answer = requests.get(f"{url}/api/v0/nodes", headers=ask, timeout=5).json()
            if answer["data"]["result"]["total"]:
                return url
        time.sleep(0.2)
    pytest.fail("Ray's head did not come up")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_is_submitted_followed_listed_and_refused_where_it_cannot_run(
    dashboard: str, small: list[str], tmp_path: Path
) -> None:
    def headway(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_API_SERVER_ADDRESS": dashboard}
        environment |= {"AWS_SECRET_ACCESS_KEY": "hunter2hunter2", "DS_ACCELERATOR": "cpu"}
        command = [sys.executable, "-m", "cluster.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    submit = ["submit", "headsup-nano", "--name", "first", *small, "trainer.steps=2", "checkpoint.every=0"]
    too_many = headway(*submit, "cluster.workers=8", "data.batch_size=8")
    assert too_many.returncode == 2
    assert "8 workers of 1 CPU are wanted, 2 fit on 1 node with 2 CPU and 0 GPU" in too_many.stderr

    done = headway(*submit, "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done: step 2 of 2" in done.stdout
    assert "SUCCEEDED" in done.stdout
    assert "hunter2" not in done.stdout
    assert (tmp_path / "out/runs/first/checkpoints").is_dir()

    (job,) = json.loads(headway("jobs", "list", "--json").stdout)
    assert (job["run"], job["status"]) == ("first", "SUCCEEDED")
    assert job["id"].startswith("first-")
    assert headway("jobs", "status", "first").stdout.startswith(f"{job['id']}: SUCCEEDED")
    assert "done: step 2 of 2" in headway("jobs", "logs", job["id"]).stdout
    missing = headway("jobs", "logs", "frist")
    assert (missing.returncode, "did you mean" in missing.stderr) == (2, True)
