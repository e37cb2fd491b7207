"""The thread that empties the spool into MLflow, in batches, for as long as it takes."""

from __future__ import annotations

import json
import logging
import random
import shutil
import threading
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any

from trainer.tracking.spool import Line, Spool
from trainer.tracking.store import Refused, Store

logger = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
_TRIES = 4


class Sender:
    """Sends what the spool holds, in order, each line once; waits longer after every failure.

    Args:
        spool: read from its sent offset on.
        connect: opens the run; called again after a failure until it succeeds.
    """

    def __init__(self, spool: Spool, connect: Callable[[], Store]) -> None:
        self._spool, self._connect = spool, connect
        self._store: Store | None = None
        self._wake, self._closing = threading.Event(), threading.Event()
        self._give_up_at = float("inf")
        self._failures = 0
        self._tries: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)
        self._thread.start()

    def close(self, patience_seconds: float) -> bool:
        """Send the rest. After `patience_seconds` without success it stays in the spool for the next time.

        Returns:
            Whether everything was sent.
        """
        self._give_up_at = time.monotonic() + patience_seconds
        self._closing.set()
        self._wake.set()
        # A request that hangs is left to its own time-out; the thread is a daemon.
        self._thread.join(patience_seconds + 5)
        return not self._thread.is_alive() and self._spool.unsent() == 0

    def _run(self) -> None:
        while True:
            last = self._closing.is_set()  # asked before the spool is read: nothing is appended after it is set
            try:
                if self._store is None:
                    self._store = self._connect()
                self._drain(self._store)
                self._failures = 0
            except Exception as error:
                self._failed(error)
            if last and (self._failures == 0 or time.monotonic() > self._give_up_at):
                return
            self._wait()

    def _wait(self) -> None:
        seconds = _LOOK_EVERY_SECONDS
        if self._failures:
            longest = 1.0 if self._closing.is_set() else _LONGEST_WAIT_SECONDS
            seconds = min(longest, 0.25 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
        if self._closing.is_set():
            time.sleep(min(seconds, max(0.0, self._give_up_at - time.monotonic())))
        else:
            self._wake.wait(seconds)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures in (1, 10, 100, 1000):
            logger.warning(
                "MLflow is away (%s); nothing is lost, it waits in %s", _first_line(error), self._spool.folder
            )

    def _drain(self, store: Store) -> None:
        while lines := list(self._spool.read(self._spool.sent())):
            for _, group in groupby(lines, key=_batch_key):
                self._send(store, list(group))

    def _send(self, store: Store, lines: list[Line]) -> None:
        """One batch; where it is not taken, line by line, and lines that are not taken alone are set aside."""
        try:
            _hand_over(store, self._spool, [line.record for line in lines if line.record is not None])
        except Exception as error:
            if not self._is_refused(error, store, lines[-1].end):
                raise
            if len(lines) > 1:
                for line in lines:
                    self._send(store, [line])
                return
            self._set_aside(lines[0], error)
        self._spool.commit(lines[-1].end)
        self._tries.pop(lines[-1].end, None)

    def _is_refused(self, error: Exception, store: Store, end: int) -> bool:
        """By the server's word; or because it fails again and again on these lines alone and answers otherwise."""
        self._tries[end] = self._tries.get(end, 0) + 1
        return isinstance(error, Refused) or (self._tries[end] >= _TRIES and store.answers())

    def _set_aside(self, line: Line, refusal: Exception) -> None:
        logger.warning("MLflow refuses a line: %s", _first_line(refusal))
        with open(self._spool.folder / "refused.jsonl", "a") as file:
            file.write(json.dumps({"reason": str(refusal), "line": line.record}) + "\n")


def _batch_key(line: Line) -> Any:
    """Lines that follow each other with the same key go in one request; files and ends go alone."""
    is_metrics = line.record is None or line.record["kind"] == "metrics"
    return "metrics" if is_metrics else line.end


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
            store.start()
        case "end":
            store.end(first["status"], first["at"])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
