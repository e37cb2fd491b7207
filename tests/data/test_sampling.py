"""Views are drawn by pure functions: disjoint, spread where asked, alike on every rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from configs.schema import DataConfig
from data.sampling import Sampler, draw_views

KEYS = st.integers(0, 2**64 - 1)
METHODS = st.sampled_from(["uniform", "spread"])


@given(st.integers(1, 12), st.integers(1, 12), METHODS, KEYS)
def test_targets_are_never_sources(ring, sources, targets, method, key):
    source, target = draw_views(ring(24), sources, targets, method=method, key=key)
    assert len(set(source)) == sources
    assert len(set(target)) == targets
    assert not set(source) & set(target)
    assert set(source) | set(target) <= set(range(24))


@given(st.integers(1, 6), METHODS, KEYS)
def test_source_views_may_supervise_where_the_config_says_so(ring, sources, method, key):
    source, target = draw_views(ring(6), sources, 6, method=method, target_sources=True, key=key)
    assert set(target) == set(range(6))
    assert len(set(source)) == sources


@given(KEYS)
def test_four_spread_sources_of_sixteen_see_the_head_from_all_sides(ring, key):
    centers = ring(16)
    source, _ = draw_views(centers, 4, 4, method="spread", key=key)
    azimuth = np.sort(np.degrees(np.arctan2(centers[list(source), 0], centers[list(source), 2])))
    gaps = np.diff(azimuth, append=azimuth[0] + 360)
    assert gaps.max() < 160
    assert (gaps + np.roll(gaps, 1)).min() > 89


@given(KEYS, st.integers(1, 7))
def test_a_frontal_rig_is_spread_from_end_to_end(ring, key, sources):
    """The half circle behind the head has no cameras: sectors must not straddle it."""
    centers = ring(14, -np.pi / 2, np.pi / 2)
    source, _ = draw_views(centers, sources, 2, method="spread", key=key)
    sectors = [place * sources // 14 for place in source]
    assert sorted(sectors) == list(range(sources)) or sources in (3, 4, 5, 6)
    assert np.diff(sorted(source)).min(initial=99) >= 1
    if sources == 2:
        assert min(source) < 7 <= max(source)


@given(KEYS)
def test_the_first_two_of_spread_sources_are_far_apart(ring, key):
    centers = ring(16)
    source, _ = draw_views(centers, 4, 4, method="spread", key=key)
    first, second = (centers[view] / np.linalg.norm(centers[view]) for view in source[:2])
    assert np.degrees(np.arccos(np.clip(first @ second, -1, 1))) > 85


def test_every_camera_is_drawn_about_equally_often(ring):
    for method in ("uniform", "spread"):
        drawn = [draw_views(ring(16), 4, 4, method=method, key=7919 * key) for key in range(2000)]
        for part in (0, 1):
            counts = np.bincount([view for draw in drawn for view in draw[part]], minlength=16)
            assert counts.min() > 380
            assert counts.max() < 630


def test_too_few_cameras_are_named(ring, make_dataset):
    with pytest.raises(UserError, match="needs 8 cameras"):
        draw_views(ring(6), 4, 4, method="uniform", key=0)
    dataset = make_dataset(3, views=6)
    with pytest.raises(UserError, match=r"data\.source_views: .*capture person00\d_0: needs 8 cameras"):
        Sampler(dataset.index, dataset.fingerprint, DataConfig(source_views=(2, 4), target_views=4), seed=0)


def test_the_number_of_sources_belongs_to_the_global_batch(make_dataset):
    dataset = make_dataset(5)
    config = DataConfig(batch_size=4, source_views=(1, 4), target_views=2)
    sampler = Sampler(dataset.index, dataset.fingerprint, config, seed=0)
    counts = []
    for start in range(0, 160, 4):
        whole = sampler.samples(start, start, 4)
        parts = sampler.samples(start, start, 2) + sampler.samples(start, start + 2, 2)
        assert whole == parts
        counts.append({len(sample.source) for sample in whole})
    assert all(len(count) == 1 for count in counts)
    assert set.union(*counts) == {1, 2, 3, 4}


def test_the_same_capture_is_seen_with_other_views_in_the_next_epoch(make_dataset):
    dataset = make_dataset(4)
    sampler = Sampler(dataset.index, dataset.fingerprint, DataConfig(source_views=(3, 3), target_views=3), seed=0)
    draws = {}
    for sample in sampler.samples(0, 0, 40):
        draws.setdefault(sample.row, set()).add((sample.source, sample.target))
    assert all(len(drawn) > 5 for drawn in draws.values())
