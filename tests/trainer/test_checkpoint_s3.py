"""A process that saves to S3 is killed before and in the middle of every request that changes the store."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from ranks import free_port, run_ranks, small_config
from torch import Tensor, nn

from tests.data.s3 import bucket, make_bucket, s3_server  # noqa: F401 - fixtures
from trainer import checkpoint
from trainer.checkpoint import Retention, Saver

PART = 5 * 2**20  # the smallest that S3 allows: a shard of three parts


def install_killer(after: int, middle: bool) -> None:
    """Die by SIGKILL when the `after`-th request that changes the store is due, or with half of its body sent."""
    from aiobotocore.httpsession import AIOHTTPSession

    send, left = AIOHTTPSession.send, [after]

    async def deadly(self: Any, request: Any) -> Any:
        if request.method != "GET" and request.method != "HEAD":
            if left[0] == 0:
                if middle:
                    send_half(request)
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        return await send(self, request)

    AIOHTTPSession.send = deadly


def send_half(request: Any) -> None:
    """A signed request as the client would make it, whose body ends half-way."""
    place, body = urlsplit(request.url), request.body or b""
    content = body if isinstance(body, bytes | bytearray) else io.BytesIO(body.getvalue()).read()
    target = place.path + (f"?{place.query}" if place.query else "")
    headers = {"Host": place.netloc, "Content-Length": str(len(content))}
    headers |= {name: v.decode() if isinstance(v, bytes) else str(v) for name, v in request.headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((place.hostname or "", place.port or 80)) as connection:
        connection.sendall(f"{request.method} {target} HTTP/1.1\r\n{head}\r\n".encode() + content[: len(content) // 2])


def killed_everywhere(environment: dict[str, str], root: str, aside: str, width: int) -> list[tuple[str, str]]:
    """Which checkpoint is newest and whole after each kill, of a save that also removes an older one."""
    import s3fs

    from trainer.distributed import initialise
    from trainer.engine import Engine

    os.environ.update(environment)
    s3fs.S3FileSystem.default_block_size = PART
    initialise(1, seed=0)
    engine = Engine(nn.Linear(width, width), small_config(optimizer={"multipliers": {}}))
    wanted: dict[str, dict[str, Tensor]] = {}
    for step in "123":
        engine.backward(engine(torch.rand(2, width)).square().mean())
        engine.step()
        directory = f"{aside if step == '3' else root}/step-0000000{step}"
        checkpoint.save(engine, directory, {})
        wanted[step] = checkpoint.load_weights(directory, ema=False)
    found: list[tuple[str, str]] = []
    for after in range(40):
        for middle in (False, True):
            child = os.fork()
            if child == 0:
                install_killer(after, middle)
                Saver(root, Retention(last=2), background=False).save(engine, {})
                os._exit(0)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            newest = checkpoint.latest(root) or ""
            weights = checkpoint.load_weights(newest, ema=False)
            assert all(torch.equal(weights[name], wanted[newest[-1]][name]) for name in weights), newest
            found.append((newest[-1], "killed" if ended == -signal.SIGKILL else f"ended with {ended}"))
            if ended != -signal.SIGKILL:
                return found
    return [*found, ("", "never done")]


def check(environment: dict[str, str], url: str, tmp_path: Path, width: int, requests: int) -> None:
    """`requests` make the new checkpoint: those of its shard, and the manifest."""
    (found,) = run_ranks(1, killed_everywhere, environment, f"{url}/run", str(tmp_path), width)
    newest, ends = zip(*found, strict=True)
    assert list(newest) == sorted(newest)  # the older one until the commit, the newer one ever after
    assert set(ends[:-1]) == {"killed"}
    assert ends[-1] == "ended with 0"
    assert newest.count("2") == 2 * requests
    assert newest.count("3") > 2 * 2  # the oldest one's manifest and shard were removed meanwhile


def test_a_kill_at_any_request_leaves_a_whole_checkpoint_newest(
    bucket: str,  # noqa: F811
    s3_server: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    check(s3_server, bucket, tmp_path, 64, requests=2)


@pytest.fixture
def gateway(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of clients of a real S3 server."""
    start, folder = shared / "bin" / "radosgw-up", str(tmp_path / "ceph")
    if not start.is_file() or not all(shutil.which(tool) for tool in ("radosgw", "ceph-mon", "ceph-osd", "curl")):
        pytest.skip("needs Ceph's RADOS gateway")
    command = [str(start), folder, str(free_port())]
    up = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    try:
        settings = up.stdout.splitlines()[0].removeprefix("export ").split()
        environment = dict(setting.split("=", 1) for setting in settings) | {"AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment
    finally:
        subprocess.run([str(start), "--down", folder], check=True, timeout=60)


@pytest.mark.slow
def test_the_same_with_a_real_gateway_and_a_shard_in_parts(gateway: dict[str, str], tmp_path: Path) -> None:
    check(gateway, make_bucket("checkpoints"), tmp_path, 840, requests=6)  # begun, three parts, ended; the manifest
