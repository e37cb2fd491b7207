"""What a machine has and lacks for a run: every check looks at the real thing, and none of them raises."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from cluster.text import size

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        part: what was looked at.
        verdict: `fail` where no run can work, `warn` where something is slow or missing.
        found: what is there.
        hint: what to do; empty when all is well.
    """

    part: str
    verdict: Verdict
    found: str
    hint: str = ""


def examine() -> list[Finding]:
    """Look at everything."""
    findings: list[Finding] = []
    for check in (_python, _packages, _processor, _gpu, _rasterizer, _deepspeed, _memory, _disk, _ports, _storage):
        findings.extend(_guarded(check))
    return findings


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:
        yield Finding(check.__name__.strip("_"), "fail", f"{type(error).__name__}: {error}", "reinstall: make setup")


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "fail", platform.python_version(), "" if good else "Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    """Importing is the only proof that a package works."""
    essential = ("torch", "ray", "deepspeed", "accelerate", "mlflow", "webdataset", "pyarrow", "simplejpeg")
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if not _has_nvidia() else "cuda")
    for name in essential:
        try:
            importlib.import_module(name)
        except Exception as error:
            first = str(error).splitlines()[0] if str(error) else ""
            yield Finding(name, "fail", f"{type(error).__name__}: {first}", "make setup")
        else:
            yield Finding(name, "ok", metadata.version(name))
    for name, use in (("gsplat", "renders on GPUs"), ("embreex", "makes synthetic captures"), ("lpips", "a metric")):
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "warn", f"missing; {use}", f"pip install {name}")


def _processor() -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    hint = "" if usable >= 2 else "the demo takes twice its time on one core"
    yield Finding("processor", "ok" if usable >= 2 else "warn", f"{usable} cores, {platform.machine()}", hint)


def _has_nvidia() -> bool:
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        yield Finding(
            "GPU", "ok", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, CUDA {torch.version.cuda}"
        )
    elif _has_nvidia():
        build = torch.version.cuda or "a CPU-only build"
        yield Finding("GPU", "warn", f"there is one, but torch ({build}) cannot use it", "install torch with CUDA")
    else:
        yield Finding("GPU", "ok", "none; everything runs on the processor")


def _rasterizer() -> Iterator[Finding]:
    from models.render.build import find_compiler
    from models.render.rasterizer import instruction_set, load_library

    compiler = find_compiler()
    if load_library() is not None:
        yield Finding("CPU rasteriser", "ok", f"built, {instruction_set()}")
    elif compiler:
        hint = "python -m models.render.build"
        yield Finding("CPU rasteriser", "warn", "not built; the slow reference renders", hint)
    else:
        hint = "install a C++ compiler (Debian: apt install g++), then python -m models.render.build"
        yield Finding("CPU rasteriser", "warn", "not built and no compiler; the slow reference renders", hint)
    verdict: Verdict = "ok" if compiler else "warn"
    yield Finding("C++ compiler", verdict, compiler or "none", "" if compiler else "Debian: apt install g++")


def _deepspeed() -> Iterator[Finding]:
    """DeepSpeed builds small C++ helpers on first use."""
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    hint = "" if ninja else "pip install ninja; without it DeepSpeed cannot build its helpers"
    yield Finding("ninja", "ok" if ninja else "warn", ninja or "none", hint)


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    enough = memory.available > 4e9
    hint = "" if enough else "two nano workers under Ray take about 4 GB"
    found = f"{size(memory.available)} free of {size(memory.total)}"
    yield Finding("memory", "ok" if enough else "warn", found, hint)
    if Path("/dev/shm").is_dir():
        shm = shutil.disk_usage("/dev/shm")
        enough = shm.free > 256e6
        hint = "" if enough else "Ray's object store falls back to the disk; in Docker: --shm-size=1g"
        yield Finding("shared memory", "ok" if enough else "warn", f"{size(shm.free)} free", hint)


def _disk() -> Iterator[Finding]:
    for part, folder in (("disk, here", Path.cwd()), ("disk, temporary", Path(os.environ.get("TMPDIR", "/tmp")))):
        usage = shutil.disk_usage(folder)
        verdict: Verdict = "fail" if usage.free < 0.2e9 else "warn" if usage.free < 5e9 else "ok"
        hint = "" if verdict == "ok" else "checkpoints and captures want some GB"
        if usage.free < 0.05 * usage.total:
            verdict, hint = "warn", "Ray stops placing work on a disk that is 95 % full"
        yield Finding(part, verdict, f"{size(usage.free)} free at {folder}", hint)


def _ports() -> Iterator[Finding]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        yield Finding("ports", "fail", f"none free on 127.0.0.1 ({error.strerror})", "ss -ltn shows what holds them")
    else:
        yield Finding("ports", "ok", "free ones on 127.0.0.1")


def _storage() -> Iterator[Finding]:
    """Only whether credentials are set, never what they are."""
    from botocore.session import get_session

    credentials = get_session().get_credentials() if _may_ask_for_credentials() else None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    if credentials is not None:
        yield Finding("S3", "ok", f"credentials from {credentials.method}, endpoint {endpoint}")
    else:
        hint = "for s3:// data: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, or a profile"
        yield Finding("S3", "ok", "no credentials; local data only", hint)


def _may_ask_for_credentials() -> bool:
    """Without these the chain would end at a network address that only cloud machines have."""
    home = Path.home() / ".aws"
    named = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    return any(os.environ.get(name) for name in named) or (home / "credentials").exists() or (home / "config").exists()
