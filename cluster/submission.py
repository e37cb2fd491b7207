"""A run on its way to a cluster: its id, its command, what is shipped, and that no secret is among it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.secrecy import copied, names_a_secret, refuse_secret, refuse_secrets
from cluster.session import ROOT, worker_environment
from configs import Config, UserError, dump_config

PACKAGES = ("cluster", "configs", "data", "models", "trainer")
CONFIG_FILE, TERMS_FILE = "headway-job.yaml", "headway-terms.json"
GRACE_SECONDS = 120
"""How long a job that is stopped may take to save; Ray's own 3 s would kill it in the middle."""
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
_NO_PINS_FOR = {"headway", "ray"}  # neither can be replaced from inside a job


@dataclass(frozen=True)
class Submission:
    """A job for Ray's Jobs API, but for the folder of its code.

    Attributes:
        name: of the run.
        id: of the job: the run's name and the hash of what is trained.
        config: as the cluster will read it.
        entrypoint: a shell command, run in the shipped folder on the head node or where Ray places it.
        variables: environment of every process of the job.
        pins: `package==version` of what headway imports here, without the build (`+cpu`).
        terms: what `cluster.arrival` checks before it trains.
        install: whether Ray installs the pins on every node first.
    """

    name: str
    id: str
    config: Config
    entrypoint: str
    variables: Mapping[str, str]
    pins: tuple[str, ...]
    terms: Mapping[str, Any]
    install: bool = False

    @property
    def metadata(self) -> dict[str, str]:
        """What the job carries for `headway jobs` to read."""
        return {"headway.run": self.name, "headway.config": self.config.hash}

    def runtime_env(self, folder: Path | str) -> dict[str, Any]:
        """Ray's runtime environment, with the code at `folder`."""
        found: dict[str, Any] = {"working_dir": str(folder), "env_vars": dict(self.variables)}
        return {**found, "pip": {"packages": list(self.pins), "pip_check": False}} if self.install else found

    def numbered(self, number: int) -> Submission:
        """The same job under an id that has not been used; the first has no number."""
        return self if number < 2 else replace(self, id=f"{self.id}-{number}")


def submission(
    config: Config,
    *,
    variables: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    python: str = "python",
    wait: bool = False,
    check_versions: bool = True,
    install: bool = False,
) -> Submission:
    """Describe the job that trains `config`.

    Args:
        config: placed for the cluster (`cluster.reach.place`).
        variables: more environment variables for the job.
        environment: of the machine that submits; default this process's.
        python: the interpreter on the cluster.
        wait: whether the job waits for machines that the cluster has not got yet.
        check_versions: whether the job refuses to run with other versions than here.
        install: whether Ray installs these versions first.

    Raises:
        UserError: a secret in the config or in a variable, or a variable that is not the user's to set.
    """
    config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": None})})
    refuse_secrets(config, environment)
    pins = pinned()
    terms = {"wait": wait, "versions": dict(pin.split("==") for pin in pins) if check_versions else {}}
    return Submission(
        name=config.run.name,
        id=f"{config.run.name}-{config.hash}",
        config=config,
        entrypoint=f"{shlex.quote(python)} -m cluster.arrival",
        variables=_variables(config, variables or {}, environment),
        pins=pins,
        terms=terms,
        install=install,
    )


def _variables(config: Config, asked: Mapping[str, str], environment: Mapping[str, str] | None) -> dict[str, str]:
    found = copied(environment)
    taken = {*worker_environment(config), "RAY_ADDRESS", "RAY_JOB_STOP_WAIT_TIME_S"}
    for name, value in asked.items():
        if names_a_secret(name):
            raise UserError(
                "a secret is not shipped with a job, where everybody who sees the cluster could read it",
                where=f"--env {name}",
                hint="set it on the cluster: headway cluster manifest --secret NAME mounts one",
            )
        if name in taken:
            raise UserError("is set by Headway itself", where=f"--env {name}", hint="leave it out")
        refuse_secret(f"--env {name}", value, environment)
        found[name] = value
    return {**found, "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS)}


def pinned() -> tuple[str, ...]:
    """`package==version` for what this installation of headway requires directly, sorted.

    Raises:
        UserError: headway is not installed here, so that nobody knows what it requires.
    """
    from packaging.requirements import Requirement

    try:
        required = [Requirement(line) for line in metadata.requires("headway") or ()]
    except metadata.PackageNotFoundError:
        hint = "make setup, or pip install -e ."
        raise UserError("headway is not installed, so its pins are not known", hint=hint) from None
    names = {need.name for need in required if need.marker is None or need.marker.evaluate({"extra": ""})}
    return tuple(sorted(f"{name}=={version(name)}" for name in names - _NO_PINS_FOR))


def version(name: str) -> str:
    """The version of a package that is installed here, without its build; empty where it is not."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def stage(job: Submission, folder: Path, packages: Sequence[str] = PACKAGES) -> Path:
    """Fill `folder` with what is shipped: this code, one config, the job's terms. Nothing else can get in.

    Returns:
        The folder. Its bytes depend on the code and the job only, so that Ray uploads the same job once.
    """
    for package in packages:
        shutil.copytree(ROOT / package, folder / package, ignore=_LEFT_OUT)
    (folder / CONFIG_FILE).write_text(dump_config(job.config))
    (folder / TERMS_FILE).write_text(json.dumps(dict(job.terms), indent=1, sort_keys=True))
    return folder
