"""A new sqlite database for MLflow, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

_MAKE = "import sys; from mlflow import MlflowClient; MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"
_TIMEOUT_SECONDS = 300


def sqlite_file(uri: str) -> Path | None:
    """The file of a `sqlite:///` URI, absolute; None for other stores."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def make_database(path: Path) -> None:
    """Make MLflow's tables in a file that does not exist yet.

    MLflow makes them in some forty migrations. A process that is killed in the middle leaves a database that no later
    one can open or mend, so they are made under another name, in another process (they take seconds of a processor,
    which training should not share an interpreter with), and the file appears when it is whole.

    Raises:
        RuntimeError: MLflow could not make them; holds what it said.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        command = [sys.executable, "-c", _MAKE, f"sqlite:///{partial}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
        if done.returncode:
            raise RuntimeError(f"MLflow cannot make {path}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        _appear(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _appear(partial: Path, path: Path) -> None:
    """Give the file its name; where somebody else was quicker, theirs is as good and may be in use."""
    try:
        os.link(partial, path)
    except OSError:  # theirs is there, or a file system without links
        if not path.exists():
            partial.replace(path)
