"""Views are drawn by pure functions: disjoint, spread where asked, alike on every rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from configs.schema import DataConfig
from data.viewpoints import EXCLUDED, SOURCES, Viewpoints, cameras_needed, draw_views

KEYS = st.integers(0, 2**64 - 1)
RANDOM = sorted(set(SOURCES) - {"fixed"})
METHODS = st.sampled_from(RANDOM)


def angles(centers: np.ndarray) -> np.ndarray:
    """Degrees between all pairs of cameras, seen from the head."""
    directions = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip(directions @ directions.T, -1, 1)))


@pytest.mark.parametrize(("key", "methods"), [("source_sampling", SOURCES), ("target_sampling", EXCLUDED)])
def test_the_config_names_every_method(key, methods):
    assert set(DataConfig.model_fields[key].annotation.__args__) == set(methods)


@given(st.integers(1, 12), st.integers(1, 12), METHODS, KEYS)
def test_targets_are_never_sources(ring, sources, targets, method, key):
    source, target = draw_views(ring(24), sources, targets, method=method, key=key)
    assert len(set(source)) == sources
    assert len(set(target)) == targets
    assert not set(source) & set(target)
    assert set(source) | set(target) <= set(range(24))


@given(st.integers(1, 6), METHODS, KEYS)
def test_source_views_may_supervise_where_the_config_says_so(ring, sources, method, key):
    source, target = draw_views(ring(6), sources, 6, method=method, target_method="any", key=key)
    assert set(target) == set(range(6))
    assert len(set(source)) == sources


@given(st.integers(1, 4), st.integers(0, 3), METHODS, KEYS)
def test_targets_keep_their_distance_where_asked(ring, sources, exclude, method, key):
    centers = ring(24)
    source, target = draw_views(
        centers, sources, 4, method=method, target_method="nearest_excluded", exclude=exclude, key=key
    )
    assert len(set(target)) == 4
    apart = angles(centers)
    for view in source:
        as_near = (apart[view] <= apart[view][list(target), None] + 0.2).sum(axis=1)  # ties, and the target itself
        assert as_near.min() >= exclude + 2


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


@given(KEYS, st.integers(2, 8))
def test_each_farthest_source_is_the_farthest_from_those_before_it(ring, key, sources):
    centers = ring(20)
    source, _ = draw_views(centers, sources, 4, method="farthest", key=key)
    apart = angles(centers)
    for place in range(1, sources):
        distance = apart[:, list(source[:place])].min(axis=1)
        assert distance[source[place]] > distance.max() - 0.2  # cosines are rounded


@given(KEYS, st.floats(0, 6.28))
def test_ties_of_symmetric_rigs_fall_to_the_first_whatever_the_last_bits(key, turn):
    """Sixteen cameras on a circle: everything ties, and a turned or scaled copy differs in its last bits."""
    angle = 2 * np.pi * np.arange(16) / 16
    circle = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], axis=1)
    other = circle * (1 + 1e-13) + 1e-13 * np.cos(turn + 7 * np.arange(48)).reshape(16, 3)
    for method in RANDOM:
        assert draw_views(circle, 4, 4, method=method, key=key) == draw_views(other, 4, 4, method=method, key=key)


def test_every_camera_is_drawn_about_equally_often(ring):
    rig = Viewpoints(ring(16))
    for method in RANDOM:
        drawn = [draw_views(rig, 4, 4, method=method, key=7919 * key) for key in range(2000)]
        for part in (0, 1):
            counts = np.bincount([view for draw in drawn for view in draw[part]], minlength=16)
            if method != "farthest":  # which goes to the ends of the rig
                assert counts.min() > 380
                assert counts.max() < 630


@given(KEYS, METHODS)
def test_fixed_targets_are_held_out_of_random_sources(ring, key, method):
    rig = Viewpoints(ring(12), fixed_targets=[7, 2, 9])
    source, target = draw_views(rig, 4, 2, method=method, target_method="fixed", key=key)
    assert target == (7, 2)
    assert len(set(source)) == 4
    assert not set(source) & {7, 2, 9}


@given(KEYS, st.integers(1, 3))
def test_fixed_sources_are_the_first_named(ring, key, sources):
    rig = Viewpoints(ring(12), fixed_sources=[5, 0, 11])
    source, target = draw_views(rig, sources, 4, method="fixed", key=key)
    assert source == (5, 0, 11)[:sources]
    assert not set(target) & set(source)


@given(KEYS, st.integers(0, 2))
def test_targets_of_another_rig_avoid_the_directions_of_the_sources(ring, key, exclude):
    one, two = Viewpoints(ring(16)), Viewpoints(1.3 * ring(24)[::-1])
    source, target = draw_views(
        one, 3, 4, method="uniform", target_method="nearest_excluded", exclude=exclude, target_rig=two, key=key
    )
    apart = np.degrees(np.arccos(np.clip(one.directions[list(source)] @ two.directions[list(target)].T, -1, 1)))
    assert apart.min() > 5
    assert max(target) < 24


@pytest.mark.parametrize("method", RANDOM)
def test_one_source_of_one_camera(ring, method):
    assert draw_views(ring(1), 1, 1, method=method, target_method="any", key=3) == ((0,), (0,))


@pytest.mark.parametrize(("target", "needed"), [("any", 4), ("unseen", 8), ("nearest_excluded", 12), ("fixed", 7)])
def test_how_many_cameras_are_needed(target, needed):
    assert cameras_needed(4, 4, target, exclude=1, fixed_targets=3) == needed


def test_too_few_cameras_are_refused(ring):
    with pytest.raises(UserError, match="needs 8 cameras"):
        draw_views(ring(6), 4, 4, method="uniform", key=0)
