"""`headway latents` and `headway animate` say what is wrong before they do anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0), capsys.readouterr().err


def test_a_demo_takes_no_driver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(
        capsys, "animate", str(tmp_path), "anna", "--out", str(tmp_path / "out"), "--demo", "--driver", "bob"
    )
    assert code == 2
    assert "--demo plays its own expressions" in said


@pytest.mark.parametrize("command", [["animate", "none", "anna"], ["latents", "none", "captures"]])
def test_a_checkpoint_that_is_not_there(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(capsys, *command, "--out", str(tmp_path / "out"))
    assert code == 2
    assert "no run is called 'none'" in said
    assert not (tmp_path / "out").exists()


def test_a_file_of_coefficients_is_read_before_any_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    (tmp_path / "talk.json").write_text('[{"jawOpne": 0.5}]')
    (tmp_path / "checkpoint").mkdir()
    arguments = ["animate", str(tmp_path / "checkpoint"), "anna", "--out", str(tmp_path / "out")]
    code, said = run(capsys, *arguments, "--coefficients", str(tmp_path / "talk.json"))
    assert code == 2
    assert "did you mean 'jawOpen'?" in said
