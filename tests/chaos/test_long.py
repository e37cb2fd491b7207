"""Three hosts and every kind of fault, in an order and at steps that a seed decides: `make chaos`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, why_no_memory_limit
from tests.chaos.hosts import why_not
from tests.chaos.job import Data, Job
from tests.chaos.schedule import conduct, plan
from tests.chaos.services import Site, site, why_no_store
from tests.chaos.verdict import SAME_COURSE, compare, complaints

WORKERS, SEED = 3, 20261120
MISSING = why_not() or why_no_store() or why_no_memory_limit()
ELASTIC = ["cluster.min_workers=1", "cluster.grow_seconds=3"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.chaos,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]


@pytest.fixture(scope="module")
def place() -> Iterator[Site]:
    with site(WORKERS) as made:
        yield made


@pytest.fixture
def start(place: Site, many_faces: Path) -> Iterator[Callable[..., Job]]:
    """`start(name, data, *settings)`: a job that ends with the test."""
    started: list[Job] = []

    def begin(name: str, bucket: str, *settings: str) -> Job:
        url = f"checkpoint.url=s3://out/{bucket}"
        job = Job(place, name, Data(many_faces, bucket), [f"cluster.workers={WORKERS}", url, *settings])
        started.append(job.start())
        return job

    yield begin
    for job in started:
        job.kill()


@pytest.fixture(scope="module", autouse=True)
def buckets(place: Site, many_faces: Path) -> None:
    """One for each course, as one of them poisons its samples, and one for checkpoints."""
    place.store.make_bucket("out")
    for name in ("rigid", "elastic"):
        place.store.upload(many_faces, name)


def end(job: Job) -> None:
    """Well."""
    assert job.wait(900) == 0, job.tail()
    assert complaints(job, WORKERS) == []
    assert job.workers() == {}


def test_every_kind_of_fault_and_bitwise_the_result_it_would_have_had(start: Callable[..., Job]) -> None:
    """The job waits for a host that is lost, so that its world is the same in every step."""
    job = start("chaos", "rigid", "trainer.steps=330")
    struck = conduct(job, plan(list(FAULTS), SEED, apart=16), SEED)
    assert len(struck) == len(FAULTS) >= 8
    end(job)
    calm = start("calm", "rigid", "trainer.steps=330")  # afterwards: it meets the poisoned sample where the other did
    end(calm)
    found = compare(job.reports, calm.reports)
    print(found)
    assert (found.equal, found.worst, found.again_worst) == (found.steps, 0.0, 0.0)


def test_hosts_come_and_go_and_the_job_goes_on_with_those_there_are(start: Callable[..., Job]) -> None:
    """On fewer hosts sums have another order. That changes the last bits, and in time, as training is chaotic, more."""
    job = start("elastic", "elastic", "trainer.steps=160", *ELASTIC)
    conduct(job, plan(["node killed", "link cut", "node stopped"], SEED), SEED)
    end(job)
    calm = start("inelastic", "elastic", "trainer.steps=160")
    end(calm)
    found = compare(job.reports, calm.reports)
    print(found)
    assert found.equal >= 5
    assert found.next_worst <= SAME_COURSE
    assert found.again_worst <= 10 * SAME_COURSE  # up to ten steps after the checkpoint, not five
