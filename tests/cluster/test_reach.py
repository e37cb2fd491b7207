"""What a cluster can reach, and what a store says to a machine that may not read it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.reach import FAR_RUNS, check_data, check_folder, is_loopback, place, refuse_loopback
from configs import UserError, load_config
from tests.data.s3 import bucket, s3_server  # noqa: F401

FAR = ["data.train=s3://b/heads", "checkpoint.url=s3://b/runs", "tracking.uri=http://mlflow:5000"]


def test_a_config_of_urls_goes_anywhere_and_runs_live_in_a_home_folder() -> None:
    placed = place(load_config("headsup-nano", FAR), here=False)
    assert placed.run.dir == FAR_RUNS
    assert placed.checkpoints == "s3://b/runs/headsup-nano"
    assert placed.hash == load_config("headsup-nano", FAR).hash


def test_on_this_machine_every_path_will_do_and_is_made_absolute(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    placed = place(load_config("headsup-nano"), here=True)
    assert placed.data.train == str(tmp_path / "out/data/train")
    assert placed.run.dir == str(tmp_path / "out/runs")


LOCAL = [
    ("data.train=out/data", "data.train"),
    ("data.train=/data/heads", "data.train"),
    ("data.train=file:///data/heads", "data.train"),
    ("data.train=memory://heads", "data.train"),
    ("data.test=heads", "data.test"),
    ("data.mixture=[{url: more}]", "data.mixture.0.url"),
    ("data.quarantine=bad.txt", "data.quarantine"),
    ("run.start_from=first", "run.start_from"),
    ("checkpoint.url=null", "checkpoint.url"),
    ("checkpoint.url=/runs", "checkpoint.url"),
    ("tracking.uri=sqlite:///out/mlflow.db", "tracking.uri"),
    ("tracking.uri=http://127.0.0.1:5000", "tracking.uri"),
    ("tracking.uri=http://localhost:5000", "tracking.uri"),
    ("tracking.uri=http://[::1]:5000", "tracking.uri"),
    ("model.template.path=mine.obj", "model.template.path"),
]


@pytest.mark.parametrize(("override", "key"), LOCAL, ids=[override for override, _ in LOCAL])
def test_what_only_this_machine_sees_is_refused_by_the_name_of_its_setting(override: str, key: str) -> None:
    with pytest.raises(UserError) as error:
        place(load_config("headsup-nano", [*FAR, override]), here=False)
    assert str(error.value).startswith(f"{key}: ")
    assert "--shared" in str(error.value)


@pytest.mark.parametrize(
    "override", ["data.train=/fsx/heads", "tracking.uri=sqlite:////fsx/m.db", "checkpoint.url=null"]
)
def test_a_folder_that_every_node_sees_is_no_mistake(override: str) -> None:
    placed = place(load_config("headsup-nano", [*FAR, override]), here=False, shared=["/fsx"])
    assert placed.run.dir == "/fsx/headway/runs"


@pytest.mark.parametrize("path", ["/fsx2/heads", "/other", "fsx/heads"])
def test_a_folder_beside_the_shared_one_is_still_a_mistake(path: str) -> None:
    with pytest.raises(UserError, match=r"data\.train"):
        place(load_config("headsup-nano", [*FAR, f"data.train={path}"]), here=False, shared=["/fsx"])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "a.localhost"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "mlflow", "localhost.example.com", "2001:db8::1"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_variable_that_points_back_at_this_machine_is_refused() -> None:
    refuse_loopback({"AWS_ENDPOINT_URL": "https://store:9000", "AWS_REGION": "eu-1"})
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL"):
        refuse_loopback({"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"})


def test_a_missing_bucket_is_named_once_for_data_and_for_checkpoints(bucket: str) -> None:  # noqa: F811
    check_folder(f"{bucket}/runs")
    with pytest.raises(UserError, match="s3://no-such-bucket: there is no such bucket"):
        check_folder("s3://no-such-bucket/runs")
    with pytest.raises(UserError, match="s3://no-such-bucket: there is no such bucket"):
        check_data(load_config("headsup-nano", ["data.train=s3://no-such-bucket/heads"]))


def test_a_bucket_without_a_dataset_is_told_apart(bucket: str) -> None:  # noqa: F811
    with pytest.raises(UserError, match="there is no dataset here"):
        check_data(load_config("headsup-nano", [f"data.train={bucket}/heads"]))


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """A store that answers every request with one error of S3."""
    status, code = request.param
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Refusing(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = _answer

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    yield
    server.shutdown()
    server.server_close()


REFUSALS = [
    ((400, "ExpiredToken"), "have expired"),
    ((403, "AccessDenied"), "refuses this machine's credentials"),
    ((403, "InvalidAccessKeyId"), "refuses this machine's credentials"),
    ((403, "SignatureDoesNotMatch"), "refuses this machine's credentials"),
    ((404, "NoSuchBucket"), "there is no such bucket"),
]


@pytest.mark.parametrize(("refusing", "words"), REFUSALS, indirect=["refusing"], ids=[r[0][1] for r in REFUSALS])
def test_each_refusal_of_a_store_says_what_to_do(refusing: None, words: str) -> None:
    far = ["data.train=s3://bucket/x", "data.store.deadline=1", "data.store.patience=0"]
    for check in (lambda: check_folder("s3://bucket/runs"), lambda: check_data(load_config("headsup-nano", far))):
        with pytest.raises(UserError, match=f"^s3://bucket: .*{words}") as error:
            check()
        assert "very-secret-key" not in str(error.value)


def test_a_store_that_is_not_there_is_said_to_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    with pytest.raises(UserError, match="does not answer"):
        check_folder("s3://bucket/runs")


def test_a_machine_without_credentials_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="has no credentials"):
        check_folder("s3://bucket/runs")
