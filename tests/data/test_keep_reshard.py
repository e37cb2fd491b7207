"""Datasets written anew: the same bytes however it runs, nothing lost, cameras that follow their images."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_shards import same_capture

from configs import UserError
from data import Dataset, commit, stats, write_shard
from data.images import decode, encode_jpeg, load, read_header
from data.keep.choose import Choice, read_list
from data.keep.recode import Recoding, encode
from data.keep.reshard import reshard
from data.keep.verify import verify
from data.order import Captures


def bytes_of(url: str) -> dict[str, str]:
    """Digest of every file of a dataset but parts."""
    root = Path(url.removeprefix("file://"))
    files = [path for path in root.rglob("[!.]*") if path.is_file() and path.parent.name != "parts"]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_images_keep_their_bytes(make_dataset, tmp_path):
    dataset = make_dataset(7)
    info = reshard(dataset.url, str(tmp_path / "out"), per_shard=3)
    assert (info.shards, info.captures, info.licence) == (3, 7, "CC0-1.0")
    with Dataset.open(info.url) as anew:
        assert anew.captures == dataset.captures
        for name in dataset.captures:
            same_capture(anew.capture(name), dataset.capture(name))
    assert verify(info.url, pixels=True).findings == []
    origin = {"url": dataset.url, "fingerprint": dataset.fingerprint, "provenance": {"made by": "a test"}}
    assert info.provenance == {"made by": "headway data reshard", "from": origin, "done": {}}


def test_the_same_shards_give_the_same_fingerprint(make_dataset, tmp_path):
    dataset = make_dataset(8, per_shard=4)
    assert reshard(dataset.url, str(tmp_path / "out"), per_shard=4).fingerprint == dataset.fingerprint


def test_one_worker_writes_what_two_write(make_dataset, tmp_path):
    dataset = make_dataset(6)
    options = {"per_shard": 2, "shuffle": 5, "recoding": Recoding((24, 24), "webp", 80)}
    for workers in (1, 2):
        reshard(dataset.url, str(tmp_path / f"w{workers}"), workers=workers, **options)
    assert bytes_of(str(tmp_path / "w1")) == bytes_of(str(tmp_path / "w2"))


def test_shards_are_as_large_as_asked(make_dataset, tmp_path):
    dataset = make_dataset(12, per_shard=12)
    each = dataset.info.bytes / 12
    info = reshard(dataset.url, str(tmp_path / "out"), shard_mb=3.5 * each / 1e6)
    assert info.shards == 4
    with Dataset.open(info.url) as anew:
        assert max(shard.bytes for shard in anew.index.shards) < 3.5 * each + 11_000
    assert reshard(dataset.url, str(tmp_path / "tiny"), shard_mb=0.000001).shards == 12


def test_a_shuffle_is_a_function_of_its_seed(make_dataset, tmp_path):
    dataset = make_dataset(8)
    orders = []
    for number, seed in enumerate((1, 1, 2)):
        info = reshard(dataset.url, str(tmp_path / str(number)), shuffle=seed, per_shard=3)
        with Dataset.open(info.url) as anew:
            orders.append(anew.captures)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(dataset.captures)
    assert orders[0] != dataset.captures


@pytest.mark.parametrize("format", ["jpg", "webp", "avif", "png", None])
def test_smaller_images_with_cameras_that_follow(make_dataset, tmp_path, format):
    """What training sees is the same but for the second encoding."""
    dataset = make_dataset(2)
    info = reshard(dataset.url, str(tmp_path / "out"), recoding=Recoding((24, 24), format))
    with Dataset.open(info.url) as anew:
        name = dataset.captures[0]
        assert read_header(anew.capture(name).images[0]).suffix == (format or "jpg")
        ours = anew.views(name, anew.cameras(name), (24, 24))
        theirs = dataset.views(name, dataset.cameras(name), (24, 24))
        np.testing.assert_allclose(ours.cameras.K, theirs.cameras.K, rtol=1e-6)
        assert (ours.masks == theirs.masks).all()
        most = {"png": 0.001, "webp": 0.08}.get(format, 0.03)
        assert (ours.images - theirs.images).abs().mean() < most
    assert verify(info.url, pixels=True).findings == []


def test_a_format_alone_keeps_masks_and_sizes(make_dataset, tmp_path):
    dataset = make_dataset(1)
    info = reshard(dataset.url, str(tmp_path / "out"), recoding=Recoding(format="png"))
    before, after = dataset.capture("person000"), Dataset.open(info.url).capture("person000")
    assert (after.masks, after.sizes) == (before.masks, before.sizes)
    for one, two in zip(before.images, after.images, strict=True):
        np.testing.assert_array_equal(decode(one), decode(two))


def test_what_is_of_that_size_and_format_keeps_its_bytes(make_dataset, tmp_path):
    dataset = make_dataset(2)
    info = reshard(dataset.url, str(tmp_path / "out"), recoding=Recoding((48, 40), "jpg"), per_shard=4)
    assert info.fingerprint == dataset.fingerprint


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(4, 60), width=st.integers(4, 60))
def test_a_point_keeps_its_colour(make_capture, height, width):
    """A bright square is where its camera says it is, whatever the new size."""
    pixels = np.zeros((48, 40, 3), np.uint8)
    pixels[20:28, 16:24] = 255
    capture = make_capture(0, views=1, images=(encode_jpeg(pixels, 98),))
    small = Recoding((height, width), "png").apply(capture)
    small.validate(pixels=True)
    shown = load(small.images[0], (height, width)).astype(float).mean(axis=2)
    ys, xs = np.mgrid[:height, :width] + 0.5
    center = np.array([(xs * shown).sum(), (ys * shown).sum()]) / shown.sum()
    ray = (np.array([20.0, 24.0]) - capture.K[0, :2, 2]) / [capture.K[0, 0, 0], capture.K[0, 1, 1]]
    expected = ray * [small.K[0, 0, 0], small.K[0, 1, 1]] + small.K[0, :2, 2]
    assert np.abs(center - expected).max() < 0.6


def test_fewer_views(make_dataset, tmp_path):
    dataset = make_dataset(3)
    info = reshard(dataset.url, str(tmp_path / "two"), recoding=Recoding(cameras=("Cam4", "Cam1")))
    with Dataset.open(info.url) as anew:
        assert anew.cameras("person001_0") == ("Cam4", "Cam1")
        one, two = anew.capture("person001"), dataset.capture("person001")
        assert one.images == (two.images[4], two.images[1])
        np.testing.assert_array_equal(one.K, two.K[[4, 1]])
    first = reshard(dataset.url, str(tmp_path / "three"), recoding=Recoding(first_views=3))
    assert first.cameras == (3, 3)
    with pytest.raises(UserError, match=r"capture person000_0: missing camera 'Cam9'"):
        reshard(dataset.url, str(tmp_path / "none"), recoding=Recoding(cameras=("Cam9",)))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": (0, 5)}, "image_size: an image has at least one pixel"),
        ({"format": "gif"}, "no format is called 'gif'"),
        ({"quality": 200, "format": "jpg"}, "200 is not in 1..100"),
        ({"quality": 50}, "nothing is encoded anew"),
        ({"first_views": 0}, "first_views"),
    ],
)
def test_recodings_that_make_no_sense(values, message):
    with pytest.raises(UserError, match=message):
        Recoding(**values)


@pytest.mark.parametrize("format", ["jpg", "png", "webp", "avif"])
def test_the_same_pixels_give_the_same_bytes(format):
    pixels = np.random.default_rng(0).integers(0, 255, (33, 41, 3)).astype(np.uint8)
    assert encode(pixels, format) == encode(pixels, format)
    if format != "png":
        assert len(encode(pixels, format, 20)) < len(encode(pixels, format, 95))


def test_it_is_not_written_over_itself_or_over_another(make_dataset, tmp_path):
    dataset, other = make_dataset(3), make_dataset(4)
    with pytest.raises(UserError, match="cannot be written over itself"):
        reshard(dataset.url, dataset.url + "/")
    (tmp_path / "alias").symlink_to(dataset.url.removeprefix("file://"))
    with pytest.raises(UserError, match="cannot be written over itself"):
        reshard(dataset.url, str(tmp_path / "alias"))
    with pytest.raises(UserError, match="there is another dataset here already"):
        reshard(dataset.url, other.url)
    reshard(dataset.url, str(tmp_path / "out"))
    said: list[str] = []
    reshard(dataset.url, str(tmp_path / "out"), report=said.append)
    assert said == ["1 of 1 shards are there already"]
    with pytest.raises(UserError, match="there is another dataset here already"):
        reshard(dataset.url, str(tmp_path / "out"), shuffle=1)


@pytest.mark.parametrize("options", [{"shard_mb": 0.0}, {"shard_mb": -1.0}, {"per_shard": 0}])
def test_shards_without_room(make_dataset, tmp_path, options):
    with pytest.raises(UserError, match="shard"):
        reshard(make_dataset(2).url, str(tmp_path / "out"), **options)


def test_a_bad_member_is_named_and_can_be_left_out(make_dataset, tmp_path):
    dataset = make_dataset(5)
    spot = dataset.index.image_ranges(1, [2], dataset.cameras(dataset.captures[1]))[0]
    with (Path(dataset.url.removeprefix("file://")) / spot.path).open("r+b") as file:
        file.seek(spot.offset)
        file.write(b"xx")
    with pytest.raises(UserError, match=r"member person001_0\.Cam2\.jpg: its checksum is wrong") as caught:
        reshard(dataset.url, str(tmp_path / "out"), per_shard=1)
    assert "--exclude" in str(caught.value)
    verify(dataset.url).write(tmp_path / "bad.txt")
    choice = Choice(excluded=read_list(tmp_path / "bad.txt"))
    info = reshard(dataset.url, str(tmp_path / "out"), choice=choice, per_shard=1)
    with Dataset.open(info.url) as anew:
        assert anew.captures == [name for name in dataset.captures if name != "person001_0"]


def test_a_killed_reshard_goes_on(make_dataset, tmp_path):
    dataset, out = make_dataset(60, per_shard=30), tmp_path / "out"
    whole = reshard(dataset.url, str(tmp_path / "whole"), per_shard=1, recoding=Recoding((24, 20), "webp"))
    code = (
        "from data.keep.reshard import reshard; from data.keep.recode import Recoding; "
        f"reshard({dataset.url!r}, {str(out)!r}, per_shard=1, recoding=Recoding((24, 20), 'webp'))"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < end and not list(out.glob("parts/*")):
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (out / "dataset.json").exists()
    done = len(list((out / "parts").iterdir()))
    said: list[str] = []
    info = reshard(dataset.url, str(out), per_shard=1, recoding=Recoding((24, 20), "webp"), report=said.append)
    assert info.fingerprint == whole.fingerprint
    assert 0 < done < 60
    assert said == [f"{done} of 60 shards are there already"]
    assert bytes_of(str(out)).keys() == bytes_of(str(tmp_path / "whole")).keys()


def test_from_memory_to_s3_and_back(make_dataset, bucket):
    dataset = make_dataset(5, url="memory://keep/source")
    far = reshard(dataset.url, f"{bucket}/copy", per_shard=4, workers=2)
    assert far.fingerprint == dataset.fingerprint
    back = reshard(far.url, "memory://keep/back", per_shard=4)
    assert back.fingerprint == dataset.fingerprint
    assert back.provenance["from"]["provenance"]["from"]["url"] == dataset.url
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def frames(make_capture, tmp_path) -> Dataset:
    """Nine people with one to three frames each."""
    captures = [
        make_capture(number * 10 + frame, views=2, subject=f"person{number}", frame=str(frame))
        for number in range(9)
        for frame in range(1 + number % 3)
    ]
    url = str(tmp_path / "frames")
    for shard in range(0, len(captures), 5):
        write_shard(url, shard, captures[shard : shard + 5])
    commit(url)
    return Dataset.open(url)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_subset_is_what_data_subjects_trains_on(frames, tmp_path, count):
    info = reshard(frames.url, str(tmp_path / "out"), choice=Choice(subjects=count))
    chosen = Captures.of(frames.index, count)
    rows = chosen.rows(np.arange(len(chosen)))
    with Dataset.open(info.url) as part:
        assert set(part.captures) == {frames.captures[row] for row in rows}
        assert len(part.subjects) == count
        again = Captures.of(part.index, count)
        assert len(again) == len(chosen)
    assert info.provenance["done"] == {"subjects": count}


def test_lists_restrict_together(frames):
    def names(**options) -> list[str]:
        return [frames.captures[row] for row in Choice(**options).rows(frames.index)]

    assert names(named_subjects=("person2", "person0")) == ["person0_0", "person2_0", "person2_1", "person2_2"]
    assert names(captures=("person2_1", "person1")) == ["person1_0", "person1_1", "person2_1"]
    assert names(named_subjects=("person2",), excluded=("person2_1",)) == ["person2_0", "person2_2"]
    assert names(captures=("person2",), excluded=("shard shards/000000.tar, member person2_0.Cam1.mask.png",)) == [
        "person2_1",
        "person2_2",
    ]
    assert len(names(excluded=("shard shards/000000.tar, member evil.pyd",))) == len(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": 10}, "--subjects: asks for 10 subjects, the dataset has 9"),
        ({"named_subjects": ("persom2",)}, "no subject is called 'persom2'"),
        ({"captures": ("person2_9",)}, "no capture is called 'person2_9'"),
        ({"excluded": ("nobody",)}, "no capture is called 'nobody'"),
        ({"named_subjects": ("person2",), "excluded": ("person2",)}, "no capture is left"),
    ],
)
def test_choices_of_what_is_not_there(frames, options, message):
    with pytest.raises(UserError, match=message):
        Choice(**options).rows(frames.index)


@pytest.mark.parametrize(("text", "message"), [(None, "cannot be read"), ("# only a comment\n\n", "holds no names")])
def test_lists_that_say_nothing(tmp_path, text, message):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_list(tmp_path / "list.txt")


def test_stats_tell_the_chain(make_dataset, tmp_path):
    dataset = make_dataset(4)
    first = reshard(dataset.url, str(tmp_path / "a"), recoding=Recoding((24, 20), "webp", 70))
    second = reshard(first.url, str(tmp_path / "b"), choice=Choice(subjects=2), made_by="headway data subset")
    found = stats(second.url).provenance
    assert (found["made by"], found["done"]) == ("headway data subset", {"subjects": 2})
    assert found["from"]["provenance"]["done"] == {"image_size": [24, 20], "format": "webp", "quality": 70}
    assert found["from"]["fingerprint"] == first.fingerprint
