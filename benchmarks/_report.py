"""What every benchmark does: repeat, take medians and spread, say on what machine, print a table and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def median_and_spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the distance between the quartiles."""
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": statistics.median(values), "iqr": quartiles[2] - quartiles[0], "repeats": len(values)}


def machine() -> dict[str, Any]:
    """Hardware, versions and commit, for the page in docs/benchmarks."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "command": " ".join(["python", *sys.argv]),
    }


def finish(results: dict[str, Any], as_json: bool) -> None:
    """Print the machine, and with `--json` everything as one object on the last line."""
    results = {**results, "machine": machine()}
    print("\n" + "\n".join(f"{key}: {value}" for key, value in results["machine"].items()))
    if as_json:
        print(json.dumps(results))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _commit() -> str:
    shown = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or "unknown"
