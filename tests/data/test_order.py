"""The sequence of samples is computed: a bijection per epoch, the same wherever one starts."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from data import Dataset, commit, write_shard
from data.order import Captures, Permutation, SampleOrder, digest, nested_subjects, words

SEEDS = st.integers(0, 2**64 - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), SEEDS)
def test_a_permutation_takes_every_place_once(count, key):
    found = Permutation(count, key)(np.arange(count))
    np.testing.assert_array_equal(np.sort(found), np.arange(count))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), SEEDS, st.integers(0, 299)), min_size=1, max_size=20))
def test_many_permutations_at_once_are_each_their_own(cases):
    counts, keys, places = zip(*cases, strict=True)
    together = Permutation(np.array(counts), np.array(keys, np.uint64))(np.array(places) % counts)
    alone = [Permutation(count, key)(np.array([place % count]))[0] for count, key, place in cases]
    assert together.tolist() == alone


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2**62), SEEDS, st.integers(0, 2**62))
def test_a_huge_permutation_costs_nothing_and_stays_in_range(count, key, position):
    place = np.array([position % count, 0, count - 1])
    found = Permutation(count, key)(place)
    assert ((found >= 0) & (found < count)).all()
    assert len(set(found.tolist())) == len(set(place.tolist()))


def test_small_permutations_are_fair():
    """Over many keys each of the 24 orders of four comes about equally often (chi-squared, 23 degrees)."""
    orders = [tuple(Permutation(4, digest("fair", key))(np.arange(4)).tolist()) for key in range(4800)]
    counts = np.array([orders.count(order) for order in itertools.permutations(range(4))])
    assert ((counts - 200) ** 2 / 200).sum() < 60


def test_an_epoch_does_not_follow_its_neighbour():
    first, second = (Permutation(1000, digest(0, epoch))(np.arange(1000)) for epoch in (0, 1))
    assert (first == second).mean() < 0.02
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.15
    assert (np.diff(first) == 1).mean() < 0.02


def test_random_words_are_the_same_on_every_machine():
    """SplitMix64 of 1234567: published reference values."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert words(1234567, 3).tolist() == expected


@pytest.fixture(scope="module")
def small_index(tmp_path_factory, make_capture):
    """Seven people of one to three frames, one of them with captures in two places."""
    url = str(tmp_path_factory.mktemp("order"))
    frames = [(i, f) for i in range(7) for f in "abc"[: 1 + i % 3]] + [(1, "z")]
    write_shard(url, 0, (make_capture(i, views=1, frame=f, subject=f"s{i}") for i, f in frames))
    commit(url)
    return Dataset.open(url).index


def order_of(index, fingerprint="f", seed=0, subjects=None, frames="all") -> SampleOrder:
    return SampleOrder(Captures.of(index, subjects), fingerprint, seed, frames)


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 10_000), length=st.integers(1, 40), frames=st.sampled_from(["all", "one"]))
def test_seeking_equals_replaying(start, length, frames, small_index):
    replayed = order_of(small_index, seed=3, frames=frames).at(np.arange(start + length))[start:]
    sought = order_of(small_index, seed=3, frames=frames).at(np.arange(start, start + length))
    np.testing.assert_array_equal(sought, replayed)


def test_every_epoch_has_every_capture_once(small_index):
    order = order_of(small_index)
    sequence = order.at(np.arange(5 * len(order)))
    for epoch in sequence.reshape(5, -1):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(len(small_index)))


def test_one_frame_of_each_subject_an_epoch_and_all_frames_before_any_again(small_index):
    order = order_of(small_index, frames="one")
    assert len(order) == 7
    epochs = order.at(np.arange(12 * 7)).reshape(12, 7)
    subjects = small_index.subject_numbers[epochs]
    assert (np.sort(subjects, axis=1) == np.arange(7)).all()
    for subject in range(7):
        own = set(small_index.rows_of(subject).tolist())
        shown = epochs[subjects == subject]
        for turn in range(12 // len(own)):
            assert set(shown[turn * len(own) : (turn + 1) * len(own)].tolist()) == own


def test_frames_follow_no_pattern(small_index):
    shown = {tuple(order_of(small_index, seed=s, frames="one").at(np.arange(21)).tolist()) for s in range(20)}
    assert len(shown) == 20


@pytest.mark.parametrize("other", [("g", 0, None), ("f", 1, None), ("f", 0, 6)])
def test_fingerprint_seed_and_subset_decide_the_order(small_index, other):
    assert not np.array_equal(order_of(small_index).at(np.arange(60)), order_of(small_index, *other).at(np.arange(60)))


def test_all_subjects_by_number_or_by_default_are_the_same_order(small_index):
    places = np.arange(50)
    np.testing.assert_array_equal(order_of(small_index).at(places), order_of(small_index, subjects=7).at(places))


@given(st.integers(1, 7))
def test_captures_are_the_rows_of_their_subjects(small_index, count):
    captures = Captures.of(small_index, count)
    chosen = range(7) if count == 7 else nested_subjects(small_index.subjects, count)
    expected = np.concatenate([small_index.rows_of(subject) for subject in chosen])
    np.testing.assert_array_equal(captures.rows(np.arange(len(captures))), expected)
    assert captures.subjects == count


@given(st.integers(0, 500), st.integers(0, 60))
def test_what_comes_after_stays_in_the_epoch(small_index, position, steps):
    order = order_of(small_index)
    after = order.after(position, steps)
    assert after // len(order) == position // len(order)
    assert (after - position - steps) % len(order) == 0


def test_a_hundred_million_captures_cost_no_memory():
    """One run of neighbouring rows: the order holds a few numbers, whatever it orders."""
    captures = Captures(np.array([0]), np.array([100_000_000]), np.array([0, 100_000_000]))
    order = SampleOrder(captures, "f", seed=0)
    rows = order.at(np.arange(3 * 10**8 - 500, 3 * 10**8 + 500))
    assert len(set(rows[:500].tolist())) == len(set(rows[500:].tolist())) == 500
    assert 0 <= rows.min() < 10**7 < 9 * 10**7 < rows.max() < 10**8


@given(st.integers(1, 200))
def test_smaller_subsets_are_contained_in_larger_ones(count):
    subjects = [f"person{number}" for number in range(200)]
    assert set(nested_subjects(subjects, count)) <= set(nested_subjects(subjects, min(200, count + 13)))


def test_the_nested_order_depends_on_names_not_on_places():
    subjects = [f"person{number}" for number in range(50)]
    names = [subjects[number] for number in nested_subjects(subjects, 10)]
    turned = subjects[::-1]
    assert [turned[number] for number in nested_subjects(turned, 10)] == names


def test_a_subset_holds_only_its_subjects(small_index):
    order = order_of(small_index, subjects=3)
    chosen = {small_index.subjects[number] for number in nested_subjects(small_index.subjects, 3)}
    assert {small_index.text("subject", int(row)) for row in order.at(np.arange(40))} == chosen


def test_more_subjects_than_there_are_is_the_users_mistake(small_index):
    with pytest.raises(UserError, match=r"data\.subjects: asks for 8 subjects, the dataset has 7"):
        Captures.of(small_index, 8)


def test_another_process_finds_the_same_order():
    code = (
        "import numpy as np; from data.order import *; print(Permutation(1000, digest('x', 1))(np.arange(9)).tolist())"
    )
    other = {**os.environ, "PYTHONHASHSEED": "77"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=other)
    assert there.stdout.strip() == str(Permutation(1000, digest("x", 1))(np.arange(9)).tolist())
