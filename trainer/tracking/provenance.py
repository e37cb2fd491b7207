"""What a run is tagged with: the code that trained it. What it is never tagged with: secrets."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("headway", "torch", "deepspeed", "accelerate", "ray", "mlflow", "gsplat", "numpy")
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_IN_QUERY = re.compile(r"([?&][^=&]*(?:key|token|secret|signature|password|credential)[^=&]*=)[^&\s]+", re.I)
_SECRET_NAME = re.compile(r"(^|[._-])(password|passwd|secret|token|credentials?|api_?key|access_?key)$", re.I)


def code_version(root: Path | None = None) -> dict[str, str]:
    """Tags: git commit of the code where it is a checkout, and the versions of what it stands on."""
    root = root or Path(__file__).parents[2]
    tags = {f"version.{name}": version for name in _PACKAGES if (version := _version(name))}
    tags["version.python"] = platform.python_version()
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        if commit:
            tags["mlflow.source.git.commit"] = commit
            tags["git.changed_files"] = str(len((_git(root, "status", "--porcelain", "-uno") or "").splitlines()))
    return tags


def without_secrets(name: str, value: Any) -> str:
    """`value` as text with passwords in URLs, signed queries and settings named like a secret blanked out."""
    if value is not None and _SECRET_NAME.search(name):
        return "***"
    return _SECRET_IN_QUERY.sub(r"\1***", _USER_IN_URL.sub("***@", str(value)))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
