"""The headers of a tar, one after the other, from strangers: bounded, and nothing in it is opened."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass

from data.keep.sequential import Sequential

BLOCK = 512
_MAX_EXTENSION = 2**20  # bytes of a pax header or a GNU long name
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_ODD = {
    tarfile.LNKTYPE: "hard link",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.DIRTYPE: "folder",
    tarfile.FIFOTYPE: "pipe",
    tarfile.GNUTYPE_SPARSE: "sparse file",
}


class TarError(ValueError):
    """What makes a tar unreadable from here on."""


@dataclass(frozen=True)
class Entry:
    """A member: its name with odd characters escaped, where its data begin, their length.

    Attributes:
        odd: what kind of member it is, where it is no plain file; empty where it is.
    """

    name: str
    offset: int
    size: int
    odd: str = ""

    @property
    def padding(self) -> int:
        """Bytes between its data and the next header."""
        return -self.size % BLOCK


def next_entry(stream: Sequential) -> Entry | None:
    """Read one member's headers (ustar, pax or GNU); the stream then stands before its data.

    Returns:
        the member, or None behind the last one, with the rest of the file read.

    Raises:
        TarError: no header, one that is cut off, or a member that would end behind the file.
    """
    changes: dict[str, str] = {}
    while True:
        info = _header(stream)
        if info is None:
            if changes:
                raise TarError("a long name without a member")
            return _end(stream)
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            changes |= _pax(_extension(stream, info))
        elif info.type == tarfile.XGLTYPE:
            if {"path", "size"} & _pax(_extension(stream, info)).keys():
                raise TarError("a global header that renames members")
        elif info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            text = _extension(stream, info).split(b"\0")[0].decode("utf-8", "surrogateescape")
            if info.type == tarfile.GNUTYPE_LONGNAME:
                changes["path"] = text
        else:
            return _entry(stream, info, changes)


def clean(name: str) -> str:
    """A stranger's text, safe to print and to write into a line of a file."""
    return name.encode("ascii", "backslashreplace").decode().encode("unicode_escape").decode()[:300]


def compression(start: bytes) -> str:
    """What a file that begins so was compressed with; empty where it was not."""
    known = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
    return next((name for magic, name in known.items() if start.startswith(magic)), "")


def _header(stream: Sequential) -> tarfile.TarInfo | None:
    """The next block as a header; None for an empty block."""
    where, block = stream.offset, stream.read(BLOCK)
    if not block:
        raise TarError("the tar has no end: it was cut off, or its writer was")
    if where == 0 and (packed := compression(block)):
        raise TarError(f"is compressed with {packed}: members of compressed tars cannot be fetched alone")
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except (tarfile.HeaderError, ValueError) as error:
        raise TarError(f"no tar header at byte {where} ({error})") from None
    if info.size < 0:
        raise TarError(f"a member of negative size at byte {where}")
    return info


def _end(stream: Sequential) -> None:
    while block := stream.read(2**16):
        if block.strip(b"\0"):
            raise TarError("there are bytes behind the end of the tar")


def _extension(stream: Sequential, info: tarfile.TarInfo) -> bytes:
    if info.size > _MAX_EXTENSION:
        raise TarError(f"a header of {info.size} bytes at byte {stream.offset}")
    data = stream.read(info.size)
    stream.skip(-info.size % BLOCK)
    if len(data) < info.size:
        raise TarError("the tar has no end: it was cut off, or its writer was")
    return data


def _pax(data: bytes) -> dict[str, str]:
    """Records `length key=value\\n`."""
    found: dict[str, str] = {}
    while data.strip(b"\0"):
        digits, _, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if length > len(data) or not equals or not value.endswith(b"\n"):
            raise TarError("a broken pax header")
        found[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return found


def _entry(stream: Sequential, info: tarfile.TarInfo, changes: dict[str, str]) -> Entry:
    name, odd = clean(changes.get("path", info.name)), _ODD.get(info.type, "")
    if not odd and info.type not in _PLAIN:
        odd = f"member of unknown type {info.type!r}"
    if any(key.startswith("GNU.sparse") for key in changes):
        odd = "sparse file"
    try:
        size = int(changes.get("size", info.size))
    except ValueError:
        raise TarError(f"a member of size {clean(changes['size'])}") from None
    # Links and devices may state a size although no data follow.
    size = 0 if info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE) else size
    if size < 0 or stream.offset + size > stream.size:
        raise TarError(f"{name} would end behind the end of the tar")
    return Entry(name, stream.offset, size, odd)
