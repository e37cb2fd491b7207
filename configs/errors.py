"""The one exception for mistakes that a user can mend; every room raises it, the command line prints it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A user's mistake: one readable message and exit code 2, never a traceback.

    Args:
        what: what is wrong, in a sentence.
        where: the config key, file, capture or camera it concerns.
        hint: what would be right.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.hint}" if self.hint else head

    def __reduce__(self) -> tuple[object, ...]:
        # Ray and multiprocessing carry exceptions by pickle; keyword arguments would be lost otherwise.
        return (_rebuild, (type(self), self.what, self.where, self.hint))


def _rebuild(kind: type[UserError], what: str, where: str | None, hint: str | None) -> UserError:
    return kind(what, where=where, hint=hint)


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest known name, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
