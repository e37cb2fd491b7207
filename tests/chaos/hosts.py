"""Hosts of their own on one Linux machine: network namespaces on a bridge, whose cables can be pulled.

A host has an address, a name that the others can look up, and whatever processes are started on it. Disks, memory and
process ids are the machine's. Needs root, `ip` and `unshare`.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

NAMESPACES = Path("/run/netns")
_FILES = Path("/etc/netns")
_LOCK = Path("/run/headway-hosts.lock")
_OURS = re.compile(r"hw(\d+)x\d+")
_NUMBERS = itertools.count()
_ENDING_SECONDS = 20
_AS = 'printf %s "$0" > /proc/sys/kernel/hostname; exec "$@"'


class Unavailable(RuntimeError):
    """This machine cannot have hosts; the message says why."""


@dataclass(frozen=True)
class Host:
    """One host; made by `network`.

    Attributes:
        name: what it calls itself, and what the others may call it.
        address: IPv4.
        space: name of its network namespace.
        cable: the bridge's end of its link.
    """

    name: str
    address: str
    space: str
    cable: str

    def start(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, output: IO[Any] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process on this host, in a session of its own, so that no Ctrl-C reaches it.

        Args:
            command: program and arguments.
            env: the whole environment; default is this process's.
            output: where it prints, errors too; default is nowhere.
        """
        sink = subprocess.DEVNULL if output is None else output
        return subprocess.Popen(
            self._on_it(command),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end; what it prints is captured, its exit status is not looked at."""
        return subprocess.run(
            self._on_it(command), env=env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def _on_it(self, command: Sequence[str | Path]) -> list[str]:
        named = ["unshare", "--uts", "--", "sh", "-c", _AS, self.name]
        return ["ip", "netns", "exec", self.space, *named, *(str(part) for part in command)]

    def pids(self) -> set[int]:
        """Every process that lives here, zombies left out."""
        here, found = _identity(NAMESPACES / self.space), set()
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                if _identity(Path(f"/proc/{pid}/ns/net")) == here:
                    found.add(pid)
        return found

    def kill(self) -> None:
        """Power off: SIGKILL to everything on it. Its address remains, and new processes may be started."""
        end = time.monotonic() + _ENDING_SECONDS
        while left := self.pids():
            _signal(left, signal.SIGKILL)
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name}: processes {sorted(left)} do not end")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGSTOP to everything on it: the host hangs, its connections stay open."""
        while running := [pid for pid in self.pids() if not _stopped(pid)]:
            _signal(running, signal.SIGSTOP)
            time.sleep(0.01)

    def resume(self) -> None:
        """SIGCONT to everything on it."""
        _signal(self.pids(), signal.SIGCONT)

    def cut(self) -> None:
        """Pull its cable: packets are lost both ways, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def restore(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.cable, "up")


def why_not() -> str | None:
    """Why this machine cannot have hosts; None if it can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid():
        return "network namespaces need root"
    if missing := [tool for tool in ("ip", "unshare") if not shutil.which(tool)]:
        return f"{', '.join(missing)} not installed (iproute2, util-linux)"
    probe = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        return f"namespaces are not permitted here: {probe.stderr.strip()}"
    return None


@contextlib.contextmanager
def network(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts that reach each other and this process, by address and by name; nothing of them is left afterwards.

    Several processes may have networks at a time: every one takes a subnet that is free. What a process left behind
    that was killed is swept first.

    Args:
        names: of the hosts, at most 200.

    Raises:
        Unavailable: saying why.
    """
    if reason := why_not():
        raise Unavailable(reason)
    sweep()
    base = f"hw{os.getpid()}x{next(_NUMBERS)}"
    try:
        subnet = _bridge(base)
        addresses = [str(subnet[number]) for number in range(1, len(names) + 1)]
        hosts = {
            name: Host(name, address, f"{base}-{name}", f"{base}v{number}")
            for number, (name, address) in enumerate(zip(names, addresses, strict=True))
        }
        table = "".join(f"{host.address} {host.name}\n" for host in hosts.values())
        for host in hosts.values():
            _plug_in(host, base, f"127.0.0.1 localhost\n{table}")
        yield hosts
    finally:
        _remove(base)


def sweep() -> None:
    """Remove the networks of processes that are gone."""
    names = [*(path.name for path in NAMESPACES.glob("hw*")), *psutil.net_if_addrs()]
    found = {match.group(): int(match.group(1)) for match in map(_OURS.match, names) if match}
    for base, owner in found.items():
        if not psutil.pid_exists(owner):
            _remove(base)


def _bridge(base: str) -> ipaddress.IPv4Network:
    """A bridge on the first subnet that no interface of this machine is in; this process has its last address."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        taken = {
            ipaddress.ip_address(each.address)
            for all_ in psutil.net_if_addrs().values()
            for each in all_
            if each.family.name == "AF_INET"
        }
        for subnet in ipaddress.IPv4Network("10.77.0.0/16").subnets(new_prefix=24):
            if not any(address in subnet for address in taken):
                _ip("link", "add", base, "type", "bridge")
                _ip("address", "add", f"{subnet[254]}/24", "dev", base)
                _ip("link", "set", base, "up")
                return subnet
    raise Unavailable("no free subnet in 10.77.0.0/16")


def _plug_in(host: Host, bridge: str, table: str) -> None:
    folder = _FILES / host.space  # `ip netns exec` shows these in /etc
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text(table)
    _ip("netns", "add", host.space)
    _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.space)
    _ip("link", "set", host.cable, "master", bridge, "up")
    _ip("-n", host.space, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", host.space, "link", "set", "eth0", "up")
    _ip("-n", host.space, "link", "set", "lo", "up")


def _remove(base: str) -> None:
    for path in NAMESPACES.glob(f"{base}-*"):
        Host(path.name, "", path.name, "").kill()
        _ip("netns", "delete", path.name)  # and with it the cable
    for name in psutil.net_if_addrs():
        if name == base or name.startswith(f"{base}v"):
            with contextlib.suppress(OSError):  # the kernel may have been faster
                _ip("link", "delete", name)
    for folder in _FILES.glob(f"{base}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _signal(pids: set[int] | list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True
