"""What a job needs, each on hosts of its own: a Ray cluster, a real S3 server, a real MLflow server."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil

from tests.chaos.hosts import Host, network

LAUNCHER = Path(__file__).parents[3] / "shared" / "bin" / "radosgw-up"
BIN = Path(sys.executable).parent
_PATIENCE_SECONDS = 180.0
_STARTS = 5
_DISK_BYTES = 64 * 1024**2


def why_no_store() -> str | None:
    """Why there can be no real S3 server; None if there can."""
    if not LAUNCHER.is_file():
        return "needs a real S3 server: the optional shared/bin/radosgw-up beside the checkout"
    tools = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "curl")
    missing = [tool for tool in tools if not shutil.which(tool)]
    return f"needs a real S3 server: {', '.join(missing)} not installed" if missing else None


class NoStore(RuntimeError):
    """The S3 server does not start here, which says nothing of what was to be tested."""


@dataclass
class ObjectStore:
    """Ceph's RADOS gateway on a host, its objects in memory.

    Attributes:
        host: where.
        folder: of its configuration and logs.
        settings: environment of its clients.
    """

    PORT = 9000

    host: Host
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://{self.host.address}:{self.PORT}"

    def start(self) -> None:
        """Monitor, storage and gateway. The launcher's own gateway, at loopback, ends when ours is there.

        Raises:
            NoStore: Ceph does not start on this machine.
        """
        for attempt in range(_STARTS):
            up = self.host.run(["nice", "-n", "-15", LAUNCHER, self.folder, "9004"], timeout=_PATIENCE_SECONDS)
            if not up.returncode:
                break
            said = "".join(_end_of(path) for path in sorted(self.folder.glob("log/*")))
            self.host.kill()
            if attempt == _STARTS - 1:
                raise NoStore(f"{LAUNCHER.name}: {up.stderr.strip()}\n{said}")
            time.sleep(2)
        pairs = up.stdout.splitlines()[0].removeprefix("export ").split()
        self.settings = dict(pair.split("=", 1) for pair in pairs)
        self.settings |= {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1"}
        (first,) = self._gateways()
        self.restart()
        os.kill(first, 9)

    def restart(self) -> None:
        """The gateway; what was written before is there again."""
        name = self.folder / "run" / "public"
        options = {"rgw-frontends": f"beast endpoint={self.host.address}:{self.PORT}"}
        options |= {"pid-file": f"{name}.pid", "admin-socket": f"{name}.asok", "log-file": f"{self.folder}/log/public"}
        command = ["radosgw", "-n", "client.rgw", "--setuser", "root", "--setgroup", "root"]
        settings = [f"--{key}={value}" for key, value in options.items()]
        done = self.host.run([*command, *settings], {**os.environ, "CEPH_CONF": f"{self.folder}/ceph.conf"})
        if done.returncode:
            raise RuntimeError(f"radosgw: {done.stderr.strip()}")
        wait_for_answer(self.url)

    def kill(self) -> None:
        """SIGKILL to the gateway; connections to it are refused from now on."""
        for pid in self._gateways():
            os.kill(pid, 9)

    def _gateways(self) -> list[int]:
        return [pid for pid in self.host.pids() if _name(pid) == "radosgw"]

    def client(self) -> Any:
        """Of botocore."""
        import botocore.session

        return botocore.session.get_session().create_client(
            "s3",
            "us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=self.settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.settings["AWS_SECRET_ACCESS_KEY"],
        )

    def make_bucket(self, name: str) -> str:
        """Its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def upload(self, folder: Path, bucket: str) -> str:
        """A new bucket's URL, with all files of a folder in it."""
        url, client = self.make_bucket(bucket), self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(Bucket=bucket, Key=str(path.relative_to(folder)), Body=path.read_bytes())
        return url


@dataclass
class Tracking:
    """An MLflow server on a host, with a database and a folder of artifacts.

    Attributes:
        host: where.
        folder: of database, artifacts and log; exists.
    """

    PORT = 5000

    host: Host
    folder: Path

    @property
    def url(self) -> str:
        """For `tracking.uri`."""
        return f"http://{self.host.address}:{self.PORT}"

    def start(self) -> None:
        """Start it, or start it again with what it had."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", self.host.address, "--port", str(self.PORT)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.host.start(command, {**os.environ, **quiet}, log)
        wait_for_answer(f"{self.url}/health")

    def kill(self) -> None:
        """SIGKILL."""
        self.host.kill()


@dataclass
class RayNode:
    """A Ray node on a host, or the head.

    Attributes:
        host: where.
        folder: Ray's temporary folder; short, for it holds sockets.
        env: of Ray and all workers.
        head: HOST:PORT of the head; None makes this one it.
    """

    PORT = 6379

    host: Host
    folder: Path
    env: Mapping[str, str]
    head: str | None = None
    cpus: int = 1

    @property
    def address(self) -> str:
        """HOST:PORT, of a head."""
        return f"{self.host.address}:{self.PORT}"

    def start(self) -> None:
        """Start it, or start it again on a host that was killed; it joins under a new id.

        A worker node has a supervisor, as a pod or a service would: where Ray ends (the head gave the node up while its
        link was down), it is started again.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.head is None:
            role = ["--head", f"--port={self.PORT}", "--include-dashboard=false"]
        else:
            role = ["--block", f"--address={self.head}"]
        command = [BIN / "ray", "start", *role, f"--node-ip-address={self.host.address}", f"--num-cpus={self.cpus}"]
        command += [f"--temp-dir={self.folder}", "--object-store-memory=100000000"]
        if self.head is not None:
            command = ["sh", "-c", 'while :; do "$@"; sleep 1; done', "supervisor", *command]
        log = self.folder.with_suffix(".log")
        with log.open("wb") as output:
            self.host.start(command, self.env, output)
        wait_until(lambda: b"Ray runtime started" in log.read_bytes(), f"Ray on {self.host.name}: see {log}")

    def kill(self) -> None:
        """The host loses its power."""
        self.host.kill()


@dataclass
class Site:
    """Everything together.

    Attributes:
        hosts: by name.
        store, tracking, head: services.
        nodes: where workers run, by host name.
        env: environment of Ray, of workers and of who starts a job.
        folder: scratch.
        disk: a small disk for runs, the same on every host; it can be filled.
    """

    hosts: dict[str, Host]
    store: ObjectStore
    tracking: Tracking
    head: RayNode
    nodes: dict[str, RayNode]
    env: dict[str, str]
    folder: Path
    disk: Path

    def processes(self) -> set[int]:
        """All on the hosts where jobs run."""
        return set().union(*(node.host.pids() for node in (self.head, *self.nodes.values())))


@contextlib.contextmanager
def site(nodes: int, settings: Mapping[str, str] | None = None) -> Iterator[Site]:
    """Hosts `head`, `store`, `mlflow` and `node1` to `nodeN` with their services; nothing is left afterwards.

    Args:
        nodes: hosts for workers, one processor each.
        settings: more environment for Ray's head, nodes and workers.
    """
    names = [f"node{number}" for number in range(1, nodes + 1)]
    with _scratch() as folder, _disk(folder / "runs") as disk, network("head", "store", "mlflow", *names) as hosts:
        env = _environment(folder) | dict(settings or {})
        head = RayNode(hosts["head"], folder / "r0", env, cpus=0)
        workers = {
            name: RayNode(hosts[name], folder / f"r{number}", env, head.address)
            for number, name in enumerate(names, start=1)
        }
        store = ObjectStore(hosts["store"], folder / "store")
        tracking = Tracking(hosts["mlflow"], folder / "mlflow")
        tracking.folder.mkdir()
        store.start()  # alone: Ceph's daemons lose patience with each other on a busy machine
        with ThreadPoolExecutor() as pool:
            tracked = pool.submit(tracking.start)
            env |= store.settings  # workers take their credentials from the environment of their node
            head.start()
            list(pool.map(RayNode.start, workers.values()))
            tracked.result()
        yield Site(hosts, store, tracking, head, workers, env, folder, disk)


def _environment(folder: Path) -> dict[str, str]:
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_", "MLFLOW_"))}
    return inherited | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_prestart_worker_first_driver": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A short path that names this process; those of processes that are gone are removed."""
    for left in Path("/tmp").glob("hwc-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            _unmount(left / "runs")
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"hwc-{os.getpid()}-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[Path]:
    """A file system of its own in memory; processes see it that are started afterwards."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "headway", place], check=True)
    try:
        yield place
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    if place.is_mount():
        subprocess.run(["umount", "--lazy", place], check=False)


def wait_for_answer(url: str) -> None:
    """Until a server answers anything at all.

    Raises:
        TimeoutError: it does not.
    """

    def answers() -> bool:
        try:
            urlopen(url, timeout=5).close()
        except HTTPError:
            return True
        except OSError:
            return False
        return True

    wait_until(answers, f"an answer from {url}")


def wait_until(true: Callable[[], object], what: str, seconds: float = _PATIENCE_SECONDS) -> None:
    """Ask ten times a second; the time is a limit for what is broken, not a measure.

    Raises:
        TimeoutError: naming what did not come.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.1)


def _end_of(path: Path) -> str:
    return f"== {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-5:]) + "\n"


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        return ""
