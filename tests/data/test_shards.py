"""Shards are plain WebDataset tars; commits are whole; strangers' files are refused by name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from configs import UserError
from data import Dataset, commit, existing_shards, stats, write_shard
from data.sequential import read_sequential, read_shard


def same_capture(one, two) -> None:
    for name in ("subject", "frame", "cameras", "sizes", "images", "masks", "expression", "meta"):
        assert getattr(one, name) == getattr(two, name), name
    np.testing.assert_array_equal(one.world_to_camera, two.world_to_camera)
    np.testing.assert_array_equal(one.K, two.K)


def test_a_capture_comes_back_equal(make_dataset, make_capture):
    dataset = make_dataset(6)
    assert sorted(dataset.captures) == [f"person{number:03d}_0" for number in range(6)]
    for number in range(6):
        same_capture(dataset.capture(f"person{number:03d}_0"), make_capture(number))


def test_webdataset_reads_the_shards(make_dataset, make_capture):
    dataset = make_dataset(6)
    paths = [str(Path(dataset.url.removeprefix("file://")) / shard.path) for shard in dataset.index.shards]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == dataset.captures
    assert samples[2]["cam4.jpg"] == make_capture(2).images[4]
    assert samples[2]["cam4.mask.png"] == make_capture(2).masks[4]
    decoded = next(iter(webdataset.WebDataset(paths[:1], shardshuffle=False).decode("rgb")))
    assert decoded["cam0.jpg"].shape == (48, 40, 3)
    assert decoded["json"]["meta"] == {"number": 0}


def test_reading_from_end_to_end_gives_the_same_captures(make_dataset):
    dataset = make_dataset(6, url="memory://whole")
    captures = list(read_sequential(dataset))
    assert sorted(capture.name for capture in captures) == sorted(dataset.captures)
    for capture in captures:
        same_capture(capture, dataset.capture(capture.name))


def test_the_same_captures_give_the_same_bytes_anywhere(make_dataset):
    one, two, other = make_dataset(5), make_dataset(5, url="memory://bytes"), make_dataset(6)
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_rigs_are_stored_once(make_dataset, make_capture):
    same = make_capture(0).world_to_camera
    dataset = make_dataset(6, world_to_camera=same)
    root = Path(dataset.url.removeprefix("file://"))
    assert sum(pq.read_metadata(path).num_rows for path in (root / "index").glob("rigs-*")) == 1
    np.testing.assert_array_equal(dataset.capture("person005").world_to_camera, same)


def test_views_without_masks_and_several_formats(make_capture, tmp_path):
    from PIL import Image

    good = make_capture(0)
    encoded = []
    for kind in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 48), (200, 10, 30)).save(buffer, kind, lossless=True)
        encoded.append(buffer.getvalue())
    mixed = make_capture(0, images=(*encoded, *good.images[2:]), masks=(None, *good.masks[1:]))
    write_shard(str(tmp_path), 0, [mixed])
    commit(str(tmp_path))
    with Dataset.open(str(tmp_path)) as dataset:
        same_capture(dataset.capture("person000"), mixed)
        views = dataset.views("person000", ["Cam0", "Cam1"], (24, 20))
        assert (views.masks[0, 0] == 1).all()
        assert np.allclose(views.images[0, 0].mean(dim=(1, 2)) * 255, [200, 10, 30], atol=1)


def test_many_processes_write_one_dataset(make_capture, tmp_path):
    url = str(tmp_path)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(write_shard, url, n, [make_capture(n), make_capture(10 + n)], f"shard {n}") for n in range(3)
        ]
        parts = [job.result() for job in jobs]
    found = existing_shards(url)
    assert {number: part.note for number, part in found.items()} == {n: f"shard {n}" for n in range(3)}
    assert [found[n].shard for n in range(3)] == [part.shard for part in parts]
    assert commit(url, parts[::-1]) == commit(url)
    assert stats(url).captures == 6


def test_an_interrupted_writer_goes_on(make_capture, tmp_path):
    """A shard without its part, or cut short, is not there; nothing is visible before the commit."""
    url = str(tmp_path)
    for number in range(3):
        write_shard(url, number, [make_capture(number)])
    (tmp_path / "parts" / "000001.parquet").unlink()
    os.truncate(tmp_path / "shards" / "000002.tar", 1000)
    assert list(existing_shards(url)) == [0]
    with pytest.raises(UserError, match="never committed"):
        Dataset.open(url)


def test_a_bad_capture_leaves_nothing_behind(make_capture, tmp_path):
    bad = make_capture(1, masks=(b"", *make_capture(1).masks[1:]))
    with pytest.raises(UserError, match="person001_0, camera Cam0"):
        write_shard(str(tmp_path), 0, [make_capture(0), bad])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_capture_in_two_shards_is_refused(make_capture, tmp_path):
    for number in range(2):
        write_shard(str(tmp_path), number, [make_capture(5)])
    with pytest.raises(UserError, match="capture person005_0: the capture was written twice"):
        commit(str(tmp_path))


def test_an_empty_folder_is_no_dataset(tmp_path):
    with pytest.raises(UserError, match="there is no dataset here") as caught:
        Dataset.open(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match="no shards to commit"):
        commit(str(tmp_path))


def test_stats_count(make_dataset):
    info = stats(make_dataset(6).url)
    assert (info.subjects, info.captures, info.views, info.shards, info.cameras) == (6, 6, 36, 2, (6, 6))
    assert info.licence == "CC0-1.0"
    assert info.provenance == {"made by": "a test"}


def reforge(root: Path, change) -> None:
    """Change the committed index of captures and sign it again, as a stranger could."""
    manifest = json.loads((root / "dataset.json").read_text())
    entry = manifest["index"]["captures"]
    table = change(pq.read_table(root / entry["path"]))
    pq.write_table(table, root / entry["path"])
    entry["sha256"] = hashlib.sha256((root / entry["path"]).read_bytes()).hexdigest()
    (root / "dataset.json").write_text(json.dumps(manifest))


def with_column(table, name, function):
    import pyarrow as pa

    place = table.column_names.index(name)
    values = function(table.column(name).to_pylist())
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


FORGED = {
    "an offset beyond the shard": ("image_offset", lambda v: [[10**9, *v[0][1:]], *v[1:]], "images outside its shard"),
    "a length beyond the shard": ("mask_length", lambda v: [v[0], [10**9, *v[1][1:]], *v[2:]], "masks outside its"),
    "a negative offset": ("sample_offset", lambda v: [-5, *v[1:]], "description outside its shard"),
    "a shard that is not there": ("shard", lambda v: [7, *v[1:]], "names a shard"),
    "a rig that is not there": ("rig", lambda v: [*v[:-1], 99], "names a rig"),
    "a pickle": ("image_format", lambda v: [["pyd", *v[0][1:]], *v[1:]], "pyd"),
    "a view too few": ("mask_crc32", lambda v: [v[0][:-1], *v[1:]], "one mask_crc32 per camera"),
    "a name twice": ("name", lambda v: [v[1], *v[1:]], "same name"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_index_is_refused_by_name(make_dataset, case):
    column, change, what = FORGED[case]
    dataset = make_dataset(3)
    reforge(Path(dataset.url.removeprefix("file://")), lambda table: with_column(table, column, change))
    with pytest.raises(UserError, match=what) as caught:
        Dataset.open(dataset.url)
    assert dataset.url in str(caught.value)


MANIFESTS = {
    "a newer version": (lambda m: {**m, "version": 9}, "format version 9 is unknown"),
    "another format": (lambda m: {**m, "format": "tar"}, "not a manifest of captures"),
    "a path that leaves": (
        lambda m: {**m, "shards": [{**m["shards"][0], "path": "../../etc/passwd"}, *m["shards"][1:]]},
        "leaves its folder",
    ),
    "an absolute path": (
        lambda m: {**m, "index": {**m["index"], "rigs": {**m["index"]["rigs"], "path": "/etc/passwd"}}},
        "leaves its folder",
    ),
    "an index of other bytes": (
        lambda m: {**m, "index": {**m["index"], "rigs": {**m["index"]["rigs"], "sha256": "0" * 64}}},
        "not the one that was committed",
    ),
    "another fingerprint": (lambda m: {**m, "fingerprint": "0" * 64}, "fingerprint is not that of the shards"),
    "no shards": (lambda m: {k: v for k, v in m.items() if k != "shards"}, "incomplete"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_wrong_manifest_is_refused_by_name(make_dataset, case):
    change, what = MANIFESTS[case]
    dataset = make_dataset(5)
    path = Path(dataset.url.removeprefix("file://")) / "dataset.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=what):
        Dataset.open(dataset.url)


def test_odd_members_of_a_tar_are_named_and_never_opened(make_dataset):
    dataset = make_dataset(1)
    path = Path(dataset.url.removeprefix("file://")) / dataset.index.shards[0].path
    buffer = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
        odd = tarfile.TarInfo("person000_0.evil.pyd")
        odd.size = 4
        new.addfile(odd, io.BytesIO(b"cos\n"))
    buffer.seek(0)
    with pytest.raises(UserError, match=r"sample person000_0: odd members: evil\.pyd"):
        list(read_shard(buffer, "here"))


def test_another_fingerprint_than_expected_names_both(make_dataset):
    dataset = make_dataset(1)
    with pytest.raises(UserError) as caught:
        Dataset.open(dataset.url, fingerprint="f" * 64)
    assert "f" * 64 in str(caught.value)
    assert dataset.fingerprint in str(caught.value)
