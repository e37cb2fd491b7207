"""The order's contract with real ranks: processes that never speak, are killed, and come back as more or fewer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from data import Dataset
from data.manifest import commit
from data.shards import write_shard
from tests.data.faulty import Faults
from tests.data.ranks import Host, Seen, alive, global_batches, hosts, run, start, wait_for

BATCH = 12  # shared evenly by 1, 2, 3 and 4 ranks


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[list[Host]]:
    with hosts(2) as some:
        yield some


@pytest.fixture(scope="module")
def urls(tmp_path_factory, make_capture) -> dict[int, str]:
    """Datasets of 7 and of 25 captures."""
    found = {}
    for count in (7, 25):
        url = found[count] = str(tmp_path_factory.mktemp("ranks") / f"of{count}")
        for shard, first in enumerate(range(0, count, 4)):
            write_shard(url, shard, (make_capture(number) for number in range(first, min(first + 4, count))))
        commit(url)
    return found


@pytest.fixture
def out(tmp_path: Path) -> Callable[[], Path]:
    numbers = itertools.count()
    return lambda: tmp_path / f"run{next(numbers)}"


def job_of(url: str, steps: int, **changes: Any) -> dict[str, Any]:
    fields = {"train": url, "batch_size": BATCH, "image_size": (24, 20), "source_views": (1, 3), "target_views": 2}
    return {"steps": steps, "config": {**fields, **changes}}


def flat(batches: list[list[Seen]]) -> list[Seen]:
    return [seen for batch in batches for seen in batch]


def assert_whole_epochs(batches: list[list[Seen]], size: int) -> None:
    """Position after position, and in every whole epoch each capture once."""
    sequence = flat(batches)
    assert [seen.position for seen in sequence] == list(range(len(sequence)))
    for first in range(0, len(sequence) - size + 1, size):
        names = [seen.name for seen in sequence[first : first + size]]
        assert len(set(names)) == size


@pytest.mark.parametrize("size", [7, 25])
def test_any_number_of_ranks_sees_the_same_global_batches(size, two_hosts, urls, out):
    job = job_of(urls[size], 9)
    alone = run(two_hosts, out(), 1, **job)
    assert_whole_epochs(alone, size)
    assert len(flat(alone)) == 9 * BATCH
    for world, accumulation in ((2, 1), (3, 2), (4, 1), (1, 3)):
        assert run(two_hosts, out(), world, accumulation=accumulation, **job) == alone, (world, accumulation)
    slower = job_of(urls[size], 9, readers=3, prefetch=0, cache_mb=0)
    assert run(two_hosts, out(), 2, **slower) == alone
    assert run(two_hosts, out(), 2, **job, seed=1) != alone


def test_a_mixture_is_the_same_for_any_number_of_ranks(two_hosts, urls, out):
    job = job_of(urls[7], 6, mixture=[{"url": urls[25], "weight": 2.0, "subjects": 11}], other_frame=0.5)
    alone = run(two_hosts, out(), 1, **job)
    for world, accumulation in ((4, 1), (3, 2)):
        assert run(two_hosts, out(), world, accumulation=accumulation, **job) == alone


def test_ranks_of_a_group_keep_step(two_hosts, urls, out):
    job = job_of(urls[25], 6)
    assert run(two_hosts, out(), 3, **job, gloo=True) == run(two_hosts, out(), 1, **job)


def test_loader_processes_change_nothing_for_a_rank(two_hosts, urls, out):
    whole = run(two_hosts, out(), 2, **job_of(urls[7], 4))
    assert run(two_hosts, out(), 2, **job_of(urls[7], 4, loaders=1)) == whole


@pytest.mark.parametrize(("worlds", "kills"), [((3, 4, 2), (7, 5)), ((1, 6, 3), (4, 9))])
def test_a_killed_rank_and_another_world_size_lose_and_repeat_nothing(worlds, kills, two_hosts, urls, out):
    steps = 40
    undisturbed = run(two_hosts, out(), 1, **job_of(urls[25], steps))
    assert_whole_epochs(undisturbed, 25)
    done: list[list[Seen]] = []
    for world, kill in zip(worlds[:-1], kills, strict=True):
        job = job_of(urls[25], steps - len(done))
        ranks = start(two_hosts, out(), world, **job, start=BATCH * len(done), pause=0.02)
        wait_for(lambda ranks=ranks, kill=kill: len(global_batches(ranks)) >= kill, "the step of the kill")
        ranks[-1].kill()
        assert ranks[-1].outcome() is None, "it ended before the kill"
        for rank in ranks:  # as whoever restarts a job ends what is left of it
            rank.kill()
        made = global_batches(ranks)
        assert kill <= len(made) < len(undisturbed) - len(done)
        done += made
    done += run(two_hosts, out(), worlds[-1], **job_of(urls[25], steps - len(done)), start=BATCH * len(done))
    assert done == undisturbed


def test_ranks_that_never_speak_replace_a_bad_member_alike(two_hosts, out, tmp_path, make_capture):
    url = str(tmp_path / "damaged")
    for shard in range(5):
        write_shard(url, shard, (make_capture(number) for number in range(5 * shard, 5 * shard + 5)))
    commit(url)
    job = job_of(url, 10, bad_share=1.0)
    clean = flat(run(two_hosts, out(), 1, **job))
    bad = {damage(url, row, view) for row, view in ((3, 0), (3, 4), (11, 2), (17, 5), (24, 1))}
    alone = run(two_hosts, out(), 1, **job)
    changed = [one.name for one, two in zip(clean, flat(alone), strict=True) if one != two]
    assert set(changed) == {f"person{row:03d}_0" for row in (3, 11, 17, 24)}
    for world, accumulation in ((2, 2), (4, 1)):
        assert run(two_hosts, out(), world, accumulation=accumulation, **job) == alone
    ranks = start(two_hosts, out(), 3, **job)
    found = [set(rank.wait()["bad"]) for rank in ranks]
    assert all(any(name in met for name in bad) for met in set.union(*found))
    assert any(one != found[0] for one in found), "no rank met what another did not: the test shows nothing"
    assert global_batches(ranks) == alone


def damage(url: str, row: int, view: int) -> str:
    """Flip a bit of an image; its name."""
    with Dataset.open(url) as dataset:
        part = dataset.members(row, [view])[0].image
    shard = Path(url) / part.path
    data = bytearray(shard.read_bytes())
    data[part.offset + part.length // 2] ^= 4
    shard.write_bytes(data)
    return part.where


def test_ranks_read_the_same_from_a_faulty_store(two_hosts, proxied, s3_server, out, tmp_path):
    url, proxy = proxied
    env = {**s3_server, "AWS_ENDPOINT_URL": proxy.url}
    alone = run(two_hosts, out(), 1, **job_of(url, 8, store={"in_flight": 8}), env=env)
    job = job_of(url, 8, cache_mb=0, store={"in_flight": 8, "timeout": 2.0, "cache_dir": str(tmp_path / "cache")})
    proxy.faults = Faults(error_503=0.06, truncated=0.06, stalled=0.01, stall_seconds=3)
    assert run(two_hosts, out(), 2, **job, env=env) == alone
    assert all(getattr(proxy.counts, fault) > 0 for fault in ("error_503", "truncated"))
    asked = proxy.counts.requests
    assert run(two_hosts, out(), 2, **job, env=env) == alone
    assert proxy.counts.requests - asked < asked / 2, "the cache that both ranks filled was of no use"
    assert_whole_epochs(alone, 24)


def test_a_wrong_byte_on_its_way_does_not_keep_a_dataset_from_opening(proxied):
    url, proxy = proxied
    proxy.faults = Faults(flipped=0.1)
    for _ in range(24):
        with Dataset.open(url) as dataset:
            assert len(dataset) == 24
    assert proxy.counts.flipped > 0


@pytest.mark.slow
def test_a_killed_rank_leaves_no_loader_process(two_hosts, urls, out):
    (rank,) = start(two_hosts, out(), 1, **job_of(urls[7], 10_000, loaders=2), pause=0.01)
    wait_for(lambda: len(rank.micro_batches()) >= 3, "the first steps")
    loaders = [child.pid for child in psutil.Process(rank.pid).children(recursive=True)]
    assert len(loaders) >= 2
    rank.kill()
    wait_for(lambda: not any(alive(pid) for pid in loaders), "the end of the loaders", seconds=30)
