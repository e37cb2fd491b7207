"""Ray's Jobs API over HTTP: what is there, submit, watch, stop; every failure is one readable message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.needs import Node
from cluster.reach import is_loopback
from cluster.session import environment
from cluster.submission import Submission, stage
from configs import UserError, nearest
from data.urls import redact

PORT = 8265
_ANSWER_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 1.0
_NO_DASHBOARD = "something answers there, but it is no Ray dashboard"
_ADDRESS_HINT = f"the URL of a Ray dashboard, http://HOST:{PORT}"


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it.

    Attributes:
        id: its submission id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        run: the run's name, empty for jobs that Headway did not submit.
        config: hash of what the run trains.
        began, ended: Unix seconds, or none.
        message: Ray's words on its state.
    """

    id: str
    status: str
    run: str
    config: str
    began: float | None
    ended: float | None
    message: str

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return JobStatus(self.status).is_terminal()


class _Client(JobSubmissionClient):
    """Ray's own, which would wait for an answer without end."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": _ANSWER_SECONDS, **options})


class Jobs:
    """The jobs of one cluster.

    Args:
        address: `http://HOST:8265` or `HOST:8265`.

    Raises:
        UserError: nothing answers there, or it is no Ray dashboard, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        self.address = dashboard_url(address)
        _knock(self.address)
        # Ray prefers its own variables to the address that it is given.
        with self._explained(), environment({"RAY_API_SERVER_ADDRESS": None, "RAY_ADDRESS": None}):
            self._client = _Client(self.address)
            for chatty in (
                "dashboard.modules.dashboard_sdk",
                "dashboard.modules.job.sdk",
                "_private.runtime_env.packaging",
            ):
                logging.getLogger(f"ray.{chatty}").setLevel(logging.ERROR)
            self.version = str(self._client._do_request("GET", "/api/version").json()["ray_version"])

    @contextlib.contextmanager
    def _explained(self, job: str | None = None) -> Iterator[None]:
        """Turn whatever goes wrong on the way to the cluster into one message."""
        try:
            yield
        except AuthenticationError as error:
            wrong = "refuses the token" if "failed" in error.message else "asks for a token"
            hint = "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE, with the token of the cluster"
            raise UserError(f"the cluster {wrong}", where=self.address, hint=hint) from None
        except (requests.JSONDecodeError, KeyError, TypeError, ConnectionError):
            # Ray's own word for an answer that is not HTTP, as the head's port 6379 gives one.
            hint = f"{_ADDRESS_HINT}, not its head on port 6379"
            raise UserError(_NO_DASHBOARD, where=self.address, hint=hint) from None
        except requests.RequestException as error:
            what = f"the cluster does not answer ({type(error).__name__})"
            raise UserError(what, where=self.address, hint="is the head up? jobs go on without this command") from None
        except RuntimeError as error:
            text = str(error)
            if job is not None and "does not exist" in text:
                raise UserError(
                    f"no job is called '{job}'", where=self.address, hint=_known(job, self.list())
                ) from None
            if job is not None and "already exists" in text:
                hint = f"headway jobs status {job}"
                raise UserError(f"job {job} was submitted a moment ago", where=self.address, hint=hint) from None
            first = (text.strip().splitlines() or ["no word"])[0]
            if "404" in text and "ersion" in text:
                raise UserError(_NO_DASHBOARD, where=self.address, hint=_ADDRESS_HINT) from None
            raise UserError(first[:300], where=self.address) from None

    def nodes(self) -> list[Node]:
        """The machines that are up, with all that Ray may hand out there, taken or not."""
        with self._explained():
            answer = self._client._do_request("GET", "/api/v0/nodes?detail=1").json()["data"]["result"]["result"]
        return [
            Node(node["node_ip"], node["resources_total"].get("CPU", 0.0), node["resources_total"].get("GPU", 0.0))
            for node in answer
            if node["state"] == "ALIVE"
        ]

    def here(self, nodes: list[Node]) -> bool:
        """Whether this machine is all of the cluster; a forwarded port looks local and is not."""
        own = _own_addresses()
        return bool(nodes) and all(is_loopback(node.address) or node.address in own for node in nodes)

    def list(self) -> list[Job]:
        """Every job, newest first."""
        with self._explained():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.began or time.time(), reverse=True)

    def find(self, name: str) -> Job:
        """A job by its id, or the newest of a run by the run's name.

        Raises:
            UserError: there is none, naming the nearest.
        """
        jobs = self.list()
        match = next((job for job in jobs if job.id == name), None) or next((j for j in jobs if j.run == name), None)
        if match is None:
            raise UserError(f"no job is called '{name}'", where=self.address, hint=_known(name, jobs))
        return match

    def submit(self, job: Submission) -> str:
        """Ship the code and start the job.

        Returns:
            Its id; a number is added where an earlier job of that id has ended.

        Raises:
            UserError: the run is being trained by another job.
        """
        jobs = self.list()
        busy = next((other for other in jobs if other.run == job.name and not other.over), None)
        if busy is not None:
            self._refuse(job, busy)
        taken = {other.id for other in jobs}
        job = next(job.numbered(n) for n in range(1, len(taken) + 2) if job.numbered(n).id not in taken)
        with tempfile.TemporaryDirectory(prefix="headway-job-") as folder, self._explained(job.id):
            return self._client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=job.id,
                runtime_env=job.runtime_env(stage(job, Path(folder))),
                metadata=job.metadata,
            )

    def _refuse(self, job: Submission, busy: Job) -> None:
        same = busy.config == job.config.hash
        what = "runs already" if same else "is being trained with other settings"
        hint = f"watch it: headway jobs logs -f {busy.id}; end it: headway jobs stop {busy.id}"
        raise UserError(f"{what}, as job {busy.id}", where=f"run {job.name}", hint=f"{hint}; or --name OTHER")

    def logs(self, job: str) -> str:
        """What the job has printed so far."""
        with self._explained(job):
            return self._client.get_job_logs(job)

    def follow(self, job: str) -> Iterator[str]:
        """What the job has printed and will print, until it ends."""
        with self._explained(job), contextlib.closing(asyncio.new_event_loop()) as loop:
            parts = self._client.tail_job_logs(job).__aiter__()
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    yield loop.run_until_complete(parts.__anext__())

    def stop(self, job: str, patience: float) -> Job:
        """Ask the job to save and end, and wait until it has.

        Args:
            job: its id.
            patience: seconds to wait.
        """
        with self._explained(job):
            self._client.stop_job(job)
        end = time.monotonic() + patience
        while not (found := self.find(job)).over and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_SECONDS)
        return found


def _known(name: str, jobs: Sequence[Job]) -> str:
    """The nearest name of a run or a job."""
    names = {word for job in jobs for word in (job.run, job.id) if word}
    return nearest(name, names) if names else "the cluster has no jobs yet"


def dashboard_url(address: str) -> str:
    """`http://HOST:PORT` from what a user may write.

    Raises:
        UserError: it cannot be the address of a dashboard.
    """
    if "://" not in address:
        address = f"http://{address}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if "@" in parts.netloc:
        hint = "a token comes from RAY_AUTH_TOKEN_PATH"
        raise UserError("credentials do not belong in an address", where=redact(address), hint=hint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UserError("this is not the address of a Ray dashboard", where=redact(address), hint=_ADDRESS_HINT)
    if parts.path.strip("/"):
        raise UserError("the address of a dashboard has no path", where=address, hint=_ADDRESS_HINT)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else PORT)}"


def _knock(address: str) -> None:
    """Ask for a connection first, as Ray's client would wait for minutes where packets are dropped."""
    parts = urlsplit(address)
    try:
        socket.create_connection((str(parts.hostname), int(parts.port or PORT)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError):
        hint = f"{_ADDRESS_HINT}; for KubeRay: kubectl port-forward service/NAME-head-svc {PORT}"
        raise UserError("nothing answers there", where=address, hint=hint) from None


def _own_addresses() -> set[str]:
    return {each.address for interface in psutil.net_if_addrs().values() for each in interface}


def _job(details: JobDetails) -> Job:
    carried = details.metadata or {}
    return Job(
        id=str(details.submission_id),
        status=JobStatus(details.status).value,
        run=carried.get("headway.run", ""),
        config=carried.get("headway.config", ""),
        began=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        message=details.message or "",
    )
