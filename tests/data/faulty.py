"""A proxy on loopback between an HTTP client and server (S3 above all) that does what object stores do on bad days.

    with FaultyProxy("127.0.0.1", 9000, Faults(error_503=0.01, stalled=0.005), seed=1) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url

Bytes pass unchanged, the `Host` header too, so signatures made for the proxy's address hold. Faults strike only the
answers to GET. Whether one strikes depends on the seed, the request and how often it was made, not on timing: a run
can be repeated, and a request that failed once may succeed when it is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, fields, replace
from typing import Any

_BLOCK = 1 << 18
_SLOW_DOWN = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>injected</Message></Error>'
_BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, EOFError)


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong, as shares of all GETs; a request has one fault at most.

    Attributes:
        error_503: answered `503 SlowDown` without asking the server.
        truncated: the connection closes somewhere in the body.
        shortened: the body is shorter than the server's, with a `Content-Length` to match.
        flipped: one bit of the body is another.
        stalled: nothing comes for `stall_seconds`, before the first byte or in mid-body.
        stall_seconds: how long a stall lasts.
    """

    error_503: float = 0.0
    truncated: float = 0.0
    shortened: float = 0.0
    flipped: float = 0.0
    stalled: float = 0.0
    stall_seconds: float = 10.0


@dataclass
class Counts:
    """What passed the proxy, and what was done to it."""

    connections: int = 0
    requests: int = 0
    bytes_down: int = 0
    error_503: int = 0
    truncated: int = 0
    shortened: int = 0
    flipped: int = 0
    stalled: int = 0


class FaultyProxy:
    """Listens on a port of its own in a thread of its own; see the module.

    Args:
        host, port: the server's.
        faults: what goes wrong; `proxy.faults` may be set at any time.
        seed: of everything drawn.
        latency: seconds before every answer, or (median, sigma) of a lognormal distribution.
        bandwidth: bytes per second for all connections together; None is no limit.
    """

    def __init__(
        self,
        host: str,
        port: int,
        faults: Faults | None = None,
        *,
        seed: int = 0,
        latency: float | tuple[float, float] = 0.0,
        bandwidth: float | None = None,
    ) -> None:
        self.target, self.faults, self.seed = (host, port), faults or Faults(), seed
        self.latency, self.bandwidth, self.port = latency, bandwidth, 0
        self._counts, self._seen = Counts(), dict[bytes, int]()
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where clients find it; the same after `stop` and `start`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def counts(self) -> Counts:
        """A copy of the counts so far."""
        return replace(self._counts)

    def start(self) -> None:
        """Take connections."""
        self._run(self._listen())

    def stop(self) -> None:
        """Refuse connections and cut those there are: a server that is down."""
        self._run(self._cut())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=4 * _BLOCK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._counts.connections += 1
        connection = _Connection(self, reader, writer)
        try:
            await connection.serve()
        except asyncio.CancelledError:  # by `stop`; nobody awaits this task but `_cut`
            pass
        except _BROKEN:
            pass
        finally:
            connection.abort()
            self._serving.discard(task)

    def draw(self, request: Head) -> tuple[str | None, random.Random]:
        """The fault of a request, and what else is drawn for it."""
        key = hashlib.blake2b(f"{self.seed} {request.first} {request.get('range')}".encode(), digest_size=12).digest()
        self._seen[key] = self._seen.get(key, 0) + 1
        dice = random.Random(key + self._seen[key].to_bytes(4, "big"))
        place = dice.random()
        for field in fields(Faults):
            if field.name == "stall_seconds" or request.method != "GET":
                continue
            place -= getattr(self.faults, field.name)
            if place < 0:
                return field.name, dice
        return None, dice

    def count(self, fault: str) -> None:
        """One more `fault` was injected."""
        setattr(self._counts, fault, getattr(self._counts, fault) + 1)

    def delay(self, dice: random.Random) -> float:
        """Seconds before an answer."""
        if isinstance(self.latency, tuple):
            return self.latency[0] * dice.lognormvariate(0.0, self.latency[1])
        return self.latency

    async def pace(self, size: int) -> None:
        """Count bytes on their way to a client, and wait until the bandwidth allows them."""
        self._counts.bytes_down += size
        if self.bandwidth:
            now = self._loop.time()
            self._free_at = max(self._free_at, now) + size / self.bandwidth
            await asyncio.sleep(self._free_at - now)


@dataclass(frozen=True)
class Head:
    """First line and headers of a message, with the bytes that they came as."""

    raw: bytes
    first: str
    headers: dict[str, str]

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> Head:
        """The next message's; `IncompleteReadError` where the connection ends."""
        raw = await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").strip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(raw, first, {name.strip().lower(): value.strip() for name, _, value in pairs})

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first.split(" ", 1)[0]

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first.split(" ")[1])

    @property
    def length(self) -> int | None:
        """Bytes of the body where the head tells."""
        return int(self.headers["content-length"]) if "content-length" in self.headers else None

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks that tell their own length."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    def get(self, name: str) -> str:
        """A header, empty where it is not there."""
        return self.headers.get(name, "")

    def with_length(self, length: int) -> bytes:
        """The same head for a body of another length."""
        lines = self.raw.split(b"\r\n")
        told = [i for i, line in enumerate(lines) if line.lower().startswith(b"content-length:")]
        lines[told[0]] = b"Content-Length: %d" % length
        return b"\r\n".join(lines)


Write = Callable[[bytes], Awaitable[None]]


class _Connection:
    """One client and its connection to the server."""

    def __init__(self, proxy: FaultyProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._up: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def serve(self) -> None:
        """Answer requests until one side closes."""
        while True:
            request = await Head.read(self._reader)
            self._proxy._counts.requests += 1
            fault, dice = self._proxy.draw(request)
            await asyncio.sleep(self._proxy.delay(dice))
            if fault == "error_503":
                await self._refuse()
            elif not await self._relay(request, fault, dice):
                return

    def abort(self) -> None:
        """Close both sides at once."""
        for writer in (self._writer, self._up[1] if self._up else None):
            if writer is not None:
                writer.transport.abort()

    async def _refuse(self) -> None:
        self._proxy.count("error_503")
        head = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
        await self._down(head % len(_SLOW_DOWN) + _SLOW_DOWN)

    async def _relay(self, request: Head, fault: str | None, dice: random.Random) -> bool:
        """Ask the server and pass its answer on; whether the connection may be used again."""
        if self._up is None or self._up[0].at_eof():
            self._up = await asyncio.open_connection(*self._proxy.target, limit=4 * _BLOCK)
        reader, writer = self._up
        writer.write(request.raw)
        # Beside the answer: a client that expects "100 Continue" sends its body after the first head.
        sending = asyncio.ensure_future(_copy(request, self._reader, _sender(writer), until_end=False))
        try:
            answer = await Head.read(reader)
            while answer.status < 200:
                await self._down(answer.raw)
                answer = await Head.read(reader)
            whole = await self._answer(request, answer, reader, fault, dice)
            await sending
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, *_BROKEN):
                await sending
        return whole and "close" not in (request.get("connection").lower(), answer.get("connection").lower())

    async def _answer(
        self, request: Head, answer: Head, reader: asyncio.StreamReader, fault: str | None, dice: random.Random
    ) -> bool:
        """Pass an answer on with its fault; False where it was cut off."""
        if request.method == "HEAD" or answer.status in (204, 304) or answer.length == 0:
            await self._down(answer.raw)
            return True
        if fault == "shortened" and (answer.length is None or answer.length < 2):
            fault = None
        if fault is None:
            await self._down(answer.raw)
            await _copy(answer, reader, self._down, until_end=True)
            return answer.chunked or answer.length is not None
        self._proxy.count(fault)
        # Bodies in chunks have no known length: the fault then strikes early in them.
        place = dice.randrange(answer.length or 1024)
        spoiled = _Spoiled(self._down, fault, place, dice, self._proxy.faults.stall_seconds)
        if fault == "stalled" and dice.random() < 0.5:
            spoiled.done = True
            await asyncio.sleep(self._proxy.faults.stall_seconds)
        await self._down(answer.with_length(place) if fault == "shortened" else answer.raw)
        await _copy(answer, reader, spoiled.write, until_end=True, payload=spoiled.payload)
        return fault != "truncated" and (answer.chunked or answer.length is not None)

    async def _down(self, data: bytes) -> None:
        await self._proxy.pace(len(data))
        self._writer.write(data)
        await self._writer.drain()


class _Spoiled:
    """Passes a body on with one fault at byte `place` of it."""

    def __init__(self, write: Write, fault: str, place: int, dice: random.Random, stall: float) -> None:
        self.write, self.done = write, False
        self._fault, self._place, self._bit, self._stall, self._passed = fault, place, dice.randrange(8), stall, 0

    async def payload(self, data: bytes) -> None:
        """Pass bytes of the body on."""
        start, self._passed = self._passed, self._passed + len(data)
        if self._fault == "shortened":
            data = data[: max(0, self._place - start)]
        elif not self.done and start <= self._place < self._passed:
            self.done = True
            here = self._place - start
            if self._fault == "flipped":
                data = data[:here] + bytes([data[here] ^ 1 << self._bit]) + data[here + 1 :]
            else:
                await self.write(data[:here])
                data = data[here:]
                if self._fault == "truncated":
                    raise EOFError("truncated")
                await asyncio.sleep(self._stall)
        if data:
            await self.write(data)


def _sender(writer: asyncio.StreamWriter) -> Write:
    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    return send


async def _copy(
    head: Head, reader: asyncio.StreamReader, write: Write, until_end: bool, payload: Write | None = None
) -> None:
    """Pass the body that belongs to `head` on, its content through `payload`, the frames of chunks through `write`.

    Args:
        head: tells the length.
        reader: where the body comes from.
        write: takes bytes.
        until_end: a body of unknown length lasts until the connection closes; otherwise there is none.
        payload: takes the content; None is `write`.
    """
    payload = payload or write
    if not head.chunked:
        left = head.length if head.length is not None else (1 << 62 if until_end else 0)
        while left:
            data = await reader.read(min(left, _BLOCK))
            if not data:
                break
            left -= len(data)
            await payload(data)
        return
    while True:
        line = await reader.readuntil(b"\r\n")
        await write(line)
        size = int(line.split(b";")[0], 16)
        left = size
        while left:
            data = await reader.readexactly(min(left, _BLOCK))
            left -= len(data)
            await payload(data)
        # After the last chunk there may be trailers; an empty line ends them.
        ending = await reader.readuntil(b"\r\n")
        await write(ending)
        while not size and ending != b"\r\n":
            ending = await reader.readuntil(b"\r\n")
            await write(ending)
        if not size:
            return
