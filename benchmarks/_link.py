"""A slow link on this machine: a network namespace behind a veth pair whose traffic towards it `tc` shapes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True)
class Link:
    """A way to the server.

    Attributes:
        name: for the report.
        address: where clients find the server.
        prefix: what a client's command begins with.
        interface: as clients see it; None where it carries others' traffic too.
    """

    name: str
    address: str
    prefix: tuple[str, ...] = ()
    interface: str | None = None


LOOPBACK = Link("loopback", "127.0.0.1")


def cannot_shape() -> str | None:
    """Why links cannot be shaped here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc") if not shutil.which(tool)]
    return f"{', '.join(missing)} not installed" if missing else None


@contextmanager
def shaped_link(rate: str) -> Iterator[Link]:
    """A namespace that the server reaches at `rate` (as tc writes it); requests towards the server are not shaped."""
    mark = os.getpid() % 16000
    space, device = f"hwbench{mark}", f"hwb{mark}"
    here, there = (str(ip_address("10.192.0.0") + 4 * mark + end) for end in (1, 2))
    try:
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "addr", "add", f"{here}/30", "dev", device)
        _run("ip", "link", "set", device, "up")
        _run("ip", "-n", space, "addr", "add", f"{there}/30", "dev", "eth0")
        for name in ("eth0", "lo"):
            _run("ip", "-n", space, "link", "set", name, "up")
        _run("tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "1mb", "limit", "20mb")
        yield Link(rate, here, ("ip", "netns", "exec", space), "eth0")
    finally:
        for command in (("ip", "link", "del", device), ("ip", "netns", "del", space)):
            subprocess.run(command, check=False, capture_output=True, start_new_session=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
