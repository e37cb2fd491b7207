"""A real training whose real MLflow server is dead for the middle third: nothing lost, nothing twice, one run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_tracking import Server, client

from configs import Config
from trainer.loop import train
from trainer.observer import Progress, Silent
from trainer.tracking import read_run_id
from trainer.tracking.spool import Spool
from trainer.tracking.syncing import sync, waiting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STEPS = 18


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


class Outage(Silent):
    """Kills the server after a third of the steps and starts it after two."""

    def __init__(self, server: Server, run: Path) -> None:
        self._server, self._run = server, run
        self.losses: dict[int, float] = {}

    def report(self, progress: Progress) -> None:
        """Between two steps."""
        if progress.phase != "training" or not progress.step:
            return
        self.losses[progress.step] = progress.loss
        if progress.step == STEPS // 3:
            give_up = time.monotonic() + 120
            while read_run_id(self._run) is None and time.monotonic() < give_up:
                time.sleep(0.05)
            self._server.kill()
        if progress.step == 2 * STEPS // 3:
            self._server.start()


def test_all_metrics_are_there_after_an_outage_in_the_middle_third(
    server: Server, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    server.start()
    config = tiny(f"trainer.steps={STEPS}", f"tracking.uri={server.uri}", "trainer.images_every=3")
    run = config.run.path
    watcher = Outage(server, run)
    train(config, watcher)
    if waiting(run):  # the end of a run is patient, but not for ever
        sync(run, server.uri, config.tracking.experiment, config.run.name)

    run_id = read_run_id(run)
    assert run_id is not None
    assert len(client(server.uri).search_runs([client(server.uri).get_run(run_id).info.experiment_id])) == 1
    reported: Counter[tuple] = Counter()
    for line in Spool(run / "tracking", mend=False).read(0):
        if line.record is not None and line.record["kind"] == "metrics":
            at, step = line.record["at"], line.record["step"]
            reported.update((name, step, at, value) for name, value in line.record["values"].items())
    found: Counter[tuple] = Counter()
    for name in {name for name, *_ in reported}:
        history = client(server.uri).get_metric_history(run_id, name)
        found.update((name, point.step, point.timestamp, point.value) for point in history)
    assert found == reported
    losses = {step: value for name, step, _, value in found if name == "train/loss"}
    assert losses == watcher.losses
    assert sorted(losses) == list(range(1, STEPS + 1))
    images = client(server.uri).list_artifacts(run_id, "images")
    assert sum("source_target" in image.path for image in images) == 2 * (STEPS // 3)
