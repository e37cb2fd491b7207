"""What must not travel: values of variables that hold secrets, and credentials in addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from configs import Config, UserError, flatten
from data.urls import redact

COPIED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_SKIP_SIGNATURE",
    "HEADWAY_TRANSPORT",
    "NCCL_DEBUG",
    "NCCL_IB_HCA",
    "NCCL_SOCKET_IFNAME",
    "GLOO_SOCKET_IFNAME",
)
"""The only variables that a job takes along from the machine that submits it: where things are, never who may."""

_SECRET_NAME = re.compile(r"SECRET|TOKEN(?!IZ)|PASSW|CREDENTIAL|PRIVATE|ACCESS_KEY|API_?KEY|_(KEY|PAT|PWD|AUTH)$", re.I)
_WHERE_IT_LIES = re.compile(r"_(PATH|FILE|DIR|URI|URL)$", re.I)
_SIGNED = re.compile(r"[?&](x-amz-(signature|credential|security-token)|sig|signature|token|password)=", re.I)
_LEAST = 8  # characters; a shorter value may turn up in a config by chance


def names_a_secret(name: str) -> bool:
    """Whether a variable of this name is taken for a secret."""
    return _SECRET_NAME.search(name) is not None and _WHERE_IT_LIES.search(name) is None


def refuse_secret(what: str, value: str, environment: Mapping[str, str] | None = None) -> None:
    """Let `value` pass only if nothing in it looks like a credential; the value itself is never shown.

    Args:
        what: the setting or variable that holds it.
        value: any text.
        environment: whose secrets may not turn up in the value; default this process's.

    Raises:
        UserError: credentials in an address, a signed address, or the value of a variable that holds a secret.
    """
    held = os.environ if environment is None else environment
    if "@" in _user_and_host(value):
        hint = "let the cluster have them: MLFLOW_TRACKING_USERNAME and _PASSWORD, AWS_ACCESS_KEY_ID and its secret"
        raise UserError("credentials do not belong in a URL", where=f"{what}: {redact(value)}", hint=hint)
    if _SIGNED.search(value):
        hint = "give the plain URL, and let the cluster have credentials of its own"
        raise UserError("a signed address is a secret and does not belong in a config", where=what, hint=hint)
    for name, secret in held.items():
        if names_a_secret(name) and len(secret) >= _LEAST and secret in value:
            hint = "leave it out; set the variable on the cluster, or mount a secret there"
            raise UserError(f"holds the value of {name}", where=what, hint=hint)


def _user_and_host(value: str) -> str:
    """The part of a URL that may hold a user and a password; empty for what is none."""
    try:
        return urlsplit(value).netloc
    except ValueError:
        return ""


def refuse_secrets(config: Config, environment: Mapping[str, str] | None = None) -> None:
    """Let a config pass only if none of its values looks like a credential.

    Raises:
        UserError: naming the setting.
    """
    for key, value in flatten(config).items():
        for text in _texts(value):
            refuse_secret(key, text, environment)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in value.items() for part in item for text in _texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts(part)]
    return []


def copied(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of `COPIED` that are set, checked.

    Raises:
        UserError: one of them holds a credential.
    """
    held = os.environ if environment is None else environment
    found = {name: held[name] for name in COPIED if held.get(name)}
    for name, value in found.items():
        refuse_secret(name, value, held)
    return found


def credentials_needed(config: Config) -> list[str]:
    """One line for each kind of credential that the cluster must have by itself."""
    places = [config.data.train, config.data.test or "", config.checkpoint.url or "", config.run.start_from or ""]
    places += [other.url for other in config.data.mixture]
    lines = []
    if any(place.startswith("s3://") for place in places):
        lines.append("for s3://: a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)")
    if config.tracking.uri.startswith(("http://", "https://")):
        lines.append(
            "for MLflow, if it asks: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return lines
