"""Tars that somebody else wrote become a dataset in place; what is no capture is refused by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import UserError
from configs.schema import DataConfig
from data import CaptureStream, Dataset
from data.keep import reindex as module
from data.keep.reindex import reindex
from data.keep.verify import verify
from data.sequential import read_sequential
from data.shards import sample_json
from data.store import Store

Members = dict[str, bytes]
CONFIG = DataConfig(
    image_size=(24, 20),
    source_views=(2, 2),
    source_sampling="fixed",
    source_cameras=("Cam3", "Cam0"),
    target_views=2,
    target_sampling="fixed",
    target_cameras=("Cam1", "Cam5"),
    readers=2,
)


def members_of(capture) -> Members:
    """A capture as webdataset's writers take it."""
    members = {"json": sample_json(capture)}
    for camera, image, mask in zip(capture.cameras, capture.images, capture.masks, strict=True):
        members[f"{camera}.jpg"] = image
        if mask is not None:
            members[f"{camera}.mask.png"] = mask
    return members


def tar_of(*entries: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def entries_of(capture, **changes: bytes | None) -> list[tuple[str, bytes]]:
    members = {**members_of(capture), **changes}
    return [(f"{capture.name}.{suffix}", data) for suffix, data in members.items() if data is not None]


def test_webdataset_s_own_writer(make_dataset, make_capture, tmp_path):
    """Batches of tars by ShardWriter are, pixel for pixel, those of the same captures written by us."""
    (tmp_path / "theirs").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "theirs" / "heads-%04d.tar"), maxcount=2, verbose=0) as writer:
        for number in range(5):
            capture = make_capture(number)
            writer.write({"__key__": capture.name, **members_of(capture)})
    before = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    info = reindex(str(tmp_path / "theirs"), licence="CC-BY-4.0", workers=2)
    assert (info.captures, info.shards, info.views, info.licence) == (5, 3, 30, "CC-BY-4.0")
    assert {name: (tmp_path / "theirs" / name).read_bytes() for name in before} == before
    ours = make_dataset(5)
    with Dataset.open(info.url) as theirs:
        config = CONFIG.model_copy(update={"batch_size": 5})
        batches = []
        for dataset in (theirs, ours):
            with CaptureStream(dataset, config, seed=0, rank=0, world_size=1) as stream:
                batches.append(next(stream).unpack())
        # Another fingerprint, so another order; the cameras are fixed.
        assert sorted(batches[0].names) == sorted(batches[1].names) == sorted(ours.captures)
        for place, name in enumerate(batches[0].names):
            for views in ("source", "target"):
                one = getattr(batches[0], views)[place]
                two = getattr(batches[1], views)[batches[1].names.index(name)]
                assert torch.equal(one.images, two.images)
                assert torch.equal(one.masks, two.masks)
                assert torch.equal(one.cameras.K, two.cameras.K)
                assert torch.equal(one.cameras.world_to_camera, two.cameras.world_to_camera)
        assert [c.name for c in read_sequential(theirs)] == theirs.captures
    assert verify(info.url, pixels=True).findings == []


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("place", ["a.tar", "shards/part-7.tar"])
def test_any_flavour_of_tar(make_capture, tmp_path, format, place):
    capture = make_capture(3, subject="x" * 50, cameras=tuple(f"{'c' * 28}{n}" for n in range(6)))
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    pax = tarfile.TarInfo(f"{capture.name}.json")
    data = sample_json(capture)
    pax.size, pax.pax_headers = len(data), {"comment": "é" * 200, "mtime": "1.5"}
    with tarfile.open(path, "w", format=format) as tar:
        tar.addfile(pax, io.BytesIO(data))
        for name, data in entries_of(capture, json=None):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    reindex(str(tmp_path))
    with Dataset.open(str(tmp_path)) as dataset:
        found = dataset.capture(capture.name)
        assert found.images == capture.images
        assert found.masks == capture.masks
        np.testing.assert_array_equal(found.K, capture.K)
    assert verify(str(tmp_path), pixels=True).findings == []


def test_names_that_webdataset_lowered(make_capture, tmp_path):
    capture = make_capture(1)
    lowered = [(name.lower(), data) for name, data in entries_of(capture)]
    (tmp_path / "x.tar").write_bytes(tar_of(*lowered))
    reindex(str(tmp_path))
    with Dataset.open(str(tmp_path)) as dataset:
        assert dataset.cameras(capture.name) == capture.cameras
        assert dataset.capture(capture.name).images == capture.images
    assert verify(str(tmp_path)).findings == []


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def described(capture, change: Callable[[dict], object]) -> bytes:
    about = json.loads(sample_json(capture))
    change(about)
    return json.dumps(about).encode()


def large_png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    return buffer.getvalue()


BAD: dict[str, tuple[Callable, str]] = {
    "a symbolic link": (
        lambda c: tar_of(*entries_of(c), special(f"{c.name}.x", tarfile.SYMTYPE, "/etc/passwd")),
        r"shard bad\.tar, member person009_0\.x: a symbolic link is refused",
    ),
    "a hard link": (
        lambda c: tar_of(*entries_of(c), special(f"{c.name}.x", tarfile.LNKTYPE, f"{c.name}.json")),
        "a hard link is refused",
    ),
    "a device": (lambda c: tar_of(special("sda", tarfile.BLKTYPE), *entries_of(c)), "a block device is refused"),
    "a pipe": (lambda c: tar_of(special("p", tarfile.FIFOTYPE), *entries_of(c)), "a pipe is refused"),
    "a folder": (lambda c: tar_of(special("d", tarfile.DIRTYPE), *entries_of(c)), "a folder is refused"),
    "a sparse file": (
        lambda c: tar_of(special("s.bin", tarfile.GNUTYPE_SPARSE), format=tarfile.GNU_FORMAT),
        "a sparse file is refused",
    ),
    "a sparse pax file": (
        lambda c: tar_of(sparse_pax(), format=tarfile.PAX_FORMAT),
        "a sparse file is refused",
    ),
    "an unknown type": (lambda c: tar_of(special("u.bin", b"Z")), "a member of unknown type b'Z' is refused"),
    "an absolute name": (lambda c: raw_name(b"/etc/passwd.json"), "leads out of its folder is refused"),
    "a name that climbs": (lambda c: tar_of(("../up.json", b"{}")), "leads out of its folder is refused"),
    "a name in a folder": (lambda c: tar_of((f"a/{c.name}.json", b"{}")), "an odd member is refused"),
    "no suffix": (lambda c: tar_of(("README", b"hello"), *entries_of(c)), "member README: an odd member is refused"),
    "a member twice": (
        lambda c: tar_of(*entries_of(c), entries_of(c)[1]),
        r"member person009_0\.Cam0\.jpg: the member is there twice",
    ),
    "a sample twice": (
        lambda c: tar_of(*entries_of(c), *entries_of(other(c)), *entries_of(c)),
        "sample person009_0: the sample is there twice",
    ),
    "no json": (lambda c: tar_of(*entries_of(c, json=None)), "sample person009_0: the sample has no json"),
    "json that is none": (lambda c: tar_of(*entries_of(c, json=b"{")), "the sample is no capture"),
    "json that is deep": (lambda c: tar_of(*entries_of(c, json=b"[" * 100_000)), "the sample is no capture"),
    "json that is a list": (lambda c: tar_of(*entries_of(c, json=b"[]")), "the sample is no capture"),
    "a number for a subject": (
        lambda c: tar_of(*entries_of(c, json=described(c, lambda a: a.update(subject=9)))),
        "9 is no text",
    ),
    "words for an expression": (
        lambda c: tar_of(*entries_of(c, json=described(c, lambda a: a.update(expression={"jaw": "open"})))),
        "could not convert string to float",
    ),
    "a camera that is missing": (
        lambda c: tar_of(*entries_of(c, **{"Cam3.jpg": None})),
        "camera Cam3: missing camera",
    ),
    "a camera too many": (
        lambda c: tar_of(*entries_of(c, **{"Cam9.jpg": c.images[0]})),
        r"odd members: cam9\.jpg",
    ),
    "a pickle": (lambda c: tar_of(*entries_of(c, **{"evil.pyd": b"cos\n"})), r"odd members: evil\.pyd"),
    "another name than the json's": (
        lambda c: tar_of(*[(name.replace("person009", "someone"), data) for name, data in entries_of(c)]),
        "the sample is called someone_0, its json makes it person009_0",
    ),
    "an image that is none": (
        lambda c: tar_of(*entries_of(c, **{"Cam1.jpg": b"no image"})),
        "camera Cam1: broken image: neither JPEG",
    ),
    "an image of another size": (
        lambda c: tar_of(*entries_of(c, json=described(c, lambda a: a["cameras"][2].update(size=[7, 7])))),
        "camera Cam2: the image is 40 x 48, the camera says 7 x 7",
    ),
    "an image over the limit": (
        lambda c: tar_of(*entries_of(c, **{"Cam1.jpg": large_png()})),
        "camera Cam1: broken image: an image of 9000 x 9000 pixels is over the limit",
    ),
    "an ending that lies": (
        lambda c: tar_of(*entries_of(c, **{"Cam1.jpg": None, "Cam1.png": c.images[1]})),
        r"its ending is not that of its content: cam1\.jpg is meant",
    ),
    "a transform that mirrors": (
        lambda c: tar_of(*entries_of(c, json=described(c, mirror))),
        "camera Cam0: the camera's rotation mirrors",
    ),
    "gzip under a plain name": (lambda c: gzip.compress(tar_of(*entries_of(c))), "is compressed with gzip"),
    "no tar at all": (lambda c: b"hello" * 1000, "not a whole tar: no tar header at byte 0"),
    "an empty file": (lambda c: b"", "not a whole tar: the tar has no end"),
    "an empty tar": (lambda c: tar_of(), "the tar is empty"),
    "cut inside a member": (lambda c: tar_of(*entries_of(c))[:2000], "would end behind the end of the tar|has no end"),
    "without its end": (lambda c: whole_members(c), "not a whole tar: the tar has no end"),
    "bytes behind its end": (lambda c: tar_of(*entries_of(c)) + b"x" * 512, "bytes behind the end of the tar"),
    "two tars in one": (lambda c: 2 * tar_of(*entries_of(c)), "bytes behind the end of the tar"),
    "a size that is a lie": (lambda c: lying_size(c), "would end behind the end of the tar"),
    "a long name that is too long": (lambda c: long_name(), r"a header of 2097152 bytes"),
    "a broken pax header": (lambda c: broken_pax(), "a broken pax header"),
}


def other(capture):
    import dataclasses

    return dataclasses.replace(capture, subject="another")


def mirror(about: dict) -> None:
    about["cameras"][0]["world_to_camera"][0] = [-v for v in about["cameras"][0]["world_to_camera"][0]]


def raw_name(name: bytes) -> bytes:
    return tar_of((name.decode(), b"{}"))


def sparse_pax() -> tarfile.TarInfo:
    info = tarfile.TarInfo("s.bin")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**50)}
    return info


def whole_members(capture) -> bytes:
    data = tar_of(*entries_of(capture))
    return data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)


def lying_size(capture) -> bytes:
    name, data = entries_of(capture)[0]
    info = tarfile.TarInfo(name)
    info.size = 2**40
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(10_000)


def long_name() -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**21
    return info.tobuf(tarfile.GNU_FORMAT) + b"a" * 2**21 + bytes(1024)


def broken_pax() -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 12
    return info.tobuf(tarfile.USTAR_FORMAT) + b"99 path=a\n".ljust(512, b"!") + bytes(1024)


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_capture_is_refused_by_name(make_capture, tmp_path, case):
    make, message = BAD[case]
    (tmp_path / "bad.tar").write_bytes(make(make_capture(9)))
    with pytest.raises(UserError, match=message) as caught:
        reindex(str(tmp_path))
    assert "bad.tar" in str(caught.value)
    assert "\n\n" not in str(caught.value)
    assert not (tmp_path / "dataset.json").exists()


def test_limits_hold(make_capture, tmp_path, monkeypatch):
    (tmp_path / "bad.tar").write_bytes(tar_of(*entries_of(make_capture(9))))
    monkeypatch.setattr(module, "MAX_SAMPLE", 5000)
    with pytest.raises(UserError, match="the sample is too large"):
        reindex(str(tmp_path))
    monkeypatch.setattr(module, "MAX_MEMBER", 500)
    with pytest.raises(UserError, match=r"member person009_0\.json: a member of \d+ bytes is refused"):
        reindex(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("heads.tar.gz", "the tar is compressed"), ("my heads.tar", "odd characters"), ("heads.zip", "there are no tars")],
)
def test_files_that_are_no_shards(make_capture, tmp_path, name, message):
    (tmp_path / name).write_bytes(tar_of(*entries_of(make_capture(9))))
    with pytest.raises(UserError, match=message):
        reindex(str(tmp_path))


def test_a_capture_in_two_tars_is_refused(make_capture, tmp_path):
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(tar_of(*entries_of(make_capture(1))))
    with pytest.raises(UserError, match="capture person001_0: the capture was written twice"):
        reindex(str(tmp_path))


def test_an_index_goes_on_and_sees_what_changed(make_capture, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(tar_of(*entries_of(make_capture(number))))
    whole = (tmp_path / "2.tar").read_bytes()
    (tmp_path / "2.tar").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"shard 2\.tar"):
        reindex(str(tmp_path))
    (tmp_path / "2.tar").write_bytes(whole)
    said: list[str] = []
    seen: list[int] = []
    info = reindex(str(tmp_path), report=said.append, progress=lambda done, _: seen.append(done))
    assert said == ["2 of 3 tars were read before"]
    assert seen[0] > 0
    with pytest.raises(UserError, match="there is a dataset here already"):
        reindex(str(tmp_path))
    (tmp_path / "1.tar").write_bytes(tar_of(*entries_of(make_capture(7))))
    anew = reindex(str(tmp_path), again=True, workers=3)
    assert anew.fingerprint != info.fingerprint
    with Dataset.open(str(tmp_path)) as dataset:
        assert sorted(dataset.subjects) == ["person000", "person002", "person007"]


def test_our_own_shards_without_their_index(make_dataset):
    dataset = make_dataset(6)
    root = Path(dataset.url.removeprefix("file://"))
    for name in ("dataset.json", "parts/000000.parquet", "parts/000001.parquet"):
        (root / name).unlink()
    assert reindex(dataset.url).fingerprint == dataset.fingerprint
    assert verify(dataset.url).findings == []


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_the_same_anywhere_and_for_any_number_of_workers(make_dataset, make_capture, tmp_path, kind, request):
    url = "memory://theirs/x" if kind == "memory" else f"{request.getfixturevalue('bucket')}/theirs"
    store = Store(url)
    for number in range(3):
        data = tar_of(*entries_of(make_capture(number)))
        (tmp_path / f"t{number}.tar").write_bytes(data)
        store.write(f"t{number}.tar", data)
    store.close()
    near, far = reindex(str(tmp_path), workers=1), reindex(url, workers=3)
    assert near.fingerprint == far.fingerprint
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert names == set(store.names("index"))
    store.close()
    with Dataset.open(url) as dataset:
        assert dataset.capture("person002").images == make_capture(2).images
    if kind == "memory":
        fsspec.filesystem("memory").store.clear()


def test_a_new_index_keeps_licence_and_provenance(make_dataset):
    dataset = make_dataset(3)
    anew = reindex(dataset.url, again=True)
    assert (anew.fingerprint, anew.licence) == (dataset.fingerprint, "CC0-1.0")
    assert anew.provenance == {"made by": "a test", "indexed by": "headway data index"}
    assert reindex(dataset.url, again=True, licence="MIT").licence == "MIT"
    Store(dataset.url).write("dataset.json", b"{broken")
    assert reindex(dataset.url, again=True).licence == "unknown"


def test_a_killed_index_goes_on(make_capture, tmp_path):
    for number in range(60):
        (tmp_path / f"{number:02d}.tar").write_bytes(tar_of(*entries_of(make_capture(number))))
    code = f"from data.keep.reindex import reindex; reindex({str(tmp_path)!r})"
    child = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 30
    while child.poll() is None and time.monotonic() < end and not list(tmp_path.glob("parts/*")):
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = len(os.listdir(tmp_path / "parts"))
    assert 0 < done <= 60
    said: list[str] = []
    info = reindex(str(tmp_path), report=said.append, again=(tmp_path / "dataset.json").exists())
    assert info.captures == 60
    assert verify(str(tmp_path)).findings == []
    assert said == [f"{done} of 60 tars were read before"] or done == 60


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_more_than_a_message(make_capture, tmp_path, data):
    """Bytes of a tar changed, cut out or put in: read_tar names what is wrong, or reads captures that are whole."""
    whole = bytearray(tar_of(*entries_of(make_capture(2, views=2)), format=tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(
            st.integers(0, len(whole) - 1) | st.integers(0, 40).map(lambda n: min(n * 512, len(whole) - 1))
        )
        change = data.draw(st.sampled_from(["flip", "zero", "cut", "insert"]))
        length = data.draw(st.integers(1, 600))
        if change == "flip":
            whole[place] ^= data.draw(st.integers(1, 255))
        elif change == "zero":
            whole[place : place + length] = bytes(min(length, len(whole) - place))
        elif change == "cut":
            del whole[place : place + length]
        else:
            whole[place:place] = data.draw(st.binary(min_size=1, max_size=600))
    (tmp_path / "x.tar").write_bytes(whole)
    store = Store(str(tmp_path))
    error = None
    try:
        rows, digest = module.read_tar(store, "x.tar", len(whole))
    except UserError as caught:
        error = str(caught)
    if error is None:
        assert rows.num_rows == 1
        assert digest == hashlib.sha256(whole).hexdigest()
    else:
        assert "x.tar" in error
