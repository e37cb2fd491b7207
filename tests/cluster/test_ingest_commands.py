"""`headway data ingest FORMAT`: help that teaches the layout, one message for a mistake, the same result however."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.cli import main
from data import stats
from data.images import encode_jpeg

ROOT = Path(__file__).parents[2]
FORMATS = {
    "nerfstudio": "transforms.json",
    "nersemble": "camera_params.json",
    "ava256": "frame_list.csv",
    "renderme360": "_raw.smc",
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(("data", "ingest", *arguments))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two captures of two cameras."""
    for name, angles in (("anna", (0.0, 0.3)), ("ben", (0.1, 0.5))):
        (tmp_path / f"set/{name}").mkdir(parents=True)
        frames = []
        for number, angle in enumerate(angles):
            c, s = np.cos(angle), np.sin(angle)
            pose = [[c, 0, s, s], [0, 1, 0, 0], [-s, 0, c, c], [0, 0, 0, 1]]
            frames.append({"file_path": f"c{number}.jpg", "transform_matrix": pose})
            image = np.full((16, 12, 3), 40 * number, np.uint8)
            (tmp_path / f"set/{name}/c{number}.jpg").write_bytes(encode_jpeg(image))
        tree = {"fl_x": 20.0, "frames": frames}
        (tmp_path / f"set/{name}/transforms.json").write_text(json.dumps(tree))
    return tmp_path / "set"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_shows_its_layout_and_an_example(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert FORMATS[name] in out
    assert f"headway data ingest {name}" in out.split("Example:")[1]
    for option in ("--out", "--workers", "--keep-going", "--subjects", "--every", "--licence"):
        assert option in out


def test_a_run_says_what_was_done_and_counts(people, tmp_path, capsys):
    out = str(tmp_path / "out")
    code, said, _ = run(capsys, "nerfstudio", str(people), "--out", out, "--licence", "CC0-1.0", "--per-shard", "1")
    assert code == 0
    assert "captures 2/2" in said
    assert "OpenGL camera-to-world turned into OpenCV" in said
    assert "2 subjects, 2 captures, fingerprint" in said
    info = stats(out)
    assert (info.shards, info.licence) == (2, "CC0-1.0")
    code, said, _ = run(capsys, "nerfstudio", str(people), "--out", out, "--licence", "CC0-1.0", "--per-shard", "1")
    assert said.count("are there already") == 2


def test_parts_are_chosen_and_broken_ones_left_out_by_name(people, tmp_path, capsys):
    code, said, _ = run(capsys, "nerfstudio", str(people), "--out", str(tmp_path / "one"), "--subjects", "b*")
    assert (code, "1 subjects" in said) == (0, True)
    code, said, _ = run(capsys, "nerfstudio", str(people), "--out", str(tmp_path / "two"), "--first", "1")
    assert stats(str(tmp_path / "two")).subjects == 1
    (people / "anna/c1.jpg").write_bytes(b"broken")
    out = str(tmp_path / "three")
    code, _, err = run(capsys, "nerfstudio", str(people), "--out", out)
    assert (code, "capture anna, camera c1: broken image" in err) == (2, True)
    code, said, _ = run(capsys, "nerfstudio", str(people), "--out", out, "--keep-going")
    assert (code, "left out: anna: " in said) == (0, True)


MISTAKES = {
    "no folder": (("nersemble", "nowhere", "--out", "x"), "there is no such folder"),
    "no format": (("nersembel", ".", "--out", "x"), "No such command"),
    "no place to write": (("ava256", "."), "--out"),
    "another choice": (("ava256", ".", "--out", "x", "--lenses", "bend"), "lenses"),
    "secrets": (("renderme360", "s3://key:secret@bucket/x", "--out", "x"), "credentials do not belong in a URL"),
    "no subject": (("nerfstudio", "set", "--out", "x", "--subjects", "cleo"), "no subject is called 'cleo'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_message(case, people, capsys, monkeypatch):
    monkeypatch.chdir(people.parent)
    arguments, message = MISTAKES[case]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert "secret" not in err


def test_importing_the_commands_costs_no_importer():
    code = "import sys, cluster.commands.data.ingest; print(any(n in sys.modules for n in ('torch', 'cv2', 'h5py')))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "False"
