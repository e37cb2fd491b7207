"""Compiles the CPU rasteriser along with the installation; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError


class BuildRasterizer(build_ext):
    """Builds a plain shared library, which Python loads with ctypes, in place of an extension module."""

    def get_ext_filename(self, fullname: str) -> str:
        """`models/render/_rasterizer.so`, without the tag of a Python version: it depends on none."""
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile; without a compiler setuptools warns and goes on, since the extension is optional."""
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        # models.render itself imports torch, which is not there in an isolated build.
        build = runpy.run_path(str(Path(__file__).parent / "models" / "render" / "build.py"))["build"]
        try:
            build(library)
        except RuntimeError as error:
            raise CompileError(f"{error}\nrendering on the CPU will be slow without it") from error


setup(
    ext_modules=[Extension("models.render._rasterizer", sources=[], optional=True)],
    cmdclass={"build_ext": BuildRasterizer},
)
