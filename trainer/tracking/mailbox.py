"""Small records on their way to rank 0, through the store by which the workers met.

No collective, so that no step waits; no shared disk; no MLflow and no credentials on the other nodes.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import torch.distributed as dist

_TIMEOUT = timedelta(seconds=10)


class Mailbox:
    """A queue that any rank adds to and rank 0 empties; for one thread, which it may block for seconds.

    Args:
        name: the same on every rank, and used by nobody before.
    """

    def __init__(self, name: str) -> None:
        self._queue = f"headway/{name}"
        store: Any = dist.distributed_c10d._get_default_store()
        self._store = store.clone()  # a connection of its own: torch's stores serve one thread at a time
        self._store.set_timeout(_TIMEOUT)

    def post(self, record: dict[str, Any]) -> None:
        """Add a record; some ten microseconds.

        Raises:
            Exception: of the store, where rank 0 has gone.
        """
        self._store.queue_push(self._queue, json.dumps(record))

    def collect(self) -> list[dict[str, Any]]:
        """Everything that has been added since, in order."""
        found = []
        for _ in range(self._store.queue_len(self._queue)):
            found.append(json.loads(self._store.queue_pop(self._queue, False)))
        return found
