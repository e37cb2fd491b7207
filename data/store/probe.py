"""What a store takes for a request and for a byte, measured on a file that is there."""

from __future__ import annotations

import asyncio
import time

from data.store.ranges import Cost, Range
from data.store.transport import Transport

_TURNS, _BYTES = 4, 2**19
_PATIENCE = 2.0  # seconds; reads wait meanwhile


async def measure(transport: Transport, part: Range, many: int) -> Cost | None:
    """Time tiny requests, `many` at once as later, and a few large ones of two sizes; None where nothing came of it.

    The cost of a byte is the slope between the sizes: what both take for being a request at all cancels out.
    """
    tiny, less, more = (part.offset, part.offset + 1), (0, _BYTES // 8), (0, _BYTES)
    try:
        async with asyncio.timeout(_PATIENCE):
            await _time(transport, part.path, tiny, many)  # opens the connections
            requests = [await _time(transport, part.path, tiny, many) for _ in range(_TURNS)]
            little = [await _time(transport, part.path, less, _TURNS) for _ in range(_TURNS)]
            # The first wave may ride on what a shaped link has saved up.
            much = [await _time(transport, part.path, more, _TURNS) for _ in range(1 + _TURNS)][1:]
    except Exception:  # what is wrong shows in the reads themselves, which know how to wait
        return None
    (short, few), (long, lots) = min(little), min(much)
    if lots <= few:
        return None
    return Cost(min(requests)[0] / many, max(long - short, 0.2 * long) / (lots - few))


async def _time(transport: Transport, path: str, where: tuple[int, int], many: int) -> tuple[float, int]:
    """Seconds and bytes of `many` equal requests at once; a tenth of them may fail or be stuck."""
    began = time.monotonic()
    spare = 1 + many // 10
    tasks = [asyncio.ensure_future(transport.get(path, *where)) for _ in range(many + spare)]
    came: list[int] = []
    errors: list[Exception] = []
    try:
        for task in asyncio.as_completed(tasks):
            try:
                came.append(len(await task))
            except Exception as error:
                errors.append(error)
            if len(came) == many:
                # Those that share a link with them are about as far.
                return time.monotonic() - began, max(came) * len(tasks)
        raise errors[-1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
