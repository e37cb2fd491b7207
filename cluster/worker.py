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

from cluster.hub import Failure
from cluster.pulse import Pulse
from cluster.runs import WARNINGS_FILE, unwritable
from configs import Config
from trainer.observer import Observer

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
    """Entry point that Ray Train calls on every rank, with `{"task": Task}`.

    Raises:
        Paused: the run saved and ended early, not because the user wished it.
    """
    import ray
    import ray.train

    task: Task = settings["task"]
    place = Place.own()
    redirect_output(task.config.run.path / "logs", place)
    if place.rank == 0:
        task.hub.started.remote()
    try:
        with Pulse(task.hub, place.rank, place.world_size) as pulse:
            summary = task.train(task.config.at(place.world_size), pulse)
            paused = None if summary.finished else pulse.paused()
    except BaseException as error:
        failure = Failure(place.rank, socket.gethostname(), time.time(), traceback.format_exc())
        with contextlib.suppress(OSError):  # the log's disk may be full
            print(failure.traceback, file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            ray.get(task.hub.fail.remote(failure), timeout=5)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise unwritable(error, error.filename or task.config.run.path) from error
        raise
    if paused:
        raise paused
    return summary


@dataclass(frozen=True)
class Place:
    """Where a worker stands, as Ray laid it out; DeepSpeed, MLflow and the logs use the same numbers.

    Attributes:
        rank, world_size: among all workers; those of a node follow each other.
        node, local_rank: which node, in the order of ranks, and which worker on it.
    """

    rank: int
    world_size: int
    node: int
    local_rank: int

    @classmethod
    def own(cls) -> Place:
        """This worker's."""
        import ray.train

        context = ray.train.get_context()
        return cls(
            context.get_world_rank(), context.get_world_size(), context.get_node_rank(), context.get_local_rank()
        )


def redirect_output(folder: Path, place: Place) -> None:
    """Send all that this process prints, from C++ too, to `rank-N.log`; warnings of all ranks also to one file.

    Raises:
        UserError: the folder cannot be written.
    """
    rank = place.rank
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
    where = f"rank {rank} of {place.world_size}, node {place.node}, local rank {place.local_rank}"
    print(f"--- {where}: process {os.getpid()} on {socket.gethostname()}, {time.strftime('%F %T')} ---", flush=True)
