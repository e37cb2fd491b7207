"""The manifest, its coverage check, shards as safetensors, random generators: no ranks needed."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from configs import UserError
from trainer.checkpoint import describe, latest, randomness, step_directory
from trainer.checkpoint.loading import _share_out, check_architecture
from trainer.checkpoint.manifest import EngineRecord, Manifest, Parameter, check_coverage, read_manifest
from trainer.checkpoint.pieces import Pieces
from trainer.checkpoint.shards import ShardReader, write_shard
from trainer.checkpoint.sources import Sources
from trainer.checkpoint.storage import Folder


def cut(numel: int, cuts: set[int]) -> list[tuple[int, int, int]]:
    edges = sorted({0, numel, *(c for c in cuts if 0 < c < numel)})
    return [(a, b - a, 0) for a, b in pairwise(edges)]


def parameter(pieces: list[tuple[int, int, int]], numel: int = 24) -> Parameter:
    return Parameter(shape=(numel,), trains=True, kinds=("master",), pieces=pieces)


@given(st.integers(1, 200), st.sets(st.integers(0, 200)), st.randoms())
def test_any_tiling_in_any_order_covers(numel: int, cuts: set[int], shuffle: random.Random) -> None:
    pieces = cut(numel, cuts)
    shuffle.shuffle(pieces)
    check_coverage("weight", parameter(pieces, numel), shards=1)


@given(st.integers(2, 200), st.sets(st.integers(1, 199), min_size=1), st.data())
def test_a_missing_or_doubled_piece_is_found(numel: int, cuts: set[int], data: st.DataObject) -> None:
    pieces = cut(numel, cuts)
    index = data.draw(st.integers(0, len(pieces) - 1))
    with pytest.raises(ValueError, match="weight"):
        check_coverage("weight", parameter(pieces[:index] + pieces[index + 1 :], numel), shards=1)
    with pytest.raises(ValueError, match="weight"):
        check_coverage("weight", parameter([*pieces, pieces[index]], numel), shards=1)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([(0, 10, 0), (12, 12, 0)], "a gap at element 10"),
        ([(0, 10, 0), (8, 16, 0)], "an overlap at element 8"),
        ([(0, 20, 0)], "20 of 24"),
        ([(0, 30, 0)], "30 of 24"),
        ([(0, 24, 3)], "shard 3 of 1"),
        ([(0, 24, -1)], "shard -1 of 1"),
        ([], "0 of 24"),
    ],
)
def test_coverage_says_what_is_wrong(pieces: list[tuple[int, int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_coverage("weight", parameter(pieces), shards=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_shards_are_safetensors_both_ways(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "a/b": (torch.randn(3, 5) * 9).to(dtype),
        "none": torch.empty(0, 4, dtype=dtype),
        "one": torch.ones(()).to(dtype),
    }
    folder = Folder(str(tmp_path))
    written = write_shard(folder, "ours.safetensors", tensors)
    assert written.bytes == (tmp_path / "ours.safetensors").stat().st_size
    assert folder.digest("ours.safetensors") == written.sha256
    save_file(tensors, tmp_path / "theirs.safetensors")
    theirs = load_file(tmp_path / "ours.safetensors")
    assert all(torch.equal(theirs[key], value) for key, value in tensors.items())
    with ShardReader(folder, "theirs.safetensors") as reader:
        assert set(reader.keys()) == set(tensors)
        assert all(torch.equal(reader.tensor(key), value) for key, value in tensors.items())


@given(st.integers(0, 30), st.integers(0, 30))
def test_any_slice_reads_back(first: int, length: int) -> None:
    values = torch.arange(60, dtype=torch.float32)
    folder = Folder("memory://slices")
    write_shard(folder, "s.safetensors", {"values": values})
    out = torch.empty(length)
    with ShardReader(folder, "s.safetensors") as reader:
        reader.read("values", first, out)
    assert torch.equal(out, values[first : first + length])


def test_reading_casts_and_refuses_to_run_over(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    write_shard(folder, "s.safetensors", {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])})
    low = torch.empty(2, dtype=torch.bfloat16)
    with ShardReader(folder, "s.safetensors") as reader:
        reader.read("a", 0, low)
        assert low.tolist() == [1.0, 2.0]
        with pytest.raises(ValueError, match="shorter"):
            reader.read("a", 1, torch.empty(2))


def test_a_forged_header_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="header"):
        ShardReader(Folder(str(tmp_path)), "s.safetensors")


def write_checkpoint(
    directory: str, step: int = 7, cuts: set[int] | None = None, **changes: Any
) -> dict[str, torch.Tensor]:
    """A committed checkpoint of one parameter, made by hand."""
    folder = Folder(directory)
    weight = torch.arange(24, dtype=torch.float32).view(4, 6)
    pieces = cut(24, cuts or {7})
    tensors = {f"model/w/master/{start}": weight.view(-1)[start : start + n] for start, n, _ in pieces}
    shard = write_shard(folder, "shard-00000-of-00001-00000000.safetensors", tensors)
    record = Parameter(shape=(4, 6), trains=True, kinds=("master",), pieces=pieces)
    content = {
        "step": step,
        "created": "2026-01-01T00:00:00+00:00",
        "world_size": 1,
        "config": "run: {}\n",
        "config_hash": "0" * 12,
        "architecture": "0" * 12,
        "versions": {},
        "state": {"consumed": 3, "score": float("nan"), "names": ["a"]},
        "engines": {
            "model": EngineRecord(
                steps=step, zero_stage=0, precision="fp32", optimizer="Adam", groups=[], parameters={"w": record}
            )
        },
        "shards": [vars(shard)],
    }
    manifest = Manifest.model_validate({**content, **changes})
    folder.commit("manifest.json", manifest.to_bytes())
    return {"w": weight}


def test_a_manifest_reads_back(tmp_path: Path) -> None:
    write_checkpoint(str(tmp_path))
    manifest = describe(str(tmp_path))
    assert manifest.step == 7
    assert manifest.state["names"] == ["a"]
    assert manifest.bytes == sum(f.stat().st_size for f in tmp_path.glob("*.safetensors"))


@given(st.sets(st.integers(1, 23)), st.integers(0, 24), st.integers(0, 24))
def test_any_slice_of_any_cut_reads_back(cuts: set[int], a: int, b: int) -> None:
    weight = write_checkpoint("memory://cuts", cuts=cuts)["w"].view(-1)
    folder = Folder("memory://cuts")
    low, high = sorted((a, b))
    out = torch.full((high - low,), torch.nan)
    manifest = read_manifest(folder)
    with Pieces(Sources(folder, manifest.shards), manifest, "model") as pieces:
        pieces.read("w", "master", low, out)
    assert torch.equal(out, weight[low:high])


@given(st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=5))
def test_what_only_the_checkpoint_has_is_verified_once_by_one_who_reads_it(missing: list[set[int]]) -> None:
    shares = _share_out(missing)
    everybody = [shard for share in shares for shard in share]
    assert sorted(everybody) == sorted(set().union(*missing))
    assert all(set(share) <= read for share, read in zip(shares, missing, strict=True))


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_flipped_bit_in_a_manifest_goes_unnoticed(position: int, bit: int) -> None:
    write_checkpoint("memory://flip")
    folder = Folder("memory://flip")
    whole = folder.read("manifest.json")
    content = bytearray(whole)
    content[position % len(content)] ^= 1 << bit
    folder.commit("manifest.json", bytes(content))
    if meaning(bytes(content)) == meaning(whole):  # 1.0 and 1.00, or white space
        read_manifest(folder)
    else:
        with pytest.raises(UserError):
            read_manifest(folder)


def meaning(content: bytes) -> str | None:
    try:
        return repr(json.loads(content))
    except ValueError:
        return None


def test_what_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint"):
        describe(str(tmp_path))
    with pytest.raises(UserError, match="not a checkpoint"):
        describe(str(tmp_path / "absent"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a checkpoint"):
        describe(str(tmp_path / "file"))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        describe(str(tmp_path))
    (tmp_path / "manifest.json").write_text('{"format": 99, "digest": ""}')
    with pytest.raises(UserError, match="format 99"):
        describe(str(tmp_path))


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    for name in ("../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", ".hidden.safetensors", "x.bin"):
        with pytest.raises(ValueError, match="file"):
            write_checkpoint(str(tmp_path), shards=[{"file": name, "bytes": 1, "sha256": "0" * 64}])


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    write_checkpoint(str(tmp_path))
    (shard,) = tmp_path.glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    manifest = describe(str(tmp_path))
    with pytest.raises(UserError, match=shard.name):
        Sources(Folder(str(tmp_path)), manifest.shards).verify(0)
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=shard.name):
        describe(str(tmp_path))
    shard.unlink()
    with pytest.raises(UserError, match="missing"):
        describe(str(tmp_path))


def test_the_latest_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert latest(str(tmp_path / "absent")) is None
    assert latest(str(tmp_path)) is None
    for step in (5, 100, 20):
        write_checkpoint(step_directory(str(tmp_path), step), step)
    (tmp_path / "step-00000900").mkdir()
    (tmp_path / "step-x").mkdir()
    (tmp_path / "notes").mkdir()
    assert latest(str(tmp_path)) == step_directory(str(tmp_path), 100)
    (tmp_path / "step-00000100" / "manifest.json").write_text("{")
    assert latest(str(tmp_path)) == step_directory(str(tmp_path), 20)
    assert latest(f"file://{tmp_path}/") == f"file://{tmp_path}/step-00000020"


def test_differences_of_architecture_are_named() -> None:
    kept = parameter([(0, 24, 0)])
    record = EngineRecord(
        steps=0, zero_stage=0, precision="fp32", optimizer="Adam", groups=[], parameters=dict.fromkeys("abcdef", kept)
    )
    check_architecture(record, dict.fromkeys("abcdef", (24,)), "here")
    with pytest.raises(UserError) as caught:
        check_architecture(record, {"a": (24,), "b": (4, 6), "new": (2,)}, "here")
    text = str(caught.value)
    assert "b: [24] in the checkpoint, [4, 6] in the model" in text
    assert "c: [24] in the checkpoint, absent in the model" in text
    assert "3 more" in text
    assert "here" in text


def test_generators_go_on_where_they_stood() -> None:
    random.gauss(0, 1)
    np.random.standard_normal()  # noqa: NPY002 - leaves a second value behind
    kept = randomness.capture()

    def draw() -> tuple[Any, ...]:
        return torch.rand(3).tolist(), np.random.standard_normal(3).tolist(), random.gauss(0, 1), random.random()  # noqa: NPY002

    first = draw()
    assert draw() != first
    randomness.restore(kept)
    assert draw() == first


def test_strange_urls_are_readable_mistakes() -> None:
    for url in ("nosuch://bucket/x", "s3://key:secret@bucket/x", "simplecache::s3://bucket/x"):
        with pytest.raises(UserError) as caught:
            Folder(url)
        assert "secret" not in str(caught.value)
