"""An S3 server for benchmarks: a real one (Ceph's RADOS gateway) where it can be started, else moto, which says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import urlopen

LAUNCHER = Path(__file__).parents[2] / "shared" / "bin" / "radosgw-up"
_TOOLS = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "curl")


@dataclass
class ObjectStore:
    """A running S3 server.

    Attributes:
        kind: what it is, for the report.
        port: on every address that it serves.
        settings: environment of clients but for the address.
        counters: sockets that tell how many bytes were asked for; none where the server does not tell.
    """

    kind: str
    port: int
    settings: dict[str, str]
    folder: Path | None = None
    counters: list[str] = field(default_factory=list)

    def environment(self, address: str = "127.0.0.1") -> dict[str, str]:
        """Environment of a client that reaches the server at `address`."""
        return {**self.settings, "AWS_ENDPOINT_URL": f"http://{address}:{self.port}"}

    def serve(self, address: str) -> None:
        """Serve the same objects at another address of this machine too."""
        if self.folder is None:
            return  # moto listens everywhere
        run, name = self.folder / "run", address.replace(".", "-")
        options = {"pid-file": f"{run}/{name}.pid", "admin-socket": f"{run}/{name}.asok"}
        options |= {"rgw-frontends": f"beast endpoint={address}:{self.port}", "log-file": f"{self.folder}/log/{name}"}
        command = ["radosgw", "-n", "client.rgw", "--setuser", "root", "--setgroup", "root"]
        environment = {**os.environ, "CEPH_CONF": f"{self.folder}/ceph.conf"}
        subprocess.run([*command, *(f"--{key}={value}" for key, value in options.items())], check=True, env=environment)
        wait_for(f"http://{address}:{self.port}", 30)
        self.counters.append(options["admin-socket"])

    def make_bucket(self, name: str) -> str:
        """A new bucket's URL; made from here, at loopback."""
        _client(self.environment()).create_bucket(Bucket=name)
        return f"s3://{name}"


@contextmanager
def object_store(folder: Path, launcher: Path) -> Iterator[ObjectStore]:
    """Start a server with its data in `folder` (emptied), and end it.

    Args:
        folder: of the server alone.
        launcher: a script that starts Ceph (`radosgw-up DIR PORT`, `--down DIR`); moto where it is not there.
    """
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if launcher.is_file() and not missing:
        with _gateway(folder, launcher) as store:
            yield store
        return
    why = f"{', '.join(missing)} not installed" if missing else f"no {launcher.name} found"
    print(f"NOTE: no real S3 server ({why}); moto's mock answers instead: compare nothing with other pages", flush=True)
    with _moto() as store:
        yield store


def asked(counters: list[str]) -> dict[str, int]:
    """GETs and the bytes of them that gateways have answered since they started; empty without counters."""
    total = {"requests": 0, "bytes": 0} if counters else {}
    for path in counters:
        figures = _ask(path, "perf dump")["rgw"]
        total["requests"] += figures["get"]
        total["bytes"] += figures["get_b"]
    return total


def presign(url: str, environment: Mapping[str, str]) -> str:
    """An http:// address for `s3://bucket/key` that holds its own signature."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return _client(environment).generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})


def wait_for(url: str, seconds: float) -> None:
    """Until a server answers anything at all."""
    end = time.monotonic() + seconds
    while True:
        try:
            urlopen(url, timeout=5).close()
            return
        except OSError as error:
            if hasattr(error, "code") or time.monotonic() > end:  # an HTTP error is an answer
                if not hasattr(error, "code"):
                    raise
                return
            time.sleep(0.1)


@contextmanager
def _gateway(folder: Path, launcher: Path) -> Iterator[ObjectStore]:
    try:
        for attempt in range(3):  # on a busy machine Ceph's daemons lose patience with each other
            port = _free_ports()
            up = [str(launcher), str(folder), str(port)]
            done = subprocess.run(up, capture_output=True, text=True, timeout=240, check=False)
            if not done.returncode:
                break
            if attempt == 2:
                raise SystemExit(f"{launcher.name} failed: {done.stderr.strip()}")
        pairs = done.stdout.splitlines()[0].removeprefix("export ").split()
        settings = {**dict(pair.split("=", 1) for pair in pairs), "AWS_DEFAULT_REGION": "us-east-1"}
        yield ObjectStore("Ceph radosgw", port, settings, folder, [f"{folder}/run/client.rgw.asok"])
    finally:
        # Its own group lets an impatient Ctrl-C not reach the one that tidies up.
        subprocess.run([str(launcher), "--down", str(folder)], check=False, timeout=60, start_new_session=True)


@contextmanager
def _moto() -> Iterator[ObjectStore]:
    port = _free_ports()
    command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}", 60)
        keys = {
            "AWS_ACCESS_KEY_ID": "testkey",
            "AWS_SECRET_ACCESS_KEY": "testsecret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield ObjectStore("moto (a mock, in Python)", port, keys)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


def _client(environment: Mapping[str, str]) -> Any:
    return _client_of(*(environment[f"AWS_{key}"] for key in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")))


@cache
def _client_of(endpoint: str, key: str, secret: str) -> Any:
    import botocore.session

    return botocore.session.get_session().create_client(
        "s3", "us-east-1", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret
    )


def _free_ports() -> int:
    """A port that is free together with the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def _ask(path: str, command: str) -> Any:
    """Ceph's admin socket: a command in JSON, NUL, and a length before the answer."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(path)
        admin.sendall(json.dumps({"prefix": command}).encode() + b"\0")
        answer = b""
        while data := admin.recv(1 << 16):
            answer += data
    (length,) = struct.unpack(">I", answer[:4])
    return json.loads(answer[4 : 4 + length])
