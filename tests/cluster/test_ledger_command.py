"""`headway ledger`: a table to read, an object for scripts, a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import run

from configs import dump_config, load_config
from trainer.ledger import CATEGORIES, Window
from trainer.ledger.windows import journal_path


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A run's folder whose two ranks were killed at step 14, after a checkpoint of step 10."""
    folder = tmp_path / "killed"
    (folder / "ledger").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(load_config("headsup-nano")))
    before = [
        Window(1, 0, 5, 0, 0, {"start_up": 5.0}, resumed=0),
        Window(1, 5, 15, 0, 10, {"compute": 8.0, "data_wait": 2.0}),
        Window(1, 15, 19, 10, 14, {"compute": 4.0}),
    ]
    after = [Window(2, 25, 35, 10, 20, {"start_up": 1.0, "compute": 9.0}, resumed=10, end="FINISHED")]
    for rank in range(2):
        for attempt, windows in ((1, before), (2, after)):
            lines = b"".join(window.line() + b"\n" for window in windows)
            journal_path(folder, rank, attempt).write_bytes(lines)
    return folder


def test_a_table_that_fits_a_terminal_and_a_picture(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ledger", str(killed))
    assert code == 0
    assert out.splitlines()[0] == "killed: 35.0 s, 2 ranks, 2 attempts, goodput 48.6%"
    lines = {line[2:18].strip(): line[18:].split() for line in out.splitlines()[2:]}
    assert lines["lost work"] == ["4.0", "11.4%", "4.0", "4.0"]
    assert lines["restart"] == ["7.0", "20.0%", "7.0", "7.0"]
    assert "steps done again: 4" in out
    assert max(len(line) for line in out.splitlines() if "picture" not in line) <= 80
    assert (killed / "ledger/ledger.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_as_json(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ledger", str(killed), "--json")
    assert code == 0
    found = json.loads(out)
    assert found["seconds"].keys() == CATEGORIES.keys()
    assert sum(found["seconds"].values()) == pytest.approx(found["wall_seconds"]) == 35
    assert found["ranks"].keys() == {"0", "1"}


def test_a_run_that_has_none_is_one_message(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (killed / "ledger").iterdir():
        path.unlink()
    code, _, err = run(capsys, "ledger", str(killed))
    assert code == 2
    assert "has no ledger" in err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ledger", "--help")
    assert code == 0
    assert "headway ledger first" in out.split("Example:")[1]
