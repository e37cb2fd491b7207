"""Reads are verified, coalesced and patient; writes are whole; URLs hold no secrets and no commands."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data.store import BadMember, Range, Span, Store, StoreError, coalesce
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


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 5000)), max_size=40), st.integers(0, 10**5))
def test_spans_cover_every_range_and_little_else(places, gap):
    wanted = [Range(f"{start % 3}.tar", start, length, 0, "") for start, length in places]
    spans = coalesce(wanted, gap)
    assert sorted(index for span in spans for index in span.ranges) == list(range(len(wanted)))
    for span in spans:
        inside = [wanted[index] for index in span.ranges]
        assert {r.path for r in inside} == {span.path}
        assert span.start == min(r.offset for r in inside)
        assert span.stop == max(r.offset + r.length for r in inside)
        assert span.stop - span.start <= sum(r.length for r in inside) + gap * (len(inside) - 1)
    for one, two in itertools.pairwise(spans):
        assert one.path != two.path or two.start - one.stop > gap


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
    with pytest.raises(StoreError, match=r"nowhere\.tar, member m0"):
        store.read_ranges(ranges_of([(0, 10)], "nowhere.tar"))


class Coughing(Store):
    """A store whose first answers are wrong: an error, half a body, a flipped byte."""

    def __init__(self, url: str, deadline: float = 60.0) -> None:
        super().__init__(url, deadline)
        self.coughs: list[str] = []
        self.asked: list[Span] = []

    def _fetch(self, spans: Sequence[Span]) -> list[bytes | Exception]:
        self.asked += spans
        answers = super()._fetch(spans)
        if self.coughs:
            answers[0] = self.spoil(self.coughs.pop(0), answers[0])
        return answers

    def spoil(self, how: str, answer: bytes | Exception) -> bytes | Exception:
        assert isinstance(answer, bytes)
        return {"503": OSError("503 slow down"), "half": answer[: len(answer) // 2], "flip": b"x" + answer[1:]}[how]


def test_a_coughing_store_is_asked_again_for_what_is_missing_only(tmp_path):
    store = Coughing(str(tmp_path))
    store.write("a.tar", CONTENT)
    store.coughs = ["503", "flip", "503", "half"]
    wanted = ranges_of([(100, 50), (10_000, 20)])
    assert store.read_ranges(wanted) == [CONTENT[100:150], CONTENT[10_000:10_020]]
    assert [span.start for span in store.asked] == [100, 10_000, 100, 100, 100, 100]


def test_a_dead_store_is_given_up_at_the_deadline(tmp_path):
    store = Coughing(str(tmp_path), deadline=0.3)
    store.write("a.tar", CONTENT)
    store.coughs = ["503"] * 1000
    with pytest.raises(StoreError, match=r"did not answer in \d+ attempts; last: OSError: 503"):
        store.read_ranges(ranges_of([(0, 10)]))
    assert len(store.asked) < 10


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
