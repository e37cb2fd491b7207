"""`headway data plan`: readable by people and machines, and it says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cluster.cli import main

DESCRIBED = ("--captures", "500", "--views", "12", "--image-kb", "20")


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["data", "plan", "headsup-nano", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_a_person_reads_a_page(capsys):
    code, out, _ = plan(capsys, *DESCRIBED, "--samples-per-second", "10", "--link-mbit", "1")
    assert code == 0
    for words in ("720 steps of 4 captures on 2 workers", "$", "10.0 samples/s", "no capture twice in an epoch"):
        assert words in out
    assert "! a link of 1 Mbit/s does not suffice" in out
    assert max(map(len, out.splitlines())) < 260


def test_a_machine_reads_json(capsys):
    code, out, _ = plan(capsys, *DESCRIBED, "--step-seconds", "0.5", "--cloud", "gcs", "--egress-price", "0", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["plan"]["rates"]["samples_per_second"] == 8
    assert found["plan"]["whole"]["egress_dollars"] == 0 < found["plan"]["whole"]["request_dollars"]
    assert 0 < found["plan"]["per_sample"]["used"] <= 1
    assert found["simulation"]["same_as_one_rank"] is True
    assert isinstance(found["warnings"], list)


def test_many_ranks_keep_their_share(capsys):
    code, out, _ = plan(capsys, "trainer.steps=9", *DESCRIBED, "--ranks", "64")
    assert code == 0
    assert "9 steps of 128 captures on 64 workers" in out
    assert "speed      unknown" in out


def test_the_picture_is_written(capsys, tmp_path: Path):
    code, _, _ = plan(capsys, *DESCRIBED, "--picture", str(tmp_path / "order.png"))
    assert code == 0
    assert Image.open(tmp_path / "order.png").size > (1000, 800)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data.train=nowhere",), "there is no dataset here\n  a dataset that does not exist yet is described by"),
        ((*DESCRIBED, "--step-seconds", "1", "--samples-per-second", "1"), "--step-seconds: the speed is given twice"),
        ((*DESCRIBED, "data.mixture=[{url: x}]"), "data.mixture: a described dataset cannot stand in for several"),
        ((*DESCRIBED, "data.source_views=12"), "data.source_views: "),
        ((*DESCRIBED, "--picture", "/nonexistent/x.png"), "cannot be written"),
    ],
)
def test_mistakes_are_one_message(capsys, arguments, message):
    code, _, err = plan(capsys, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
