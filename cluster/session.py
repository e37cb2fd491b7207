"""A Ray cluster to work on: a private one on this machine, or one that exists."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from configs import Config, UserError

ROOT = Path(__file__).parents[1]
_OBJECT_STORE_BYTES = 128 * 1024**2
_SOCKET_PATH_ROOM = 24  # a Unix socket's path may hold 107 bytes, of which Ray's own part takes about 80


@dataclass(frozen=True)
class Session:
    """A Ray cluster that this process drives.

    Attributes:
        local: whether we started it, and end it.
        folder: scratch folder of ours on this machine; Ray's own logs lie below it when `local`.
    """

    local: bool
    folder: Path

    def keep_logs(self, target: Path) -> None:
        """Copy what Ray logged to `target`; only a local Ray's logs are at hand."""

        def uninteresting(folder: str, names: list[str]) -> list[str]:
            paths = [Path(folder) / name for name in names]
            return [path.name for path in paths if path.name.endswith("events") or not path.stat().st_size]

        for logs in self.folder.glob("session_2*/logs"):
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(logs, target, dirs_exist_ok=True, ignore=uninteresting)


@contextlib.contextmanager
def ray_session(config: Config) -> Iterator[Session]:
    """Start or join Ray for the length of a `with` block; whatever we started is gone afterwards.

    Must be entered from the main thread: Linux ends Ray's processes with the thread that started them.

    Raises:
        UserError: nothing answers at the address, no free port, or too little of something.
    """
    address = cluster_address(config)
    folder = _scratch()
    settings = {**driver_environment(), **({} if address else _local_environment())}
    try:
        with environment(settings):
            import ray

            logging.getLogger("ray").setLevel(logging.ERROR)
            options = _join(address) if address else _start(config, folder)
            try:
                ray.init(
                    runtime_env={"env_vars": worker_environment(config)},
                    configure_logging=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **options,
                )
            except (ConnectionError, OSError, RuntimeError, ValueError) as error:
                raise _no_ray(address, error) from error
            try:
                _require_resources(config, ray.cluster_resources())
                yield Session(local=not address, folder=folder)
            finally:
                ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cluster_address(config: Config) -> str | None:
    """The cluster to join: the config's, else Ray's own variable, which is set inside its jobs; None starts one."""
    return config.cluster.address or os.environ.get("RAY_ADDRESS") or None


def driver_environment() -> dict[str, str]:
    """Variables that Ray Train reads in this process and hands on to its controller."""
    ours = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Ray's 2 s would be added to every start, end and restart
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor for what our controller asks in passing
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line twice
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
    }
    return {key: os.environ.get(key, value) for key, value in ours.items()}


def worker_environment(config: Config) -> dict[str, str]:
    """Variables of every process of the job: threads, accelerator, where our packages lie."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    variables = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "OMP_NUM_THREADS": str(config.run.threads),
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "1",  # a rank that waits for a dead one never answers
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    if not config.cluster.gpus_per_worker:
        variables["DS_ACCELERATOR"] = "cpu"
    if not cluster_address(config):
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


@contextlib.contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables, or unset those that are None, for the length of a `with` block."""
    before = {key: os.environ.get(key) for key in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for key, value in variables.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def _scratch() -> Path:
    """A folder that names this process, so that a later one can sweep it if this one is killed."""
    base = Path(tempfile.gettempdir())
    base = base if len(str(base)) <= _SOCKET_PATH_ROOM else Path("/tmp")
    for left in base.glob("hw-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"hw-{os.getpid()}-", dir=base))


def _local_environment() -> dict[str, str | None]:
    """A token of our own: Ray's default writes one under the home folder and changes every later `ray start`.

    The mode is left to `ray.init`, which turns it on in this process too, where Ray may have been imported before.
    """
    lean: dict[str, str | None] = {
        "RAY_prestart_worker_first_driver": "0",  # a process per processor that nobody would use
        "RAY_worker_niceness": "0",  # Ray's 15 lets anything else on the machine starve the training
    }
    if os.environ.get("RAY_AUTH_MODE"):
        return lean
    return {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN_PATH": str(_token_file()), **lean}


@functools.cache
def _token_file() -> Path:
    # One token for the life of this process: Ray caches the first that it reads.
    folder = _scratch()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


def _start(config: Config, folder: Path) -> dict[str, Any]:
    _require_free_port()
    workers = config.cluster
    cpus = max(os.cpu_count() or 1, math.ceil(workers.workers * workers.cpus_per_worker))
    return {
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_temp_dir": str(folder),
    }


def _require_free_port() -> None:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        raise UserError(
            f"no free port on this machine ({error.strerror})",
            where="127.0.0.1",
            hint="see what holds them: ss -ltn; widen net.ipv4.ip_local_port_range",
        ) from None


def _join(address: str) -> dict[str, Any]:
    """Options for a cluster that exists; asks first, as Ray itself waits for a minute and prints pages."""
    if "://" in address:
        raise UserError(
            "this is not the address of a Ray head",
            where=f"cluster.address: {address}",
            hint="HOST:PORT of the head node, usually port 6379, or auto",
        )
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, ValueError):
            raise UserError(
                "no Ray cluster answers there",
                where=f"cluster.address: {address}",
                hint="HOST:PORT of the head node, usually port 6379; leave it out for a Ray on this machine",
            ) from None
    return {"address": address}


def _no_ray(address: str | None, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if address:
        hint = "is its token at hand? RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH as on the cluster"
        return UserError(f"cannot join the Ray cluster: {first}", where=f"cluster.address: {address}", hint=hint)
    return UserError(f"Ray does not start on this machine: {first}", hint="headway doctor")


def _require_resources(config: Config, there: Mapping[str, float]) -> None:
    """A job that can never be placed would wait without a word."""
    want = config.cluster
    for resource, each, key in (
        ("GPU", want.gpus_per_worker, "gpus_per_worker"),
        ("CPU", want.cpus_per_worker, "cpus_per_worker"),
    ):
        total, have = want.fewest * each, there.get(resource, 0.0)
        if total > have:
            raise UserError(
                f"{want.fewest} workers of {each:g} {resource} need {total:g}, the cluster has {have:g}",
                where="cluster",
                hint=f"cluster.workers=N, cluster.{key}=N, or --address of a larger cluster",
            )
