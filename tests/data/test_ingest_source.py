"""What importers read: in place, in parts, bounded, and named where it fails; zips from strangers."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data.ingest.archive import Zip, open_zip
from data.ingest.source import BLOCK, Source, _Ranged
from data.store import StoreError

FILES = {"a.txt": b"abc", "one/b.bin": bytes(range(256)) * 1000, "one/two/c.txt": b"", "z.txt": b"z" * 10}


@pytest.fixture(params=["file", "memory", "s3"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """The same files on disk, in memory and in S3."""
    if request.param == "file":
        url = str(tmp_path / "set")
    else:
        url = f"{request.getfixturevalue('bucket')}/set" if request.param == "s3" else "memory://set"
    for path, data in FILES.items():
        if request.param == "file":
            target = Path(url, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        else:
            fsspec.filesystem(request.param, skip_instance_cache=True).pipe(f"{url.partition('://')[2]}/{path}", data)
    yield Source(url)
    fsspec.filesystem("memory").store.clear()


def test_the_same_wherever_it_lies(source):
    assert [(entry.path, entry.size) for entry in source.files()] == [(p, len(d)) for p, d in sorted(FILES.items())]
    folders, entries = source.list()
    assert (folders, [entry.path for entry in entries]) == (["one"], ["a.txt", "z.txt"])
    assert [entry.path for entry in source.list("one")[1]] == ["one/b.bin"]
    assert [entry.path for entry in source.files("one")] == ["one/b.bin", "one/two/c.txt"]
    assert (source.is_file("a.txt"), source.is_file("one"), source.is_file("b")) == (True, False, False)
    assert source.entry("one/b.bin").size == 256000
    assert source.entry("one/b.bin").version
    for path, data in FILES.items():
        assert source.read(path) == data
        with source.open(path) as file:
            assert file.read() == data
        with source.local(path) as copy:
            assert copy.read_bytes() == data
    assert source.local_root is not None or not copy.exists()
    source.close()


def test_what_is_not_there_or_too_large_is_named(source):
    for call in (source.read, source.open, source.entry, lambda path: source.local(path).__enter__()):
        with pytest.raises(UserError, match=r"set/none\.txt: there is no such file"):
            call("none.txt")
    for call in (source.list, source.files):
        with pytest.raises(UserError, match=r"set/none: there is no such folder"):
            call("none")
    with pytest.raises(UserError, match=r"a\.txt: is larger than 2 bytes"):
        source.read("a.txt", limit=2)
    source.close()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "one/../../x", "a\\b", "a\0b", ".."])
def test_a_path_that_leaves_is_refused(tmp_path, path):
    source = Source(tmp_path)
    for call in (source.read, source.open, source.list, source.is_file):
        with pytest.raises(UserError, match="leads out of the folder"):
            call(path)


def test_a_source_travels_as_its_url(source):
    source.read("a.txt")
    assert pickle.loads(pickle.dumps(source)).read("a.txt") == b"abc"
    assert pickle.dumps(source) == pickle.dumps(Source(source.url))
    source.close()


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://key:secret@bucket/x", "pipe:cat", "", "file::zip://x"])
def test_odd_urls_are_refused_without_their_secrets(url):
    with pytest.raises(UserError) as caught:
        Source(url)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_gone_is_a_failing_store(monkeypatch, bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    source = Source(f"{bucket}/set")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="cannot be read"):
        source.read("a.txt")


@given(st.integers(0, 300), st.lists(st.tuples(st.integers(0, 310), st.integers(0, 120)), max_size=8))
def test_ranged_reads_are_those_of_a_file(size, reads):
    data = np.random.default_rng(size).bytes(size)
    asked = []

    def fetch(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return data[start:stop]

    import data.ingest.source as module

    before, module.BLOCK = module.BLOCK, 16
    try:
        file, true = _Ranged(fetch, size), io.BytesIO(data)
        for offset, length in reads:
            assert file.seek(offset) == true.seek(offset)
            assert file.read(length) == true.read(length)
            assert file.tell() == true.tell()
    finally:
        module.BLOCK = before
    assert all(0 <= start < stop <= size for start, stop in asked)


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_zip_in_s3_is_read_in_parts(bucket):
    members = {f"cam/{number:06d}.bin": np.random.default_rng(number).bytes(200_000) for number in range(40)}
    s3 = fsspec.filesystem("s3", skip_instance_cache=True)
    s3.pipe(f"{bucket}/set/images.zip", make_zip(members))
    source, asked = Source(f"{bucket}/set"), []
    with open_zip(source, "images.zip") as archive:
        assert archive.names == list(members)
        fetch = archive._zip.fp._fetch

        def counted(start: int, stop: int) -> bytes:
            asked.append(stop - start)
            return fetch(start, stop)

        archive._zip.fp._fetch = counted
        for name in ("cam/000031.bin", "cam/000002.bin"):
            assert archive.read(name) == members[name]
    assert sum(asked) < 2 * (200_000 + 3 * BLOCK)
    source.close()


def renamed(data: bytes, old: str, new: str) -> bytes:
    assert len(old) == len(new)
    return data.replace(old.encode(), new.encode())


GOOD = make_zip({"cam/000001.png": b"x" * 5000, "cam/000002.png": b"y" * 3000})
BAD_ZIPS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no zip, or cut off"),
    "no zip": (b"hello" * 100, "no zip, or cut off"),
    "cut off": (GOOD[:-300], "no zip, or cut off"),
    "a name that climbs": (renamed(GOOD, "cam/000001.png", "../../etc/pass"), "leads out of the folder"),
    "an absolute name": (renamed(GOOD, "cam/000001.png", "/etc/passwd123"), "leads out of the folder"),
    "a backslash": (renamed(GOOD, "cam/000001.png", "..\\..\\passwd12"), "leads out of the folder"),
    "a drive": (renamed(GOOD, "cam/000001.png", "C:/000001.png1"), "leads out of the folder"),
    "a NUL": (renamed(GOOD, "cam/000001.png", "cam/000\x0001.png"), "leads out of the folder"),
    "a name twice": (renamed(GOOD, "cam/000002.png", "cam/000001.png"), "comes twice"),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_a_bad_zip_is_one_message(tmp_path, case):
    data, message = BAD_ZIPS[case]
    (tmp_path / "images.zip").write_bytes(data)
    with pytest.raises(UserError, match=rf"images\.zip: .*{message}"), open_zip(Source(tmp_path), "images.zip"):
        pass


def test_bad_members_are_named():
    flipped = bytearray(GOOD)
    flipped[100] ^= 1
    with pytest.raises(UserError, match=r"x\.zip, member cam/000001\.png: is broken"):
        Zip(io.BytesIO(bytes(flipped)), "x.zip").read("cam/000001.png")
    with pytest.raises(UserError, match=r"member none\.png: is not there"):
        Zip(io.BytesIO(GOOD), "x.zip").read("none.png")
    with pytest.raises(UserError, match="of 5000 bytes is larger than 100"):
        Zip(io.BytesIO(GOOD), "x.zip").read("cam/000001.png", limit=100)
    encrypted = bytearray(GOOD)
    at = encrypted.index(b"PK\x01\x02")
    encrypted[at + 8] |= 1
    with pytest.raises(UserError, match="is encrypted"):
        Zip(io.BytesIO(bytes(encrypted)), "x.zip").read("cam/000001.png")


def test_a_bomb_is_not_unpacked():
    bomb = make_zip({"bomb": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    # The header lies about the size.
    at = bomb.index(b"PK\x01\x02")
    lying = bomb[: at + 24] + struct.pack("<I", 1000) + bomb[at + 28 :]
    with pytest.raises(UserError):
        Zip(io.BytesIO(lying), "x.zip").read("bomb", limit=2000)
