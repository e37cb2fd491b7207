"""Every command of the README runs as it stands, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands(heading: str) -> list[str]:
    """Lines of the `sh` blocks under a heading, comments left out."""
    section = (ROOT / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.cluster
def test_the_command_line_by_example(tmp_path: Path) -> None:
    lines = commands("The command line by example")
    assert len(lines) >= 10
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "headway"
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")},
            capture_output=True,
            text=True,
            timeout=280,
        )
        fine = (0, 1) if arguments[:2] == ["config", "diff"] else (0,)  # as diff(1): 1 says that they differ
        assert done.returncode in fine, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "out/head/head.ply").is_file()
    assert (tmp_path / "out/head/turntable.webp").is_file()


@pytest.mark.parametrize("line", commands("Two commands"))
def test_the_two_commands_are_targets_of_the_makefile(line: str) -> None:
    target = line.split("#")[0].split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_links_lead_somewhere() -> None:
    missing = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            if not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert missing == []
