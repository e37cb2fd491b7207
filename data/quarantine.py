"""Members that cannot be read: known by name, passed over by rule, and too many of them end the run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from configs.errors import UserError
from data.store import BadMember

_LEAST_READ = 1000  # members; a share of fewer means nothing
_NAMED = 20

Found = dict[tuple[str, str], str]
_log = logging.getLogger("headway.data")


class TooManyBad(UserError):
    """More members are bad than the run puts up with."""


class Quarantine:
    """The bad members that one process met; shared by threads.

    Which sample replaces one that holds a bad member follows from the order alone (`Sampler.replacement`), so ranks
    need not tell each other: whoever meets the member goes the same way.

    Args:
        limit: share of the members read that may be bad.
        known: names that are passed over without reading, in every dataset.
        tell: is given one line per new name.
    """

    def __init__(self, limit: float, known: Iterable[str] = (), tell: Callable[[str], object] = _log.warning) -> None:
        self._limit, self._known, self._tell = limit, frozenset(known), tell
        self._found: Found = {}
        self._read = 0
        self._lock = threading.Lock()

    def holds(self, dataset: str, name: str) -> bool:
        """Whether a member of a dataset (its URL) is to be passed over."""
        return (dataset, name) in self._found or name in self._known

    @property
    def found(self) -> Found:
        """What is wrong with each member that was met, by the dataset's URL and the member's name."""
        with self._lock:
            return dict(self._found)

    def passed(self, members: int) -> None:
        """So many members were read and are good."""
        with self._lock:
            self._read += members

    def add(self, dataset: str, error: BadMember) -> None:
        """One more bad member.

        Raises:
            TooManyBad: with the list, when they are more than the limit allows.
        """
        name = error.where or str(error)
        with self._lock:
            if self.holds(dataset, name):
                return
            self._found[dataset, name] = error.what
            self._read += 1
            bad, read = len(self._found), max(self._read, _LEAST_READ)
        self._tell(f"quarantined: {dataset}, {name}: {error.what}")
        if bad > self._limit * read:
            what = f"{bad} of {self._read} members read are bad, more than a share of {self._limit:g}"
            raise TooManyBad(what, where="data.bad_share", hint=self.list())

    def merge(self, found: Found) -> None:
        """Take over what another process met and has told about."""
        with self._lock:
            self._found.update(found)

    def list(self) -> str:
        """The first names with what is wrong, a line each, and what to do."""
        lines = [f"{dataset}, {name}: {what}" for (dataset, name), what in sorted(self.found.items())]
        more = [f"and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
        hint = "`headway data verify` lists them all; data.quarantine passes over what it listed"
        return "\n  ".join([*lines[:_NAMED], *more, hint])

    def write(self, path: Path) -> None:
        """Add what was met to a file that `data.quarantine` takes; nothing where nothing was met."""
        if not self.found:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.is_file() else ""
        known = set(before.splitlines())
        fresh = [(name, f"# {dataset}: {what}") for (dataset, name), what in sorted(self.found.items())]
        path.write_text(before + "".join(f"{comment}\n{name}\n" for name, comment in fresh if name not in known))


def read_quarantine(path: str | None) -> list[str]:
    """Names in a file as `headway data verify` writes it: one per line, `#` begins a comment.

    Raises:
        UserError: there is no such file.
    """
    if path is None:
        return []
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=f"data.quarantine: {path}") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
