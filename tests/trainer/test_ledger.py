"""The ledger: every second of every rank in one category, whatever was killed when, and nothing counted twice."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks

from configs import Config, UserError, dump_config, load_config
from tests.trainer.conftest import TINY
from trainer.ledger import CATEGORIES, Ledger, Window, draw, publish, session, settle, summarise
from trainer.ledger.recorder import Recorder
from trainer.ledger.windows import Journals, journal_path
from trainer.loop import train
from trainer.observer import Silent

MakeConfig = Callable[..., Config]
STEP = {"compute": 0.7, "data_wait": 0.1, "communication": 0.15, "idle": 0.05}


@dataclass
class Job:
    """A made-up job whose ranks take one second a step and save when told to."""

    world: int
    now: float = 0.0
    step: int = 0
    saved: int = 0
    attempt: int = 0
    windows: dict[int, list[Window]] = field(default_factory=dict)
    wasted: int = 0
    counted: int = 0

    def start(self, gap: float, absent: set[int]) -> None:
        self.now += gap
        self.attempt += 1
        self.wasted += self.step - self.saved
        self.step = self.saved
        self.present = [rank for rank in range(self.world) if rank not in absent] or [0]
        self._add(2.0, {"start_up": 2.0}, 0, resumed=self.step)

    def steps(self, count: int) -> None:
        self._add(float(count), {name: share * count for name, share in STEP.items()}, count)

    def save(self) -> None:
        self.saved = self.step
        self._add(0.5, {"checkpoint_stall": 0.5}, 0)

    def end(self, how: str) -> None:
        for rank in self.present:
            self.windows[rank][-1] = replace(self.windows[rank][-1], end=how)

    def _add(self, seconds: float, parts: dict[str, float], steps: int, resumed: int | None = None) -> None:
        for rank in self.present:
            window = Window(
                self.attempt, self.now, self.now + seconds, self.step, self.step + steps, dict(parts), resumed
            )
            self.windows.setdefault(rank, []).append(window)
        self.now, self.step = self.now + seconds, self.step + steps


def check_sums(ledger: Ledger) -> None:
    """Per rank and for the job: all seconds are there, none is negative, and no time line has a gap."""
    for rank in ledger.ranks:
        assert min(rank.seconds.values()) >= 0
        assert sum(rank.seconds.values()) == pytest.approx(ledger.wall, rel=1e-6)
        assert all(span.ended >= span.began for span in rank.spans)
        edges = [(span.began, span.ended) for span in rank.spans]
        for (_, ended), (began, _) in itertools.pairwise(edges):
            assert began == pytest.approx(ended) or any(began == start for start, _ in ledger.sessions)
    assert sum(ledger.seconds.values()) == pytest.approx(ledger.wall, rel=1e-6)
    assert 0 <= ledger.goodput <= 1


attempt = st.tuples(
    st.floats(0, 50),  # seconds before it
    st.sets(st.integers(0, 2), max_size=2),  # ranks that are not there
    st.lists(st.one_of(st.integers(1, 9), st.just("save")), max_size=8),
    st.sampled_from([None, None, "FAILED", "KILLED"]),
)


@given(st.lists(attempt, min_size=1, max_size=6), st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_course_of_a_job_sums_to_its_wall_time_and_loses_what_was_done_again(attempts, launched: bool) -> None:
    job = Job(3)
    for gap, absent, doings, end in attempts:
        job.start(gap, absent)
        for doing in doings:
            job.save() if doing == "save" else job.steps(doing)
        if end == "KILLED":
            job.save()
        if end:
            job.end(end)
    ledger = settle(job.windows, [(-3.0, job.now + 1.0)] if launched else [])
    check_sums(ledger)
    assert sum(rank.lost_steps for rank in ledger.ranks) <= job.wasted * len(ledger.ranks)
    if all(len(absent) == 0 for _, absent, _, _ in attempts):
        assert ledger.lost_steps == pytest.approx(job.wasted)
        assert ledger.seconds["compute"] == pytest.approx(STEP["compute"] * job.step)
    if launched:
        assert ledger.wall == pytest.approx(job.now + 4.0)


@given(
    st.dictionaries(
        st.integers(0, 3),
        st.lists(
            st.builds(
                Window,
                attempt=st.integers(1, 4),
                began=st.floats(0, 1e4),
                ended=st.floats(0, 1e4),
                first=st.integers(0, 50),
                last=st.integers(0, 50),
                seconds=st.dictionaries(st.sampled_from([*CATEGORIES, "of later versions"]), st.floats(-1, 1e3)),
                resumed=st.none() | st.integers(0, 50),
                end=st.sampled_from([None, "FAILED", "KILLED", "FINISHED"]),
            ),
            min_size=1,
            max_size=8,
        ),
        min_size=1,
    ),
    st.lists(st.tuples(st.floats(0, 1e4), st.none() | st.floats(0, 1e4)), max_size=3),
)
@settings(deadline=None, max_examples=150)
def test_windows_that_contradict_each_other_still_sum(windows, launches) -> None:
    ordered = {rank: sorted(some, key=lambda w: (w.attempt, w.began)) for rank, some in windows.items()}
    check_sums(settle(ordered, sorted(launches, key=lambda pair: pair[0])))


def test_a_kill_is_restart_and_its_steps_since_the_save_are_lost() -> None:
    job = Job(2)
    job.start(0, set())
    job.steps(10)
    job.save()
    job.steps(4)
    job.start(7, set())
    job.steps(10)
    job.end("FINISHED")
    ledger = settle(job.windows)
    assert ledger.wall == 35.5
    expected = {"compute": 14.0, "lost_work": 4.0, "restart": 9.0, "start_up": 2.0, "checkpoint_stall": 0.5}
    assert {name: ledger.seconds[name] for name in expected} == pytest.approx(expected)
    assert (ledger.lost_steps, ledger.attempts) == (4, 2)
    assert ledger.goodput == pytest.approx(14 / 35.5)


def test_going_back_within_an_attempt_loses_steps_too() -> None:
    windows = [
        Window(1, 0, 10, 0, 10, {"compute": 10.0}, resumed=0),
        Window(1, 10, 14, 10, 14, {"compute": 4.0}),
        Window(1, 14, 15, 14, 14, {"restart": 1.0}),
        Window(1, 15, 25, 10, 20, {"compute": 10.0}, resumed=10, end="FINISHED"),
    ]
    ledger = settle({0: windows})
    assert ledger.seconds["lost_work"] == 4
    assert ledger.seconds["restart"] == 1
    assert ledger.seconds["compute"] == 20


def test_a_step_that_a_crash_cut_off_is_lost_though_its_checkpoint_was_taken() -> None:
    windows = [
        Window(1, 0, 10, 0, 10, {"compute": 10.0}, resumed=0),
        Window(1, 10, 11, 10, 10, {"checkpoint_stall": 1.0}),
        Window(1, 11, 13, 10, 10, {"compute": 0.5, "communication": 1.5}),
        Window(2, 20, 30, 10, 20, {"compute": 10.0}, resumed=10, end="FINISHED"),
    ]
    seconds = settle({0: windows}).seconds
    assert (seconds["lost_work"], seconds["checkpoint_stall"], seconds["restart"]) == (2, 1, 7)


def test_a_rank_without_a_worker_is_idle() -> None:
    job = Job(2)
    job.start(0, set())
    job.steps(10)
    job.save()
    job.start(5, {1})
    job.steps(10)
    job.start(3, set())
    job.steps(10)
    job.end("FINISHED")
    ledger = settle(job.windows)
    one = next(rank for rank in ledger.ranks if rank.rank == 1)
    assert one.seconds["idle"] == pytest.approx(2 + 10 + 3 + 2 * 10 * STEP["idle"])
    assert one.seconds["restart"] == 5 + 2
    check_sums(ledger)


def test_a_process_that_was_given_up_and_writes_on_takes_nothing_from_its_successor() -> None:
    windows = [
        Window(1, 0, 10, 0, 10, {"compute": 10.0}, resumed=0),
        Window(1, 10, 500, 10, 10, {"communication": 490.0}),
        Window(2, 20, 30, 10, 20, {"compute": 10.0}, resumed=10, end="FINISHED"),
    ]
    seconds = settle({0: windows}).seconds
    assert (seconds["compute"], seconds["lost_work"]) == (20, 10)


def test_a_preempted_attempt_that_saved_is_followed_by_a_restart() -> None:
    windows = [
        Window(1, 0, 10, 0, 10, {"compute": 10.0}, resumed=0, end="KILLED"),
        Window(2, 16, 26, 10, 19, {"start_up": 1.0, "compute": 9.0}, resumed=10, end="FINISHED"),
    ]
    seconds = settle({0: windows}, [(0, 27)]).seconds
    assert (seconds["restart"], seconds["lost_work"], seconds["idle"]) == (7, 0, 1)


def test_of_many_ranks_all_count_and_some_are_shown(tmp_path: Path) -> None:
    window = Window(1, 0, 10, 0, 10, {"compute": 10.0}, resumed=0, end="FINISHED")
    ledger = settle({rank: [replace(window, ended=10 + rank / 100)] for rank in range(100)})
    assert len(ledger.ranks) == 100
    assert sum(bool(rank.spans) for rank in ledger.ranks) == 32
    for rank in ledger.ranks:
        assert sum(rank.seconds.values()) == pytest.approx(ledger.wall)
    draw(ledger, tmp_path / "many.png", "many")
    assert (tmp_path / "many.png").stat().st_size > 1000


def test_a_night_between_two_sessions_is_nobody_s() -> None:
    stopped = Window(1, 10, 20, 0, 10, {"compute": 10.0}, resumed=0, end="KILLED")
    resumed = Window(2, 40_000, 40_010, 10, 20, {"compute": 10.0}, resumed=10, end="FINISHED")
    assert settle({0: [stopped, resumed]}).wall == 20
    launched = settle({0: [stopped, resumed]}, [(5, 21), (39_990, 40_011)])
    assert launched.wall == 16 + 21
    assert (launched.seconds["start_up"], launched.seconds["idle"]) == (5 + 10, 1 + 1)
    killed = settle({0: [replace(stopped, end=None), resumed]}, [(5, None), (39_990, 40_011)])
    assert killed.seconds["restart"] == 40_000 - 20


def test_damaged_lines_cost_their_own_seconds_only(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 0, 1)
    path.parent.mkdir()
    lines = [Window(1, at, at + 10, at, at + 10, {"compute": 10.0}).line() for at in range(0, 30, 10)]
    path.write_bytes(b"\n".join([lines[0], lines[1][:40], b"[]", b'{"attempt": 1}', lines[2]]) + b"\n" + lines[0][:9])
    ledger = summarise(tmp_path)
    check_sums(ledger)
    assert ledger.seconds["compute"] == 20
    assert ledger.seconds["idle"] == 10


def test_a_run_without_a_ledger_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no ledger"):
        summarise(tmp_path)
    assert publish(tmp_path) is None


def test_the_recorder_s_lines_sum_and_the_innermost_counts(tmp_path: Path) -> None:
    began = time.time()
    recorder = Recorder()
    recorder.open(tmp_path, 0, 1, 0)
    recorder.enter("idle")
    for step in range(3):
        with recorder("compute"):
            time.sleep(0.02)
            with recorder("communication"):
                time.sleep(0.03)
        recorder.steps = step + 1
    with recorder("evaluation"):
        time.sleep(0.02)
    recorder.close("FINISHED")
    passed = time.time() - began
    (windows,) = Journals(tmp_path).values()
    assert (windows[0].resumed, windows[0].last, windows[-1].last) == (0, 0, 3)
    assert windows[-1].end == "FINISHED"
    for window in windows:
        assert sum(window.seconds.values()) == pytest.approx(window.ended - window.began, abs=1e-4)
    ledger = summarise(tmp_path)
    check_sums(ledger)
    assert 0.17 <= ledger.wall <= passed + 0.01
    assert ledger.seconds["communication"] >= 0.09
    assert ledger.seconds["compute"] >= 0.06
    assert ledger.seconds["evaluation"] >= 0.02


def test_what_goes_on_is_on_disk_and_closed_lines_are_never_shorter(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.open(tmp_path, 0, 1, 0)
    recorder.enter("data_wait")
    path = journal_path(tmp_path, 0, 1)
    until = time.monotonic() + 60
    while not (path.stat().st_size and any("data_wait" in w.seconds for w in Journals(tmp_path)[0])):
        assert time.monotonic() < until
        time.sleep(0.05)
    check_sums(summarise(tmp_path))
    recorder.close("FAILED")
    assert path.read_bytes().count(b"\n") == len(Journals(tmp_path)[0])


def test_a_folder_that_cannot_be_written_costs_the_ledger_alone(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("in the way")
    recorder = Recorder()
    recorder.open(tmp_path, 0, 1, 0)
    with recorder("compute"):
        assert recorder.category == "compute"
    recorder.close("FINISHED")
    assert (tmp_path / "ledger").read_text() == "in the way"


def test_a_session_publishes_what_there_is(tmp_path: Path) -> None:
    with session(tmp_path):
        recorder = Recorder()
        recorder.open(tmp_path, 0, 1, 0)
        recorder.enter("idle")
        recorder.close("FINISHED")
    record = json.loads((tmp_path / "ledger/ledger.json").read_text())
    assert sum(record["seconds"].values()) == pytest.approx(record["wall_seconds"])
    assert record["ranks"].keys() == {"0"}
    assert (tmp_path / "ledger/ledger.png").stat().st_size > 1000


def ledger_of(config: Config) -> Ledger:
    ledger = summarise(config.run.path)
    check_sums(ledger)
    return ledger


def test_a_real_run_that_was_stopped_and_went_on(tiny: MakeConfig) -> None:
    class Stopping(Silent):
        def should_stop(self) -> bool:
            return True

    config = tiny("trainer.steps=4", "checkpoint.every=2")
    train(config, Stopping())
    first = ledger_of(config)
    assert (first.attempts, first.lost_steps, first.ranks[0].seconds["lost_work"]) == (1, 0, 0)
    train(config)
    whole = ledger_of(config)
    assert (whole.attempts, whole.lost_steps) == (2, 0)
    assert len(whole.sessions) == 2
    assert min(whole.seconds[name] for name in ("compute", "checkpoint_stall", "evaluation", "start_up")) > 0
    assert whole.seconds["restart"] == 0
    assert 0 < whole.goodput < 1
    assert metrics_of(config)["ledger/compute_seconds"] == pytest.approx(whole.seconds["compute"])
    assert metrics_of(config)["ledger/goodput"] == pytest.approx(whole.goodput)


def metrics_of(config: Config) -> dict[str, float]:
    """What MLflow was told last."""
    found: dict[str, float] = {}
    for line in (config.run.path / "tracking/lines.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "metrics":
            found |= record["values"]
    return found


def test_a_killed_process_leaves_a_ledger_that_sums(tiny: MakeConfig, tmp_path: Path) -> None:
    config = tiny("trainer.steps=1000", "checkpoint.every=3", "data.test=null")
    text = tmp_path / "config.yaml"
    text.write_text(dump_config(config))
    began = time.time()
    script = Path(__file__).with_name("train_and_record.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(text), str(tmp_path / "record.txt")],
        env=os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while max((window.last for window in Journals(config.run.path).get(0, [])), default=0) < 7:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ledger_of(config)
    manifests = (config.run.path / "checkpoints").glob("step-*/manifest.json")
    saved = max(int(path.parent.name.removeprefix("step-")) for path in manifests)
    train(config.model_copy(update={"trainer": config.trainer.model_copy(update={"steps": saved + 2})}))
    ledger = ledger_of(config)
    (rank,) = ledger.ranks
    last = max(window.last for window in Journals(config.run.path)[0] if window.attempt == 1)
    assert rank.lost_steps == max(last - saved, 0)  # what was not written yet may have been saved
    assert rank.seconds["restart"] > 0
    assert rank.seconds["lost_work"] > 0 or last <= saved
    assert ledger.wall <= time.time() - began


def two_ranks(folder: str, people: str) -> dict[str, float]:
    """One of two ranks, of which the second computes longer."""
    config = load_config("headsup-nano", [*TINY, f"data.train={people}/train", f"run.dir={folder}", "trainer.steps=6"])
    train(config)
    return summarise(config.run.path).ranks[dist.get_rank()].seconds


def test_two_ranks_wait_for_each_other(people: Path, tmp_path: Path) -> None:
    mine = run_ranks(2, two_ranks, str(tmp_path), str(people))
    assert all(seconds["communication"] > 0 for seconds in mine)
