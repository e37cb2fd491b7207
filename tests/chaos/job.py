"""`headway train` on a site: started, watched from outside, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from configs import Config, load_config
from tests.chaos.services import BIN, Site, wait_until

LOSS = "train/loss"
SMALL = [
    "data.image_size=[48,48]",
    "data.batch_size=6",  # shared evenly by 1, 2 and 3 workers
    "data.source_views=3",
    "data.target_views=2",
    "model.latent_size=8",
    "model.uv_size=32",
    "trainer.log_every=1",
    "trainer.images_every=0",
    "checkpoint.every=5",
    "tracking.system_metrics=false",
]


@dataclass(frozen=True)
class Data:
    """Captures in a bucket of the site's store.

    Attributes:
        local: the folder that was uploaded.
        bucket: its name; they lie at its root.
    """

    local: Path
    bucket: str


class Job:
    """One run of `headsup-nano` on the site's cluster; the command runs on the head's host.

    Args:
        site: where.
        name: of the run.
        data: what it streams.
        overrides: settings beside `SMALL`.

    Attributes:
        folder: the run's; every host sees it, for the disk is one.
        reports: of its steps.
        settings: all of them, over the preset `headsup-nano`.
    """

    def __init__(self, site: Site, name: str, data: Data, overrides: Sequence[str]) -> None:
        self.site, self.name, self.data = site, name, data
        self.folder = site.disk / name
        place = [f"run.dir={self.folder.parent}", f"tracking.uri={site.tracking.url}", f"data.train=s3://{data.bucket}"]
        self.settings = [*SMALL, *place, f"run.name={name}", *overrides]
        self._command = [BIN / "headway", "train", "headsup-nano", *self.settings, "--address", site.head.address]
        self._log = site.folder / f"{name}.log"
        self.reports = Reports(self.folder)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Job:
        """Begin, or go on after the command itself has ended."""
        with self._log.open("ab") as log:
            self._process = self.site.head.host.start(self._command, self.site.env, log)
        return self

    @property
    def config(self) -> Config:
        """As the run resolved it."""
        return load_config(self.folder / "config.yaml")

    @property
    def ended(self) -> bool:
        """Whether the command has."""
        return self._process is not None and self._process.poll() is not None

    @property
    def output(self) -> str:
        """What the command printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def restarts(self) -> int:
        """How often it said that its workers are started again."""
        return self.output.count("restarting the workers")

    def wait(self, seconds: float) -> int:
        """The exit code.

        Raises:
            TimeoutError: with the last lines of what was printed.
        """
        assert self._process is not None, "start() comes first"
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} goes on at step {self.step} after {seconds:g} s:\n{self.tail()}") from None

    def tail(self) -> str:
        """The end of what it and its workers printed, for whom a test fails."""
        logs = sorted((self.folder / "logs").glob("*.log"))
        parts = [f"== {path.name}\n{_last_lines(path, 15)}" for path in (self._log, *logs)]
        return "\n".join(parts)

    @property
    def step(self) -> int:
        """The furthest that was ever reported."""
        return max(self.reports.steps(), default=0)

    @property
    def steps_reported(self) -> int:
        """How many reports of steps there were, those of steps that were done again too."""
        return len(self.reports.steps())

    def wait_for_step(self, step: int, seconds: float = 300) -> None:
        """Until a step was reported.

        Raises:
            TimeoutError: it was not.
            RuntimeError: the run ended before.
        """
        self._wait(lambda: self.step >= step, f"step {step} of {self.name}", seconds)

    def wait_for_more(self, steps: int = 1, seconds: float = 300) -> None:
        """Until so many more reports have come, whatever their steps.

        Raises:
            TimeoutError: they have not.
            RuntimeError: the run ended before.
        """
        wanted = self.steps_reported + steps
        self._wait(lambda: self.steps_reported >= wanted, f"{steps} more steps of {self.name}", seconds)

    def _wait(self, true: Any, what: str, seconds: float) -> None:
        try:
            wait_until(lambda: true() or self.ended, what, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.tail()}") from None
        if not true():
            raise RuntimeError(f"{self.name} ended before {what}:\n{self.tail()}")

    def workers(self) -> dict[int, tuple[int, str]]:
        """Of every rank that is alive, the process and the host: the youngest that writes the rank's log."""
        found = []
        for name, node in self.site.nodes.items():
            for pid in node.host.pids():
                with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                    target = Path(os.readlink(f"/proc/{pid}/fd/1"))
                    if target.parent == self.folder / "logs" and target.name.startswith("rank-"):
                        rank = int(target.stem.removeprefix("rank-"))
                        found.append((psutil.Process(pid).create_time(), rank, pid, name))
        return {rank: (pid, name) for _, rank, pid, name in sorted(found)}

    def kill(self) -> None:
        """End whatever is left of the command."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def ledger(self) -> dict[str, Any]:
        """What `headway ledger --json` says."""
        done = self.site.head.host.run([BIN / "headway", "ledger", self.folder, "--json"], self.site.env)
        return json.loads(done.stdout.splitlines()[-1])

    def tracked(self) -> dict[str, list[tuple[int, float]]]:
        """`run id -> (step, loss)` of every point of the loss that MLflow has under this run's name, page by page."""
        from mlflow import MlflowClient

        client = MlflowClient(self.site.tracking.url)
        (experiment,) = [each for each in client.search_experiments() if each.name == "headway"]
        runs = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{self.name}'")
        return {
            run.info.run_id: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, LOSS)]
            for run in runs
        }


class Reports:
    """What rank 0 of a run reported of its steps, read from where reading stopped before; `log_every` must be 1.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._offset, self._lines = folder / "tracking" / "lines.jsonl", 0, list[dict[str, Any]]()

    def lines(self) -> list[dict[str, Any]]:
        """Every report of a step."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            for raw in whole.splitlines():
                with contextlib.suppress(ValueError):  # half a line of a process that was killed
                    line = json.loads(raw)
                    if line.get("kind") == "metrics" and LOSS in line["values"]:
                        self._lines.append(line)
        return self._lines

    def steps(self) -> list[int]:
        """Of every report."""
        return [line["step"] for line in self.lines()]

    def losses(self) -> dict[int, list[float]]:
        """Of every step, the losses that were reported for it, in order; more than one where it was done again."""
        found: dict[int, list[float]] = defaultdict(list)
        for line in self.lines():
            found[line["step"]].append(line["values"][LOSS])
        return dict(found)

    def consumed(self) -> dict[int, int]:
        """Samples consumed after every step, as reported last."""
        return {line["step"]: int(line["values"]["data/samples"]) for line in self.lines()}


def _last_lines(path: Path, count: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:]) if path.exists() else ""
