"""Ranged reads from one kind of store: obstore for S3, fsspec for everything else. No retries here."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Protocol

import fsspec

from data.store.errors import Refused, StoreError, describe
from data.store.ranges import Buffer

_REFUSED = (
    "PermissionError",
    "PermissionDeniedError",
    "UnauthenticatedError",
    "NoCredentialsError",
    "NotSupportedError",
)
CONNECT_SECONDS = 5
_obstore_in: int | None = None  # the first process in this line of forks that used obstore


class Transport(Protocol):
    """A client of one process. Paths are relative to the dataset's URL."""

    async def get(self, path: str, start: int, stop: int) -> Buffer:
        """Bytes `start` to `stop` of a file, fewer where it ends before.

        Raises:
            FileNotFoundError: it is not there.
            Refused: asking again is useless.
            Exception: asking again may help.
        """
        ...

    async def close(self) -> None:
        """Drop every connection."""
        ...


def open_transport(scheme: str, root: str, timeout: float) -> Transport:
    """The fastest client for a URL; `HEADWAY_TRANSPORT=fsspec` takes fsspec's for S3 too.

    Args:
        scheme: `s3` or whatever fsspec knows.
        root: what follows `://`.
        timeout: seconds after which a request is given up.
    """
    # obstore's threads do not survive a fork: a child of a process that used it must not touch it.
    forked = _obstore_in not in (None, os.getpid())
    if scheme == "s3" and not forked and os.environ.get("HEADWAY_TRANSPORT", "obstore") == "obstore":
        return _ObjectTransport(root, timeout)
    return _FsspecTransport(scheme, root, timeout)


class _ObjectTransport:
    """S3 by obstore (Rust): a tenth of the processor time per request of a client in Python."""

    def __init__(self, root: str, timeout: float) -> None:
        global _obstore_in
        from obstore.store import S3Store

        _obstore_in = os.getpid()
        bucket, _, prefix = root.partition("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        options: dict[str, Any] = {
            "timeout": f"{timeout:.3f}s",
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "allow_http": endpoint.startswith("http://"),
        }
        # One policy of retries, ours: it knows the deadline, the checksums and whether the store is up.
        settings = {"client_options": options, "retry_config": {"max_retries": 0}, **_credentials()}
        self._store: Any = S3Store(bucket, prefix=prefix or None, **settings)

    async def get(self, path: str, start: int, stop: int) -> Buffer:
        import obstore

        try:
            return memoryview(await obstore.get_range_async(self._store, path, start=start, end=stop))
        except Exception as error:
            return _nothing_or_raise(error)

    async def close(self) -> None:
        self._store = None


class _FsspecTransport:
    """Anything that fsspec reads, a thread per request in flight."""

    def __init__(self, scheme: str, root: str, timeout: float) -> None:
        self._fs, self._root = filesystem(scheme, timeout), root.rstrip("/")

    async def get(self, path: str, start: int, stop: int) -> Buffer:
        try:
            return await asyncio.to_thread(self._fs.cat_file, f"{self._root}/{path}", start=start, end=stop)
        except Exception as error:
            return _nothing_or_raise(error)

    async def close(self) -> None:
        await asyncio.to_thread(close_filesystem, self._fs)


def filesystem(scheme: str, timeout: float = 30.0) -> Any:
    """A client of fsspec that nobody else shares, so that none is inherited by a fork."""
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "s3":
        limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": timeout, "retries": {"max_attempts": 1}}
        options["config_kwargs"] = limits
    found = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        found.retries = 1
    return found


def close_filesystem(fs: Any) -> None:
    """Drop the connections of an fsspec client that keeps any."""
    if hasattr(fs, "close_session"):
        fs.close_session(fs.loop, fs._s3)


def refused(error: BaseException) -> bool:
    """Whether asking again is useless."""
    return type(error).__name__ in _REFUSED or "NoSuchBucket" in str(error)


def _nothing_or_raise(error: Exception) -> Buffer:
    """No bytes where the file ends before the range begins; else the error as the retry policy sorts it."""
    if "InvalidRange" in str(error) or "416" in str(error):
        return b""
    raise (Refused(describe(error)) if refused(error) else error) from None


def _credentials() -> dict[str, Any]:
    """Keys from the environment are found by obstore itself; profiles and files by botocore's chain, or none."""
    if "AWS_ACCESS_KEY_ID" in os.environ or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        return {}
    import botocore.session

    session = botocore.session.get_session()
    found = session.get_credentials()
    if found is None:
        hint = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or AWS_SKIP_SIGNATURE=true for a public bucket"
        raise StoreError("there are no credentials", where="s3://", hint=f"set {hint}")

    def provide() -> dict[str, Any]:
        from datetime import UTC, datetime, timedelta

        keys = found.get_frozen_credentials()
        # botocore renews by itself; asking every few minutes is enough to have what it renewed.
        expires = datetime.now(UTC) + timedelta(minutes=5)
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": expires,
        }

    region = session.get_config_variable("region")
    return {"credential_provider": provide, **({"region": region} if region else {})}
