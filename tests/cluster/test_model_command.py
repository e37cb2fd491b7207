"""`headway model describe`: a table to read and an object for scripts."""

from __future__ import annotations

import json

import pytest
from test_cli import run

SMALL = ["headsup-nano", "model.latent_size=8", "model.uv_size=32", "model.pixel_grid=16", "data.image_size=[48, 48]"]


def test_a_table_that_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "model", "describe", *SMALL, "model.capacity=4", "engine.zero_stage=1")
    assert code == 0
    for words in (
        "fusion",
        "arithmetic per sample, 4 source views",
        "1,024 foreground",
        "learning rate carried",
        "1 *",
    ):
        assert words in out
    tables = [line for line in out.splitlines() if not line.startswith(("learning", "*"))]
    assert max(map(len, tables)) <= 80
    assert "…" not in out


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "model", "describe", *SMALL, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["networks"]["model"]["total"] == sum(found["networks"]["model"]["parameters"].values())
    assert found["workers"] == 2


def test_a_mistake_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "model", "describe", "headsup-nano", "model.capacty=4")
    assert code == 2
    assert "capacity" in err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "model", "describe", "--help")
    assert code == 0
    assert "headway model describe headsup-base" in out.split("Example:")[1]
