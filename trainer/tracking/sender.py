"""The thread that empties the spool into MLflow, in batches, for as long as it takes."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from trainer.tracking.delivery import Delivery, first_line
from trainer.tracking.spool import Spool
from trainer.tracking.store import Store

logger = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
_STRANGER_SECONDS = 5.0


class Sender:
    """Sends what the spool holds, in order, each line once; waits longer after every failure.

    Args:
        spool: read from its sent offset on.
        connect: opens the run; called again after a failure until it succeeds.
    """

    def __init__(self, spool: Spool, connect: Callable[[], Store]) -> None:
        self._spool, self._connect = spool, connect
        self._delivery: Delivery | None = None
        self._wake, self._closing = threading.Event(), threading.Event()
        self._give_up_at = float("inf")
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)
        self._thread.start()

    def close(self, patience_seconds: float) -> bool:
        """Send the rest. After `patience_seconds` without success it stays in the spool for the next time.

        A server that has never answered is not waited for as long: five seconds at most.

        Returns:
            Whether everything was sent.
        """
        if self._failures and self._delivery is None:
            patience_seconds = min(patience_seconds, _STRANGER_SECONDS)
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
                if self._delivery is None:
                    self._delivery = Delivery(self._spool, self._connect())
                self._delivery.drain()
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
                "MLflow is away (%s); nothing is lost, it waits in %s", first_line(error), self._spool.folder
            )
