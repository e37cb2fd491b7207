"""Evaluation, pictures and reconstruction: what a person looks at after a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs import Config, UserError
from data.dataset import Dataset
from trainer.distributed import initialise
from trainer.evaluation import evaluate, evaluate_checkpoint, evaluation_views, held_out_views, mean_image_baseline
from trainer.export.ply import read_ply
from trainer.inference import load_system
from trainer.loop import train
from trainer.pictures import Row, contact_sheet, save_animation, wrapped
from trainer.reconstruct import reconstruct

MakeConfig = Callable[..., Config]


@pytest.fixture
def checkpoint(tiny: MakeConfig) -> tuple[str, Config]:
    config = tiny("trainer.steps=2", "data.test=null", "trainer.ema_decay=0.5")
    return train(config).checkpoint, config


def test_held_out_views_are_others_and_always_the_same(tiny: MakeConfig, people: Path) -> None:
    config = tiny("evaluation.source_views=4", "evaluation.target_views=12")
    with Dataset.open(str(people / "unseen")) as dataset:
        name = dataset.captures_of(dataset.subjects[0])[0]
        source, target = evaluation_views(name, dataset.cameras(name), dataset.centers(name), 4, 12)
        again = evaluation_views(name, dataset.cameras(name), dataset.centers(name), 4, 12)
        assert not set(source) & set(target)
        assert (source, target) == again
        views, _ = held_out_views(dataset, name, config)
    assert views.images.shape == (1, 4, 3, 48, 48)


def test_a_checkpoint_measures_as_its_run_did(tiny: MakeConfig, people: Path) -> None:
    summary = train(tiny("trainer.steps=2", "trainer.ema_decay=0.5"))
    found = evaluate_checkpoint(summary.checkpoint, str(people / "unseen"))
    assert found.protocol == summary.protocol
    assert found.means["psnr"] == pytest.approx(summary.metrics["psnr"], abs=1e-3)
    assert len(found.rows) == 2


def test_more_source_views_than_there_are_is_named(checkpoint: tuple[str, Config], people: Path) -> None:
    with pytest.raises(UserError, match="needs 17 cameras"):
        evaluate_checkpoint(checkpoint[0], str(people / "unseen"), source_views=15)


def test_the_mean_image_of_the_same_people_is_the_truth(tiny: MakeConfig, people: Path) -> None:
    """With one subject on both sides, the mean image is the image."""
    config = tiny("evaluation.subjects=1")
    with Dataset.open(str(people / "unseen")) as dataset:
        same = mean_image_baseline(dataset, dataset, config, subjects=1)
        mixed = mean_image_baseline(dataset, dataset, config, subjects=2)
    assert same.means["psnr"] > 99
    assert mixed.means["psnr"] < 40


def test_evaluation_takes_the_first_subjects(tiny: MakeConfig, people: Path, checkpoint: tuple[str, Config]) -> None:
    system, _ = load_system(checkpoint[0])
    with Dataset.open(str(people / "unseen")) as dataset:
        found = evaluate(system, dataset, tiny("evaluation.subjects=1"), initialise())
    assert list(found.subjects) == [dataset.subjects[0]]


def test_reconstruct_writes_what_it_says(checkpoint: tuple[str, Config], people: Path, tmp_path: Path) -> None:
    with Dataset.open(str(people / "unseen")) as dataset:
        subject = dataset.subjects[1]
    report = reconstruct(checkpoint[0], f"{people}/unseen#{subject}", tmp_path / "head", source_views=3)
    assert (len(report.source), len(report.held_back)) == (3, 13)
    assert len(read_ply(Path(report.ply))) == report.gaussians == 32 * 32
    assert Image.open(report.turntable).n_frames > 8  # type: ignore[attr-defined]
    assert Image.open(report.sheet).size[1] == 4 * 48
    assert json.loads((tmp_path / "head" / "report.json").read_text())["metrics"]["psnr"] > 5


def test_all_views_may_be_sources(checkpoint: tuple[str, Config], people: Path, tmp_path: Path) -> None:
    report = reconstruct(checkpoint[0], f"{people}/unseen#s1000000", tmp_path, source_views=16)
    assert report.held_back == ()
    assert report.metrics == {}


@pytest.mark.parametrize(
    ("capture", "views", "message"),
    [("unseen#nobody", 4, "nobody"), ("nowhere", 4, "nowhere"), ("unseen#s1000000", 17, "has 16 views, 17")],
)
def test_bad_captures_leave_nothing_behind(
    capture: str, views: int, message: str, checkpoint: tuple[str, Config], people: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        reconstruct(checkpoint[0], f"{people}/{capture}", tmp_path / "head", source_views=views)
    assert not (tmp_path / "head").exists()


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path, people: Path) -> None:
    with pytest.raises(UserError, match="no-checkpoint"):
        reconstruct(str(tmp_path / "no-checkpoint"), f"{people}/unseen#s1000000", tmp_path / "head")


def test_the_real_scan_needs_no_special_case(checkpoint: tuple[str, Config], shared: Path, tmp_path: Path) -> None:
    report = reconstruct(checkpoint[0], str(shared / "captures" / "scan_a"), tmp_path / "head")
    assert len(report.held_back) == 12
    assert report.metrics["psnr"] > 5


def test_a_truncated_photo_is_named(checkpoint: tuple[str, Config], shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "captures" / "scan_a", tmp_path / "scan")
    for path in [tmp_path / "scan", *(tmp_path / "scan").rglob("*")]:
        path.chmod(0o755)
    photo = tmp_path / "scan" / "images" / "cam_03.jpg"
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    with pytest.raises(UserError, match="cam_03"):
        reconstruct(checkpoint[0], str(tmp_path / "scan"), tmp_path / "head", source_views=16)


def test_contact_sheet_lays_out_rows() -> None:
    row = Row.small(torch.zeros(2, 3, 8, 6), torch.ones(3, 3, 8, 6), torch.ones(3, 3, 8, 6))
    sheet = contact_sheet([row, row])
    assert sheet.size == (2 * 6 + 4 + 3 * (3 * 6) + 2 * 4, 16)
    assert np.asarray(sheet)[0, 0].tolist() == [0, 0, 0]


def test_many_views_wrap_and_the_rest_is_white() -> None:
    rows = wrapped(Row.small(torch.zeros(2, 3, 8, 6), torch.zeros(5, 3, 8, 6), torch.zeros(5, 3, 8, 6)), columns=4)
    assert [len(row.target) for row in rows] == [4, 4]
    assert rows[1].target[1:].min() == 1
    assert contact_sheet(rows).size[1] == 16


def test_large_pictures_are_made_small() -> None:
    images = torch.rand(1, 3, 1000, 750)
    assert Row.small(images, images, images).source.shape == (1, 3, 256, 192)


def test_animation_keeps_every_frame(tmp_path: Path) -> None:
    save_animation(torch.rand(5, 3, 16, 16), tmp_path / "turn.webp")
    assert Image.open(tmp_path / "turn.webp").n_frames == 5  # type: ignore[attr-defined]
