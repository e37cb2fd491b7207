"""Reads are verified, coalesced and patient; writes are whole; URLs hold no secrets and no commands."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from configs.store import StoreConfig
from data.store import BadMember, Buffer, Cost, Range, Store, StoreError, coalesce, probe, reader
from data.store.latency import HedgePolicy, Latency
from data.store.transport import Transport, open_transport
from data.urls import check_url

CONTENT = bytes(range(256)) * 64


def ranges_of(places: Sequence[tuple[int, int]], path: str = "a.tar") -> list[Range]:
    return [Range(path, start, n, zlib.crc32(CONTENT[start : start + n]), f"m{start}") for start, n in places]


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path) -> Store:
    found = Store(str(tmp_path / "s") if request.param == "file" else f"memory://{tmp_path.name}")
    found.write("a.tar", CONTENT)
    return found


def test_what_is_written_is_read(store):
    assert store.read("a.tar") == CONTENT
    assert store.size("a.tar") == len(CONTENT)
    assert store.size("b.tar") is None
    store.write("sub/b.json", b"{}")
    assert store.names("sub") == ["b.json"]
    assert store.names("nowhere") == []
    with pytest.raises(FileNotFoundError):
        store.read("none.json")


def test_ranges_come_in_the_order_asked(store):
    wanted = ranges_of([(9000, 10), (0, 5), (16000, 300), (9010, 1)])
    assert store.read_ranges(wanted) == [CONTENT[r.offset : r.offset + r.length] for r in wanted]
    assert store.read_ranges([]) == []


@st.composite
def costs(draw) -> Cost:
    return Cost(draw(st.floats(0, 0.1)), draw(st.floats(0, 1e-6)))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 5000)), max_size=40), costs())
def test_spans_cover_every_range(places, cost):
    wanted = [Range(f"{start % 3}.tar", start, length, 0, "") for start, length in places]
    spans = coalesce(wanted, cost)
    assert sorted(index for span in spans for index in span.ranges) == list(range(len(wanted)))
    for span in spans:
        inside = [wanted[index] for index in span.ranges]
        assert {r.path for r in inside} == {span.path}
        assert span.start == min(r.offset for r in inside)
        assert span.stop == max(r.offset + r.length for r in inside)


def members(size: int, chosen: Sequence[int]) -> list[Range]:
    """Images of `size` bytes, one behind the other with their headers."""
    return [Range("a.tar", 512 + view * (size + 512), size, 0, f"m{view}") for view in chosen]


@given(st.sets(st.integers(0, 30), min_size=1, max_size=12), costs())
def test_no_other_gap_is_cheaper(views, cost):
    wanted = members(50_000, sorted(views))
    bill = lambda spans: cost.of(len(spans), sum(span.stop - span.start for span in spans))  # noqa: E731
    best = bill(coalesce(wanted, cost))
    by_one = coalesce(wanted, Cost(0.0, 1.0))
    whole = coalesce(wanted, Cost(1.0, 0.0))
    assert best <= min(bill(by_one), bill(whole)) * 1.0001 + 1e-12


def test_a_link_that_is_narrow_is_asked_for_what_is_needed_only():
    wanted = members(54_000, [0, 2, 3, 5, 8, 9, 12, 15])
    spans = coalesce(wanted, Cost(request=4e-4, byte=1.6e-8))
    assert sum(span.stop - span.start for span in spans) <= 1.01 * 8 * 54_000
    assert len(spans) == 6


def test_a_far_store_is_asked_for_few_large_pieces():
    assert len(coalesce(members(54_000, range(0, 16, 2)), Cost(request=5e-3, byte=1e-9))) == 1
    huge = [Range("a.tar", start * 10**6, 10**6, 0, "") for start in range(40)]
    assert all(span.stop - span.start <= 8 * 2**20 for span in coalesce(huge, Cost(1.0, 0.0)))


def test_a_flipped_byte_is_never_handed_over(store):
    bad = bytearray(CONTENT)
    bad[5000] ^= 1
    store.write("a.tar", bytes(bad))
    with pytest.raises(BadMember, match=r"shard a\.tar, member m4990: its checksum is wrong"):
        store.read_ranges(ranges_of([(0, 100), (4990, 20)]))
    assert len(store.read_ranges(ranges_of([(4990, 20)]), verify=False)[0]) == 20
    assert store.read_ranges(ranges_of([(0, 100)])) == [CONTENT[:100]]


def test_a_shard_cut_short_is_a_bad_member(store):
    store.write("a.tar", CONTENT[:100])
    with pytest.raises(BadMember, match="only 50 of 100 bytes"):
        store.read_ranges(ranges_of([(50, 100)]))


def test_a_missing_shard_is_named_at_once(store):
    with pytest.raises(StoreError, match=r"nowhere\.tar"):
        store.read_ranges(ranges_of([(0, 10)], "nowhere.tar"))


class Coughing:
    """A transport whose first answers are wrong: an error, half a body, a flipped byte, none at all."""

    def __init__(self, inner: Transport, coughs: list[str]) -> None:
        self.inner, self.coughs, self.down_until = inner, coughs, 0.0
        self.asked: list[tuple[int, int]] = []
        self.never: set[int] = set()

    async def get(self, path: str, start: int, stop: int) -> Buffer:
        self.asked.append((start, stop))
        if time.monotonic() < self.down_until:
            raise ConnectionRefusedError("nobody listens")
        if start in self.never:
            raise OSError("503 slow down")
        answer = bytes(await self.inner.get(path, start, stop))
        how = self.coughs.pop(0) if self.coughs else ""
        if how == "503":
            raise OSError("503 slow down")
        if how == "stall":
            await asyncio.sleep(30)
        return {"half": answer[: len(answer) // 2], "flip": b"x" + answer[1:]}.get(how, answer)

    async def close(self) -> None:
        await self.inner.close()


@pytest.fixture
def coughing(tmp_path, monkeypatch) -> Iterator[Callable[..., tuple[Store, Coughing]]]:
    opened: list[Store] = []

    def make(coughs: list[str], **settings: float) -> tuple[Store, Coughing]:
        made: list[Coughing] = []

        def open_coughing(*place: Any) -> Coughing:
            made.append(Coughing(open_transport(*place), []))
            return made[0]

        monkeypatch.setattr(reader, "open_transport", open_coughing)
        store = Store(f"memory://{tmp_path.name}", StoreConfig.model_validate(settings), tell=told.append)
        store.write("a.tar", CONTENT)
        store.read("a.tar")
        made[0].coughs = coughs
        made[0].asked.clear()
        opened.append(store)
        return store, made[0]

    told: list[str] = []
    make.told = told  # type: ignore[attr-defined]
    yield make
    for store in opened:
        store.close()


def test_a_coughing_store_is_asked_again_for_what_is_missing_only(coughing):
    store, transport = coughing(["503", "flip", "503", "half"])
    wanted = ranges_of([(100, 50), (10_000, 20)])
    assert store.read_ranges(wanted) == [CONTENT[100:150], CONTENT[10_000:10_020]]
    assert transport.asked == [(100, 10_020)] * 2 + [(100, 150)] * 3
    assert store.traffic.failures == 2


def test_what_never_comes_is_given_up_at_the_deadline(coughing):
    store, transport = coughing([], deadline=0.3)
    transport.never = {0}
    waiting = store.fetch(ranges_of([(0, 10)]))
    while not waiting.done():  # the store serves everybody else
        store.read_ranges(ranges_of([(500, 10)]))
        time.sleep(0.02)
    with pytest.raises(StoreError, match=r"a\.tar: the store did not answer in \d+ attempts; last: OSError: 503"):
        waiting.result()
    assert transport.asked.count((0, 10)) < 10


def test_a_store_that_answers_nobody_is_down_however_few_ask(coughing):
    store, transport = coughing([], deadline=0.3, patience=60)
    transport.down_until = time.monotonic() + 2
    assert store.read_ranges(ranges_of([(0, 10)])) == [CONTENT[:10]]
    assert "answers again" in coughing.told[-1]


def test_what_never_comes_is_given_up_though_nobody_else_asks(coughing):
    store, transport = coughing([], deadline=4, patience=60)
    transport.never = {5000}
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"a\.tar: the store did not answer in \d+ attempts; last: OSError: 503"):
        store.read_ranges(ranges_of([(5000, 10)]))
    assert time.monotonic() - began < 20
    assert not coughing.told


def test_a_read_that_began_before_an_outage_outlives_it(coughing):
    store, transport = coughing(["503"], deadline=0.5, patience=60)
    early = store.fetch(ranges_of([(0, 10)]))
    while store.traffic.failures < 1:
        time.sleep(0.001)
    store.read_ranges(ranges_of([(500, 10)]))  # others are served after it began
    transport.down_until = time.monotonic() + 3
    assert early.result() == [CONTENT[:10]]


def test_a_long_silence_before_an_outage_does_not_count_as_outage(coughing):
    store, transport = coughing([], deadline=2, patience=6)
    time.sleep(6.5)  # nobody asked for anything
    transport.down_until = time.monotonic() + 3
    wanted = [store.fetch(ranges_of([(start, 10)])) for start in range(0, 12_000, 600)]
    assert all(one.result() for one in wanted)


def test_files_larger_than_a_request_come_whole_and_bounded(coughing, monkeypatch):
    monkeypatch.setattr(reader, "LARGEST", 1000)
    store, transport = coughing(["503", "", "503"])
    assert store.read("a.tar") == CONTENT
    assert len(transport.asked) == 17 + 2
    with pytest.raises(StoreError, match="is larger than 5000 bytes"):
        store.read("a.tar", limit=5000)


def test_a_store_that_is_down_is_waited_for_and_told_about(coughing):
    store, transport = coughing([], deadline=10, patience=60)
    transport.down_until = time.monotonic() + 5
    wanted = [store.fetch(ranges_of([(start, 10)])) for start in range(0, 12_000, 600)]
    assert [bytes(one.result()[0]) for one in wanted] == [CONTENT[s : s + 10] for s in range(0, 12_000, 600)]
    assert "does not answer (ConnectionRefusedError: nobody listens); waiting" in coughing.told[0]
    assert "answers again after" in coughing.told[-1]


def test_patience_with_a_store_that_is_down_ends(coughing):
    store, _ = coughing(["503"] * 10_000, deadline=5, patience=1)
    wanted = [store.fetch(ranges_of([(start, 10)])) for start in range(0, 12_000, 600)]
    with pytest.raises(StoreError, match=r"has not answered for|did not answer"):
        [one.result() for one in wanted]


def test_a_slow_request_is_overtaken_by_a_second_one(coughing):
    store, transport = coughing([""] * 200 + ["stall"], timeout=60)
    for start in range(200):
        store.read_ranges(ranges_of([(start, 10)]))
    began = time.monotonic()
    assert store.read_ranges(ranges_of([(500, 10)])) == [CONTENT[500:510]]
    assert time.monotonic() - began < 10
    assert store.traffic.hedges >= 1
    assert len(transport.asked) == 201 + store.traffic.hedges


def test_a_second_request_that_fails_or_is_stuck_too_is_followed_by_a_third(coughing):
    for number, how in enumerate(("503", "stall")):
        store, transport = coughing([""] * 200 + ["stall", how], timeout=60)
        for start in range(200):
            store.read_ranges(ranges_of([(start, 10)]))
        began = time.monotonic()
        assert store.read_ranges(ranges_of([(500, 10)])) == [CONTENT[500:510]]
        assert time.monotonic() - began < 10
        assert len(transport.asked) == 201 + store.traffic.hedges, number


def test_a_store_is_measured_though_some_answers_fail_or_never_come(monkeypatch):
    monkeypatch.setattr(probe, "_PATIENCE", 20.0)  # a loaded machine needs longer than its 2 s

    class Shaky:
        asked = 0

        async def get(self, path: str, start: int, stop: int) -> bytes:
            self.asked += 1
            if self.asked % 33 == 0:
                await asyncio.sleep(30)
            if self.asked % 31 == 0:
                raise OSError("503 slow down")
            await asyncio.sleep(0.01 + (stop - start) * 1e-7)
            return bytes(stop - start)

        async def close(self) -> None: ...

    began = time.monotonic()
    cost = asyncio.run(probe.measure(Shaky(), Range("a.tar", 0, 10, 0, ""), 48))
    assert time.monotonic() - began < 20  # no call waits for the one that never answers
    assert cost is not None
    assert 0 < cost.request < 0.2
    assert 1e-9 < cost.byte < 1e-5


def test_second_requests_are_a_small_share(coughing):
    policy = HedgePolicy(Latency())
    spent = 0
    for _ in range(2000):
        policy.begin()
        spent += policy.spend()
    assert 100 <= spent <= 0.05 * 2000 + 16


def test_without_hedges_a_stalled_request_is_repeated_after_its_timeout(coughing):
    store, transport = coughing(["stall"], hedge=False, timeout=0.2)
    assert store.read_ranges(ranges_of([(500, 10)])) == [CONTENT[500:510]]
    assert store.traffic.hedges == 0
    assert transport.asked == [(500, 510)] * 2


def test_closing_ends_what_is_under_way(coughing):
    store, _ = coughing(["stall"] * 50, hedge=False)
    waiting = [store.fetch(ranges_of([(start, 10)])) for start in range(0, 5000, 500)]
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 5
    assert all(one.done() for one in waiting)
    assert threading.active_count() < 20


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    store.write("a.json", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        store.write("a.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert store.read("a.json") == b"old"


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs /dev/full")
def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
    store = Store(str(tmp_path))

    def fill(_: Path, data: bytes) -> None:
        with open("/dev/full", "wb", buffering=0) as disk:
            disk.write(data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(StoreError, match="cannot write: No space left on device"):
        store.write("a.json", b"new")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "a//b", "a;b", "", "a\nb", "s3://x"])
def test_paths_stay_in_their_folder(store, path):
    for call in (store.read, store.size, store.names, lambda p: store.write(p, b"")):
        with pytest.raises(UserError, match="leaves its folder"):
            call(path)


@pytest.mark.parametrize("url", ["pipe:cat x", "http://host/x", "simplecache::s3://b", "", "ftp://x"])
def test_urls_that_run_or_fetch_elsewhere_are_refused(url):
    with pytest.raises(UserError):
        Store(url)


def test_credentials_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(UserError, match="credentials do not belong in a URL") as caught:
        Store("s3://AKIA123:topsecret@bucket/data")
    assert "topsecret" not in str(caught.value)


def test_plain_paths_and_file_urls_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_url("data") == check_url(f"file://{tmp_path}/data") == check_url(f"{tmp_path}/x/../data/")


def test_a_store_travels_without_its_client(store):
    store.read("a.tar")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.__dict__.get("_client") is None
    assert copy.url == store.url
    if store.local is not None:
        assert copy.read("a.tar") == CONTENT
