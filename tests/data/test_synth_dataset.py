"""Datasets of synthetic captures: the same for any number of workers, and through a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import UserError
from data.manifest import stats
from data.synth import synthesise

ROOT = Path(__file__).parents[2]
SMALL = {"image_size": (32, 32), "shard_subjects": 2}


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth")
    return folder, synthesise(str(folder), 5, seed=4, workers=1, **SMALL)


def test_counts(made):
    _, info = made
    assert (info.subjects, info.captures, info.views, info.shards) == (5, 5, 80, 3)
    assert info.cameras == (16, 16)
    assert info.provenance["seed"] == 4


def test_any_number_of_workers_writes_the_same_bytes(made, tmp_path):
    folder, info = made
    again = synthesise(str(tmp_path), 5, seed=4, workers=2, **SMALL)
    assert again.fingerprint == info.fingerprint
    assert shards(tmp_path) == shards(folder)


def test_progress_counts_subjects_and_finished_work_is_kept(made):
    folder, info = made
    before = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    seen = []
    again = synthesise(str(folder), 5, seed=4, progress=lambda done, total: seen.append((done, total)), **SMALL)
    assert seen == [(5, 5)]
    assert again.fingerprint == info.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()} == before


def test_other_wishes_make_other_shards(made, tmp_path):
    _, info = made
    synthesise(str(tmp_path), 5, seed=5, workers=1, **SMALL)
    changed = synthesise(str(tmp_path), 5, seed=4, workers=1, **SMALL)
    assert changed.fingerprint == info.fingerprint


def test_a_part_of_a_population_is_that_part(made, tmp_path):
    folder, _ = made
    synthesise(str(tmp_path), 2, seed=4, first=2, workers=1, **SMALL)
    assert (tmp_path / "shards/000000.tar").read_bytes() == (folder / "shards/000001.tar").read_bytes()


def test_a_killed_run_goes_on_where_it_stopped(made, tmp_path):
    folder, info = made
    code = (
        "from data.synth import synthesise\n"
        "if __name__ == '__main__':\n"
        f"    synthesise({str(tmp_path)!r}, 5, seed=4, workers=2, image_size=(32, 32), shard_subjects=2)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, script], env=environment, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("parts/*.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    _wait_until_alone(process.pid)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("parts/*.parquet")}
    if len(kept) < 3:
        with pytest.raises(UserError, match="no dataset"):
            stats(str(tmp_path))
    again = synthesise(str(tmp_path), 5, seed=4, workers=1, **SMALL)
    assert again.fingerprint == info.fingerprint
    assert shards(tmp_path) == shards(folder)
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())


def _wait_until_alone(group: int) -> None:
    """The workers of a killed run end by themselves."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers outlived their parent")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"subjects": 0}, "subjects"),
        ({"rig": 17}, "rig"),
        ({"frames": 0}, "frames"),
        ({"workers": 0}, "workers"),
        ({"image_size": (0, 128)}, "image_size"),
        ({"first": -1}, "first"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(tmp_path, arguments, where):
    out = tmp_path / "data"
    with pytest.raises(UserError, match=where):
        synthesise(str(out), **{"subjects": 2, **arguments})
    assert not out.exists()
