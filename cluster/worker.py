"""What runs in each Ray worker: logs to the run's folder, the training loop, and an honest word about its end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.hub import Failure, HubObserver
from cluster.runs import WARNINGS_FILE, unwritable
from configs import Config
from trainer.observer import Observer, Silent

TrainFunction = Callable[[Config, Observer], Any]


@dataclass(frozen=True)
class Task:
    """One worker's share of a run, as it travels to the worker.

    Attributes:
        config: resolved.
        hub: handle of the run's `Hub`.
        train: the loop; called on every rank, returns a summary that can be pickled.
    """

    config: Config
    hub: Any
    train: TrainFunction


def work(settings: dict[str, Any]) -> Any:
    """Entry point that Ray Train calls on every rank, with `{"task": Task}`."""
    import ray
    import ray.train

    task: Task = settings["task"]
    rank = ray.train.get_context().get_world_rank()
    redirect_output(task.config.run.path / "logs", rank)
    observer: Observer = Silent()
    if rank == 0:
        task.hub.started.remote()
        observer = HubObserver(task.hub)
    try:
        return task.train(task.config, observer)
    except BaseException as error:
        failure = Failure(rank, socket.gethostname(), time.time(), traceback.format_exc())
        print(failure.traceback, file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            ray.get(task.hub.fail.remote(failure), timeout=5)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise unwritable(error, error.filename or task.config.run.path) from error
        raise


def redirect_output(folder: Path, rank: int) -> None:
    """Send all that this process prints, from C++ too, to `rank-N.log`; warnings of all ranks also to one file.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        handler = logging.FileHandler(folder / WARNINGS_FILE, delay=True)
    except OSError as error:
        raise unwritable(error, folder) from None
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    print(f"--- rank {rank}, process {os.getpid()} on {socket.gethostname()}, {time.strftime('%F %T')} ---", flush=True)
