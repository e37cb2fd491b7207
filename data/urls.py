"""Where data may lie: URLs without credentials or commands in them, paths that stay in their folder."""

from __future__ import annotations

import os
import re

from configs.errors import UserError

SCHEMES = ("file", "s3", "memory")
_SAFE_PATH = re.compile(r"^(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")


def check_url(url: str) -> str:
    """Normalise a dataset URL: plain paths become absolute `file://` ones.

    Raises:
        UserError: an unknown scheme, a chained or piped URL, or credentials in it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not url or "::" in url or url.startswith("pipe:"):
            raise UserError("not a dataset URL", where=url or "(empty)", hint="a folder, file://, s3:// or memory://")
        return f"file://{os.path.abspath(os.path.expanduser(url))}"
    if scheme not in SCHEMES:
        raise UserError(f"cannot read '{scheme}' URLs", where=redact(url), hint=f"known: {', '.join(SCHEMES)}")
    if "@" in rest.split("/")[0]:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile"
        raise UserError("credentials do not belong in a URL", where=redact(url), hint=hint)
    if scheme == "file":
        return f"file://{os.path.abspath(rest)}"
    return f"{scheme}://{rest.strip('/')}"


def redact(url: str) -> str:
    """The URL without user name and password."""
    return re.sub(r"://[^/@]*@", "://***@", url)


def safe(path: str) -> str:
    """A relative path that stays in its folder, or an error that names it."""
    if not _SAFE_PATH.fullmatch(path):
        raise UserError("a path that leaves its folder, or with odd characters, is refused", where=repr(path))
    return path
