"""Saving while the training goes on: a copy in memory, which a thread of every rank writes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch.distributed as dist

from trainer.checkpoint.local import LocalCopies
from trainer.checkpoint.retention import Retention, prune, step_directory
from trainer.checkpoint.saving import publish
from trainer.checkpoint.snapshot import Engines, Snapshot, take
from trainer.checkpoint.staging import Staging, Stalled
from trainer.distributed import second_group

log = logging.getLogger(__name__)


class Saver:
    """All saves of a run, one at a time. Every method is collective.

    A save that fails is told of, and the training goes on; too many in a row, or the last one, end the run.

    Args:
        folder: path or fsspec URL of the run's checkpoints.
        retention: what stays of earlier ones.
        background: whether to write beside the training, or while it waits.
        tolerated: saves in a row that may fail.
        stalled: entered while an update waits for the copy that a save is still making.
        local: folder of this run on this node that keeps the newest save's shards of its ranks; as `LocalCopies`.
    """

    def __init__(
        self,
        folder: str,
        retention: Retention | None = None,
        *,
        background: bool = True,
        tolerated: int = 2,
        stalled: Stalled = nullcontext,
        local: str | None = None,
    ) -> None:
        self.folder, self.newest = folder, ""
        self.seconds = 0.0
        """What the last one took, from the copy to its commit."""
        self._retention, self._tolerated = retention or Retention(), tolerated
        self._staging, self._copies = Staging(stalled), LocalCopies(local) if local else None
        self.local = local
        self._group = second_group() if background else None
        self._writing: _Writing | None = None
        self._failures: list[Exception] = []

    def save(self, engines: Engines, state: dict[str, Any]) -> None:
        """Save where the engines stand.

        In the background the training may go on at once: the next update, load or evaluation with averaged weights
        waits by itself until there is a copy. A save that is still under way is waited for first.

        Args:
            engines, state: as `snapshot.take`.

        Raises:
            UserError: too many saves in a row have failed; of the last one.
            ValueError: in the middle of an accumulation.
        """
        self.settle()
        if len(self._failures) > self._tolerated:
            raise self._failures[-1]
        background = self._group is not None
        snapshot = take(engines, state, self._staging if background else None)
        self._writing = _Writing(lambda: self._publish(snapshot), step_directory(self.folder, snapshot.step))
        if background:
            self._writing.start()
        else:
            self._writing.run()
            self.settle()

    def wait(self) -> None:
        """Return when the last save is there.

        Raises:
            UserError: it failed.
        """
        self.settle()
        if self._failures:
            raise self._failures[-1]

    def forget(self) -> None:
        """Remove this node's copies: nothing will go on from them."""
        self.settle()
        if self._copies is not None:
            self._copies.clear()

    def settle(self) -> None:
        """Wait for the save under way, if there is one, and take note of how it ended; on every rank alike."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        if self._group is not None:
            writing.join()
        self.seconds = writing.seconds
        if writing.failure is None:
            self.newest = writing.directory
            self._failures = []
        else:
            self._failures.append(writing.failure)
            log.warning("the checkpoint %s was not saved: %s", writing.directory, writing.failure)

    def _publish(self, snapshot: Snapshot) -> None:
        name = publish(snapshot, step_directory(self.folder, snapshot.step), self._group)
        if self._copies is not None:
            self._copies.keep(name, snapshot.tensors)
        if dist.get_rank() == 0:
            try:
                prune(self.folder, self._retention)
            except Exception as error:  # what stays too long harms nobody
                log.warning("earlier checkpoints in %s could not be removed: %s", self.folder, error)


class _Writing(threading.Thread):
    """One save under way, and how it ended."""

    def __init__(self, work: Callable[[], None], directory: str) -> None:
        super().__init__(name="checkpoint", daemon=True)  # a process that ends does not wait for it
        self._work, self.directory = work, directory
        self.failure: Exception | None = None
        self.seconds = 0.0

    def run(self) -> None:
        """Do it."""
        began = time.perf_counter()
        try:
            self._work()
        except Exception as error:
            self.failure = error
        self.seconds = time.perf_counter() - began
