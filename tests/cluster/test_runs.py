"""A run's folder: paths that mean the same everywhere, one trainer at a time, disks that are full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runs import differences, find_run, prepare, read_run, resolve, sole_trainer
from cluster.session import ROOT, environment
from cluster.text import duration, size
from configs import Config, UserError, load_config


def config(*overrides: str) -> Config:
    return load_config("headsup-nano", list(overrides))


def test_relative_paths_count_from_the_folder_of_the_driver(tmp_path: Path) -> None:
    given = config("data.test=s3://bucket/test", "objective.lpips.path=vgg.pth", "model.template.path=/abs/head.obj")
    resolved = resolve(given, tmp_path)
    assert resolved.run.dir == str(tmp_path / "out/runs")
    assert resolved.data.train == str(tmp_path / "out/data/train")
    assert resolved.data.test == "s3://bucket/test"
    assert resolved.tracking.uri == f"sqlite:///{tmp_path}/out/mlflow.db"
    assert resolved.model_dump()["objective"]["lpips"]["path"] == str(tmp_path / "vgg.pth")
    assert resolved.model_dump()["model"]["template"]["path"] == "/abs/head.obj"


def test_every_setting_that_names_a_place_is_resolved(tmp_path: Path) -> None:
    keys = ["run.start_from", "data.train", "data.test", "data.quarantine", "checkpoint.url", "checkpoint.local"]
    tree = resolve(config(*(f"{key}=some/place" for key in keys)), tmp_path).model_dump()
    for key in keys:
        section, name = key.split(".")
        assert tree[section][name] == str(tmp_path / "some/place"), key


def test_resolving_twice_changes_nothing(tmp_path: Path) -> None:
    once = resolve(config(), tmp_path)
    assert resolve(once, tmp_path / "elsewhere") == once


def test_a_server_keeps_its_address(tmp_path: Path) -> None:
    assert resolve(config("tracking.uri=http://host:5000"), tmp_path).tracking.uri == "http://host:5000"


def test_where_a_run_works_may_change_without_another_name(tmp_path: Path) -> None:
    prepare(resolve(config(), tmp_path), resume=False)
    assert prepare(resolve(config("cluster.workers=1", "tracking.experiment=x"), tmp_path), resume=False)


def test_what_a_run_trains_may_not(tmp_path: Path) -> None:
    prepare(resolve(config(), tmp_path), resume=False)
    with pytest.raises(UserError, match=rf"trainer\.steps: {config().trainer.steps} there, 9 here"):
        prepare(resolve(config("trainer.steps=9"), tmp_path), resume=False)
    assert prepare(resolve(config("trainer.steps=9"), tmp_path), resume=True)


def test_a_run_that_was_moved_is_read_where_it_lies(tmp_path: Path) -> None:
    first = resolve(config("run.name=a"), tmp_path)
    prepare(first, resume=False)
    moved = tmp_path / "elsewhere" / "b"
    moved.parent.mkdir()
    first.run.path.rename(moved)
    read = read_run(find_run(str(moved)), ["trainer.steps=9"])
    assert read.run.path == moved
    assert read.trainer.steps == 9
    assert set(differences(first, read)) == {"run.dir", "run.name", "trainer.steps"}


def test_one_process_trains_a_run_and_a_dead_one_does_not_hold_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from cluster.runs import sole_trainer\n"
        "with sole_trainer(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(UserError, match=f"is being trained by process {holder.pid}"), sole_trainer(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with sole_trainer(tmp_path):
        pass


@pytest.fixture
def full_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(filler, b"x" * 4096):
            pass
    os.close(filler)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named_and_leaves_nothing_half_written(full_disk: Path) -> None:
    with pytest.raises(UserError, match=f"{full_disk}.*the disk is full"):
        prepare(resolve(config(f"run.dir={full_disk}")), resume=False)
    assert not list(full_disk.glob("**/config.yaml*"))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(resolve(config(f"run.dir={tmp_path}/runs")), resume=False)


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HW_A", "1")
    monkeypatch.delenv("HW_B", raising=False)
    with environment({"HW_A": None, "HW_B": "2"}):
        assert "HW_A" not in os.environ
        assert os.environ["HW_B"] == "2"
    assert os.environ["HW_A"] == "1"
    assert "HW_B" not in os.environ


@pytest.mark.parametrize(("seconds", "shown"), [(5, "0:05"), (65.4, "1:05"), (3725, "1:02:05"), (90_000, "1 d 01:00")])
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(("count", "shown"), [(999, "999 B"), (1500, "1.5 KB"), (24e9, "24.0 GB"), (5e15, "5000.0 TB")])
def test_sizes(count: float, shown: str) -> None:
    assert size(count) == shown
