"""One run on fewer workers: the same global batch, the same name, micro-batches that fit."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configs import UserError, load_config


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 4), st.integers(1, 8))
def test_every_size_has_the_same_batch_and_no_larger_micro_batch(
    workers: int, accumulation: int, micro: int, fewest: int
) -> None:
    assume(fewest <= workers)
    batch = workers * accumulation * micro
    settings = [f"data.batch_size={batch}", f"engine.accumulation={accumulation}"]
    config = load_config("headsup-nano", [*settings, f"cluster.workers={workers}", f"cluster.min_workers={fewest}"])
    assert config.world_sizes[-1] == workers
    assert min(config.world_sizes) >= fewest
    for size in config.world_sizes:
        other = config.at(size)
        each, left = divmod(batch, size * other.engine.accumulation)
        assert left == 0
        assert each <= micro
        assert (other.cluster.workers, other.hash) == (size, config.hash)
        assert other.model_dump(exclude={"engine", "cluster"}) == config.model_dump(exclude={"engine", "cluster"})


def test_units_stay_whole() -> None:
    sizes = ["data.batch_size=24", "cluster.workers=8", "cluster.min_workers=1", "cluster.workers_per_unit=2"]
    assert load_config("headsup-nano", sizes).world_sizes == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (["cluster.workers=2", "cluster.min_workers=3"], "min_workers"),
        (["cluster.workers=3", "data.batch_size=3", "cluster.workers_per_unit=2"], "workers_per_unit"),
        (["cluster.min_workers=0"], "min_workers"),
        (["cluster.silent_seconds=0"], "silent_seconds"),
        (["cluster.max_preemptions=-2"], "max_preemptions"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_by_name(wrong: list[str], word: str) -> None:
    with pytest.raises(UserError, match=word):
        load_config("headsup-nano", wrong)
