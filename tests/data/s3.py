"""An S3 server in this process, as fixtures to import."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.data.faulty import FaultyProxy

_BUCKETS = itertools.count()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[dict[str, str]]:
    """The environment in which clients find it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "very-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


@pytest.fixture
def bucket(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new bucket."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    return make_bucket(f"heads-{next(_BUCKETS)}")


def make_bucket(name: str) -> str:
    """URL of a bucket made on the server that the environment names."""
    import botocore.session

    botocore.session.get_session().create_client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def proxied(make_dataset, bucket, s3_server, monkeypatch) -> Iterator[tuple[str, FaultyProxy]]:
    """URL of 24 captures in a new bucket, read through a proxy that can spoil answers."""
    url = make_dataset(24, url=f"{bucket}/set", per_shard=6).url
    host, port = s3_server["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
    with FaultyProxy(host, int(port), seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield url, proxy
