"""A recipe for the image that every node runs."""

from __future__ import annotations

from cluster.submission import PACKAGES

# torch 2.13's wheels are built for CUDA 13.0; gsplat and DeepSpeed compile kernels on first use and want its compiler.
CUDA_IMAGE = "docker.io/nvidia/cuda:13.0.1-devel-ubuntu24.04"
_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE")


def container(base: str = CUDA_IMAGE, python: str = "3.11") -> str:
    """The recipe; built from a checkout: `docker build -f Containerfile -t headway .`

    Args:
        base: image to start from, changed at build time by `--build-arg BASE=IMAGE`.
        python: version, installed by uv beside whatever the base has.

    Returns:
        A Containerfile. It copies named files only, so nothing else of the checkout can get into the image.
    """
    return _RECIPE.format(base=base, python=python, files=" ".join(_FILES), folders=_folders())


def _folders() -> str:
    return "\n".join(f"COPY {package} /opt/source/{package}" for package in PACKAGES)


_RECIPE = """\
# Made by `headway cluster manifest --kind container`. Build in a checkout: docker build -f Containerfile -t headway .
ARG BASE={base}
ARG UV=ghcr.io/astral-sh/uv:0.8
FROM ${{UV}} AS uv

FROM ${{BASE}}
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends ca-certificates g++ wget \\
    && rm -rf /var/lib/apt/lists/*
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_PYTHON_INSTALL_DIR=/opt/python UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
RUN uv venv --python {python} /opt/headway

# The lock first: it changes less often than the code.
COPY requirements.lock /opt/source/
RUN --mount=type=cache,target=/root/.cache/uv \\
    uv pip install --python /opt/headway -r /opt/source/requirements.lock
COPY {files} /opt/source/
{folders}
RUN --mount=type=cache,target=/root/.cache/uv \\
    uv pip install --python /opt/headway --no-deps /opt/source

# The same user as in the pods' security context; some bases have one of that number already.
RUN (getent passwd 1000 | cut -d: -f1 | xargs --no-run-if-empty userdel --remove) 2>/dev/null; \\
    useradd --uid 1000 --user-group --create-home headway
USER 1000:1000
WORKDIR /home/headway
ENV PATH=/opt/headway/bin:$PATH VIRTUAL_ENV=/opt/headway PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
# Fails the build, and not the first job, where something is missing.
RUN ray --version && headway --help >/dev/null
"""
