"""What the controller does when workers fail: tell the driver, and not retry what only the user can mend."""

from __future__ import annotations

import contextlib
from typing import Any

from ray.train import UserCallback

from configs import UserError


class Verdict(UserCallback):
    """Ends the run on a `UserError` from any rank; everything else is left to Ray's restarts."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called in the controller; what it raises is not retried and reaches the driver as it is."""
        for error in worker_exceptions.values():
            if isinstance(error, UserError):
                raise error
        rank, error = min(worker_exceptions.items())
        with contextlib.suppress(Exception):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._hub.lose.remote(f"rank {rank}: {type(error).__name__}: {lines[0]}")
