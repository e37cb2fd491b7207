"""Send what a run's spool still holds, when the run itself is over: it trained off line, or its server was away."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs import UserError
from trainer.tracking import spool as spools
from trainer.tracking.delivery import Delivery, connect, first_line
from trainer.tracking.identity import FOLDER, Identity
from trainer.tracking.provenance import without_secrets
from trainer.tracking.spool import Spool
from trainer.tracking.store import Store

_TRIES = 5
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Synced:
    """What a sync has done.

    Attributes:
        run_id: MLflow's id of the run.
        sent: records that were sent.
        refused: of these, the ones that MLflow does not take; they lie in `tracking/refused.jsonl`.
    """

    run_id: str
    sent: int
    refused: int


def waiting(run_dir: Path) -> int:
    """Records of a run that wait to be sent; 0 for one that was never tracked."""
    return spools.waiting(run_dir / FOLDER)


def sync(run_dir: Path, uri: str, experiment: str, run_name: str, progress: Progress | None = None) -> Synced:
    """Send all that a run has not sent yet; done twice, the second sends nothing.

    Killed at any moment, the next one goes on: a batch may be sent again, and MLflow keeps one of each point. Where
    `uri` is another server than the one that has the run, it gets a run of its own with the whole history.

    Args:
        run_dir: the run's folder.
        uri, experiment, run_name: as in `Config.tracking`.
        progress: told how many records are sent, and how many there are.

    Raises:
        UserError: the run is training, was never tracked, or MLflow does not answer.
    """
    folder = run_dir / FOLDER
    if not folder.is_dir():
        raise UserError("was never tracked", where=str(run_dir), hint="rank 0 writes to its folder `tracking`")
    spool = Spool(folder, mend=False)
    try:
        if not spool.hold(alone=True):
            hint = "a run that trains sends its records itself; sync it when it has ended"
            raise UserError("is being sent by another process", where=str(run_dir), hint=hint)
        store = _connected(spool, Identity(folder), uri, experiment, run_name)
        return _send(spool, store, uri, progress)
    finally:
        spool.close()


def _connected(spool: Spool, identity: Identity, uri: str, experiment: str, run_name: str) -> Store:
    try:
        return connect(spool, identity, uri, experiment, run_name)
    except Exception as error:
        raise _trouble(error, uri, spool) from None


def _send(spool: Spool, store: Store, uri: str, progress: Progress | None) -> Synced:
    total, done = spool.waiting(), 0

    def delivered(lines: int) -> None:
        nonlocal done
        done += lines
        if progress:
            progress(done, max(done, total))

    delivery = Delivery(spool, store, delivered)
    failures, reached = 0, -1
    while True:
        try:
            delivery.drain()
            return Synced(store.run_id, done, delivery.refused)
        except Exception as error:
            failures, reached = (failures + 1 if done == reached else 1), done
            if failures == _TRIES or not store.answers():
                raise _trouble(error, uri, spool) from None
            time.sleep(0.05 * 2**failures)


def _trouble(error: Exception, uri: str, spool: Spool) -> UserError:
    """An error of MLflow in words that say what to do."""
    names = {type(cause).__name__ for cause in _causes(error)}
    left = f"{spool.waiting()} records go on waiting in {spool.folder}"
    where = without_secrets("uri", uri)
    if names & {"ConnectionError", "ConnectTimeout", "ReadTimeout", "ConnectionRefusedError", "gaierror"}:
        hint = f"is the server up, is the address right? another one: --to URI; {left}"
        return UserError("no MLflow server answers", where=where, hint=hint)
    hint = f"credentials: MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN; {left}"
    refused = any(str(code) in first_line(error) for code in (401, 403))
    return UserError(f"MLflow does not take records: {first_line(error)}", where=where, hint=hint if refused else left)


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
