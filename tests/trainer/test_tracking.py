"""The tracker against a real database and a real server, also one that dies."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import Config, load_config
from trainer.tracking import Tracker, read_run_id


def config(uri: str, *overrides: str) -> Config:
    return load_config("headsup-nano", [f"tracking.uri={uri}", "tracking.system_metrics=false", *overrides])


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def steps(uri: str, run_id: str, name: str = "loss") -> list[int]:
    return sorted(metric.step for metric in client(uri).get_metric_history(run_id, name))


class Server:
    """`mlflow server` on a port of its own; ended by its process group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115
        self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def test_everything_arrives_in_a_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/out/mlflow.db"
    tracker = Tracker(config(uri), tmp_path / "run")
    tracker.tags({"dataset_fingerprint": "abc123"})
    for step in range(250):
        tracker.metrics({f"metric/{number}": step + number for number in range(10)} | {"loss": 1.0}, step)
    tracker.metrics({"odd": math.nan}, 3)
    tracker.image("eval/sheet", Image.new("RGB", (600, 300)), 100)
    tracker.image("eval/sheet", np.zeros((3, 8, 9), np.float32), 200)
    (tmp_path / "note.txt").write_text("hello")
    tracker.artifact(tmp_path / "note.txt", "notes")
    (tmp_path / "note.txt").unlink()
    assert tracker.close("FINISHED", patience_seconds=60)

    run_id = read_run_id(tmp_path / "run")
    assert run_id == tracker.run_id
    assert run_id is not None
    run = client(uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "headsup-nano"
    assert run.data.params["optimizer.learning_rate"] == str(config(uri).optimizer.learning_rate)
    assert run.data.params["model.background.height"] == str(config(uri).model_dump()["model"]["background"]["height"])
    assert run.data.tags["dataset_fingerprint"] == "abc123"
    assert run.data.tags["version.torch"]
    assert steps(uri, run_id) == list(range(250))
    assert steps(uri, run_id, "metric/9") == list(range(250))
    assert math.isnan(client(uri).get_metric_history(run_id, "odd")[0].value)
    assert (run.info.artifact_uri or "").startswith((tmp_path / "out/mlartifacts").as_uri())
    images = [file.path for file in client(uri).list_artifacts(run_id, "images")]
    assert sum(name.startswith("images/eval~sheet+step+100+timestamp+") for name in images) == 2
    assert sum(name.endswith("+compressed.webp") for name in images) == 2
    assert Path(client(uri).download_artifacts(run_id, "notes/note.txt")).read_text() == "hello"
    assert not list((tmp_path / "run/tracking/files").iterdir())


def test_a_process_killed_while_the_database_is_made_leaves_none(tmp_path: Path) -> None:
    """MLflow's own set-up would leave half of its tables, and no later process could open the database."""
    code = (
        "import sys, pathlib; from configs import load_config; from trainer.tracking import Tracker\n"
        "Tracker(load_config('headsup-nano', [f'tracking.uri=sqlite:///{sys.argv[1]}/mlflow.db']), "
        "pathlib.Path(sys.argv[1]) / 'run'); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    victim = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, cwd=root, start_new_session=True
    )
    while not list(tmp_path.glob("mlflow.db.*.partial")):
        time.sleep(0.01)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "mlflow.db").exists()

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(config(uri), tmp_path / "run")
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.close(patience_seconds=60)
    assert tracker.run_id is not None
    assert steps(uri, tracker.run_id) == [1]


def test_a_restart_goes_on_with_the_same_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = Tracker(config(uri), tmp_path / "run")
    first.metrics({"loss": 1.0}, 1)
    first.close("KILLED", patience_seconds=60)
    second = Tracker(config(uri, "trainer.steps=77"), tmp_path / "run")
    assert second.run_id == first.run_id
    second.metrics({"loss": 0.5}, 2)
    second.close("FINISHED", patience_seconds=60)

    assert first.run_id is not None
    run = client(uri).get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert steps(uri, first.run_id) == [1, 2]
    assert run.data.params["trainer.steps"] == str(config(uri).trainer.steps)
    assert run.data.tags["changed.trainer.steps"] == "77"
    assert len(client(uri).search_runs([run.info.experiment_id])) == 1


def test_sending_again_what_was_sent_doubles_nothing(tmp_path: Path) -> None:
    """A process may die between sending a batch and noting that it did."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(config(uri), tmp_path / "run")
    for step in range(20):
        tracker.metrics({"loss": step / 7}, step)
    tracker.close("KILLED", patience_seconds=60)
    (tmp_path / "run/tracking/sent.json").unlink()
    again = Tracker(config(uri), tmp_path / "run")
    again.close("FINISHED", patience_seconds=60)
    assert again.run_id is not None
    assert steps(uri, again.run_id) == list(range(20))


def test_a_process_that_dies_before_noting_the_run_id_finds_its_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = Tracker(config(uri), tmp_path / "run")
    first.close("KILLED", patience_seconds=60)
    identity = tmp_path / "run/tracking/run.json"
    identity.write_text(identity.read_text().replace(f'"{first.run_id}"', "null"))
    second = Tracker(config(uri), tmp_path / "run")
    second.close(patience_seconds=60)
    assert second.run_id == first.run_id


def test_another_server_gets_the_whole_history(tmp_path: Path) -> None:
    old, new = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    first = Tracker(config(old), tmp_path / "run")
    first.metrics({"loss": 1.0}, 1)
    first.close("KILLED", patience_seconds=60)
    second = Tracker(config(new), tmp_path / "run")
    second.metrics({"loss": 0.5}, 2)
    second.close(patience_seconds=60)
    assert second.run_id is not None
    assert second.run_id != first.run_id
    assert steps(new, second.run_id) == [1, 2]


def test_a_line_that_the_server_refuses_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(config(uri), tmp_path / "run")
    tracker.metrics({"loss": 1.0}, 1)
    tracker.metrics({"loss": 1.0}, 10**30)
    tracker.metrics({"loss": 1.0}, 2)
    assert tracker.close(patience_seconds=60)
    assert tracker.run_id is not None
    assert steps(uri, tracker.run_id) == [1, 2]
    assert str(10**30) in (tmp_path / "run/tracking/refused.jsonl").read_text()


@pytest.mark.slow
def test_without_a_server_nothing_waits_and_nothing_is_lost(server: Server, tmp_path: Path) -> None:
    began = time.monotonic()
    tracker = Tracker(config(server.uri), tmp_path / "run")
    for step in range(100):
        tracker.metrics({"loss": 1.0}, step)
    assert time.monotonic() - began < 1
    assert tracker.run_id is None
    assert not tracker.close("KILLED", patience_seconds=1)

    server.start()
    again = Tracker(config(server.uri), tmp_path / "run")
    again.metrics({"loss": 1.0}, 100)
    assert again.close(patience_seconds=60)
    assert again.run_id is not None
    assert steps(server.uri, again.run_id) == list(range(101))


@pytest.mark.slow
def test_a_server_killed_and_restarted_in_the_middle_costs_nothing(server: Server, tmp_path: Path) -> None:
    server.start()
    tracker = Tracker(config(server.uri), tmp_path / "run")
    costs = []
    for step in range(300):
        if step == 100:
            while not tracker.run_id:
                time.sleep(0.1)
            server.kill()
        if step == 200:
            server.start()
        began = time.perf_counter()
        tracker.metrics({"loss": 1 / (step + 1), "psnr": float(step)}, step)
        if step % 50 == 0:
            tracker.image("sheet", np.full((32, 32, 3), step % 255, np.uint8), step)
        costs.append(time.perf_counter() - began)
        time.sleep(0.01)
    assert tracker.close(patience_seconds=60)
    assert tracker.run_id is not None
    assert steps(server.uri, tracker.run_id) == steps(server.uri, tracker.run_id, "psnr") == list(range(300))
    assert len(client(server.uri).list_artifacts(tracker.run_id, "images")) == 12
    assert sorted(costs)[-6] < 0.05
