"""The importers' one job: the same bytes however it runs, going on after any end, broken units named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from miniatures import transforms
from miniatures.scene import rig

from configs import UserError
from data import Dataset
from data.capture import Capture
from data.images import encode_png
from data.ingest.job import Selection, Unit, ingest
from data.ingest.nerfstudio import Nerfstudio
from data.ingest.source import Source
from data.store import StoreError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Numbers:
    """A made-up format: a file `NAME.json` holds the numbers of the captures of one person."""

    shade: int = 0
    name: ClassVar[str] = "numbers"
    version: ClassVar[int] = 1

    def units(self, source: Source, select: Selection) -> Iterator[Unit]:
        files = {entry.path.removesuffix(".json"): entry for entry in source.files()}
        for subject in select.choose_subjects(files, source.where()):
            numbers = json.loads(source.read(f"{subject}.json"))
            chosen = select.choose_frames(range(len(numbers)))
            yield Unit(subject, subject, len(chosen), files[subject].version, {"frames": chosen})

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        numbers = json.loads(source.read(f"{unit.name}.json"))
        for frame in unit.details["frames"]:
            if numbers[frame] == -1:
                raise UserError("is broken", where=f"{source.where(unit.name)}, frame {frame}")
            if numbers[frame] == -2:
                raise StoreError("the store is gone", where=source.url)
            said = [f"shade {self.shade}", f"number {numbers[frame]}"]
            yield plain_capture(unit.subject, f"{frame:02d}", numbers[frame], said)


def plain_capture(subject: str, frame: str, shade: int, said: list[str]) -> Capture:
    cameras = rig(2, (8, 6))
    return Capture(
        subject=subject,
        frame=frame,
        cameras=("left", "right"),
        world_to_camera=np.stack([camera.world_to_camera for camera in cameras]),
        K=np.stack([camera.K for camera in cameras]),
        sizes=((8, 6),) * 2,
        images=(encode_png(np.full((8, 6, 3), shade, np.uint8)),) * 2,
        masks=(None,) * 2,
        meta={"ingest": said},
    )


def write_numbers(root: Path, **numbers: list[int]) -> str:
    root.mkdir(exist_ok=True)
    for name, values in numbers.items():
        (root / f"{name}.json").write_text(json.dumps(values))
    return str(root)


@pytest.fixture
def people(tmp_path: Path) -> str:
    return write_numbers(tmp_path / "people", anna=[1, 2, 3], ben=[4], cleo=[5, 6], dora=[7, 8, 9, 10], emil=[11])


def quiet(line: str) -> None:
    pass


def shards(url: str | Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(url).glob("shards/*.tar"))}


def captures(url: str) -> list[str]:
    with Dataset.open(url) as dataset:
        return dataset.captures


def test_units_are_grouped_whole_and_in_order(people, tmp_path):
    told: list[tuple[int, int]] = []
    out = str(tmp_path / "out")
    info = ingest(
        Numbers(), people, out, per_shard=4, licence="CC0-1.0", report=quiet, progress=lambda *n: told.append(n)
    )
    assert (info.subjects, info.captures, info.shards, info.licence) == (5, 11, 4, "CC0-1.0")
    assert captures(out)[:4] == ["anna_00", "anna_01", "anna_02", "ben_00"]
    assert told[0] == (0, 11)
    assert told[-1] == (11, 11)
    assert told == sorted(told)
    assert info.provenance["made by"] == "headway data ingest numbers"
    assert info.provenance["options"] == {"shade": 0}


def test_one_worker_is_three_workers(people, tmp_path):
    write_numbers(Path(people), cleo=[5, -1])
    told: list[tuple[int, int]] = []
    settings: dict[str, Any] = {"per_shard": 3, "keep_going": True, "report": quiet}
    one = ingest(Numbers(), people, str(tmp_path / "one"), **settings)
    settings["progress"] = lambda *n: told.append(n)
    three = ingest(Numbers(), people, str(tmp_path / "three"), workers=3, **settings)
    assert shards(tmp_path / "one") == shards(tmp_path / "three")
    assert (one.fingerprint, one.provenance) == (three.fingerprint, three.provenance)
    assert list(one.provenance["skipped"]) == ["cleo"]
    assert told[-1] == (11, 11)


def test_what_is_there_is_not_written_again(people, tmp_path):
    out, said = str(tmp_path / "out"), []
    first = ingest(Numbers(), people, out, per_shard=4, report=quiet)
    before = {path: path.stat().st_mtime_ns for path in Path(out).glob("shards/*")}
    Path(out, "shards/000001.tar").unlink()
    assert ingest(Numbers(), people, out, per_shard=4, report=said.append) == first
    after = {path: path.stat().st_mtime_ns for path in Path(out).glob("shards/*")}
    assert [path.name for path in after if after[path] != before[path]] == ["000001.tar"]
    assert sum("are there already" in line for line in said) == 3


CHANGES: dict[str, Any] = {
    "an option": {"format": Numbers(shade=1)},
    "the choice of frames": {"select": Selection(every=2)},
    "the grouping": {"per_shard": 2},
}


@pytest.mark.parametrize("change", [*CHANGES, "the source"])
def test_what_has_changed_is_written_again(people, tmp_path, change):
    settings: dict[str, Any] = {"format": Numbers(), "per_shard": 4, "source": people, "out": str(tmp_path / "out")}
    first = ingest(**settings, report=quiet)
    if change == "the source":
        write_numbers(Path(people), emil=[12])
    second = ingest(**{**settings, **CHANGES.get(change, {})}, report=quiet)
    assert second.fingerprint != first.fingerprint
    fresh = ingest(**{**settings, **CHANGES.get(change, {}), "out": str(tmp_path / "fresh")}, report=quiet)
    assert fresh.fingerprint == second.fingerprint


def test_a_broken_unit_stops_and_names_the_place(people, tmp_path):
    write_numbers(Path(people), cleo=[5, -1])
    with pytest.raises(UserError, match=r"people/cleo, frame 1: is broken"):
        ingest(Numbers(), people, str(tmp_path / "out"), per_shard=2, report=quiet)
    assert not (tmp_path / "out/dataset.json").exists()
    write_numbers(Path(people), cleo=[5, 6])
    said: list[str] = []
    ingest(Numbers(), people, str(tmp_path / "out"), per_shard=2, report=said.append)
    assert sum("are there already" in line for line in said) >= 1


def test_keep_going_leaves_whole_units_out_by_name(people, tmp_path):
    write_numbers(Path(people), cleo=[5, -1], emil=[-1])
    settings: dict[str, Any] = {"per_shard": 3, "keep_going": True, "report": quiet}
    one = ingest(Numbers(), people, str(tmp_path / "one"), **settings)
    assert one.captures == 8
    assert sorted(one.provenance["skipped"]) == ["cleo", "emil"]
    assert "frame 1: is broken" in one.provenance["skipped"]["cleo"]
    assert not any(name.startswith("cleo") for name in captures(str(tmp_path / "one")))
    again = ingest(Numbers(), people, str(tmp_path / "one"), **settings)
    assert again == one
    # A shard with gaps is not good enough for who did not ask to keep going.
    with pytest.raises(UserError, match="is broken"):
        ingest(Numbers(), people, str(tmp_path / "one"), per_shard=3, report=quiet)


def test_a_store_that_fails_is_no_broken_unit(people, tmp_path):
    write_numbers(Path(people), cleo=[5, -2])
    with pytest.raises(StoreError, match="the store is gone"):
        ingest(Numbers(), people, str(tmp_path / "out"), keep_going=True, report=quiet)


def test_only_broken_units_are_an_error(tmp_path):
    people = write_numbers(tmp_path / "people", anna=[-1], ben=[-1])
    with pytest.raises(UserError, match="not one of 2 units could be converted"):
        ingest(Numbers(), people, str(tmp_path / "out"), keep_going=True, report=quiet)


def test_units_without_captures_are_broken(tmp_path):
    people = write_numbers(tmp_path / "people", anna=[], ben=[1])
    with pytest.raises(UserError, match="anna: holds no captures"):
        ingest(Numbers(), people, str(tmp_path / "out"), report=quiet)


def test_a_part_of_the_data_can_be_chosen(people, tmp_path):
    def chosen(**how: Any) -> list[str]:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        ingest(Numbers(), people, str(out), select=Selection(**how), report=quiet)
        return captures(str(out))

    assert chosen(subjects=("ben", "*o*"), most_subjects=2) == ["ben_00", "cleo_00", "cleo_01"]
    assert chosen(most_subjects=1, every=2) == ["anna_00", "anna_02"]
    assert chosen(subjects=("dora",), most_frames=2) == ["dora_00", "dora_01"]
    with pytest.raises(UserError, match=r"no subject is called 'cloe'\n.*did you mean 'cleo'"):
        chosen(subjects=("cloe",))
    for key in ("every", "most_frames", "most_subjects"):
        with pytest.raises(UserError, match=f"{key}: 0 is not 1 or more"):
            Selection(**{key: 0})


def test_nothing_to_convert_is_one_message(tmp_path):
    (tmp_path / "people").mkdir()
    with pytest.raises(UserError, match="nothing to convert"):
        ingest(Numbers(), str(tmp_path / "people"), str(tmp_path / "out"), report=quiet)
    with pytest.raises(UserError, match="there is no such folder"):
        ingest(Numbers(), str(tmp_path / "nowhere"), str(tmp_path / "out"), report=quiet)
    with pytest.raises(UserError, match="per_shard: 0"):
        ingest(Numbers(), str(tmp_path / "people"), str(tmp_path / "out"), per_shard=0, report=quiet)


def test_memory_to_memory(people, tmp_path):
    disk = ingest(Numbers(), people, str(tmp_path / "out"), per_shard=4, report=quiet)
    memory = fsspec.filesystem("memory")
    for path in Path(people).iterdir():
        memory.pipe(f"/people/{path.name}", path.read_bytes())
    info = ingest(Numbers(), "memory://people", "memory://out", per_shard=4, workers=3, report=quiet)
    assert info.fingerprint == disk.fingerprint
    memory.store.clear()


def test_from_s3_to_s3_with_two_workers(tmp_path, bucket):
    folder = transforms.write(tmp_path / "captures", ("anna", "ben", "cleo"))
    disk = ingest(Nerfstudio(), str(folder), str(tmp_path / "out"), per_shard=1, report=quiet)
    s3 = fsspec.filesystem("s3", skip_instance_cache=True)
    s3.put(str(folder), f"{bucket}/captures", recursive=True)
    info = ingest(Nerfstudio(), f"{bucket}/captures", f"{bucket}/out", per_shard=1, workers=2, report=quiet)
    assert info.fingerprint == disk.fingerprint
    assert ingest(Nerfstudio(), f"{bucket}/captures", f"{bucket}/out", per_shard=1, report=quiet) == info


KILLED = """
import sys
from data.ingest.job import ingest
from data.ingest.nerfstudio import Nerfstudio
if __name__ == "__main__":
    ingest(Nerfstudio(), sys.argv[1], sys.argv[2], per_shard=1, workers=2)
"""


def test_a_killed_run_goes_on_and_leaves_no_process(tmp_path):
    folder = transforms.write(tmp_path / "captures", tuple(f"p{number:02d}" for number in range(24)), 8)
    whole = ingest(Nerfstudio(), str(folder), str(tmp_path / "whole"), per_shard=1, report=quiet)
    script, out = tmp_path / "killed.py", tmp_path / "out"
    script.write_text(KILLED)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, str(script), str(folder), str(out)], env=env, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list(out.glob("parts/*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    time.sleep(0.5)
    there = len(list(out.glob("parts/*")))
    assert 2 <= there < 24
    time.sleep(0.5)
    assert len(list(out.glob("parts/*"))) == there
    assert not (out / "dataset.json").exists()
    said: list[str] = []
    assert ingest(Nerfstudio(), str(folder), str(out), per_shard=1, report=said.append).fingerprint == whole.fingerprint
    assert sum("are there already" in line for line in said) == there
    assert shards(out) == shards(tmp_path / "whole")
