"""Many verified reads in flight in one process: retries under a deadline, hedges, a circuit; on one event loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from configs.errors import UserError
from configs.store import StoreConfig
from data.store.circuit import Circuit, Tell
from data.store.disk import DiskCache
from data.store.errors import BadMember, Refused, StoreError, describe, pause, too_large
from data.store.latency import HedgePolicy, Latency
from data.store.probe import measure
from data.store.ranges import LARGEST, TYPICAL, Buffer, Cost, Range, Span, coalesce, cut
from data.store.transport import Transport, open_transport

T = TypeVar("T")
REREADS = 4  # attempts for a member whose bytes are wrong before it counts as bad
_MOST_RACING = 3  # requests for the same bytes at a time
_PING = 5.0  # seconds for one byte that was served before; longer counts as no answer
_THREADS = 16  # for clients that block
_MOST_BEHIND = 64 * 2**20  # bytes that wait to be written to the disk cache

# obstore's threads abort an interpreter that ends while they run.
_OPEN: weakref.WeakSet[Reader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for reader in list(_OPEN):
        reader.close()


@dataclass
class Traffic:
    """What a reader has asked for, counted since it was made.

    Attributes:
        requests: first requests; `hedges` second ones, `failures` those that came to nothing.
        bytes_asked: of all answers; `bytes_needed` of members in them.
        from_cache: bytes of members that the disk cache had.
    """

    requests: int = 0
    hedges: int = 0
    failures: int = 0
    bytes_asked: int = 0
    bytes_needed: int = 0
    from_cache: int = 0


class Reader:
    """Reads from one store for all threads of one process.

    Args:
        url: names the store in messages; `scheme` and `root` are its parts.
        settings: patience and speed.
        tell: is given one line when the store goes away and when it comes back.
    """

    def __init__(self, url: str, settings: StoreConfig, tell: Tell) -> None:
        scheme, _, root = url.partition("://")
        self._url, self._settings = url, settings
        self.traffic, self.latency = Traffic(), Latency()
        self.cost = TYPICAL
        self._measured = scheme == "memory"
        self._hedge = HedgePolicy(self.latency)
        self._cache = _open_cache(url, settings)
        self._writer, self._behind = ThreadPoolExecutor(1, "headway-cache"), 0
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, "headway-store"))
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="headway-store", daemon=True)
        self._thread.start()
        self._measuring = asyncio.Lock()
        self._served: Span | None = None
        self._owner = os.getpid()
        try:
            self._transport, self._circuit, self._slots = self._wait(self._start(scheme, root, tell))
        except BaseException:
            self._end()
            raise
        _OPEN.add(self)
        self._abandoned = weakref.finalize(self, _abandon, self._loop, self._writer)

    async def _start(self, scheme: str, root: str, tell: Tell) -> tuple[Transport, Circuit, asyncio.Semaphore]:
        settings = self._settings
        transport = open_transport(scheme, root, settings.timeout)
        circuit = Circuit(self._url, settings.patience, self._ping, tell)
        return transport, circuit, asyncio.Semaphore(settings.in_flight)

    def read(self, path: str, limit: int) -> bytes:
        """A whole file, in pieces that arrive before a timeout; raises FileNotFoundError or StoreError."""
        return self._wait(self._file(path, limit))

    async def _file(self, path: str, limit: int) -> bytes:
        where, pieces, size = f"{self._url}/{path}", [], 0
        while True:
            piece = await self._patiently(Span(path, size, size + LARGEST, ()), where)
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large(where, limit)
            if len(piece) < LARGEST:
                return b"".join(pieces)

    def fetch(self, ranges: Sequence[Range], verify: bool) -> Future[list[Buffer]]:
        """Members' bytes in the order asked; the future raises BadMember or StoreError."""
        kept = {index: self._cached(part) for index, part in enumerate(ranges)} if self._cache else {}
        hits = {index: data for index, data in kept.items() if data is not None}
        return asyncio.run_coroutine_threadsafe(self._members(ranges, hits, verify), self._loop)

    def close(self) -> None:
        """End every request, the thread and all connections. Safe to call twice; nothing in a forked child."""
        if self._loop.is_closed() or self._owner != os.getpid():
            return
        self._abandoned.detach()
        with contextlib.suppress(Exception):
            self._wait(self._stop())
        self._end()

    def _end(self) -> None:
        self._writer.shutdown()  # what was fetched is kept, 64 MB at most
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if self._cache:
            self._cache.close()

    async def _stop(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._transport.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise StoreError("was closed while it was read from", where=self._url) from None

    def _cached(self, part: Range) -> bytes | None:
        assert self._cache is not None
        data = self._cache.get(part)
        self.traffic.from_cache += len(data) if data else 0
        return data

    async def _members(self, ranges: Sequence[Range], hits: dict[int, bytes], verify: bool) -> list[Buffer]:
        found: dict[int, Buffer] = dict(hits)
        missing = [index for index in range(len(ranges)) if index not in found]
        if missing and not self._measured:
            await self._measure(ranges[missing[0]])
        # A wrong member is asked for again alone, so that its neighbours are not fetched with it.
        cost, errors = self.cost, {}
        for attempt in range(REREADS):
            if attempt:
                await asyncio.sleep(pause(attempt))
                cost = Cost(request=0.0, byte=1.0)
            wanted = [ranges[index] for index in missing]
            spans = coalesce(wanted, cost)
            self.traffic.bytes_needed += sum(part.length for part in wanted) if attempt == 0 else 0
            blobs = await _all([self._span(span) for span in spans])
            errors = {}
            for span, blob in zip(spans, blobs, strict=True):
                for place in span.ranges:
                    try:
                        found[missing[place]] = cut(blob, span, wanted[place], verify)
                    except BadMember as error:
                        errors[missing[place]] = error
            if not errors:
                break
            missing = sorted(errors)
        if errors:
            raise errors[min(errors)]
        if self._cache:
            self._keep(ranges, {index: data for index, data in found.items() if index not in hits})
        return [found[index] for index in range(len(ranges))]

    def _keep(self, ranges: Sequence[Range], fresh: dict[int, Buffer]) -> None:
        """Write to the disk cache beside the loop; what a slow disk has no time for is not kept."""
        cache, size = self._cache, sum(len(data) for data in fresh.values())
        assert cache is not None
        if not fresh or self._behind + size > _MOST_BEHIND:
            return

        def put() -> None:
            for index, data in fresh.items():
                cache.put(ranges[index], data)

        def done(_: object) -> None:
            self._behind -= size

        self._behind += size
        self._loop.run_in_executor(self._writer, put).add_done_callback(done)

    async def _span(self, span: Span) -> Buffer:
        where = f"{self._url}/{span.path}"
        try:
            return await self._patiently(span, where)
        except FileNotFoundError:
            raise StoreError("the shard is missing", where=where, hint="copy the dataset again") from None

    async def _patiently(self, span: Span, where: str) -> Buffer:
        """Ask until there is an answer: jittered exponential pauses, a deadline, and the circuit's patience."""
        spent, attempts = 0.0, 0
        while True:
            async with self._slots:
                await self._circuit.ready()
                asked = time.monotonic()
                try:
                    return await self._answer(span, where)
                except (UserError, FileNotFoundError):
                    raise
                except Exception as error:
                    last = error
            attempts += 1
            seconds = pause(attempts)
            spent += time.monotonic() - asked + seconds
            late = spent > self._settings.deadline
            if await self._circuit.failed(last, late):
                spent = 0.0  # while nobody gets an answer the circuit's patience counts, not this read's
            elif late:
                what = f"the store did not answer in {attempts} attempts; last: {describe(last)}"
                raise StoreError(what, where=where) from None
            else:
                await asyncio.sleep(seconds)

    async def _answer(self, span: Span, where: str) -> Buffer:
        """The answer to one request, or to its hedge."""
        try:
            answer = await self._hedged(span)
        except FileNotFoundError:
            self._circuit.succeeded()
            raise FileNotFoundError(where) from None
        except Exception as error:
            # A store that served us before and now refuses may have a clock or keys that are being renewed.
            if isinstance(error, Refused) and not self._circuit.ever_answered:
                raise StoreError(f"cannot be read ({error})", where=where) from None
            self.traffic.failures += 1
            raise
        self._circuit.succeeded()
        self._served = span
        return answer

    async def _ping(self) -> None:
        """Ask for a byte of what was served last."""
        if self._served is not None:
            path, start = self._served.path, self._served.start
            async with asyncio.timeout(min(_PING, self._settings.timeout)):
                with contextlib.suppress(FileNotFoundError):
                    await self._transport.get(path, start, start + 1)

    async def _hedged(self, span: Span) -> Buffer:
        """A span's bytes; by another request where those under way are slow and the budget allows."""
        self.traffic.requests += 1
        if not self._settings.hedge:
            return await self._request(span)
        self._hedge.begin()
        racing = {asyncio.ensure_future(self._request(span))}
        asked = time.monotonic()
        try:
            while True:
                # p95 may not be known yet, and a burst of slow answers may have used up the budget: look again.
                left = asked + self._hedge.delay - time.monotonic()
                wait = min(max(left, 0.02), 0.25)
                done, racing = await asyncio.wait(racing, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                errors = [task.exception() for task in done]
                for task, error in zip(done, errors, strict=True):
                    if error is None:
                        return task.result()
                if errors and not racing:
                    raise next(error for error in errors if error is not None)
                late = time.monotonic() - asked >= self._hedge.delay
                if late and len(racing) < _MOST_RACING and self._hedge.spend():
                    self.traffic.hedges += 1
                    racing.add(asyncio.ensure_future(self._request(span)))
                    asked = time.monotonic()
        finally:
            for task in racing:
                task.cancel()

    async def _request(self, span: Span) -> Buffer:
        began = time.monotonic()
        async with asyncio.timeout(self._settings.timeout):
            data = await self._transport.get(span.path, span.start, span.stop)
        if span.ranges:  # members, not the index
            self.traffic.bytes_asked += len(data)
            self.latency.add(time.monotonic() - began)
        return data

    async def _measure(self, part: Range) -> None:
        """Know what this store takes; once per process."""
        async with self._measuring:
            if not self._measured:
                self._measured = True
                self.cost = await measure(self._transport, part, self._settings.in_flight) or TYPICAL


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _abandon(loop: asyncio.AbstractEventLoop, writer: ThreadPoolExecutor) -> None:
    """End the thread of a reader that nobody holds any more, without waiting."""
    writer.shutdown(wait=False, cancel_futures=True)
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Every result; the first error ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _open_cache(url: str, settings: StoreConfig) -> DiskCache | None:
    if settings.cache_dir is None:
        return None
    return DiskCache(settings.cache_dir, url, int(settings.cache_gb * 1e9))
