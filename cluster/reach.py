"""Whether a cluster can reach what a config names, and whether this machine can read its data."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from cluster.runs import places, resolve
from configs import Config, UserError, parse_config
from data.urls import check_url

_REFUSALS = ("AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "403")
FAR_RUNS = "~/headway/runs"
"""Where runs live on a cluster whose nodes share no disk: logs and spools on each node, checkpoints at a URL."""


class NotListed(UserError):
    """A folder that may not be looked into; files in it may be readable all the same."""


def place(config: Config, *, here: bool, shared: Sequence[str] = ()) -> Config:
    """The config as the cluster must read it.

    Args:
        config: as the user wrote it.
        here: whether all of the cluster is this machine, where any path will do.
        shared: folders that every node of the cluster sees under the same path.

    Raises:
        UserError: a setting names something that the workers cannot reach.
    """
    if here:
        return resolve(config)
    tree = config.model_dump(mode="json")
    if not config.run.dir.startswith(("/", "~")):
        tree["run"]["dir"] = f"{shared[0].rstrip('/')}/headway/runs" if shared else FAR_RUNS
    placed = parse_config(tree)
    for key, value in local_places(placed):
        if not _below(value, shared):
            raise UserError(
                f"'{value}' is on this machine, which the cluster's nodes do not see",
                where=key,
                hint=f"{_hint(key)}; or --shared FOLDER (Kubernetes: --claim NAME:FOLDER), which every node sees",
            )
    return placed


def local_places(config: Config) -> Iterator[tuple[str, str]]:
    """Settings that name a place on one machine only, with their value."""
    tree = config.model_dump(mode="json")
    named = [(key, section[name]) for key, section, name in places(tree)]
    named += [] if config.checkpoint.url else [("checkpoint.url", config.run.dir)]
    for key, value in (*named, ("tracking.uri", config.tracking.uri)):
        if value and _is_local(value):
            yield key, value


def _is_local(value: str) -> bool:
    scheme, separator, rest = value.partition("://")
    if not separator or scheme in ("file", "memory", "sqlite"):
        return True
    return scheme in ("http", "https") and is_loopback(urlsplit(value).hostname or rest)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _below(value: str, shared: Sequence[str]) -> bool:
    path = PurePosixPath(value.removeprefix("sqlite:///").removeprefix("file://"))
    return path.is_absolute() and any(path.is_relative_to(PurePosixPath(folder)) for folder in shared)


def _hint(key: str) -> str:
    if key == "tracking.uri":
        return "the URL of an MLflow server: tracking.uri=http://HOST:5000"
    if key == "checkpoint.url":
        return "checkpoints outlive the nodes at a URL: checkpoint.url=s3://BUCKET/FOLDER"
    if key in ("data.train", "data.test") or key.startswith("data.mixture"):
        return f"copy it to object storage: {key}=s3://BUCKET/FOLDER"
    return f"{key}=null, or a URL"


def refuse_loopback(variables: Mapping[str, str]) -> None:
    """Let variables that travel to other machines pass only if they do not point back at this one.

    Raises:
        UserError: naming the variable.
    """
    for name, value in variables.items():
        host = urlsplit(value).hostname if "://" in value else None
        if host is not None and is_loopback(host):
            hint = "the address that the cluster's nodes know, http://HOST:PORT"
            raise UserError(f"'{value}' is this machine, and on every node itself", where=name, hint=hint)


def check_data(config: Config) -> None:
    """Open the indexes that the run will read, and look into the folder of its checkpoints; no image is read.

    Raises:
        UserError: a missing bucket, no or expired credentials, no dataset there.
    """
    from data.manifest import stats

    for url in (config.data.train, config.data.test, *(other.url for other in config.data.mixture)):
        if url is not None:
            # The bucket first: its store's refusal is clear and at once, a file that cannot be read is tried for long.
            denied = None
            try:
                check_folder(url)
            except NotListed as error:
                denied = error
            try:
                stats(url)
            except UserError as error:
                raise (denied or error) from None
    if config.checkpoint.url is not None:
        check_folder(config.checkpoint.url)


def check_folder(url: str) -> None:
    """Look into a folder of a store; it need not exist, its bucket must. Folders of a disk are not looked into.

    Raises:
        UserError: no such bucket, no right to look into it, or no answer.
    """
    from data.store.transport import close_filesystem, filesystem

    scheme, _, path = check_url(url).partition("://")
    if scheme != "s3":
        return
    store = filesystem(scheme)
    try:
        store.ls(path)
    except Exception as error:
        refusal = _refusal(error, url)
        if refusal is not None:
            raise refusal from None
    finally:
        close_filesystem(store)


def _refusal(error: Exception, url: str) -> UserError | None:
    """A store's error in words that say what to do; None for a folder that is only not there yet."""
    answer = getattr(error.__cause__ or error, "response", None) or {}
    code = str(answer.get("Error", {}).get("Code", type(error).__name__))
    bucket = f"s3://{check_url(url).partition('://')[2].split('/')[0]}"
    only_there = "or --no-check-data if only the cluster has credentials"
    if code == "NoSuchBucket" or "bucket does not exist" in str(error):
        return UserError("there is no such bucket", where=bucket, hint="see what there is: aws s3 ls")
    if isinstance(error, FileNotFoundError):
        return None
    if "Expired" in code:
        hint = f"renew them (aws sso login), {only_there}"
        return UserError("the credentials of this machine have expired", where=bucket, hint=hint)
    if "NoCredentials" in code:
        hint = f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, {only_there}"
        return UserError("this machine has no credentials for it", where=bucket, hint=hint)
    if isinstance(error, PermissionError) or code in _REFUSALS:
        hint = f"check AWS_PROFILE or AWS_ACCESS_KEY_ID, {only_there}"
        return NotListed(f"the store refuses this machine's credentials ({code})", where=bucket, hint=hint)
    return UserError(f"the store does not answer ({code})", where=bucket, hint="check AWS_ENDPOINT_URL, or its server")
