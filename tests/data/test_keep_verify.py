"""Whatever is done to a dataset, verify names it, each member by itself, and goes on to the end."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import UserError
from data import CaptureStream, Dataset, commit, write_shard
from data.keep import check, sequential
from data.keep.contents import members_of
from data.keep.verify import verify
from data.quarantine import read_quarantine
from data.store import Range, Store

FIRST, SECOND = "shards/000000.tar", "shards/000001.tar"
IMAGE = f"shard {FIRST}, member person001_0.Cam2.jpg"


def folder(dataset: Dataset) -> Path:
    return Path(dataset.url.removeprefix("file://"))


def found(url: str, **options) -> list[tuple[str, str]]:
    return [(finding.where, finding.what) for finding in verify(url, **options).findings]


def places(dataset: Dataset) -> dict[str, Range]:
    """Where every member lies, by its name in messages."""
    every = [member.place for row in range(len(dataset)) for member in members_of(dataset.index, row)]
    return {each.where: each for each in every}


def place(dataset: Dataset, member: str) -> Range:
    """Where a member lies."""
    return next(each for each in places(dataset).values() if each.member == member)


def overwrite(dataset: Dataset, path: str, offset: int, data: bytes) -> None:
    with (folder(dataset) / path).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def rewrite(dataset: Dataset, change) -> None:
    """Copy the first shard member by member; `change(member, data)` gives what comes instead."""
    path = folder(dataset) / FIRST
    buffer = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as new:
        for member in old:
            source = old.extractfile(member)
            for each, data in change(member, source.read() if source else b""):
                each.size = len(data) if each.isreg() else 0
                new.addfile(each, io.BytesIO(data))
    path.write_bytes(buffer.getvalue())


def test_a_whole_dataset_is_whole(make_dataset):
    dataset = make_dataset(6)
    seen: list[tuple[int, int]] = []
    report = verify(dataset.url, pixels=True, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert report.findings == []
    assert report.notes == []
    assert (report.shards, report.members, report.bytes) == (2, 6 * 13, dataset.info.bytes)
    assert seen[-1] == (dataset.info.bytes, dataset.info.bytes)
    assert report.fingerprint == dataset.fingerprint


@pytest.mark.parametrize("url", ["memory://keep/whole", None])
def test_a_byte_flipped_in_any_kind_of_member_is_named(make_dataset, url):
    dataset = make_dataset(5, url=url)
    store, names = Store(dataset.url), ("person000_0.json", "person001_0.Cam2.jpg", "person003_0.Cam5.mask.png")
    data = bytearray(store.read(FIRST))
    for name in names:
        data[place(dataset, name).offset + 2] ^= 1
    store.write(FIRST, bytes(data))
    assert found(dataset.url) == [
        (f"shard {FIRST}, member {name}", "its checksum is wrong: the bytes were changed") for name in names
    ]


def test_pieces_and_members_need_not_end_together(make_dataset, monkeypatch):
    dataset = make_dataset(5)
    overwrite(dataset, FIRST, place(dataset, "person001_0.Cam2.jpg").offset, b"\0\0")
    monkeypatch.setattr(sequential, "PIECE", 700)
    assert [where for where, _ in found(dataset.url, pixels=True)] == [IMAGE]


def test_a_truncated_shard_is_named_with_all_that_is_lost(make_dataset):
    dataset = make_dataset(6)
    last = place(dataset, "person002_0.Cam3.jpg")
    os.truncate(folder(dataset) / FIRST, last.offset + 100)
    names = [where.partition(", member ")[2] for where, _ in found(dataset.url)]
    lost = [f"person002_0.Cam{view}{kind}" for view in (3, 4, 5) for kind in (".jpg", ".mask.png")]
    assert set(lost) <= set(names)
    assert len([name for name in names if name]) == 6 + 13
    assert any(where == f"shard {FIRST}" and "the index says" in what for where, what in found(dataset.url))


def test_a_missing_shard_is_named_with_all_that_is_lost(make_dataset):
    dataset = make_dataset(6)
    (folder(dataset) / SECOND).unlink()
    what = found(dataset.url)
    assert len(what) == 2 * 13 + 1
    assert all("the shard is missing" in why or why == "is missing" for _, why in what)


def test_bytes_behind_the_end_and_between_members(make_dataset):
    dataset = make_dataset(5)
    with (folder(dataset) / FIRST).open("ab") as file:
        file.write(b"x" * 512)
    assert [what for _, what in found(dataset.url)] == [
        f"has {dataset.index.shards[0].bytes + 512} bytes, the index says {dataset.index.shards[0].bytes}",
        "there are bytes behind the end of the tar",
    ]
    spot = place(dataset, "person000_0.json")
    overwrite(dataset, FIRST, dataset.index.shards[0].bytes - 3, b"yy")
    os.truncate(folder(dataset) / FIRST, dataset.index.shards[0].bytes)
    assert [what for _, what in found(dataset.url)] == ["there are bytes behind the end of the tar"]
    overwrite(dataset, FIRST, dataset.index.shards[0].bytes - 3, b"\0\0")
    overwrite(dataset, FIRST, spot.offset + spot.length, b"p")
    assert found(dataset.url) == [
        (f"shard {FIRST}", "every member is whole, but its SHA-256 is not the one that was written")
    ]


def test_a_broken_header_costs_its_member_only(make_dataset):
    dataset = make_dataset(5)
    overwrite(dataset, FIRST, place(dataset, "person001_0.Cam2.jpg").offset - 512, b"junk" * 10)
    ((where, what),) = found(dataset.url)
    assert where == IMAGE
    assert "the tar does not lead to it: no tar header at byte" in what


def test_tar_and_index_disagree_on_a_name(make_dataset):
    dataset = make_dataset(5)

    def rename(member, data):
        member.name = member.name.replace("person001_0.Cam2.jpg", "person001_0.Cam7.jpg")
        return [(member, data)]

    rewrite(dataset, rename)
    assert (IMAGE, "is called person001_0.Cam7.jpg in the tar") in found(dataset.url)


def link(member, kind):
    odd = tarfile.TarInfo("person003_0.evil")
    odd.type, odd.linkname = kind, "../../etc/passwd"
    return odd


ODD = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "pipe": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_members_are_named(make_dataset, kind):
    dataset = make_dataset(5)
    last = place(dataset, "person003_0.Cam5.mask.png").member
    rewrite(dataset, lambda m, d: [(m, d), (link(m, ODD[kind]), b"")] if m.name == last else [(m, d)])
    what = found(dataset.url)
    assert (f"shard {FIRST}, member person003_0.evil", f"a {kind}, which does not belong in a shard") in what


@pytest.mark.parametrize("name", ["person003_0.payload.pyd", "../outside.jpg", "/etc/passwd", "line\nbreak\x1b[31m"])
def test_members_that_the_index_does_not_know_are_named_and_never_opened(make_dataset, name):
    dataset = make_dataset(5)
    last = place(dataset, "person003_0.Cam5.mask.png").member
    rewrite(dataset, lambda m, d: [(m, d), (tarfile.TarInfo(name), b"pickle")] if m.name == last else [(m, d)])
    where, what = next((where, what) for where, what in found(dataset.url) if "member" in where)
    assert what == "the index does not know it"
    assert "\n" not in where
    assert "\x1b" not in where


def test_every_image_that_does_not_decode_is_named_with_pixels(make_dataset, make_capture, tmp_path):
    good = make_capture(0)
    cut = make_capture(0, images=(good.images[0][:-40], *good.images[1:]))
    write_shard(str(tmp_path / "cut"), 0, [cut])
    commit(str(tmp_path / "cut"))
    assert found(str(tmp_path / "cut")) == []
    ((where, what),) = found(str(tmp_path / "cut"), pixels=True)
    assert where == f"shard {FIRST}, member person000_0.Cam0.jpg"
    assert what


def test_a_forged_index_disagrees_with_what_the_captures_say(make_dataset):
    from test_shards import reforge, with_column

    dataset = make_dataset(5)
    reforge(folder(dataset), lambda t: with_column(t, "subject", lambda v: ["somebody", *v[1:]]))
    assert found(dataset.url) == [
        (f"shard {FIRST}, member person000_0.json", "the index has another subject"),
    ]


def test_an_offset_that_points_elsewhere_is_named(make_dataset):
    from test_shards import reforge, with_column

    dataset = make_dataset(5)
    change = lambda v: [[v[0][0] + 1, *v[0][1:]], *v[1:]]  # noqa: E731
    reforge(folder(dataset), lambda table: with_column(table, "image_offset", change))
    what = dict(found(dataset.url))
    assert what[f"shard {FIRST}, member person000_0.Cam0.jpg"] in (
        "the tar does not hold it where the index says",
        "the index does not know it",
    )


def test_the_list_is_passed_over_by_a_run(make_dataset, tmp_path):
    from configs.schema import DataConfig

    dataset = make_dataset(5)
    overwrite(dataset, FIRST, place(dataset, "person001_0.Cam2.jpg").offset, b"\0\0")
    report = verify(dataset.url)
    report.write(tmp_path / "bad.txt")
    assert read_quarantine(str(tmp_path / "bad.txt")) == [IMAGE]
    config = DataConfig(
        batch_size=5, image_size=(24, 20), source_views=(4, 4), target_views=2, quarantine=str(tmp_path / "bad.txt")
    )
    with CaptureStream(dataset, config, seed=0, rank=0, world_size=1) as stream:
        assert "person001_0" not in [name for _ in range(4) for name in next(stream).names]
        assert stream.quarantine.found == {}


def test_shards_that_never_were_committed(make_dataset, tmp_path):
    dataset = make_dataset(9)
    root = folder(dataset)
    (root / "dataset.json").unlink()
    report = verify(dataset.url)
    assert (report.findings, report.fingerprint, report.shards) == ([], "", 3)
    overwrite(dataset, FIRST, place(dataset, "person001_0.Cam2.jpg").offset, b"\0\0")
    (root / "parts" / "000001.parquet").write_bytes(b"no parquet")
    where = [where for where, _ in found(dataset.url)]
    assert where == ["part parts/000001.parquet", f"shard {SECOND}", IMAGE]


def test_a_tar_beside_the_manifest_is_a_note(make_dataset, make_capture):
    dataset = make_dataset(3)
    write_shard(dataset.url, 7, [make_capture(50)])
    report = verify(dataset.url)
    assert report.findings == []
    assert report.notes == ["shards/000007.tar is no part of the dataset"]


def test_tars_without_anything_beside_are_complained_about(make_dataset):
    dataset = make_dataset(5)
    for path in [*folder(dataset).glob("parts/*"), folder(dataset) / "dataset.json"]:
        path.unlink()
    assert [where for where, _ in found(dataset.url)] == [f"shard {FIRST}", f"shard {SECOND}"]
    assert "never indexed" in found(dataset.url)[0][1]


def test_nothing_there_is_one_message(tmp_path):
    with pytest.raises(UserError, match="there is no dataset here"):
        verify(str(tmp_path))
    with pytest.raises(UserError, match="cannot read 'http' URLs"):
        verify("http://example.com/x")


def test_the_same_over_s3(make_dataset, bucket):
    dataset = make_dataset(5, url=f"{bucket}/sets/train")
    store = Store(dataset.url)
    data = bytearray(store.read(FIRST))
    data[place(dataset, "person001_0.Cam2.jpg").offset + 2] ^= 1
    store.write(FIRST, bytes(data))
    store.close()
    ((where, what),) = found(dataset.url, workers=2, pixels=True)
    assert (where, "checksum" in what) == (IMAGE, True)


def test_a_rerun_names_the_same(make_dataset):
    dataset = make_dataset(9)
    for name in ("person000_0.json", "person004_0.Cam0.jpg", "person008_0.Cam1.mask.png"):
        spot = place(dataset, name)
        overwrite(dataset, spot.path, spot.offset, b"??")
    assert found(dataset.url, workers=3) == found(dataset.url, workers=1)
    assert len(found(dataset.url)) == 3


def test_memory_does_not_grow_with_the_shard(make_capture, tmp_path, monkeypatch):
    """24 MB in one shard, read in pieces of 256 KB; nothing but one member is ever held."""
    import tracemalloc

    import numpy as np

    from data.images import encode_png

    noise = encode_png(np.random.default_rng(0).integers(0, 255, (500, 500, 3)).astype(np.uint8))
    views = 32
    capture = make_capture(0, views=views, sizes=((500, 500),) * views, images=(noise,) * views, masks=(None,) * views)
    write_shard(str(tmp_path), 0, [capture])
    assert commit(str(tmp_path)).bytes > 24e6
    monkeypatch.setattr(sequential, "PIECE", 2**18)
    tracemalloc.start()
    try:
        assert found(str(tmp_path)) == []
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


def test_members_too_large_to_decode_are_named(make_dataset, monkeypatch):
    dataset = make_dataset(1)
    monkeypatch.setattr(check, "MAX_DECODED", 2000)
    ((where, what),) = found(dataset.url)
    assert where.endswith(".json")
    assert "more than any image" in what


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_done_to_a_shard_is_found(make_capture, tmp_path, data):
    """Any change of its bytes is a finding, never a crash, and members that it does not touch are not named."""
    root = tmp_path / "set"
    if not root.exists():
        write_shard(str(root), 0, [make_capture(0, views=2), make_capture(1, views=2)])
        commit(str(root))
        (tmp_path / "whole.tar").write_bytes((root / FIRST).read_bytes())
    whole = (tmp_path / "whole.tar").read_bytes()
    place, length = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 700))
    kind = data.draw(st.sampled_from(["over", "cut", "insert"]))
    new = data.draw(st.binary(min_size=length, max_size=length)) if kind != "cut" else b""
    keep = place if kind == "insert" else place + length
    changed = (whole[:place] + new + whole[keep:])[: None if kind != "over" else len(whole)]
    (root / FIRST).write_bytes(changed)
    report = verify(str(root), pixels=True)
    assert bool(report.findings) == (changed != whole)
    if kind == "over":
        with Dataset.open(str(root)) as dataset:
            reach = {name: (spot.offset - 512, spot.offset + spot.length) for name, spot in places(dataset).items()}
        for finding in report.bad_members:
            start, stop = reach.get(finding.where, (place, place + 1))
            assert start < place + length
            assert place < stop
