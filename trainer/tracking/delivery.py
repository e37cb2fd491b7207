"""From a spool to an MLflow run, in order, each line once; for the sender's thread and for `headway track sync`."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainer.tracking.database import make_database, sqlite_file
from trainer.tracking.identity import Identity
from trainer.tracking.spool import Line, Spool
from trainer.tracking.store import METRICS_PER_BATCH, Refused, Store

logger = logging.getLogger(__name__)
REFUSED_FILE = "refused.jsonl"
_TRIES = 4


def connect(spool: Spool, identity: Identity, uri: str, experiment: str, run_name: str) -> Store:
    """Open the run, and set the spool back to its beginning if what was sent went to another one.

    Raises:
        Exception: of MLflow; worth another try.
    """
    known = spool.receiver() or identity.run_id
    if database := sqlite_file(uri):
        make_database(database)
    store = Store(uri, experiment, run_name, identity)
    if known not in (None, store.run_id):
        spool.commit(0, store.run_id)  # another server, or one that lost the run: it gets the whole history
    return store


class Delivery:
    """Hands the lines of a spool to a store; what is refused for good is set aside and the rest goes on.

    Args:
        spool: read from its sent offset on.
        store: takes the lines.
        delivered: told of every batch how many lines it had.
    """

    def __init__(self, spool: Spool, store: Store, delivered: Callable[[int], None] | None = None) -> None:
        self._spool, self._store, self._delivered = spool, store, delivered
        self._tries: dict[int, int] = {}
        self.refused = 0

    def drain(self) -> None:
        """Send until nothing waits.

        Raises:
            Exception: of MLflow; what was sent until then is noted.
        """
        while lines := list(self._spool.read(self._spool.sent())):
            for batch in _batches(lines):
                self._send(batch)

    def _send(self, lines: list[Line]) -> None:
        """One batch; where it is not taken, line by line, and lines that are not taken alone are set aside."""
        try:
            _hand_over(self._store, self._spool, [line.record for line in lines if line.record is not None])
        except Exception as error:
            if not self._is_refused(error, lines[-1].end):
                raise
            if len(lines) > 1:
                for line in lines:
                    self._send([line])
                return
            self._set_aside(lines[0], error)
        self._spool.commit(lines[-1].end, self._store.run_id)
        self._tries.pop(lines[-1].end, None)
        if self._delivered:
            self._delivered(len(lines))

    def _is_refused(self, error: Exception, end: int) -> bool:
        """By the server's word; or because it fails again and again on these lines alone and answers otherwise."""
        self._tries[end] = self._tries.get(end, 0) + 1
        return isinstance(error, Refused) or (self._tries[end] >= _TRIES and self._store.answers())

    def _set_aside(self, line: Line, refusal: Exception) -> None:
        logger.warning("MLflow refuses a line: %s", first_line(refusal))
        with open(self._spool.folder / REFUSED_FILE, "a") as file:
            file.write(json.dumps({"reason": str(refusal), "line": line.record}) + "\n")
        self.refused += 1


def first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Metrics that follow each other go in one request's worth; every other line goes alone."""
    batch: list[Line] = []
    values = 0
    for line in lines:
        if line.record is not None and line.record["kind"] != "metrics":
            if batch:
                yield batch
            yield [line]
            batch, values = [], 0
            continue
        batch.append(line)
        values += len(line.record["values"]) if line.record is not None else 0
        if values >= METRICS_PER_BATCH:
            yield batch
            batch, values = [], 0
    if batch:
        yield batch


def _hand_over(store: Store, spool: Spool, records: list[dict[str, Any]]) -> None:
    if not records:
        return
    first = records[0]
    match first["kind"]:
        case "metrics":
            store.metrics(records)
        case "params":
            store.params(first["values"])
        case "tags":
            store.tags(first["values"])
        case "file":
            path = spool.folder / first["path"]
            if path.exists():  # otherwise it was sent before the run was made again elsewhere
                store.file(path, first["folder"])
                shutil.rmtree(path.parent, ignore_errors=True)
        case "start":
            store.start(first["at"])
        case "end":
            store.end(first["status"], first["at"])
