"""The spool and what is written to it: nothing lost, nothing twice, no secrets."""

from __future__ import annotations

import math
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tracking.identity import Identity, read_run_id
from trainer.tracking.provenance import code_version, without_secrets
from trainer.tracking.spool import Spool
from trainer.tracking.store import artifact_location


def records(spool: Spool, offset: int = 0) -> list[dict]:
    return [line.record for line in spool.read(offset) if line.record is not None]


def test_lines_come_back_in_order_over_a_restart(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.append({"kind": "metrics", "step": 1})
    first.close()
    second = Spool(tmp_path)
    second.append({"kind": "metrics", "step": 2})
    assert [record["step"] for record in records(second)] == [1, 2]


def test_a_committed_line_is_not_read_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for step in range(3):
        spool.append({"kind": "metrics", "step": step})
    second = list(spool.read(0))[1]
    spool.commit(second.end)
    assert [record["step"] for record in records(Spool(tmp_path), spool.sent())] == [2]
    assert spool.unsent() > 0


def test_a_line_cut_by_a_kill_is_skipped_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"kind": "metrics", "step": 1})
    spool.close()
    with open(tmp_path / "lines.jsonl", "ab") as file:
        file.write(b'{"kind": "metr')
    again = Spool(tmp_path)
    again.append({"kind": "metrics", "step": 2})
    assert [record["step"] for record in records(again)] == [1, 2]


def test_an_unfinished_line_waits_for_its_end(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with open(tmp_path / "lines.jsonl", "ab") as file:
        file.write(b'{"kind": "metrics"')
    assert records(spool) == []


def test_not_a_number_survives_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"kind": "metrics", "values": {"a": math.nan, "b": math.inf}})
    values = records(spool)[0]["values"]
    assert math.isnan(values["a"])
    assert values["b"] == math.inf


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    spool = Spool(tmp_path)

    def write(thread: int) -> None:
        for step in range(200):
            spool.append({"kind": "metrics", "thread": thread, "step": step})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = records(spool)
    assert len(got) == 800
    for number in range(4):
        assert [record["step"] for record in got if record["thread"] == number] == list(range(200))


def test_appending_costs_a_step_next_to_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    values = {f"metric/{number}": 0.5 for number in range(20)}
    began = time.thread_time()
    for step in range(500):
        spool.append({"kind": "metrics", "step": step, "values": values})
    assert (time.thread_time() - began) / 500 < 2e-3


def test_large_spools_are_read_in_pieces_that_end_with_a_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for step in range(300):
        spool.append({"kind": "tags", "step": step, "text": "x" * 10_000})
    steps, offset = [], 0
    while lines := list(spool.read(offset)):
        assert len(lines) < 300
        steps += [line.record["step"] for line in lines if line.record]
        offset = lines[-1].end
    assert steps == list(range(300))


def test_an_identity_outlives_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "tracking"
    folder.mkdir()
    first = Identity(folder)
    assert read_run_id(tmp_path) is None
    first.note("abc")
    second = Identity(folder)
    assert (second.key, second.began, second.run_id) == (first.key, first.began, "abc")
    assert read_run_id(tmp_path) == "abc"
    assert read_run_id(tmp_path / "nowhere") is None


def test_an_identity_goes_on_with_the_one_of_a_checkpoint(tmp_path: Path) -> None:
    """Rank 0 may come to work on a node whose disk has never seen the run, or only an earlier one of that name."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    first = Identity(here)
    moved = Identity(there, first.record())
    assert moved.record() == first.record()
    first.note("abc")
    assert Identity(there, first.record()).run_id == "abc"
    own = Identity(tmp_path)
    own.note("other")
    assert Identity(tmp_path, first.record()).record() == first.record()
    assert Identity(tmp_path).record() == first.record()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("tracking.uri", "https://user:hunter2@host/path", "https://***@host/path"),
        ("data.train", "s3://key:hunter2@bucket/x", "s3://***@bucket/x"),
        ("data.train", "https://h/x?X-Amz-Signature=hunter2&y=1", "https://h/x?X-Amz-Signature=***&y=1"),
        ("api_token", "hunter2", "***"),
        ("store.access_key", "hunter2", "***"),
        ("optimizer.learning_rate", 0.001, "0.001"),
        ("model.token_pool", 2, "2"),
        ("data.test", None, "None"),
    ],
)
def test_secrets_are_blanked_and_the_rest_is_kept(name: str, value: object, shown: str) -> None:
    assert without_secrets(name, value) == shown


@given(st.text(st.characters(exclude_characters="@/ ", codec="ascii", exclude_categories=["C", "Z"]), min_size=8))
def test_no_password_in_a_url_gets_through(password: str) -> None:
    assert f":{password}@" not in without_secrets("uri", f"postgresql://me:{password}@host/db")


def test_the_code_is_named_by_its_versions(tmp_path: Path) -> None:
    tags = code_version(tmp_path)
    assert tags["version.torch"]
    assert tags["version.python"].startswith("3.")
    assert "mlflow.source.git.commit" not in tags


def test_artifacts_lie_beside_the_database(tmp_path: Path) -> None:
    assert artifact_location(f"sqlite:///{tmp_path}/out/mlflow.db", "e") == (tmp_path / "out/mlartifacts/e").as_uri()
    assert artifact_location("http://host:5000", "e") is None


def test_a_disk_that_takes_no_more_keeps_lines_in_memory_and_they_come_in_order(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk, and its end for one that was freed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    spool = Spool(tmp_path)
    try:
        for number in range(100):
            spool.append({"kind": "metrics", "number": number})
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "lines.jsonl").stat().st_size + 10, before[1]))
        for number in range(100, 150):
            spool.append({"kind": "metrics", "number": number})
        assert len(records(spool)) == 100
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    spool.append({"kind": "metrics", "number": 150})
    assert [record["number"] for record in records(spool)] == list(range(151))
    spool.close()
