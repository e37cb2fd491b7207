"""One shard against the index: every member by itself, and what the tar holds beside them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

import numpy as np

from data.images import decode, read_header
from data.index import Index
from data.keep.contents import Contents, Member
from data.keep.sequential import Sequential
from data.keep.tar import Entry, TarError, next_entry
from data.keep.work import Tell
from data.store import BadMember, Store, StoreError

MAX_DECODED = 256 * 2**20  # bytes; a larger member is no image
_SECOND_LOOKS = 16  # members of one shard that are read again by themselves, where a network may have erred


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: `where` names a member as `data.store.Range.where` does, or a shard; `what` says it."""

    where: str
    what: str

    @property
    def is_member(self) -> bool:
        """Whether it is one member, not a whole shard."""
        return ", member " in self.where


class ShardCheck:
    """Reads one shard and keeps what is wrong with it.

    Args:
        store: that holds it.
        contents: what ought to be in it.
        pixels: also decode every image and mask.
        tell: is given the size of each piece that was read.

    Attributes:
        members, bytes: how many were looked for and read.
        findings, notes: as in `data.keep.verify.Report`.
    """

    def __init__(self, store: Store, contents: Contents, pixels: bool, tell: Tell) -> None:
        self._store, self._contents, self._pixels, self._tell = store, contents, pixels, tell
        self._path = contents.shard.path
        self._expected: dict[int, Member] = {}
        self._order: list[int] = []
        self._looks, self._twice = 0, False
        self.members = self.bytes = 0
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def run(self) -> None:
        """Read it; raises StoreError where the store does not answer."""
        members = self._contents.members()
        self.members = len(members)
        self._expected = {member.place.offset: member for member in members}
        self._order = sorted(self._expected, reverse=True)
        for one in members:
            if self._expected[one.place.offset] is not one:
                self._bad(one, f"lies where {self._expected[one.place.offset].place.member} lies")
        size, stated = self._store.size(self._path), self._contents.shard.bytes
        if size is None:
            self._lost("the shard is missing")
            self._shard("is missing")
        else:
            if size != stated:
                self._shard(f"has {size} bytes, the index says {stated}")
            self._read(size)
        self._expected = {}

    def _read(self, size: int) -> None:
        stream = Sequential(self._store, self._path, size, self._tell)
        try:
            while (entry := self._next(stream)) is not None:
                self._entry(stream, entry)
            digest = stream.digest()
        except BadMember:
            self._lost("the shard became shorter while it was read")
        except StoreError as error:
            # A store that is gone is nobody's fault; a disk that cannot be read in places is.
            if self._store.local is None:
                raise
            self._shard(f"cannot be read from end to end: {error.what}")
            self._one_by_one()
        else:
            self._lost("the tar does not hold it where the index says", size)
            self._compare(digest, size)
        self.bytes += stream.offset

    def _next(self, stream: Sequential) -> Entry | None:
        """The next member; behind a broken header the next that the index knows."""
        try:
            return next_entry(stream)
        except TarError as error:
            ahead = next((offset for offset in reversed(self._order) if offset >= stream.offset), None)
            member = self._expected.get(ahead) if ahead is not None else None
            if member is None or member.place.offset + member.place.length > stream.size:
                if stream.size >= self._contents.shard.bytes:  # else its size has been complained about
                    self._shard(str(error))
                stream.skip(stream.size)
                return None
            stream.skip(member.place.offset - stream.offset)
            self._bad(member, f"the tar does not lead to it: {error}")
            return Entry(member.place.member, member.place.offset, member.place.length)

    def _entry(self, stream: Sequential, entry: Entry) -> None:
        member = self._expected.pop(entry.offset, None)
        if member is None:
            what = f"a {entry.odd}, which does not belong in a shard" if entry.odd else "the index does not know it"
            self.findings.append(Finding(f"shard {self._path}, member {entry.name}", what))
            # What it covers of members that the index knows counts as lost, not as read.
            return stream.skip(entry.size + entry.padding)
        while self._order and self._order[-1] <= entry.offset:
            self._order.pop()
        place = member.place
        if entry.odd:
            self._bad(member, f"is a {entry.odd} in the tar")
        elif entry.name.lower() != place.member.lower():  # webdataset, too, tells names apart by more than case
            self._bad(member, f"is called {entry.name} in the tar")
        elif entry.size != place.length:
            self._bad(member, f"has {entry.size} bytes in the tar, {place.length} in the index")
        self._content(stream, member)
        stream.skip(-place.length % 512)

    def _content(self, stream: Sequential, member: Member) -> None:
        """Take a member's bytes off the stream and compare them with the index."""
        wanted = member.kind == "sample" or self._pixels
        keep: list[bytes] = []
        crc = 0
        for piece in stream.pieces(member.place.length):
            crc = zlib.crc32(piece, crc)
            if wanted and member.place.length <= MAX_DECODED:
                keep.append(bytes(piece))
        if crc != member.place.crc32:
            self._changed(member)
        elif wanted and member.place.length > MAX_DECODED:
            self._bad(member, f"has {member.place.length} bytes, more than any image or description")
        elif wanted:
            self._inside(member, b"".join(keep))

    def _changed(self, member: Member) -> None:
        """A wrong checksum: of the stored bytes, or of those that arrived?"""
        what = "its checksum is wrong: the bytes were changed"
        if self._store.local is None and self._looks < _SECOND_LOOKS:
            try:
                data = self._store.read_ranges([member.place])[0]
            except BadMember as error:
                self._looks, what = self._looks + 1, error.what
            else:
                self.notes.append(f"{member.place.where}: was wrong once and right when it was read again")
                self._twice = True
                return self._inside(member, data)
        self._bad(member, what)

    def _inside(self, member: Member, data: bytes) -> None:
        try:
            if member.size is None:
                _check_sample(data, self._contents.index, member.row)
            elif self._pixels:
                _check_pixels(data, member)
        except ValueError as error:
            self._bad(member, str(error))

    def _one_by_one(self) -> None:
        for offset in sorted(self._expected):
            member = self._expected[offset]
            try:
                self._inside(member, self._store.read_ranges([member.place])[0])
            except (BadMember, StoreError) as error:
                self._bad(member, error.what)
        self._expected = {}

    def _lost(self, why: str, size: int | None = None) -> None:
        """Every member that was not met is bad."""
        for offset in sorted(self._expected):
            member = self._expected[offset]
            behind = size is not None and offset + member.place.length > size
            self._bad(member, f"the shard ends before it does, at byte {size}" if behind else why)
        self._expected = {}

    def _compare(self, digest: str, size: int) -> None:
        if self._twice and digest != self._contents.shard.sha256:
            digest = Sequential(self._store, self._path, size).digest()
        if digest != self._contents.shard.sha256 and not self.findings:
            self._shard("every member is whole, but its SHA-256 is not the one that was written")

    def _bad(self, member: Member, what: str) -> None:
        where = member.place.where
        if not any(finding.where == where for finding in self.findings[-2:]):
            self.findings.append(Finding(where, what))

    def _shard(self, what: str) -> None:
        self.findings.append(Finding(f"shard {self._path}", what))


def _check_sample(data: bytes, index: Index, row: int) -> None:
    """The description of a capture against the index; ValueError says what differs."""
    rig = index.rig(row)
    try:
        about = json.loads(data)
        cameras = about["cameras"]
        same = {
            "subject": about["subject"] == index.text("subject", row),
            "frame": about["frame"] == index.text("frame", row),
            "cameras": tuple(camera["name"] for camera in cameras) == rig.cameras,
            "world_to_camera": _equal([camera["world_to_camera"] for camera in cameras], rig.world_to_camera),
            "K": _equal([camera["K"] for camera in cameras], rig.K),
            "size": _equal([camera["size"] for camera in cameras], np.asarray(rig.sizes)),
        }
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"describes no capture ({error!r})") from None
    if wrong := [name for name, good in same.items() if not good]:
        raise ValueError(f"the index has another {', '.join(wrong)}")


def _equal(values: object, known: np.ndarray) -> bool:
    return np.array_equal(np.asarray(values, np.float64), known)


def _check_pixels(data: bytes, member: Member) -> None:
    header = read_header(data)
    if (header.height, header.width) != member.size:
        height, width = member.size or (0, 0)
        raise ValueError(f"is {header.width} x {header.height} pixels, the index says {width} x {height}")
    decode(data, 3 if member.kind == "image" else 1, header=header)
