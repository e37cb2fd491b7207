"""Off line first, synced later: one run, nothing lost, nothing twice, whoever is killed when."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_tracking import client, config, steps

from configs import UserError
from trainer.tracking import Tracker, read_run_id
from trainer.tracking.spool import Spool
from trainer.tracking.syncing import sync, waiting

ROOT = Path(__file__).parents[2]


def closed_port() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def train_off_line(run: Path, first: int = 0, count: int = 30) -> None:
    """What a run reports whose server is away from its first step to its last."""
    tracker = Tracker(config(closed_port()), run)
    for step in range(first, first + count):
        tracker.metrics({"loss": step / 7}, step)
        if step % 10 == 0:
            tracker.image("sheet", Image.new("RGB", (8, 8)), step)
    (run / "report.json").write_text("{}")
    tracker.artifact(run / "report.json", "reports")
    assert not tracker.close("FINISHED", patience_seconds=0.2)


def send(run: Path, uri: str) -> int:
    return sync(run, uri, "headway", "first").sent


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tables take seconds to make; every test has a run of its own in them."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def test_a_run_without_a_server_is_whole_after_a_sync_and_a_second_one_sends_nothing(
    tmp_path: Path, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "first"
    train_off_line(run)
    count = waiting(run)
    assert count == 30 + 3 + 1 + 4  # metrics, pictures, the artifact; start, parameters, code version, end
    assert f"{count} records wait for MLflow: headway track sync {run}" in caplog.text
    told: list[tuple[int, int]] = []
    done = sync(run, database, "headway", "first", lambda sent, of: told.append((sent, of)))
    assert (done.sent, done.refused, waiting(run)) == (count, 0, 0)
    assert told[-1] == (count, count)
    assert [sent for sent, _ in told] == sorted(sent for sent, _ in told)

    assert read_run_id(run) == done.run_id
    found = client(database).get_run(done.run_id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert steps(database, done.run_id) == list(range(30))
    assert len(client(database).list_artifacts(done.run_id, "images")) == 6
    assert [file.path for file in client(database).list_artifacts(done.run_id, "reports")] == ["reports/report.json"]
    assert sync(run, database, "headway", "first").sent == 0
    assert steps(database, done.run_id) == list(range(30))


def test_it_is_one_run_over_restarts_syncs_and_a_server_that_comes_late(tmp_path: Path, database: str) -> None:
    run = tmp_path / "first"
    train_off_line(run)
    train_off_line(run, first=30)
    send(run, database)
    train_off_line(run, first=60)
    tracker = Tracker(config(database), run)
    tracker.metrics({"loss": 1.0}, 90)
    assert tracker.close("FINISHED", patience_seconds=60)
    run_id = read_run_id(run)
    assert run_id is not None
    assert tracker.run_id == run_id
    assert steps(database, run_id) == list(range(91))


def test_it_is_one_run_on_a_node_whose_disk_has_never_seen_it(tmp_path: Path, database: str) -> None:
    """Nodes share no disk, the first one dies before any server was there, and a checkpoint holds the identity."""
    first, second = tmp_path / "node-a" / "first", tmp_path / "node-b" / "first"
    tracker = Tracker(config(closed_port()), first)
    tracker.metrics({"loss": 0.0}, 0)
    known = tracker.identity
    assert known["run_id"] is None
    tracker.close("FAILED", patience_seconds=0.2)
    tracker = Tracker(config(database), second, known=known)
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.close("FINISHED", patience_seconds=60)
    assert sync(first, database, "headway", "first").run_id == tracker.run_id
    assert tracker.run_id is not None
    assert steps(database, tracker.run_id) == [0, 1]
    assert client(database).get_run(tracker.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("batches", [2, 7])
def test_killed_half_way_and_run_again_it_doubles_nothing_and_loses_nothing(
    tmp_path: Path, database: str, batches: int
) -> None:
    """The worst moment: a batch is in MLflow, and the spool does not know it yet."""
    run = tmp_path / "first"
    train_off_line(run)
    victim = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sync_and_die.py")), str(run), database, str(batches)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert victim.returncode == -signal.SIGKILL
    assert waiting(run) > 0
    sync(run, database, "headway", "first")
    run_id = read_run_id(run)
    assert run_id is not None
    assert steps(database, run_id) == list(range(30))
    assert len(client(database).list_artifacts(run_id, "images")) == 6
    assert len(client(database).list_artifacts(run_id, "reports")) == 1
    experiment = client(database).get_run(run_id).info.experiment_id
    key = client(database).get_run(run_id).data.tags["headway.key"]
    assert len(client(database).search_runs([experiment], f"tags.`headway.key` = '{key}'")) == 1


def test_two_servers_by_turns_each_end_up_with_the_whole_history(tmp_path: Path, database: str) -> None:
    run, other = tmp_path / "first", f"sqlite:///{tmp_path}/other.db"
    train_off_line(run)
    send(run, database)
    train_off_line(run, first=30)
    elsewhere = sync(run, other, "headway", "first")
    assert steps(other, elsewhere.run_id) == list(range(60))
    back = sync(run, database, "headway", "first")
    assert back.run_id != elsewhere.run_id
    assert steps(database, back.run_id) == list(range(60))


def test_where_nothing_answers_it_is_one_message_and_nothing_is_lost(tmp_path: Path) -> None:
    run, nowhere = tmp_path / "first", closed_port()
    train_off_line(run)
    before = waiting(run)
    with pytest.raises(UserError) as error:
        send(run, nowhere)
    assert error.value.what == "no MLflow server answers"
    assert error.value.where == nowhere
    assert f"{before} records go on waiting" in (error.value.hint or "")
    assert waiting(run) == before


def test_what_is_no_mlflow_is_one_message(tmp_path: Path) -> None:
    train_off_line(tmp_path / "first")
    with pytest.raises(UserError, match="MLflow does not take records"):
        send(tmp_path / "first", "carrier-pigeon://user:hunter2@roof")


def test_a_run_that_trains_is_left_alone_and_a_tracker_waits_for_a_sync(tmp_path: Path, database: str) -> None:
    run = tmp_path / "first"
    tracker = Tracker(config(closed_port()), run)
    with pytest.raises(UserError, match="being sent by another process"):
        send(run, database)
    tracker.close("KILLED", patience_seconds=0.2)

    syncing = Spool(run / "tracking", mend=False)
    assert syncing.hold(alone=True)
    tracker = Tracker(config(database), run)
    tracker.metrics({"loss": 1.0}, 1)
    assert not tracker.close("KILLED", patience_seconds=0.2)
    assert tracker.run_id is None
    syncing.close()
    assert send(run, database) > 0


def test_trackers_do_not_keep_each_other_out(tmp_path: Path) -> None:
    """A rank that was given up may linger while its successor works."""
    first, second = Spool(tmp_path), Spool(tmp_path)
    assert first.hold(alone=False)
    assert second.hold(alone=False)
    assert not Spool(tmp_path).hold(alone=True)


def test_half_a_line_of_a_killed_run_does_not_wait(tmp_path: Path, database: str) -> None:
    run = tmp_path / "first"
    train_off_line(run)
    before = waiting(run)
    with open(run / "tracking/lines.jsonl", "ab") as file:
        file.write(b'{"kind": "metr')
    assert waiting(run) == before
    assert send(run, database) == before
    assert waiting(run) == 0


def test_a_folder_that_was_never_tracked_is_one_message(tmp_path: Path) -> None:
    assert waiting(tmp_path) == 0
    with pytest.raises(UserError, match="was never tracked"):
        send(tmp_path, "sqlite:///nowhere.db")
