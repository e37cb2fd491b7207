"""The disk cache: right bytes or none, one limit for all processes, nothing lost when it is damaged or full."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from configs import UserError
from configs.schema import DataConfig
from data import Dataset, open_stream
from data.store import Range
from data.store.disk import DiskCache

URL = "s3://bucket/heads"


def part_of(place: int, size: int = 10_000, path: str = "shards/000000.tar") -> tuple[Range, bytes]:
    data = bytes([place % 251 + 1]) * size
    return Range(path, 512 + place * (size + 512), size, zlib.crc32(data), f"m{place}"), data


@pytest.fixture
def cache(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "cache", URL, 10**7)


def test_what_was_put_is_there_for_everybody(cache, tmp_path):
    part, data = part_of(3)
    assert cache.get(part) is None
    cache.put(part, data)
    assert cache.get(part) == data
    assert cache.get(part_of(2)[0]) is None
    assert DiskCache(tmp_path / "cache", URL, 10**7).get(part) == data
    assert DiskCache(tmp_path / "cache", "s3://other/heads", 10**7).get(part) is None


def test_damage_is_noticed_and_mended(cache, tmp_path):
    part, data = part_of(0)
    cache.put(part, data)
    twin = next(path for path in (tmp_path / "cache").rglob("*.tar"))
    with twin.open("r+b") as file:
        file.seek(part.offset + 5)
        file.write(b"\0")
    assert cache.get(part) is None
    cache.put(part, data)
    assert cache.get(part) == data
    os.truncate(twin, part.offset + 100)
    assert cache.get(part) is None


def test_a_rewritten_shard_is_not_served_from_what_was_there(cache):
    part, data = part_of(0)
    cache.put(part, data)
    newer = Range(part.path, part.offset, part.length, zlib.crc32(b"\7" * part.length), part.member)
    assert cache.get(newer) is None


def test_the_limit_holds_and_what_is_there_stays(tmp_path):
    cache = DiskCache(tmp_path, URL, 10**6)
    for place in range(300):
        cache.put(*part_of(place))
    assert cache.used() <= 10**6
    kept = [place for place in range(300) if cache.get(part_of(place)[0])]
    assert len(kept) >= 50
    assert kept == list(range(len(kept)))


def test_threads_and_processes_share_the_limit(tmp_path):
    code = (
        "import sys; from tests.data.test_disk import *\n"
        "cache = DiskCache(sys.argv[1], URL, 2 * 10**6); first = int(sys.argv[2])\n"
        "[cache.put(*part_of(place)) for place in range(first, first + 150)]\n"
        "found = {place: cache.get(part_of(place)[0]) for place in range(600)}\n"
        "bad = [place for place, data in found.items() if data not in (None, part_of(place)[1])]\n"
        "cache.close(); sys.exit(len(bad))"
    )
    root = Path(__file__).parents[2]
    others = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(first)], cwd=root) for first in (0, 150)]
    cache = DiskCache(tmp_path, URL, 2 * 10**6)

    def fill(first: int) -> None:
        for place in range(first, first + 75):
            cache.put(*part_of(place))

    threads = [threading.Thread(target=fill, args=(first,)) for first in (300, 375)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    assert 10**6 <= cache.used() <= 2 * 10**6


def test_a_new_dataset_makes_room_by_dropping_the_oldest(tmp_path):
    for number, url in enumerate(("s3://a", "s3://b")):
        old = DiskCache(tmp_path, url, 10**6)
        for place in range(60):
            old.put(*part_of(place))
        os.utime(old._home, (number, number))
        old.close()
    new = DiskCache(tmp_path, "s3://c", 10**6)
    new.put(*part_of(1))
    assert new.get(part_of(1)[0])
    assert DiskCache(tmp_path, "s3://a", 10**6).get(part_of(1)[0]) is None
    assert DiskCache(tmp_path, "s3://b", 10**6).get(part_of(1)[0])


def test_a_folder_that_cannot_be_written_costs_speed_only(tmp_path):
    cache = DiskCache(tmp_path, URL, 10**7)
    part, data = part_of(0)
    twin = cache._home / part.path
    twin.parent.parent.mkdir(parents=True, exist_ok=True)
    twin.parent.write_text("a file where a folder should be")
    cache.put(part, data)
    assert cache.get(part) is None


def test_what_others_keep_in_the_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.tex").write_bytes(bytes(10**6))
    (tmp_path / "headway-cache" / "mine").mkdir(parents=True)
    (tmp_path / "headway-cache" / "mine" / "notes").write_bytes(bytes(10**6))
    cache = DiskCache(tmp_path, URL, 10**5)
    cache.put(*part_of(0))
    cache.close()
    assert (tmp_path / "thesis" / "final.tex").is_file()
    assert (tmp_path / "headway-cache" / "mine" / "notes").is_file()


def test_a_folder_that_is_none_is_one_message(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"data\.store\.cache_dir: .*file: cannot be used"):
        DiskCache(tmp_path / "file", URL, 10**6)


@pytest.mark.parametrize("damage", [b"", b"not a number", b"9" * 30])
def test_a_damaged_count_costs_speed_only(tmp_path, damage):
    cache = DiskCache(tmp_path, URL, 10**6)
    (tmp_path / "headway-cache" / "reserved").write_bytes(damage)
    part, data = part_of(0)
    cache.put(part, data)
    assert cache.get(part) in (None, data)
    cache.close()
    again = DiskCache(tmp_path, URL, 10**6)
    again.put(part, data)
    assert again.get(part) == data


def test_the_second_epoch_asks_the_store_for_nothing(make_dataset, tmp_path):
    url = make_dataset(6, url="memory://cached").url
    store = {"cache_dir": str(tmp_path / "cache")}
    config = DataConfig.model_validate(
        {"train": url, "batch_size": 6, "image_size": (24, 20), "source_views": 3, "target_views": 3}
        | {"cache_mb": 0, "prefetch": 0, "store": store}
    )
    pixels = []
    for _ in range(2):
        with Dataset.open(url, settings=config.store) as dataset:
            with open_stream([dataset], config, seed=0, rank=0, world_size=1) as stream:
                pixels.append(next(stream).views.images)
            asked, kept = dataset.traffic.bytes_asked, dataset.traffic.from_cache
    assert asked == 0
    assert kept > 0
    assert (pixels[0] == pixels[1]).all()
