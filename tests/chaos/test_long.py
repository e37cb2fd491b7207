"""Three hosts and every kind of fault, in an order and at steps that a seed decides: `make chaos`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, why_no_memory_limit
from tests.chaos.hosts import why_not
from tests.chaos.job import Data, Job
from tests.chaos.schedule import conduct, plan
from tests.chaos.services import Site, site, why_no_store
from tests.chaos.verdict import SAME_COURSE, compare, complaints

WORKERS, STEPS, SEED = 3, 240, 20261120
MISSING = why_not() or why_no_store() or why_no_memory_limit()
SETTINGS = [
    f"cluster.workers={WORKERS}",
    "cluster.min_workers=1",
    "cluster.grow_seconds=3",
    f"trainer.steps={STEPS}",
]

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


def test_every_kind_of_fault_and_the_result_it_would_have_had(place: Site, people: Path) -> None:
    place.store.upload(people, "people")
    settings = [*SETTINGS, f"checkpoint.url={place.store.make_bucket('out')}/runs"]
    data = Data(people, "people")
    job = Job(place, "chaos", data, settings).start()
    try:
        struck = conduct(job, plan(list(FAULTS), SEED), SEED)
        assert job.wait(600) == 0, job.tail()
    finally:
        job.kill()
    assert len(struck) == len(FAULTS) >= 8
    assert complaints(job, WORKERS) == []
    calm = Job(place, "calm", data, settings).start()  # afterwards: it meets the poisoned sample where the other met it
    try:
        assert calm.wait(600) == 0, calm.tail()
    finally:
        calm.kill()
    assert complaints(calm, WORKERS) == []
    found = compare(job.reports, calm.reports)
    print(found)
    assert found.worst <= SAME_COURSE
    assert job.workers() == {}
