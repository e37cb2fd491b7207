"""The end of processes that hang, on their own node: what they are at is written down first."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from cluster.pulse import DUMP

_SECONDS_TO_DUMP = 1.0
_SECONDS_TO_LOOK = 5.0


def end(pids: list[int]) -> str:
    """Ask processes for their stacks, then kill them.

    A process that runs writes its stacks to its own log. One that is stopped cannot; py-spy, where it is installed and
    allowed to, reads them from outside.

    Returns:
        For each process its state and, where py-spy saw it, its stack.
    """
    report = []
    for pid in pids:
        try:
            state = psutil.Process(pid).status()
        except psutil.NoSuchProcess:
            report.append(f"process {pid}: is gone")
            continue
        report.append(f"process {pid}: {state}\n{_from_outside(pid)}".rstrip())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, DUMP)
    time.sleep(_SECONDS_TO_DUMP)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return "\n".join(report)


def _from_outside(pid: int) -> str:
    beside = str(Path(sys.executable).with_name("py-spy"))
    spy = shutil.which("py-spy") or shutil.which(beside)
    if spy is None:
        return ""
    command = [spy, "dump", "--nonblocking", "--pid", str(pid)]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_TO_LOOK, check=True).stdout
    return ""
