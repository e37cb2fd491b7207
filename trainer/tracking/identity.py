"""Which MLflow run a run's folder belongs to, over all restarts."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "tracking"
"""Below a run's folder: the spool, and which MLflow run it is."""
_FILE = "run.json"


class Identity:
    """A key of our own, given before any server is asked, and the run id that MLflow gave, once it did.

    Args:
        folder: the tracking folder of a run; `run.json` in it holds the identity.
        known: the `record()` of the run that this one goes on with, from a checkpoint; the folder may be of a node that
            had no part in it, or another.
    """

    def __init__(self, folder: Path, known: Mapping[str, Any] | None = None) -> None:
        self._path = folder / _FILE
        try:
            stored = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            stored = {}
        if known and known.get("key") not in (None, stored.get("key")):
            stored = dict(known)
        self.key: str = stored.get("key") or uuid.uuid4().hex
        self.began: float = stored.get("began") or time.time()
        self.run_id: str | None = stored.get("run_id") or (known or {}).get("run_id")
        self._write()

    def note(self, run_id: str) -> None:
        """Remember the run's id."""
        self.run_id = run_id
        self._write()

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"key": self.key, "began": self.began, "run_id": self.run_id}

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.record()))
        partial.replace(self._path)


def read_run_id(run_dir: Path) -> str | None:
    """The MLflow run id of a run's folder, or None if no server has answered yet."""
    try:
        return json.loads((run_dir / FOLDER / _FILE).read_text())["run_id"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
