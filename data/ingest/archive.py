"""Zips from strangers, read in place: names and sizes checked, contents verified by their CRC."""

from __future__ import annotations

import contextlib
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from configs.errors import UserError
from data.ingest.source import MAX_FILE, Source

MAX_MEMBERS = 2_000_000


@contextlib.contextmanager
def open_zip(source: Source, path: str) -> Iterator[Zip]:
    """A zip of the source, closed on leaving.

    Raises:
        UserError: it is not there, no zip or cut off; a member's name leads out of the folder or comes twice.
    """
    file = source.open(path)
    try:
        yield Zip(file, source.where(path))
    finally:
        file.close()


class Zip:
    """The members of a zip, read one by one and by name.

    Args:
        file: seekable, stays open as long as members are read.
        where: names the zip in messages.

    Raises:
        UserError: see `open_zip`.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.where = where
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise UserError(f"no zip, or cut off ({error})", where=where) from None
        members = self._zip.infolist()
        if len(members) > MAX_MEMBERS:
            raise UserError(f"holds {len(members)} members; the limit is {MAX_MEMBERS}", where=where)
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            # What zipfile made of a name may differ from what stands in the file.
            if not _stays(member.filename) or not _stays(member.orig_filename):
                raise UserError(f"the member {member.orig_filename!r} leads out of the folder", where=where)
            if member.filename in self._members:
                raise UserError(f"the member {member.filename!r} comes twice", where=where)
            if not member.is_dir():
                self._members[member.filename] = member

    @property
    def names(self) -> list[str]:
        """Names of all files in it, in the zip's order."""
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, limit: int = MAX_FILE) -> bytes:
        """A member's content.

        Raises:
            UserError: it is not there, larger than `limit` bytes, encrypted, or not what its CRC says.
        """
        where = f"{self.where}, member {name}"
        member = self._members.get(name)
        if member is None:
            raise UserError("is not there", where=where)
        if member.flag_bits & 1:
            raise UserError("is encrypted", where=where)
        # The header's size may be a lie; what is unpacked is limited as well.
        if member.file_size > limit:
            raise UserError(f"of {member.file_size} bytes is larger than {limit}", where=where)
        try:
            with self._zip.open(member) as file:
                data = file.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError) as error:
            raise UserError(f"is broken ({error})", where=where) from None
        if len(data) != member.file_size:
            raise UserError(f"is {len(data)} bytes, not {member.file_size}", where=where)
        return data


def _stays(name: str) -> bool:
    clean = posixpath.normpath(name)
    return not clean.startswith(("/", "..")) and "\\" not in name and "\0" not in name and ":" not in name
