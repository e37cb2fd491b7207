"""Which captures of a dataset are meant: by the nested order of subjects, or by lists."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError, nearest
from data.index import Index
from data.order import nested_subjects

_MEMBER = re.compile(r"^shard [^,]+, member ([^.]+)\.")


@dataclass(frozen=True)
class Choice:
    """Captures that are wanted; all by default. Every restriction applies.

    Attributes:
        subjects: the first so many of the nested order, those that `data.subjects` trains on.
        named_subjects: everybody in this list.
        captures: only these; a name of a capture, or of a subject for all of theirs.
        excluded: not these; also members, as `headway data verify` lists them, for the captures that hold them.
    """

    subjects: int | None = None
    named_subjects: tuple[str, ...] | None = None
    captures: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()

    def rows(self, index: Index) -> NDArray[np.int64]:
        """Rows of the index, in its order.

        Raises:
            UserError: a name that is not there, or nothing left.
        """
        keep = np.ones(len(index), bool)
        if self.subjects is not None:
            keep &= np.isin(index.subject_numbers, nested_subjects(index.subjects, self.subjects, "--subjects"))
        names = _Names(index)
        if self.named_subjects is not None:
            numbers = [names.subject(name) for name in self.named_subjects]
            keep &= np.isin(index.subject_numbers, numbers)
        if self.captures is not None:
            keep &= names.mask(self.captures)
        keep &= ~names.mask(self.excluded)
        if not keep.any():
            raise UserError("no capture is left", where=index.where)
        return np.flatnonzero(keep)

    def describe(self) -> dict[str, Any]:
        """For the provenance: numbers as they are, lists by length and digest."""
        found: dict[str, Any] = {} if self.subjects is None else {"subjects": self.subjects}
        lists = {"subject list": self.named_subjects, "captures": self.captures, "excluded": self.excluded or None}
        for name, values in lists.items():
            if values is not None:
                digest = hashlib.sha256("\n".join(sorted(values)).encode()).hexdigest()
                found[name] = f"{len(values)} lines, SHA-256 {digest}"
        return found


def read_list(path: Path) -> tuple[str, ...]:
    """Names in a file, one per line; `#` begins a comment.

    Raises:
        UserError: no such file, or nothing in it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path)) from None
    names = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not names:
        raise UserError("holds no names", where=str(path), hint="one per line")
    return names


class _Names:
    """Looks names up in an index."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._subjects = {name: number for number, name in enumerate(index.subjects)}

    def subject(self, name: str) -> int:
        """Number of a subject."""
        if name not in self._subjects:
            hint = nearest(name, list(self._subjects)[:1000])
            raise UserError(f"no subject is called '{name}'", where=self._index.where, hint=hint)
        return self._subjects[name]

    def mask(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        """Of each row, whether one of the names means it."""
        found = np.zeros(len(self._index), bool)
        if not names:
            return found
        rows = {name: row for row, name in enumerate(self._index.names.to_pylist())}
        for name in names:
            member = _MEMBER.match(name)
            if member is not None and member[1] not in rows:
                continue  # an odd member, such as one that no capture knows
            name = member[1] if member is not None else name
            if name in rows:
                found[rows[name]] = True
            elif name in self._subjects:
                found[self._index.rows_of(self._subjects[name])] = True
            else:
                hint = nearest(name, list(rows)[:1000])
                raise UserError(f"no capture is called '{name}'", where=self._index.where, hint=hint)
        return found
