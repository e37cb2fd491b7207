"""Hosts in their own network namespaces: they reach each other, they can be cut off, stopped and killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.hosts import NAMESPACES, Host, network, sweep, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

ECHO = "import socket; s = socket.create_server(('', 5000)); print('up', flush=True)\nwhile True: s.accept()[0].close()"
CALL = "import socket, sys; socket.create_connection((sys.argv[1], 5000), timeout=0.5)"


@pytest.fixture
def hosts() -> Iterator[dict[str, Host]]:
    with network("left", "right") as made:
        yield made


def serve(host: Host) -> subprocess.Popen[bytes]:
    read, write = os.pipe()
    with os.fdopen(read) as lines, os.fdopen(write, "w") as output:
        server = host.start([sys.executable, "-Sc", ECHO], output=output)
        output.close()
        assert lines.readline() == "up\n"
    return server


def reaches(host: Host, name: str) -> bool:
    return host.run([sys.executable, "-Sc", CALL, name]).returncode == 0


def test_they_reach_each_other_by_name_until_a_cable_is_pulled(hosts: dict[str, Host]) -> None:
    left, right = hosts.values()
    serve(right)
    assert reaches(left, "right")
    assert reaches(left, right.address)
    right.cut()
    assert not reaches(left, "right")
    right.restore()
    assert reaches(left, "right")
    socket.create_connection((right.address, 5000), timeout=5).close()  # and this process reaches them


def test_each_has_a_name_and_an_address_of_its_own(hosts: dict[str, Host]) -> None:
    show = "import socket; n = socket.gethostname(); print(n, socket.gethostbyname(n))"
    for host in hosts.values():
        assert host.run([sys.executable, "-Sc", show]).stdout == f"{host.name} {host.address}\n"
    assert socket.gethostname() not in hosts


def test_a_killed_host_has_no_processes_and_can_start_new_ones(hosts: dict[str, Host]) -> None:
    left, right = hosts.values()
    server = serve(right)
    child = right.start(["sh", "-c", "sleep 1000 & wait"])
    while len(right.pids()) < 3:
        time.sleep(0.01)
    right.kill()
    assert right.pids() == set()
    assert server.wait() == child.wait() == -signal.SIGKILL
    assert not reaches(left, "right")
    serve(right)
    assert reaches(left, "right")


def test_a_stopped_host_accepts_and_says_nothing_until_it_goes_on(hosts: dict[str, Host]) -> None:
    left, right = hosts.values()
    server = serve(right)
    right.stop()
    assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
    with socket.create_connection((right.address, 5000), timeout=5) as connection:  # the kernel answers
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        right.resume()
        connection.settimeout(20)
        assert connection.recv(1) == b""
    assert left.pids() == set()


def test_two_networks_at_a_time_have_subnets_of_their_own() -> None:
    with network("a") as one, network("a") as two:
        assert one["a"].address.rsplit(".", 1)[0] != two["a"].address.rsplit(".", 1)[0]


def test_nothing_is_left_behind() -> None:
    with network("left") as hosts:
        host = hosts["left"]
        process = host.start(["sleep", "1000"])
    assert process.wait() == -signal.SIGKILL
    assert not (NAMESPACES / host.space).exists()
    assert host.cable not in psutil.net_if_addrs()
    assert not Path("/etc/netns", host.space).exists()


def test_what_a_killed_process_left_is_swept() -> None:
    lost = (
        "import os\nfrom tests.chaos.hosts import network\n"
        "with network('lost') as hosts:\n"
        "    print(hosts['lost'].start(['sleep', '1000']).pid, hosts['lost'].space, flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", lost], capture_output=True, text=True, check=False)
    pid, space = done.stdout.split()
    assert psutil.pid_exists(int(pid))
    sweep()
    assert not (NAMESPACES / space).exists()
    assert not [name for name in psutil.net_if_addrs() if name.startswith(space.split("-")[0])]


def test_a_machine_that_cannot_have_hosts_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not() == "network namespaces need root"
