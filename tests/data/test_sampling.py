"""Samples are pure functions of their position: of what, from which dataset, through which cameras."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from configs import UserError
from configs.schema import DataConfig
from data import Dataset, commit, write_shard
from data.sampling import Sampler
from data.shares import Shares

SMALL = {"batch_size": 4, "source_views": (1, 3), "target_views": 2}


def sampler_of(*datasets: Dataset, seed: int = 0, **changes) -> Sampler:
    config = DataConfig.model_validate({**SMALL, **changes})
    return Sampler([(dataset.index, dataset.fingerprint) for dataset in datasets], config, seed)


def mixed(*others, **changes) -> dict:
    return {"mixture": [{"url": "memory://x", **other} for other in others], **changes}


@pytest.fixture(scope="module")
def people(tmp_path_factory, make_capture) -> Dataset:
    """Five people; person n has n + 1 frames and six cameras."""
    url = str(tmp_path_factory.mktemp("people"))
    write_shard(
        url, 0, (make_capture(7 * i + f, subject=f"s{i}", frame=f"f{f}") for i in range(5) for f in range(i + 1))
    )
    commit(url)
    return Dataset.open(url)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory, make_capture) -> Dataset:
    """Three people of one frame and eight cameras."""
    url = str(tmp_path_factory.mktemp("strangers"))
    write_shard(url, 0, (make_capture(50 + i, views=8) for i in range(3)))
    commit(url)
    return Dataset.open(url)


def test_too_few_cameras_are_named(people):
    with pytest.raises(
        UserError, match=r"data\.source_views: .*capture s\d_f\d: needs 8 cameras \(4 source, 4 target\)"
    ):
        sampler_of(people, source_views=(2, 4), target_views=4)
    with pytest.raises(UserError, match=r"needs 10 cameras .*2 nearest to each source left out.*it has 6"):
        sampler_of(people, source_views=2, target_views=4, target_sampling="nearest_excluded", nearest_excluded=2)


def test_the_number_of_sources_belongs_to_the_global_batch(people):
    sampler = sampler_of(people, source_views=(1, 4))
    counts = []
    for start in range(0, 160, 4):
        whole = sampler.samples(start, start, 4)
        assert whole == sampler.samples(start, start, 2) + sampler.samples(start, start + 2, 2)
        counts.append({len(sample.source) for sample in whole})
        assert counts[-1] == {sampler.source_views(start)}
    assert set.union(*counts) == {1, 2, 3, 4}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**31), st.integers(1, 8))
def test_every_number_of_sources_is_drawn_about_equally_often(people, fewest, more, seed, batch):
    most = min(4, fewest + more)
    sampler = sampler_of(people, seed=seed, source_views=(fewest, most), batch_size=batch)
    again = sampler_of(people, seed=seed, source_views=(fewest, most), batch_size=batch, target_views=1)
    drawn = [sampler.source_views(start * batch) for start in range(1000)]
    assert drawn == [again.source_views(start * batch) for start in range(1000)], "seed and position decide alone"
    counts = np.bincount(drawn, minlength=most + 1)
    share = 1000 / (most - fewest + 1)
    assert counts[:fewest].sum() == 0
    assert np.abs(counts[fewest:] - share).max() < 6 * np.sqrt(share), counts


def test_the_same_capture_is_seen_with_other_views_in_the_next_epoch(people):
    draws: dict[int, set] = {}
    for sample in sampler_of(people, source_views=3, target_views=3).samples(0, 0, 150):
        assert sample.target_row == sample.source_row
        draws.setdefault(sample.source_row, set()).add((sample.source, sample.target))
    assert all(len(drawn) > 5 for drawn in draws.values())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 12), st.integers(1, 11))
def test_any_split_of_a_batch_gives_the_same_samples(people, strangers, start, count, cut):
    sampler = sampler_of(people, strangers, **mixed({"weight": 0.5}, other_frame=0.5))
    whole = sampler.samples(start, start, count)
    cut = min(cut, count)
    assert whole == sampler.samples(start, start, cut) + sampler.samples(start, start + cut, count - cut)
    assert [sample.position for sample in whole] == list(range(start, start + count))


LIVES = st.lists(st.tuples(st.integers(1, 16), st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(lives=LIVES, accumulation=st.integers(1, 2), seed=st.integers(0, 5))
def test_global_batches_are_the_same_for_any_ranks_workers_and_kills(people, strangers, lives, accumulation, seed):
    """Each life has its own number of ranks and workers, does a few steps and is killed; the next goes on."""
    size = math.lcm(*(world for world, _, _ in lives)) * accumulation
    steps = [steps for _, _, steps in lives]
    assume(size * sum(steps) <= 1500)
    sampler = sampler_of(people, strangers, **mixed({}), seed=seed, source_views=(1, 4))
    alone = [sampler.samples(start, start, size) for start in range(0, size * sum(steps), size)]
    start, lived = 0, []
    for world, workers, count in lives:
        shares = Shares(size, world, accumulation, start)
        ranks = [loaded(sampler, shares, rank, workers, count * accumulation) for rank in range(world)]
        assert {len(rank) for rank in ranks} == {count * accumulation}
        for step in range(count):
            micro = range(step * accumulation, (step + 1) * accumulation)
            lived.append([sample for number in micro for rank in ranks for sample in rank[number]])
        start += count * size
    assert lived == alone
    for dataset, order in enumerate(sampler.orders):
        rows = [sample.source_row for batch in lived for sample in batch if sample.dataset == dataset]
        for epoch in range(len(rows) // len(order)):
            assert sorted(rows[epoch * len(order) : (epoch + 1) * len(order)]) == list(range(len(order)))


def loaded(sampler: Sampler, shares: Shares, rank: int, workers: int, count: int) -> list[list]:
    """A rank's micro-batches as a loader gives them whose workers take turns."""
    own = itertools.cycle([shares.numbers(worker, workers) for worker in range(max(workers, 1))])
    parts = [shares.micro_batch(rank, next(next(own))) for _ in range(count)]
    return [sampler.samples(part.batch_start, part.first, part.count) for part in parts]


def test_each_dataset_of_a_mixture_has_its_own_epochs(people, strangers):
    sampler = sampler_of(people, strangers, **mixed({"weight": 3}, train_weight=1))
    assert [len(order) for order in sampler.orders] == [15, 3]
    assert sampler.mixture.shares == [0.25, 0.75]
    samples = sampler.samples(0, 0, 1024)
    for dataset, share, length in ((0, 256, 15), (1, 768, 3)):
        rows = [sample.source_row for sample in samples if sample.dataset == dataset]
        assert len(rows) == share
        whole = np.array(rows[: share - share % length]).reshape(-1, length)
        assert (np.sort(whole, axis=1) == np.arange(length)).all()


def test_a_mixture_does_not_reorder_its_datasets(people, strangers):
    alone = [sample.source_row for sample in sampler_of(people).samples(0, 0, 60)]
    beside = sampler_of(people, strangers, **mixed({})).samples(0, 0, 200)
    assert [sample.source_row for sample in beside if sample.dataset == 0][:60] == alone


def test_fingerprints_name_data_weights_and_subsets(people, strangers):
    assert sampler_of(people).fingerprint == people.fingerprint
    marks = [
        people.fingerprint,
        sampler_of(people, subjects=3).fingerprint,
        sampler_of(people, frames="one").fingerprint,
        sampler_of(people, strangers, **mixed({})).fingerprint,
        sampler_of(strangers, people, **mixed({})).fingerprint,
        sampler_of(people, strangers, **mixed({"weight": 2})).fingerprint,
        sampler_of(people, strangers, **mixed({"subjects": 2})).fingerprint,
        sampler_of(people, strangers, **mixed({}, train_weight=2)).fingerprint,
    ]
    assert len(set(marks)) == len(marks)
    assert {len(mark) for mark in marks} == {64}


def test_the_same_captures_twice_are_refused(people):
    with pytest.raises(UserError, match=r"data\.mixture: .* holds the same captures as .*\n.*raise its weight"):
        sampler_of(people, people, **mixed({}))
    sampler_of(people, people, **mixed({"subjects": 2}))


def test_too_many_subjects_of_a_mixture_name_their_key(people, strangers):
    with pytest.raises(UserError, match=r"data\.mixture\.0\.subjects: asks for 4 subjects, the dataset has 3"):
        sampler_of(people, strangers, **mixed({"subjects": 4}))


def test_one_frame_of_each_subject_an_epoch(people):
    sampler = sampler_of(people, frames="one")
    assert len(sampler.orders[0]) == 5
    numbers = [people.index.subject_numbers[s.source_row] for s in sampler.samples(0, 0, 50)]
    assert (np.sort(np.array(numbers).reshape(10, 5), axis=1) == np.arange(5)).all()


def test_targets_of_another_frame_are_of_the_same_subject(people):
    subjects = people.index.subject_numbers
    samples = sampler_of(people, other_frame=1).samples(0, 0, 300)
    for sample in samples:
        assert subjects[sample.source_row] == subjects[sample.target_row]
        assert (sample.source_row == sample.target_row) == (subjects[sample.source_row] == 0)  # who has one frame
        assert not set(sample.source) & set(sample.target)
    pairs = {(s.source_row, s.target_row) for s in samples}
    assert len(pairs) > 40


def test_a_share_of_the_targets_is_of_another_frame(people):
    samples = sampler_of(people, other_frame=0.25).samples(0, 0, 3000)
    several = [s for s in samples if people.index.subject_numbers[s.source_row] > 0]
    assert np.mean([s.source_row != s.target_row for s in several]) == pytest.approx(0.25, abs=0.03)
    same = [s for s in several if s.source_row == s.target_row]
    plain = {s.position: s for s in sampler_of(people).samples(0, 0, 3000)}
    assert all(plain[s.position] == s for s in same)


def test_fixed_cameras_go_by_name(people):
    names = people.index.rig(0).cameras
    sampler = sampler_of(
        people,
        source_views=(1, 2),
        source_sampling="fixed",
        source_cameras=["Cam4", "Cam1", "Cam0"],
        target_sampling="fixed",
        target_cameras=["Cam5", "Cam4"],
    )
    for sample in sampler.samples(0, 0, 20):
        assert [names[view] for view in sample.source] == ["Cam4", "Cam1"][: len(sample.source)]
        assert [names[view] for view in sample.target] == ["Cam5", "Cam4"]


@pytest.mark.parametrize("kind", ["source", "target"])
def test_a_capture_without_a_fixed_camera_is_refused_by_name(people, kind):
    cameras = {f"{kind}_sampling": "fixed", f"{kind}_cameras": ["Cam1", "Cam2", "Kam3"]}
    match = rf"data\.{kind}_cameras: .*capture s\d_f\d: missing camera 'Kam3'\n.*did you mean 'Cam3'"
    with pytest.raises(UserError, match=match):
        sampler_of(people, **cameras)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_sampling": "fixed"}, "source_cameras: names 0 cameras, source_views asks for 3"),
        ({"target_sampling": "fixed", "target_cameras": ["a"]}, "target_cameras: names 1 cameras, .* asks for 2"),
        ({"source_cameras": ["a"]}, "only source_sampling: fixed reads it"),
        ({"target_sampling": "fixed", "target_cameras": ["a", "a"]}, "a camera is named twice"),
        ({"mixture": [{"url": "x", "weight": 0}]}, "greater than 0"),
        ({"mixture": [{"weight": 1}]}, "url"),
        ({"mixture": [{"url": "x", "wieght": 1}]}, "wieght"),
        ({"frames": "some"}, "'all' or 'one'"),
        ({"other_frame": 1.5}, "less than or equal to 1"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        DataConfig.model_validate({**SMALL, **changes})


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_replacements_try_every_capture_of_the_dataset_once(people, strangers, position, sources):
    sampler = sampler_of(people, strangers, **mixed({}))
    sample = sampler.samples(position - position % 4, position, 1)[0]
    chain = [sampler.replacement(sample, attempt, sources) for attempt in range(1, len(sampler.orders[sample.dataset]))]
    rows = [sample.source_row, *(other.source_row for other in chain)]
    assert sorted(rows) == list(range(len(sampler.orders[sample.dataset])))
    for other in chain:
        assert (other.position, other.dataset, len(other.source)) == (position, sample.dataset, sources)
        assert not set(other.source) & set(other.target)


def test_replacements_are_the_same_on_every_rank_and_do_not_need_the_chain(people):
    sample = sampler_of(people).samples(4, 6, 1)[0]
    here = [sampler_of(people).replacement(sample, attempt, 2) for attempt in (1, 2, 3)]
    other = sampler_of(people)
    assert [other.replacement(sample, attempt, 2) for attempt in (3, 2, 1)] == here[::-1]
    assert len({(s.source, s.target) for s in here}) > 1


def test_a_sampler_travels_between_processes(people):
    sampler = sampler_of(people)
    samples = sampler.samples(0, 0, 8)
    assert pickle.loads(pickle.dumps(sampler)).samples(0, 0, 8) == samples
