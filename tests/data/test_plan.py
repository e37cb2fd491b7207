"""Plans: what is said of a run is what the run will do, however large it is."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import Config, UserError, load_config
from data import Dataset
from data.order import Captures
from data.plan.demand import Asked, Demand
from data.plan.estimate import make_plan
from data.plan.holding import made_up, on_ranks, open_holdings
from data.plan.model import CLOUDS, Plan, Prices, Site
from data.plan.picture import draw_order
from data.plan.regular import Numbers, RegularIndex
from data.plan.simulate import chosen_steps, simulate
from data.plan.warn import warnings

SITE = Site(link_mbit=100, latency=0.02, in_flight=20, prices=Prices(0.5, 0.1))
CAMERAS = tuple(f"Cam{view}" for view in range(10))
SMALL = Numbers(captures=1000, frames=4, views=16, image_bytes=10_000, mask_bytes=1000, shard_bytes=2_000_000)


def config_of(*changes: str) -> Config:
    fixed = [
        "data.batch_size=8",
        "data.source_views=4",
        "data.target_views=4",
        "trainer.steps=500",
        "cluster.workers=2",
    ]
    return load_config("headsup-nano", [*fixed, *changes])


def demand_of(config: Config, numbers: Numbers = SMALL, kind: type[Demand] = Demand) -> Demand:
    return kind(made_up(numbers, config.data), config.data, config.run.seed, SITE.cost)


def plan_of(*changes: str, numbers: Numbers = SMALL, speed: float | None = None, site: Site = SITE) -> Plan:
    config = config_of(*changes)
    return make_plan(demand_of(config, numbers), config, site, speed)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 9), st.integers(1, 5000), st.integers(0, 3000))
def test_described_members_lie_one_behind_the_other_in_their_shards(captures, frames, views, image, mask):
    index = RegularIndex(Numbers(captures, frames, views, image, mask, shard_bytes=40_000))
    ends: dict[str, int] = {}
    for row in range(captures):
        everything = list(range(views))
        images, masks = index.image_ranges(row, everything, ()), index.mask_ranges(row, everything, ())
        for item in (part for pair in zip(images, masks, strict=True) for part in pair if part is not None):
            assert item.offset >= ends.get(item.path, 0) + 512
            assert item.offset % 512 == 0
            ends[item.path] = item.offset + item.length
    assert len(ends) == index.shards
    assert max(ends.values()) <= index.per_shard * index.capture_bytes
    assert len(index.captures) == captures
    assert index.captures.subjects == len(index.subjects) == -(-captures // frames)
    by_hand = Captures.of(index)
    everybody = np.arange(len(index.subjects) + 1)
    np.testing.assert_array_equal(by_hand.before(everybody), index.captures.before(everybody))
    assert by_hand.most_frames == index.captures.most_frames


def test_a_described_dataset_is_like_a_real_one(make_dataset):
    """Same captures as numbers and as shards: the plans agree but for the sizes of the images, which differ."""
    dataset = make_dataset(12, views=10)
    config = config_of(f"data.train={dataset.url}")
    real = make_plan(Demand(open_holdings(config.data), config.data, 0, SITE.cost), config, SITE)
    images = [part.length for row in range(12) for part in dataset.index.image_ranges(row, list(range(10)), CAMERAS)]
    masks = [
        part.length for row in range(12) for part in dataset.index.mask_ranges(row, list(range(10)), CAMERAS) if part
    ]
    numbers = Numbers(12, 1, 10, int(np.mean(images)), int(np.mean(masks)))
    made = plan_of(numbers=numbers)
    assert real.per_sample.views == made.per_sample.views == 8
    assert real.per_sample.requests == pytest.approx(made.per_sample.requests, rel=0.15)
    assert real.per_sample.asked == pytest.approx(made.per_sample.asked, rel=0.15)
    assert real.datasets[0].epochs == made.datasets[0].epochs == 500 * 8 / 12
    assert real.datasets[0].bytes == dataset.info.bytes


def test_a_sample_asks_for_its_members_and_each_once(make_dataset):
    dataset: Dataset = make_dataset(5)
    config = config_of(f"data.train={dataset.url}", "data.source_views=3", "data.target_sampling=any")
    demand = Demand(open_holdings(config.data), config.data, 0, SITE.cost)
    for one in demand.of(0, 0, 8):
        views = sorted({*one.sample.source, *one.sample.target})
        names = dataset.index.rig(one.sample.source_row).cameras
        images = dataset.index.image_ranges(one.sample.source_row, views, names)
        masks = [part for part in dataset.index.mask_ranges(one.sample.source_row, views, names) if part]
        assert one.views == len(views)
        assert one.needed == sum(part.length for part in (*images, *masks)) <= one.asked
        assert {path for _, path in one.shards} == {images[0].path}


def test_two_frames_are_two_requests():
    config = config_of("data.other_frame=1")
    one = demand_of(config).of(0, 0, 1)[0]
    assert one.sample.source_row != one.sample.target_row
    assert one.views == 8
    assert len(one.shards) >= 2


def test_the_arithmetic_of_a_run():
    plan = plan_of(speed=40)
    each, part = plan.per_sample, plan.datasets[0]
    assert (plan.samples, part.captures, part.subjects, part.epoch, part.epochs) == (4000, 1000, 250, 1000, 4)
    assert (part.steps_per_epoch, part.steps_to_see_all, part.views_per_subject) == (125, 125, 4000 * 8 / 250)
    assert (each.views, each.cameras, each.needed) == (8, 16, 8 * 11_000)
    assert plan.whole.requests == round(4000 * each.requests)
    assert plan.whole.request_dollars == pytest.approx(plan.whole.requests * 0.5 / 1e6, rel=1e-3)
    assert plan.whole.egress_dollars == pytest.approx(plan.whole.bytes * 0.1 / 1e9, rel=1e-3)
    assert plan.cache.all_bytes == 1000 * 16 * 11_000
    assert plan.cache.epoch_bytes == pytest.approx(1000 * each.asked)
    assert plan.cache.second_epoch_hits == 8 / 16 / 2
    assert plan.rates is not None
    assert (plan.rates.seconds, plan.rates.seconds_to_see_all) == (100, 25)
    assert plan.rates.worker_bytes_per_second == pytest.approx(20 * each.asked)
    assert plan.rates.in_flight == pytest.approx(20 * each.requests * 0.02)
    assert plan.link_samples_per_second * plan.rates.link_used == pytest.approx(40)


def test_one_frame_an_epoch_takes_longer_to_see_all():
    part = plan_of("data.frames=one").datasets[0]
    assert (part.epoch, part.epochs, part.steps_per_epoch, part.steps_to_see_all) == (250, 16, 32, 125)


def test_a_mixture_is_planned_dataset_by_dataset(make_dataset):
    one, two = make_dataset(8), make_dataset(3, frame="x")
    mixture = f"data.mixture=[{{url: '{two.url}', weight: 3, subjects: 2}}]"
    config = config_of(f"data.train={one.url}", mixture, "data.source_views=2")
    parts = make_plan(Demand(open_holdings(config.data), config.data, 0, SITE.cost), config, SITE).datasets
    assert [part.share for part in parts] == [0.25, 0.75]
    assert [part.epochs for part in parts] == [1000 / 8, 3000 / 2]
    assert [part.where for part in parts] == [one.url, two.url]


@pytest.mark.parametrize(
    ("changes", "speed", "site", "message"),
    [
        (["trainer.steps=50"], None, SITE, "sees only 40% of its epoch; 125 steps would see it all"),
        (["trainer.steps=200000"], None, SITE, "every capture comes 1,600 times"),
        (["data.batch_size=2000"], None, SITE, "a batch takes more than its 1,000 samples"),
        ([], 5000, SITE, r"100 Mbit/s does not suffice: each worker needs 1,\d\d\d Mbit/s"),
        ([], 230, SITE, r"link is used to \d\d%"),
        ([], 600, replace(SITE, latency=1.0, link_mbit=9999), r"requests in flight at 1000 ms, it may have 20"),
        ([], 9000, replace(SITE, link_mbit=99999), r"requests/s in all: S3 gives 5,500"),
        ([], None, replace(SITE, latency=5, link_mbit=9999), r"of the bytes fetched are not used"),
        ([], None, SITE, r"hold 25% of what its worker asks in the second epoch"),
    ],
)
def test_what_will_hurt_is_said(changes, speed, site, message):
    config = config_of(*changes)
    demand = Demand(made_up(SMALL, config.data), config.data, 0, site.cost)
    found = warnings(make_plan(demand, config, site, speed), site)
    assert any(re.search(message, warning) for warning in found), found


def test_a_plan_that_is_fine_has_no_warnings():
    assert warnings(plan_of("cluster.workers=1", speed=20), SITE) == []


@pytest.mark.parametrize("ranks", [1, 3, 8, 16])
def test_every_rank_is_simulated_and_together_they_are_one(ranks):
    config = on_ranks(config_of("engine.accumulation=2"), ranks)
    found = simulate(demand_of(config), config, range(12))
    assert found.good
    assert (found.ranks, found.samples) == (ranks, 12 * 4 * ranks)
    assert found.load.least <= found.load.mean <= found.load.most
    assert found.hot.busiest >= found.hot.mean
    assert found.load.slowest >= 1


class Stuck(Demand):
    """Deals out the first samples again and again."""

    def of(self, batch_start: int, first: int, count: int) -> list[Asked]:
        return super().of(0, 0, count)


class Uneven(Demand):
    """Leaves one sample out."""

    def of(self, batch_start: int, first: int, count: int) -> list[Asked]:
        return super().of(batch_start, first, count - (first == 4))


def test_broken_promises_are_seen():
    config = config_of()
    stuck = simulate(demand_of(config, kind=Stuck), config, range(3))
    assert (stuck.good, stuck.same_as_one_rank, stuck.no_repeats, stuck.equal_steps) == (False, False, False, True)
    uneven = simulate(demand_of(config, kind=Uneven), config, range(3))
    assert (uneven.good, uneven.equal_steps) == (False, False)


def test_a_hundred_million_captures_on_many_ranks_take_no_memory():
    import tracemalloc

    numbers = Numbers(captures=100_000_000, frames=10, views=80)
    config = on_ranks(config_of("trainer.steps=100000000"), 256)
    tracemalloc.start()
    began = time.perf_counter()
    found = simulate(demand_of(config, numbers), config, [0, 50_000_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.good
    assert found.captures == 10**8
    assert found.samples == 2 * 4 * 256
    assert peak < 100e6
    assert time.perf_counter() - began < 30


@given(st.integers(1, 10**6), st.integers(1, 4))
def test_first_middle_and_last_steps_are_chosen(steps, each):
    chosen = chosen_steps(steps, each)
    assert {0, steps - 1} <= set(chosen) <= set(range(steps))
    assert len(chosen) <= 3 * each


def test_ranks_keep_their_share_of_the_batch():
    config = on_ranks(config_of(), 1024)
    assert (config.data.batch_size, config.cluster.workers) == (4096, 1024)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.mixture=[{url: x}]", r"data\.mixture: a described dataset cannot stand in for several"),
        ("data.subjects=3", r"data\.subjects: a described dataset has no names"),
        ("data.target_views=20", r"needs 24 cameras .*it has 16"),
    ],
)
def test_what_numbers_cannot_describe_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        demand_of(config_of(change))


def test_a_dataset_that_does_not_exist_can_be_described(tmp_path):
    with pytest.raises(UserError, match=r"there is no dataset here\n.*described by --captures"):
        open_holdings(config_of(f"data.train={tmp_path}/none").data)


def test_clouds_have_prices():
    assert all(0 < cloud.million_requests < 1 > cloud.gigabyte_out > 0 for cloud in CLOUDS.values())


def test_the_picture_shows_the_same_sequence_on_two_and_four_ranks():
    picture = np.asarray(draw_order(seed=3)).astype(int)
    empty = np.array([240, 242, 246])
    colored = (np.abs(picture - empty).sum(axis=2) > 30) & (picture.sum(axis=2) < 700)
    two, four = (colored[134:990, left : left + 528] for left in (92, 692))
    assert two.any()
    assert np.array_equal(two, four)
    assert not np.array_equal(picture[134:990, 92:620], picture[134:990, 692:1220])
