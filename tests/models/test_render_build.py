"""Compiling the rasteriser."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from models.render import build as builder

needs_compiler = pytest.mark.skipif(builder.find_compiler() is None, reason="needs a C++ compiler")


@needs_compiler
def test_build_elsewhere(tmp_path: Path) -> None:
    library = builder.build(tmp_path / "rasterizer.so")
    assert os.listdir(tmp_path) == ["rasterizer.so"]
    assert ctypes.CDLL(str(library)).headway_instruction_set() != 0


@needs_compiler
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_wide_instructions_do_not_leak(tmp_path: Path) -> None:
    """A template emitted by the AVX-512 kernels could be linked in for machines that lack AVX-512."""
    name = "avx512" if "avx512" in builder._units() else "baseline"
    source, *flags = builder._units()[name]
    compiler, target = str(builder.find_compiler()), str(tmp_path / "kernels.o")
    subprocess.run([compiler, *builder.FLAGS, *flags, "-c", str(builder.SOURCES / source), "-o", target], check=True)
    listing = subprocess.run(["nm", "-C", "--defined-only", "-g", target], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in listing.stdout.splitlines()] == [f"headway::{name}"]


def test_no_compiler(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        builder.build(tmp_path / "rasterizer.so")


def test_a_failing_compiler(monkeypatch, tmp_path: Path) -> None:
    failing = tmp_path / "cxx"
    failing.write_text("#!/bin/sh\necho kaputt >&2; exit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    with pytest.raises(RuntimeError, match="kaputt"):
        builder.build(tmp_path / "rasterizer.so")
    assert os.listdir(tmp_path) == ["cxx"]
