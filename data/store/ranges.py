"""Byte ranges of members, and how few requests fetch them without fetching what nobody asked for."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from data.store.errors import BAD_HINT, BadMember

Buffer = bytes | memoryview

# What lies between an image and its own mask in a shard: padding and one tar header.
ALWAYS = 1024
LARGEST = 8 * 2**20  # bytes of one request; more would come faster in two


@dataclass(frozen=True, slots=True)
class Range:
    """One member's bytes: `length` from `offset` in the file `path`; `member` names it in messages."""

    path: str
    offset: int
    length: int
    crc32: int
    member: str

    @property
    def where(self) -> str:
        """The member's name in messages and quarantines."""
        return f"shard {self.path}, member {self.member}"


@dataclass(frozen=True, slots=True)
class Span:
    """One request: bytes `start` to `stop` of `path`, which holds the ranges numbered `ranges`."""

    path: str
    start: int
    stop: int
    ranges: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a store takes for a request and for a byte, in seconds, with many requests in flight.

    A store that serves many requests at once is bound either by their number (latency over requests in flight,
    processor time) or by bytes over bandwidth, so a set of requests takes about the larger of the two sums. A tenth
    of the smaller one is added, because nothing overlaps perfectly.
    """

    request: float
    byte: float

    def of(self, requests: int, count: int) -> float:
        """Seconds that so many requests for `count` bytes in all take."""
        by_number, by_size = requests * self.request, count * self.byte
        return max(by_number, by_size) + 0.1 * min(by_number, by_size)


# Until a store has been measured: 10 ms with 16 requests in flight, 100 MB/s.
TYPICAL = Cost(request=6e-4, byte=1e-8)


def coalesce(ranges: Sequence[Range], cost: Cost = TYPICAL) -> list[Span]:
    """Merge ranges of one file into the requests that together cost least.

    Reading through the smallest gaps first is best for any number of requests, so trying every number is trying all.

    Args:
        ranges: members, in any order.
        cost: of the store.

    Returns:
        spans sorted by file and offset.
    """
    order = sorted(range(len(ranges)), key=lambda i: (ranges[i].path, ranges[i].offset))
    gaps = [_gap(ranges[a], ranges[b]) for a, b in itertools.pairwise(order)]
    places = sorted(
        (place for place, gap in enumerate(gaps) if gap is not None), key=lambda place: (gaps[place], place)
    )
    count, read = len(ranges), sum(item.length for item in ranges)
    best, chosen = math.inf, 0
    for number, place in enumerate([None, *places]):
        gap = 0 if place is None else gaps[place] or 0
        count, read = len(ranges) - number, read + gap
        if gap <= ALWAYS or cost.of(count, read) < best:
            best, chosen = cost.of(count, read), number
    return _merge(ranges, order, set(places[:chosen]))


def _gap(first: Range, second: Range) -> int | None:
    """Bytes between two ranges; None where they lie in different files."""
    return max(0, second.offset - first.offset - first.length) if first.path == second.path else None


def _merge(ranges: Sequence[Range], order: list[int], through: set[int]) -> list[Span]:
    """Spans of sorted ranges; `through` holds the places whose gap to the next range is read as well."""
    spans: list[Span] = []
    for place, index in enumerate(order):
        item = ranges[index]
        stop = item.offset + item.length
        if place - 1 in through and stop - spans[-1].start <= LARGEST:
            last = spans[-1]
            spans[-1] = Span(last.path, last.start, max(last.stop, stop), (*last.ranges, index))
        else:
            spans.append(Span(item.path, item.offset, stop, (index,)))
    return spans


def cut(blob: Buffer, span: Span, part: Range, verify: bool) -> memoryview:
    """A member's bytes out of a span's, without copying.

    Raises:
        BadMember: they are not all there, or their checksum is wrong.
    """
    start = part.offset - span.start
    data = memoryview(blob)[start : start + part.length]
    if len(data) != part.length:
        raise BadMember(f"only {len(data)} of {part.length} bytes are there", where=part.where, hint=BAD_HINT)
    if verify and zlib.crc32(data) != part.crc32:
        raise BadMember("its checksum is wrong: the bytes were changed", where=part.where, hint=BAD_HINT)
    return data
