"""Two hosts, a worker killed and the store out of reach: the run ends as if nothing had been. For every commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import load_config
from tests.chaos.hosts import why_not
from tests.chaos.job import SMALL, Data, Job, Reports
from tests.chaos.schedule import conduct, plan
from tests.chaos.services import NoStore, Site, site, why_no_store
from tests.chaos.verdict import compare, complaints
from tests.trainer.ranks import run_ranks

WORKERS, STEPS, SEED = 2, 40, 5
MISSING = why_not() or why_no_store()
SETTINGS = [f"cluster.workers={WORKERS}", f"trainer.steps={STEPS}"]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]


def train_here(folder: Path, people: Path) -> None:
    """On one rank of a world without Ray."""
    from trainer.loop import train

    place = [f"run.dir={folder}", "run.name=calm", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    train(load_config("headsup-nano", [*SMALL, *SETTINGS, *place, f"data.train={people}"]))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Reports:
    """The same training left in peace: from local disk, on this machine."""
    folder = tmp_path_factory.mktemp("calm")
    run_ranks(WORKERS, train_here, folder, people)
    return Reports(folder / "calm")


@pytest.fixture(scope="module")
def place() -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(site(WORKERS))
        except NoStore as error:
            pytest.skip(str(error))
        yield made


def test_a_killed_worker_and_a_store_out_of_reach_change_nothing(place: Site, people: Path, calm: Reports) -> None:
    place.store.upload(people, "people")
    url = place.store.make_bucket("out")
    job = Job(place, "short", Data(people, "people"), [*SETTINGS, f"checkpoint.url={url}/runs"]).start()
    try:
        conduct(job, plan(["worker killed", "store cut"], SEED), SEED)
        assert job.wait(300) == 0, job.tail()
    finally:
        job.kill()
    assert complaints(job, WORKERS) == []
    found = compare(job.reports, calm)
    assert (found.equal, found.worst, found.again_worst) == (STEPS, 0.0, 0.0)
    assert found.again > 0
    assert job.workers() == {}
