"""Shares of the global batch: whatever the ranks, workers and restarts, every position once and in order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from data.shares import Part, Shares

WORLDS = st.integers(1, 16)
WORKERS = st.integers(0, 4)


def delivered(shares: Shares, rank: int, workers: int, count: int) -> list[Part]:
    """A rank's micro-batches as a loader gives them that takes turns between its workers."""
    own = [shares.numbers(worker, workers) for worker in range(max(workers, 1))]
    turns = itertools.islice(itertools.cycle(own), count)
    return [shares.micro_batch(rank, next(numbers)) for numbers in turns]


def batches(shares: Shares, workers: int, steps: int) -> list[list[int]]:
    """Positions of each global batch, in the order of its blocks."""
    ranks = [delivered(shares, r, workers, steps * shares.accumulation) for r in range(shares.world_size)]
    found = []
    for step in range(steps):
        micro = range(step * shares.accumulation, (step + 1) * shares.accumulation)
        parts = [ranks[rank][number] for number in micro for rank in range(shares.world_size)]
        assert len({part.count for part in parts}) == 1
        assert {part.batch_start for part in parts} == {shares.start + step * shares.batch_size}
        assert parts[-1].consumed == shares.start + (step + 1) * shares.batch_size
        found.append([p for part in parts for p in range(part.first, part.first + part.count)])
    return found


@settings(max_examples=150, deadline=None)
@given(WORLDS, WORKERS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 10**12))
def test_every_global_batch_is_its_positions_in_order(world, workers, accumulation, size, start):
    shares = Shares(world * accumulation * size, world, accumulation, start)
    positions = [p for batch in batches(shares, workers, 3) for p in batch]
    assert positions == list(range(start, start + 3 * shares.batch_size))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(WORLDS, WORKERS, st.integers(1, 5)), min_size=2, max_size=6))
def test_kills_and_other_world_sizes_change_nothing(lives):
    """Each life runs a few steps on its own number of ranks and workers, is killed, and the next goes on."""
    size = 720720  # a multiple of 1 to 16
    start, seen = 0, []
    for world, workers, steps in lives:
        shares = Shares(size, world, start=start)
        for number in range(steps):
            parts = [delivered(shares, rank, workers, steps)[number] for rank in range(world)]
            seen.append([(part.first, part.count) for part in parts])
            start = parts[-1].consumed
    whole = [(number * size, size) for number in range(len(seen))]
    joined = [(parts[0][0], sum(count for _, count in parts)) for parts in seen]
    assert joined == whole
    assert all(a + n == b for parts in seen for (a, n), (b, _) in itertools.pairwise(parts))


@given(WORLDS, WORKERS, st.integers(1, 40))
def test_workers_together_make_every_micro_batch_once(world, workers, count):
    shares = Shares(world * 2, world)
    alone = delivered(shares, world - 1, 0, count)
    assert delivered(shares, world - 1, workers, count) == alone


@pytest.mark.parametrize(("size", "world", "accumulation"), [(4, 3, 1), (4, 2, 3), (1, 2, 1), (16, 5, 1)])
def test_a_batch_that_cannot_be_shared_is_the_users_mistake(size, world, accumulation):
    with pytest.raises(UserError, match=rf"data\.batch_size: {size} captures cannot be shared by {world} ranks"):
        Shares(size, world, accumulation)
