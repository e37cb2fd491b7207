"""What does a step cost while MLflow is away, and is anything missing afterwards?

    python benchmarks/outage.py [--json] [--turns 6] [--steps 100] [key=value ...]

A real `mlflow server` and a real training on one worker that reports every step, with pictures and system metrics. Each
turn trains through three thirds: the server is there, away, there. By turns it is killed (connections are refused) and
stopped (it takes connections and never answers). Steps between two thirds, while the server starts and gets what it has
missed, are not timed. Beside the wall clock the main thread's processor time is taken, which the load of others changes
less. At the end every point that was ever reported is looked for in MLflow, once.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _report import finish, median_and_spread
from _servers import wait_for

from configs import Config, load_config
from data.synth import synthesise
from trainer.observer import Silent
from trainer.run import Run
from trainer.tracking import read_run_id
from trainer.tracking.identity import FOLDER
from trainer.tracking.spool import Spool, waiting

Seconds = tuple[float, float]
"""Of the wall, and of this thread's processor."""
WAYS = ("killed", "stopped")
RATIOS = (("ratio", 14), ("cpu_ratio", 10))
_BEHIND = 20  # lines: the sender looks once a second


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--turns", type=int, default=6, help="runs through three thirds")
    parser.add_argument("--steps", type=int, default=100, help="in each third")
    parser.add_argument("overrides", nargs="*", help="key=value settings")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        config = settings(Path(folder), server.uri, arguments.overrides)
        synthesise(config.data.train, 16, image_size=config.data.image_size, workers=1)
        try:
            server.start()
            turns = measure(config, server, arguments.turns, arguments.steps)
            points = check(config, server.uri)
        finally:
            server.end()
    report(turns, points, arguments.json)


def report(turns: list[dict[str, Any]], points: dict[str, int], as_json: bool) -> None:
    """A table by way, and what MLflow has."""
    results: dict[str, Any] = {}
    columns = {"turns": 6, "ms there": 10, "ms away": 10, "away / there": 14, "iqr": 8, "of CPU": 10, "iqr ": 8}
    print(f"{'MLflow is':<10}" + "".join(f"{name:>{width}}" for name, width in columns.items()))
    for way in (*WAYS, "both"):
        mine = [turn for turn in turns if way in ("both", turn["way"])]
        if mine:
            found = {key: median_and_spread([turn[key] for turn in mine]) for key in mine[0] if key != "way"}
            ratios = "".join(f"{found[key]['median']:>{width}.3f}{found[key]['iqr']:>8.3f}" for key, width in RATIOS)
            times = f"{found['there']['median'] * 1e3:>10.1f}{found['away']['median'] * 1e3:>10.1f}"
            print(f"{way:<10}{len(mine):>6}{times}{ratios}")
            results[way] = found
    print("wanted: at most 1.02")
    print(f"points reported {points['reported']}, in MLflow {points['found']}, missing or twice {points['odd']}")
    finish({**results, "points": points}, as_json)


def settings(folder: Path, uri: str, overrides: list[str]) -> Config:
    """`headsup-nano` made smaller still, so that a step is short and what reporting costs shows."""
    return load_config(
        "headsup-nano",
        [
            f"run.dir={folder}/runs",
            f"data.train={folder}/train",
            f"tracking.uri={uri}",
            "run.threads=1",
            "cluster.workers=1",
            "data.batch_size=2",
            "data.image_size=[48, 48]",
            "data.target_views=2",
            "model.encoder_channels=[16, 32]",
            "model.decoder_channels=[32, 16, 16]",
            "model.latent_size=8",
            "model.uv_size=32",
            "model.pixel_grid=16",
            "trainer.steps=1000000",
            "trainer.log_every=1",
            "trainer.images_every=20",
            *overrides,
        ],
    )


def measure(config: Config, server: Server, turns: int, steps: int) -> list[dict[str, Any]]:
    """Of every turn: the way, median seconds of a step while MLflow is there and while it is away, and their ratio."""
    found = []
    with Run(config, Silent()) as run:
        run.start()
        for turn in range(turns + 1):  # the first fills caches and is not counted
            way = WAYS[turn % 2]
            catch_up(run, server)
            there = [step(run) for _ in range(steps)]
            server.go(way)
            away = [step(run) for _ in range(steps)]
            server.come(way)
            catch_up(run, server)
            there += [step(run) for _ in range(steps)]
            if turn:
                found.append({"way": way, **compared(there, away)})
                print(f"{way}: away / there {found[-1]['ratio']:.3f}", flush=True)
        catch_up(run, server)
    return found


def compared(there: list[Seconds], away: list[Seconds]) -> dict[str, float]:
    """Medians of the two kinds of steps, and their ratios."""
    (wall, cpu), (away_wall, away_cpu) = ([statistics.median(c) for c in zip(*s, strict=True)] for s in (there, away))
    return {"there": wall, "away": away_wall, "ratio": away_wall / wall, "cpu_ratio": away_cpu / cpu}


def step(run: Run) -> Seconds:
    """The body of `trainer.loop.train`."""
    began, worked = time.perf_counter(), time.thread_time()
    batches = run.fetch()
    losses = run.step(batches)
    run.agree(losses)
    run.report(batches)
    return time.perf_counter() - began, time.thread_time() - worked


def catch_up(run: Run, server: Server) -> None:
    """Train until the server has what was reported."""
    give_up = time.monotonic() + 300
    while waiting(run.config.run.path / FOLDER) > _BEHIND or run.reporter.run_id is None:
        step(run)
        if time.monotonic() > give_up:
            raise SystemExit(f"MLflow does not get on:\n{server.log.read_text()[-2000:]}")


def check(config: Config, uri: str) -> dict[str, int]:
    """How many points were reported, how many MLflow has of them, and how many it lacks or has twice."""
    from mlflow import MlflowClient

    reported = Counter(points_of(config.run.path))
    run_id = read_run_id(config.run.path)
    assert run_id is not None
    client = MlflowClient(tracking_uri=uri)
    found: Counter[tuple[str, int, int, float]] = Counter()
    for name in {name for name, *_ in reported}:
        history = client.get_metric_history(run_id, name)
        found.update((name, point.step, point.timestamp, point.value) for point in history)
    odd = sum(((reported - found) + (found - reported)).values())
    return {"reported": reported.total(), "found": found.total(), "odd": odd}


def points_of(run: Path) -> list[tuple[str, int, int, float]]:
    """Name, step, time and value of everything that the run reported."""
    spool, offset, found = Spool(run / FOLDER, mend=False), 0, []
    while lines := list(spool.read(offset)):
        offset = lines[-1].end
        for record in (line.record for line in lines):
            if record is not None and record["kind"] == "metrics":
                found += [(name, record["step"], record["at"], value) for name, value in record["values"].items()]
    spool.close()
    return found


class Server:
    """`mlflow server` on a port of its own at loopback."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.log = folder / "server.log"
        self._folder, self._process = folder, None

    def start(self) -> None:
        """And wait until it answers."""
        self._begin()
        wait_for(f"{self.uri}/health", 180)

    def go(self, way: str) -> None:
        """Be away."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL if way == "killed" else signal.SIGSTOP)
        if way == "killed":
            self._process.wait()

    def come(self, way: str) -> None:
        """Be there again, sooner or later."""
        if way == "killed":
            self._begin()
        elif self._process is not None:
            os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """For good."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _begin(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        command += ["--port", self.uri.rpartition(":")[2], "--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self.log.open("ab") as log:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )


if __name__ == "__main__":
    main()
