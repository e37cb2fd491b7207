"""One run on an MLflow server or in a database: found or made once, then fed in batches.

Everything here may block or raise; only the sender's thread calls it, and imports MLflow (seconds) with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.tracking.database import sqlite_file
from trainer.tracking.identity import Identity

# The limits of one log_batch request (mlflow/utils/validation.py).
METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH = 1000, 100, 100
PARAM_CHARACTERS, TAG_CHARACTERS, NAME_CHARACTERS = 6000, 8000, 250
_KEY_TAG = "headway.key"
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"}


class Refused(Exception):
    """The server will never take this, however often it is sent."""


class Store:
    """An open MLflow run.

    Args:
        uri: `sqlite:///...`, `http(s)://...` or whatever else MLflow takes.
        experiment: made where it is missing; beside a database, its artifacts lie in `mlartifacts/`.
        run_name: for a run that has to be made.
        identity: names the run; a new run's id is written to it before anything is sent.

    Raises:
        Exception: of MLflow; worth another try.
    """

    def __init__(self, uri: str, experiment: str, run_name: str, identity: Identity) -> None:
        _calm_mlflow()
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        experiment_id = self._experiment(experiment, uri)
        self.is_new = False
        self.run_id = self._find(identity, experiment_id) or self._create(identity, experiment_id, run_name)
        self._params = dict(self._client.get_run(self.run_id).data.params)

    def metrics(self, records: Iterable[dict[str, Any]]) -> None:
        """Send records of `{"at": ms, "step": n, "values": {...}}`; what the server has already is not doubled."""
        from mlflow.entities import Metric

        entities = (
            Metric(key[:NAME_CHARACTERS], value, record["at"], record["step"])
            for record in records
            for key, value in record["values"].items()
        )
        for batch in _batches(entities, METRICS_PER_BATCH):
            self._send(metrics=batch)

    def params(self, values: dict[str, str]) -> None:
        """Send parameters; MLflow's cannot change, so a changed one becomes the tag `changed.NAME`."""
        from mlflow.entities import Param

        values = {key[:NAME_CHARACTERS]: _cut(value, PARAM_CHARACTERS) for key, value in values.items()}
        new = {key: value for key, value in values.items() if key not in self._params}
        for batch in _batches((Param(key, value) for key, value in new.items()), PARAMS_PER_BATCH):
            self._send(params=batch)
        self._params |= new
        changed = {f"changed.{key}": value for key, value in values.items() if self._params[key] != value}
        if changed:
            self.tags(changed)

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        tags = (RunTag(key[:NAME_CHARACTERS], _cut(value, TAG_CHARACTERS)) for key, value in values.items())
        for batch in _batches(tags, TAGS_PER_BATCH):
            self._send(tags=batch)

    def file(self, path: Path, folder: str | None) -> None:
        """Upload a file, or a folder with all that is in it."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def start(self, at: int) -> None:
        """Mark the run as running since `at` milliseconds since the epoch, also after an end before that."""
        if not self._ended_after(at):
            self._client.update_run(self.run_id, "RUNNING")

    def end(self, status: str, at: int) -> None:
        """Mark the run `FINISHED`, `FAILED` or `KILLED` at `at` milliseconds since the epoch."""
        if not self._ended_after(at):
            self._client.set_terminated(self.run_id, status, end_time=at)

    def _ended_after(self, at: int) -> bool:
        """Lines may come late or again: from another node's spool, or from one that is sent from its beginning."""
        ended = self._client.get_run(self.run_id).info.end_time
        return ended is not None and ended > at

    def answers(self) -> bool:
        """Whether the server is there and knows the run."""
        try:
            self._client.get_run(self.run_id)
        except Exception:
            return False
        return True

    def _send(self, *, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self.run_id, metrics, params, tags)
        except MlflowException as error:
            if error.error_code in _REFUSALS:
                raise Refused(error.message) from error
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise Refused(f"{type(error).__name__}: {error}") from error

    def _experiment(self, name: str, uri: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, artifact_location=artifact_location(uri, name))
            except MlflowException:
                # Somebody else may have made it in the meantime.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise RuntimeError(f"the MLflow experiment '{name}' is deleted: restore it, or set tracking.experiment")
        return found.experiment_id

    def _find(self, identity: Identity, experiment_id: str) -> str | None:
        """The run by its id; or by our key, if a process died after making it and before noting its id."""
        from mlflow.exceptions import MlflowException

        if identity.run_id is not None:
            try:
                run = self._client.get_run(identity.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if run.info.lifecycle_stage == "active":
                    return run.info.run_id
        runs = self._client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{identity.key}'", max_results=1)
        if not runs:
            return None
        identity.note(runs[0].info.run_id)
        return runs[0].info.run_id

    def _create(self, identity: Identity, experiment_id: str, run_name: str) -> str:
        began = int(identity.began * 1000)
        run = self._client.create_run(experiment_id, began, {_KEY_TAG: identity.key}, run_name)
        identity.note(run.info.run_id)
        self.is_new = True
        return run.info.run_id


def artifact_location(uri: str, experiment: str) -> str | None:
    """Beside a sqlite database; elsewhere the server decides (MLflow's own default is ./mlruns of whoever asks)."""
    database = sqlite_file(uri)
    return (database.parent / "mlartifacts" / experiment).as_uri() if database else None


def _calm_mlflow() -> None:
    """Our own retries, not MLflow's: its defaults hold a call for minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def _batches(items: Iterable[Any], count: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, count)):
        yield batch


def _cut(value: str, characters: int) -> str:
    return value if len(value) <= characters else value[: characters - 3] + "..."
