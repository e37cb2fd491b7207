"""Compiles the CPU rasteriser with the plain C++ compiler: `python -m models.render.build`.

The kernels are compiled once per instruction set and chosen at run time, so a library built here runs on any machine
of the same architecture.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "cpu"
LIBRARY = Path(__file__).parent / "_rasterizer.so"
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-pthread"]
FLAGS += ["-fvisibility-inlines-hidden", "-Wall", "-Wextra", "-Wno-psabi"]


def find_compiler() -> str | None:
    """Path of `$CXX`, g++ or clang++, whichever is there first."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((path for name in wanted if (path := shutil.which(name))), None)


def _units() -> dict[str, list[str]]:
    """Object name -> its source file and the flags of its own."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {
            "baseline": ["kernels.cpp", "-DHEADWAY_KERNELS=baseline"],
            "binning": ["binning.cpp"],
            "api": ["api.cpp"],
        }
    return {
        "avx512": ["kernels.cpp", "-DHEADWAY_KERNELS=avx512", "-march=x86-64-v4"],
        "avx2": ["kernels.cpp", "-DHEADWAY_KERNELS=avx2", "-march=x86-64-v3"],
        "baseline": ["kernels.cpp", "-DHEADWAY_KERNELS=baseline"],
        "binning": ["binning.cpp"],
        "api": ["api.cpp", "-DHEADWAY_X86"],
    }


def build(library: Path = LIBRARY) -> Path:
    """Compile and link; takes a few seconds.

    Args:
        library: where the shared library goes; replaced at once, so that running processes keep theirs.

    Raises:
        RuntimeError: no compiler, or it failed; the message holds what it said.
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler: set CXX or install g++ or clang++")
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        objects = {name: os.path.join(folder, name + ".o") for name in _units()}
        commands = [
            [compiler, *FLAGS, *flags, "-c", str(SOURCES / source), "-o", objects[name]]
            for name, (source, *flags) in _units().items()
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        linked = os.path.join(folder, library.name)
        _run([compiler, "-shared", "-pthread", *objects.values(), "-o", linked])
        os.replace(linked, library)
    return library


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr.strip()}")


if __name__ == "__main__":
    try:
        print(f"built {build()}")
    except RuntimeError as error:
        sys.exit(str(error))
