"""What bench says of a dataset is what happened."""

from __future__ import annotations

import json
import time

import fsspec
import pytest

from configs import UserError
from configs.schema import DataConfig
from data.bench import Resources, decode_bare, measure

CONFIG = {"batch_size": 2, "image_size": (24, 20), "source_views": 2, "target_views": 2, "readers": 2, "cache_mb": 0}


def config_of(dataset, **changes) -> DataConfig:
    return DataConfig.model_validate({**CONFIG, "train": dataset.url, **changes})


def test_numbers_fit_together(make_dataset):
    seen: list[float] = []
    found = measure(config_of(make_dataset(6)), seconds=0.3, progress=lambda done, total: seen.append(done / total))
    assert found.samples == 2 * found.batches
    assert found.images == 4 * found.samples
    assert found.seconds >= 0.3
    assert found.samples_per_second == pytest.approx(found.samples / found.seconds)
    assert 0 < found.latency_p50 <= found.latency_p99 < 0.3
    assert 0 < found.first_batch < 5
    assert 0.2 < found.waiting <= 1
    assert seen[-1] == 1
    assert seen == sorted(seen)
    assert found.bare is None
    assert found.over_bare is None


def test_bytes_of_a_folder_are_those_of_its_members(make_dataset):
    dataset = make_dataset(1)
    rig = dataset.cameras("person000_0")
    each = [one.image.length + one.mask.length for one in dataset.members(0, range(len(rig)))]
    found = measure(config_of(dataset, batch_size=1, source_views=3, target_views=3), seconds=0.1)
    assert found.traffic.bytes_needed == found.samples * sum(each)


def test_a_slow_consumer_does_not_wait(make_dataset):
    found = measure(config_of(make_dataset(6), prefetch=4), seconds=0.5, step_seconds=0.1)
    assert found.batches <= 6
    assert found.waiting < 0.3


def test_bare_decoding_is_measured_on_the_same_members(make_dataset):
    found = measure(config_of(make_dataset(6)), seconds=0.4, bare=True)
    assert found.bare > 0
    assert found.over_bare == pytest.approx(found.samples_per_second / found.bare)


def test_bare_decoding_counts_what_it_decodes(make_capture):
    capture = make_capture(0)
    sample = list(zip(capture.images, capture.masks, strict=True))
    began = time.perf_counter()
    rate = decode_bare([sample, sample[:3]], (24, 20), threads=2, seconds=0.2)
    assert time.perf_counter() - began >= 0.2
    assert rate * 0.2 >= 2


def test_processes_load_too(make_dataset):
    found = measure(config_of(make_dataset(6), loaders=1), seconds=0.2)
    assert found.samples > 0
    assert (found.traffic, found.latency_p50) == (None, None)


def test_what_a_store_was_asked(make_dataset, bucket):
    found = measure(config_of(make_dataset(4, url=f"{bucket}/set")), seconds=0.5)
    traffic = found.traffic
    assert traffic.requests > 0
    assert traffic.bytes_asked >= traffic.bytes_needed > 0


def test_memory(make_dataset):
    found = measure(config_of(make_dataset(4, url="memory://bench/set")), seconds=0.2)
    assert found.traffic.requests > 0
    fsspec.filesystem("memory").store.clear()


def test_resources_are_given_back(make_dataset):
    config = config_of(make_dataset(6))
    measure(config, seconds=0.1, bare=True)
    before = Resources.now()
    for _ in range(3):
        measure(config, seconds=0.1, bare=True)
    after = Resources.now()
    assert after.descriptors == before.descriptors
    assert after.threads <= before.threads + 2  # the S3 server's own come and go in this process


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_views": 5, "target_views": 5}, "camera"),
        ({"subjects": 50}, "asks for 50 subjects"),
    ],
)
def test_what_cannot_be_measured_is_one_message(make_dataset, changes, message):
    with pytest.raises(UserError, match=message):
        measure(config_of(make_dataset(3), **changes), seconds=0.1)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    from cluster.cli import main

    with pytest.raises(SystemExit) as end:
        main(["data", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


QUICK = ("--batch-size", "2", "--source-views", "2", "--target-views", "2", "--image-size", "24", "--seconds", "0.2")


def test_a_person_reads_a_table(make_dataset, capsys):
    code, out, _ = run(capsys, "bench", make_dataset(4).url, *QUICK, "--compare", "bare")
    assert code == 0
    for words in ("samples/s", "images/s", "batch after", "p99", "waiting", "descriptors", "the stream makes"):
        assert words in out
    assert max(map(len, out.splitlines())) < 220


def test_a_machine_reads_json(make_dataset, capsys):
    url = make_dataset(4).url
    code, out, _ = run(capsys, "bench", "headsup-nano", f"data.train={url}", *QUICK, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["data"]["train"] == url
    assert found["data"]["batch_size"] == 2
    assert found["samples_per_second"] > 0
    assert found["start"]["descriptors"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "/nonexistent/data"), "there is no dataset here"),
        (("bench", "/nonexistent/data", "data.batch_size=3"), "overrides change a config"),
        (("bench", "headsup-nano", "data.train=nowhere"), "there is no dataset here"),
        (("bench", "headsup-nano", "data.source_sampling=fixed", "--source-views", "3"), "source_cameras"),
        (("verify", "/nonexistent/data"), "there is no dataset here"),
        (("index", "/nonexistent/data"), "there is no such folder"),
        (("reshard", "/nonexistent/data", "/nonexistent/out"), "there is no dataset here"),
        (("reshard", "x", "y", "--image-size", "12by4"), "'12by4' is no size"),
        (("reshard", "x", "y", "--format", "gif"), "no format is called 'gif'"),
        (("subset", "x", "y"), "nothing says what is wanted"),
        (("subset", "x", "y", "--captures", "/nonexistent/list"), "/nonexistent/list: cannot be read"),
    ],
)
def test_mistakes_are_one_message(capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_keeping_from_the_command_line(make_dataset, tmp_path, capsys):
    dataset = make_dataset(5)
    out = str(tmp_path / "small")
    code, text, _ = run(
        capsys, "reshard", dataset.url, out, "--image-size", "24x20", "--format", "webp", "--per-shard", "2"
    )
    assert (code, "5 subjects, 5 captures, 30 views, 3 shards" in text) == (0, True)
    code, text, _ = run(capsys, "subset", out, str(tmp_path / "two"), "--subjects", "2")
    assert (code, "2 subjects" in text) == (0, True)
    code, text, _ = run(capsys, "verify", out, "--pixels")
    assert (code, "whole" in text) == (0, True)
    spot = tmp_path / "small" / "shards" / "000000.tar"
    whole = spot.read_bytes()
    place = whole.index(b"WEBP") + 20
    spot.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    code, text, _ = run(capsys, "verify", out, "--out", str(tmp_path / "bad.txt"))
    assert code == 1
    assert "1 bad members" in text
    assert (tmp_path / "bad.txt").read_text().splitlines()[-1].startswith("shard shards/000000.tar, member person")
    (tmp_path / "small" / "dataset.json").unlink()
    spot.write_bytes(whole)
    code, text, _ = run(capsys, "index", out, "--licence", "CC0-1.0")
    assert (code, "5 subjects, 5 captures" in text) == (0, True)
