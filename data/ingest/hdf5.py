"""HDF5 from strangers, read in place: only what lies in the file itself, bounded, broken files named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.ingest.source import MAX_FILE, Source


@contextlib.contextmanager
def open_hdf5(source: Source, path: str) -> Iterator[Hdf5]:
    """An HDF5 file of the source, closed on leaving.

    Raises:
        UserError: it is not there, no HDF5 or cut off.
    """
    import h5py

    where = source.where(path)
    with contextlib.closing(source.open(path)) as raw:
        try:
            file = h5py.File(raw, "r")
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise UserError(f"no HDF5, or cut off ({_short(error)})", where=where) from None
        with contextlib.closing(file):
            yield Hdf5(file, where)


class Hdf5:
    """Groups, arrays and attributes by path; whatever the library finds wrong with them names the path.

    Args:
        file: an open `h5py.File`.
        where: names it in messages.
    """

    def __init__(self, file: Any, where: str) -> None:
        self._file, self.where = file, where

    def __contains__(self, path: str) -> bool:
        with self._named(path):
            return self._get(path) is not None

    def holds_array(self, path: str) -> bool:
        """Whether an array, not a group, is there."""
        import h5py

        with self._named(path):
            return isinstance(self._get(path), h5py.Dataset)

    def names(self, path: str) -> list[str]:
        """What a group holds, sorted; empty where there is no such group."""
        import h5py

        with self._named(path):
            found = self._get(path)
            return sorted(found.keys()) if isinstance(found, h5py.Group) else []

    def array(self, path: str, limit: int = MAX_FILE) -> NDArray[Any]:
        """An array of numbers.

        Raises:
            UserError: it is not there, no array of numbers, larger than `limit` bytes, stored outside or broken.
        """
        import h5py

        where = self._at(path)
        with self._named(path):
            found = self._get(path)
            if found is None:
                raise UserError("is not there", where=where)
            if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub":
                raise UserError("is no array of numbers", where=where)
            if found.external or found.is_virtual:
                raise UserError("keeps its numbers in another file", where=where)
            if found.size is None or found.size * found.dtype.itemsize > limit:
                raise UserError(f"is larger than {limit} bytes", where=where)
            return np.asarray(found[()])

    def attribute(self, path: str, name: str) -> Any:
        """Numbers that an attribute of the file (empty path) or of a group holds; None where there are none.

        Text of variable length is not read: a damaged heap, where such text lies, keeps HDF5's library busy for ever.
        """
        with self._named(path):
            found = self._get(path) if path else self._file
            if found is None or name not in found.attrs or found.attrs.get_id(name).dtype.kind not in "fiub":
                return None
            return found.attrs[name]

    def _get(self, path: str) -> Any:
        """The object at a path of hard links; a link may lead to another file, so others are refused."""
        import h5py

        found: Any = self._file
        for part in path.split("/"):
            link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise UserError("is a link; only what lies in the file is read", where=self._at(path))
            found = found[part]
        return found

    @contextlib.contextmanager
    def _named(self, path: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise UserError(f"is broken ({_short(error)})", where=self._at(path)) from None

    def _at(self, path: str) -> str:
        return f"{self.where}, {path}" if path else self.where


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
