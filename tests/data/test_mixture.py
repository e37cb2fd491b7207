"""Mixtures: exact shares, each dataset in its own order, every turn once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.mixture import Mixture

WEIGHTS = st.lists(st.floats(0.01, 100).map(lambda weight: round(weight, 3)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.integers(0, 2**32), st.integers(1, 5000))
def test_every_dataset_takes_its_turns_one_after_the_other(weights, seed, length):
    """Positions 0 to n go to turns 0, 1, 2, ... of each dataset: nothing twice, nothing left out."""
    datasets, places = Mixture(weights, seed).at(np.arange(length))
    for dataset in range(len(weights)):
        np.testing.assert_array_equal(places[datasets == dataset], np.arange((datasets == dataset).sum()))


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.integers(0, 2**32), st.integers(0, 2**50))
def test_seeking_far_keeps_the_count(weights, seed, start):
    mixture = Mixture(weights, seed)
    block = len(mixture.pattern)
    datasets, places = mixture.at(np.arange(start, start + block))
    np.testing.assert_array_equal(np.bincount(datasets, minlength=len(weights)), mixture.counts)
    for dataset, count in enumerate(mixture.counts):
        own = places[datasets == dataset]
        assert own.max() - own.min() == count - 1
        assert len(set(own.tolist())) == count


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.integers(0, 2**32))
def test_no_prefix_is_far_from_its_shares(weights, seed):
    mixture = Mixture(weights, seed)
    taken = np.cumsum(np.eye(len(weights))[mixture.pattern], axis=0)
    due = np.arange(1, len(taken) + 1)[:, None] * mixture.counts / len(taken)
    assert np.abs(taken - due).max() <= len(weights) + 1


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((1,), (1,)), ((1, 1), (1, 1)), ((3, 1), (3, 1)), ((0.7, 0.2, 0.1), (7, 2, 1)), ((0.5, 0.25), (2, 1))],
)
def test_shares_of_plain_weights_are_exact(weights, shares):
    counts = Mixture(weights, 0).counts
    assert [count * sum(shares) for count in counts.tolist()] == [share * int(counts.sum()) for share in shares]


def test_odd_weights_are_rounded_to_a_block_that_fits_in_memory():
    counts = Mixture((1_234_567, 7_654_321, 1), 0).counts
    assert counts.min() == 1
    assert counts[0] / counts.sum() == pytest.approx(1_234_567 / 8_888_889, rel=1e-4)
    assert counts.sum() < 66_000


def test_seeds_differ_and_weights_do_not_reorder_a_dataset():
    one, two = Mixture((1, 1), 0).pattern, Mixture((1, 1), 1).pattern
    assert not np.array_equal(one, two)
    assert np.array_equal(one, Mixture((2, 2), 0).pattern)


def test_neighbouring_turns_do_not_alternate():
    """Ranks that take every second position must not see one dataset each."""
    pattern = Mixture((1, 1), 0).pattern
    assert 0.35 < pattern[::2].mean() < 0.65
