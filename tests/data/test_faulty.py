"""The proxy itself: what it passes is what was sent, what it spoils is what it says."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from faulty import Faults, FaultyProxy

BODY = np.random.default_rng(0).bytes(200_000)


class Server(BaseHTTPRequestHandler):
    """Answers GET /n with n bytes (in chunks under /chunks/n), and PUT with the length of what came."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        *kind, size = self.path.strip("/").split("/")
        body = BODY[: int(size)]
        self.send_response(200)
        if kind:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(body), 7000):
                part = body[start : start + 7000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def do_PUT(self) -> None:
        got = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{len(got)} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A proxy that cuts connections is no news."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = Quiet(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def client(proxy: FaultyProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
    try:
        yield connection
    finally:
        connection.close()


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("path", ["/1", "/5000", "/200000", "/chunks/20000", "/chunks/0"])
def test_what_passes_is_unchanged_on_one_connection(port, path):
    size = int(path.rsplit("/", 1)[1])
    with FaultyProxy("127.0.0.1", port) as proxy, client(proxy) as connection:
        for _ in range(3):
            assert get(connection, path) == (200, BODY[:size])
        connection.request("HEAD", "/1")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        assert (proxy.counts.connections, proxy.counts.requests) == (1, 4)
        assert proxy.counts.bytes_down > 3 * size


@pytest.mark.parametrize("headers", [{}, {"Expect": "100-continue"}])
def test_uploads_pass_with_their_host(port, headers):
    with FaultyProxy("127.0.0.1", port) as proxy, client(proxy) as connection:
        connection.request("PUT", "/x", BODY, headers)
        assert connection.getresponse().read() == f"200000 127.0.0.1:{proxy.port}".encode()


def test_slow_down_is_an_answer_like_another(port):
    with FaultyProxy("127.0.0.1", port, Faults(error_503=1)) as proxy, client(proxy) as connection:
        for _ in range(2):
            status, body = get(connection, "/10")
            assert (status, b"<Code>SlowDown</Code>" in body) == (503, True)
        assert (proxy.counts.error_503, proxy.counts.connections) == (2, 1)


@pytest.mark.parametrize("path", ["/5000", "/chunks/20000"])
def test_truncated_bodies_are_noticed(port, path):
    with FaultyProxy("127.0.0.1", port, Faults(truncated=1)) as proxy, client(proxy) as connection:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            get(connection, path)
        assert proxy.counts.truncated == 1


def test_shortened_bodies_are_not(port):
    with FaultyProxy("127.0.0.1", port, Faults(shortened=1)) as proxy, client(proxy) as connection:
        for _ in range(3):
            status, body = get(connection, "/5000")
            assert status == 200
            assert len(body) < 5000
            assert body == BODY[: len(body)]
        assert proxy.counts.connections == 1


@pytest.mark.parametrize("path", ["/5000", "/200000", "/chunks/20000"])
def test_one_bit_is_flipped(port, path):
    size = int(path.rsplit("/", 1)[1])
    with FaultyProxy("127.0.0.1", port, Faults(flipped=1)) as proxy, client(proxy) as connection:
        for _ in range(3):
            changed = np.frombuffer(get(connection, path)[1], np.uint8) ^ np.frombuffer(BODY[:size], np.uint8)
            assert np.unpackbits(changed).sum() == 1
        assert proxy.counts.flipped == 3


def test_stalls_come_before_and_within_the_body_and_end(port):
    faults = Faults(stalled=1, stall_seconds=0.1)
    with FaultyProxy("127.0.0.1", port, faults) as proxy, client(proxy) as connection:
        first = []
        for _ in range(8):
            began = time.perf_counter()
            connection.request("GET", "/200000")
            answer = connection.getresponse()
            first.append(time.perf_counter() - began)
            assert answer.read() == BODY
            assert time.perf_counter() - began >= 0.1
        assert min(first) < 0.1 <= max(first)


def test_shares_are_kept_and_the_seed_decides_which(port):
    def statuses(seed: int) -> list[int]:
        with FaultyProxy("127.0.0.1", port, Faults(error_503=0.3), seed=seed) as proxy, client(proxy) as connection:
            return [get(connection, f"/{number % 50}")[0] for number in range(200)]

    one = statuses(1)
    assert one == statuses(1) != statuses(2)
    assert 35 <= one.count(503) <= 85


def test_latency_and_bandwidth(port):
    with FaultyProxy("127.0.0.1", port, latency=0.05, bandwidth=2e6) as proxy, client(proxy) as connection:
        began = time.perf_counter()
        get(connection, "/200000")
        assert time.perf_counter() - began >= 0.15
    with FaultyProxy("127.0.0.1", port, latency=(0.01, 1.0)) as proxy, client(proxy) as connection:
        assert get(connection, "/10")[0] == 200


def test_a_server_that_is_down_comes_back_on_its_port(port):
    with FaultyProxy("127.0.0.1", port) as proxy:
        with client(proxy) as connection:
            get(connection, "/10")
            proxy.stop()
            with pytest.raises((http.client.HTTPException, OSError)):
                get(connection, "/10")
        with client(proxy) as connection, pytest.raises(ConnectionRefusedError):
            get(connection, "/10")
        proxy.start()
        with client(proxy) as connection:
            assert get(connection, "/10") == (200, BODY[:10])


def test_nothing_is_left_behind(port):
    before = threading.active_count()
    for _ in range(3):
        with FaultyProxy("127.0.0.1", port, Faults(stalled=1, stall_seconds=60)) as proxy, client(proxy) as connection:
            connection.request("GET", "/200000")
    assert threading.active_count() <= before + 1


def test_s3_signatures_hold(port):
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        with FaultyProxy(*server.get_host_and_port()) as proxy:
            options = {"key": "k", "secret": "s", "endpoint_url": proxy.url, "skip_instance_cache": True}
            files = S3FileSystem(**options, use_listings_cache=False)
            files.mkdir("proxied")
            files.pipe_file("proxied/a", BODY)
            assert files.cat_file("proxied/a", start=100, end=150_000) == BODY[100:150_000]
            assert files.ls("proxied") == ["proxied/a"]
            files.close_session(files.loop, files._s3)
    finally:
        server.stop()
