"""The way to a cluster's jobs: addresses that are none, servers that are no Ray, and what a job is shown as."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from cluster.commands.jobs import _row, _sentence
from cluster.jobs import Job, Jobs, _job, _known, dashboard_url
from cluster.needs import Node
from configs import UserError

GOOD = [
    ("head", "http://head:8265"),
    ("head:9000", "http://head:9000"),
    ("http://head:8265/", "http://head:8265"),
    ("https://ray.example.com", "https://ray.example.com:443"),
    ("10.0.0.1:8265", "http://10.0.0.1:8265"),
    ("http://[::1]:8265", "http://[::1]:8265"),
]


@pytest.mark.parametrize(("written", "meant"), GOOD)
def test_an_address_may_be_written_short(written: str, meant: str) -> None:
    assert dashboard_url(written) == meant


BAD = ["ray://head:10001", "http://", "", "http://head:port", "http://head:99999", "ftp://head", "head/path"]
BAD += ["http://head?x=1", "http://head#x", "file:///etc/passwd", "http://user:hunter2@head:8265", "hunter2@head"]


@pytest.mark.parametrize("address", BAD)
def test_what_is_no_address_is_refused_with_what_would_be_right(address: str) -> None:
    with pytest.raises(UserError) as error:
        dashboard_url(address)
    assert "HOST:8265" in str(error.value) or "RAY_AUTH_TOKEN_PATH" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:8265"])
def test_where_nothing_listens_one_message_says_so(address: str) -> None:
    with pytest.raises(UserError, match="nothing answers there"):
        Jobs(address)


class Answering(http.server.BaseHTTPRequestHandler):
    """A web server that is no Ray: one answer to everything."""

    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    status, body = request.param
    handler = type("Handler", (Answering,), {"status": status, "body": body})
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


OTHERS = [(200, b"<html>hello</html>"), (404, b""), (200, b"{}"), (200, b"[]"), (200, b'{"version": 1}')]


@pytest.mark.parametrize("server", OTHERS, indirect=True, ids=str)
def test_another_server_is_told_from_a_dashboard(server: str) -> None:
    with pytest.raises(UserError, match="it is no Ray dashboard"):
        Jobs(server)


@pytest.mark.parametrize("server", [(500, b"oh"), (503, b"")], indirect=True, ids=str)
def test_a_server_in_trouble_is_said_to_be(server: str) -> None:
    with pytest.raises(UserError, match="does not answer"):
        Jobs(server)


@pytest.mark.parametrize(
    ("server", "words"), [((401, b"no"), "asks for a token"), ((403, b"no"), "refuses the token")], indirect=["server"]
)
def test_a_cluster_that_wants_another_token_says_which_variables(server: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        Jobs(server)
    assert "RAY_AUTH_TOKEN_PATH" in str(error.value)


def test_what_does_not_speak_http_is_no_dashboard() -> None:
    """As a head's own port, 6379, where people point first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for _ in range(2):  # the knock, then the question
                connection, _ = listening.accept()
                connection.sendall(b"\x00\x00\x18\x04\x00\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UserError, match="it is no Ray dashboard"):
            Jobs(f"127.0.0.1:{listening.getsockname()[1]}")


def details(**changed: object) -> JobDetails:
    fields = {"type": JobType.SUBMISSION, "submission_id": "first-abc", "status": JobStatus.RUNNING, "entrypoint": "x"}
    return JobDetails(**{**fields, "job_id": None, "driver_info": None, **changed})  # type: ignore[arg-type]


def test_a_job_is_shown_with_its_run() -> None:
    job = _job(details(metadata={"headway.run": "first", "headway.config": "abc"}, start_time=1000, end_time=63_000))
    assert (job.run, job.config, job.began, job.ended, job.over) == ("first", "abc", 1.0, 63.0, False)
    assert _row(job)[3:] == ("1:02", "first (abc)")


def test_a_job_of_somebody_else_is_shown_too() -> None:
    assert _row(_job(details()))[2:] == ("-", "-", "-")


@pytest.mark.parametrize(
    ("status", "over"),
    [("PENDING", False), ("RUNNING", False), ("SUCCEEDED", True), ("FAILED", True), ("STOPPED", True)],
)
def test_it_is_known_which_jobs_are_over(status: str, over: bool) -> None:
    assert Job("id", status, "", "", None, None, "").over is over


def test_a_state_is_one_line_without_the_log() -> None:
    message = "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\nmany"
    assert _sentence(Job("id", "FAILED", "", "", None, None, message)) == (
        "id: FAILED, Job entrypoint command failed with exit code 2"
    )


@pytest.mark.parametrize("server", [(200, b"{}")], indirect=True, ids=str)
@pytest.mark.parametrize("name", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_the_address_that_was_given_is_the_one_that_is_asked(server: str, name: str, monkeypatch) -> None:
    """Ray would ask the one in its variable."""
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(UserError, match="it is no Ray dashboard"):
        Jobs(server)


def test_a_cluster_is_this_machine_only_if_every_node_of_it_is() -> None:
    jobs = object.__new__(Jobs)  # no cluster is asked
    here, elsewhere = Node("127.0.0.1", 1, 0), Node("203.0.113.9", 1, 0)
    assert jobs.here([here])
    assert not jobs.here([here, elsewhere])
    assert not jobs.here([])


def test_a_misspelt_name_is_compared_with_runs_and_with_jobs() -> None:
    jobs = [
        Job("first-abc", "RUNNING", "first", "abc", None, None, ""),
        Job("raysubmit_1", "FAILED", "", "", None, None, ""),
    ]
    assert _known("frist", jobs) == "did you mean 'first'?"
    assert _known("raysubmit_2", jobs) == "did you mean 'raysubmit_1'?"
    assert _known("x", []) == "the cluster has no jobs yet"
