"""MLflow, never on the step path: a spool on disk, and a thread that sends it."""

from trainer.tracking.identity import read_run_id
from trainer.tracking.tracker import Tracker

__all__ = ["Tracker", "read_run_id"]
