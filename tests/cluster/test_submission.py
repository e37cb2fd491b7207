"""What is shipped: this code, one config, no secret; the same job under the same id."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from cluster.arrival import arrive, compare
from cluster.session import ROOT, worker_environment
from cluster.submission import CONFIG_FILE, GRACE_SECONDS, PACKAGES, Submission, pinned, stage, submission
from configs import UserError, load_config

SECRETS = {"AWS_SECRET_ACCESS_KEY": "hunter2hunter2", "HF_TOKEN": "hunter2hunter2", "RAY_AUTH_TOKEN": "hunter2hunter2"}


def made(*overrides: str, **options) -> Submission:
    return submission(load_config("headsup-nano", list(overrides)), **{"environment": {}, **options})


def test_the_id_is_the_runs_name_and_what_it_trains() -> None:
    job = made("run.name=first")
    assert job.id == f"first-{job.config.hash}"
    assert job.id == made("run.name=first", "tracking.uri=http://mlflow:5000").id
    assert job.id != made("run.name=first", "optimizer.learning_rate=0.5").id
    assert job.metadata == {"headway.run": "first", "headway.config": job.config.hash}
    assert [job.numbered(n).id for n in (1, 2, 3)] == [job.id, f"{job.id}-2", f"{job.id}-3"]


def test_an_address_of_the_submitting_machine_does_not_travel() -> None:
    assert made("cluster.address=elsewhere:6379").config.cluster.address is None


@pytest.mark.parametrize("python", ["python3.11", "/opt/my env/bin/python", "a; rm -rf /"])
def test_the_interpreter_is_one_word_for_the_shell(python: str) -> None:
    import shlex

    assert shlex.split(made(python=python).entrypoint) == [python, "-m", "cluster.arrival"]


def test_the_job_has_time_to_save_when_it_is_stopped() -> None:
    assert made().variables["RAY_JOB_STOP_WAIT_TIME_S"] == str(GRACE_SECONDS)


def test_nothing_that_is_shipped_holds_a_secret(tmp_path: Path) -> None:
    job = made("data.train=s3://b/x", environment={**SECRETS, "AWS_REGION": "eu-1"}, variables={"NCCL_DEBUG": "INFO"})
    assert job.variables.keys() == {"AWS_REGION", "NCCL_DEBUG", "RAY_JOB_STOP_WAIT_TIME_S"}
    stage(job, tmp_path)
    everything = json.dumps(job.runtime_env(tmp_path)) + job.entrypoint + json.dumps(job.metadata)
    everything += "".join(path.read_text() for path in tmp_path.glob("headway-*"))
    assert "hunter2" not in everything


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "X_API_KEY"])
def test_a_secret_cannot_be_shipped_on_purpose(name: str) -> None:
    with pytest.raises(UserError, match=name) as error:
        made(variables={name: "hunter2"})
    assert "hunter2" not in str(error.value)


def test_nor_under_another_name() -> None:
    with pytest.raises(UserError, match="holds the value of") as error:
        made(variables={"HARMLESS": "hunter2hunter2"}, environment=SECRETS)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", ["PYTHONPATH", "OMP_NUM_THREADS", "RAY_ADDRESS", "DS_ACCELERATOR"])
def test_variables_that_ray_would_find_twice_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="set by Headway itself"):
        made(variables={name: "1"})


def test_ours_and_the_jobs_variables_never_meet() -> None:
    """Ray refuses a driver that sets a variable of the job again."""
    assert not made().variables.keys() & worker_environment(load_config("headsup-nano")).keys()


def test_only_the_houses_rooms_are_shipped_and_always_the_same(tmp_path: Path) -> None:
    job = made()
    first, second = stage(job, tmp_path / "a"), stage(job, tmp_path / "b")
    listed = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()}
    assert {name.split("/")[0] for name in listed} == {*PACKAGES, CONFIG_FILE, "headway-terms.json"}
    assert not any("__pycache__" in name or name.startswith(".") for name in listed)
    assert {"configs/presets/headsup-nano.yaml", "models/render/cpu/api.cpp", "cluster/cli.py"} <= listed
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in listed)
    assert load_config(first / CONFIG_FILE) == job.config


def test_what_is_shipped_is_small_enough_for_ray(tmp_path: Path) -> None:
    stage(made(), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 10e6  # Ray refuses 100 MiB


def test_every_room_is_shipped() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(PACKAGES)


def test_pins_are_the_versions_that_are_here_without_their_builds() -> None:
    pins = dict(pin.split("==") for pin in pinned())
    assert pins["torch"] == metadata.version("torch").partition("+")[0]
    assert {"deepspeed", "accelerate", "mlflow", "pydantic"} <= pins.keys()
    assert not {"ray", "headway", "pytest"} & pins.keys()


def test_packages_are_installed_by_ray_only_when_asked_to() -> None:
    assert "pip" not in made().runtime_env("x")
    assert (
        f"torch=={metadata.version('torch').partition('+')[0]}"
        in made(install=True).runtime_env("x")["pip"]["packages"]
    )


def test_a_job_that_arrives_where_it_was_made_trains(tmp_path: Path) -> None:
    assert arrive(stage(made(), tmp_path)) == ["train", str(tmp_path / CONFIG_FILE)]


def test_a_job_that_finds_other_packages_says_which(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        compare({"torch": "1.0.0", "no-such-package": "2.0"})
    assert f"torch {metadata.version('torch').partition('+')[0]}, not 1.0.0" in str(error.value)
    assert "no-such-package missing, not 2.0" in str(error.value)
    assert "--any-versions" in str(error.value)
    stage(made(check_versions=False), tmp_path)
    assert json.loads((tmp_path / "headway-terms.json").read_text())["versions"] == {}
