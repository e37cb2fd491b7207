"""What can go wrong between a store and a batch."""

from __future__ import annotations

import random

from configs.errors import UserError

BAD_HINT = "copy the shard again, or write the dataset again"


class BadMember(UserError):
    """A member whose bytes are not those that were written, after every attempt; `where` names it."""


class StoreError(UserError):
    """The store did not answer within the deadline, or refused."""


class Refused(Exception):
    """An answer that asking again will not change: no such bucket, no right to read."""


def too_large(where: str, limit: int) -> StoreError:
    """A file that is larger than anything of its kind."""
    return StoreError(f"is larger than {limit} bytes, which nothing of its kind is", where=where)


def pause(attempts: int) -> float:
    """Seconds to wait after so many failed attempts: doubling, jittered, at most about five."""
    return min(5.0, 0.05 * 2**attempts) * random.uniform(0.5, 1.5)


def describe(error: BaseException) -> str:
    """The first line of an error, short enough for a message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
