"""A run from its config to its result, by Ray Train: start, watch, restart, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from cluster.display import Display, Plain
from cluster.hub import Hub, News
from cluster.nodes import NODE_ID
from cluster.runs import prepare, resolve, sole_trainer
from cluster.session import Session, ray_session
from cluster.worker import Task, TrainFunction
from configs import Config, UserError
from trainer import ledger

_LOOK_EVERY_SECONDS = 0.4


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        summary: what the loop returned on rank 0.
        folder: the run's folder.
        restarts: how often the group of workers was started again.
        stopped: the name of the signal that ended it early (`SIGINT`, `SIGTERM`), its work saved.
    """

    summary: Any
    folder: Path
    restarts: int
    stopped: str | None


class WorkerFailure(RuntimeError):
    """The run is given up; the message holds the full traceback of the worker that failed first."""


def launch(
    config: Config,
    display: Display | None = None,
    *,
    resume: bool = False,
    train: TrainFunction | None = None,
) -> Result:
    """Train on Ray, on `config.cluster.workers` workers; a run that has checkpoints goes on from the newest.

    Must be called from the main thread, which handles Ctrl-C: the first asks the run to save and end, the
    second ends it at once.

    Args:
        config: relative paths in it count from the current folder.
        display: shows progress; default is plain lines.
        resume: whether an existing run of that name may go on with other settings.
        train: the loop that every rank runs; default `trainer.loop.train`.

    Raises:
        UserError: also one that a worker raised.
        WorkerFailure: the workers failed more than `config.cluster.max_failures` times.
        KeyboardInterrupt: at the second Ctrl-C.
    """
    config = resolve(config)
    display = display or Plain()
    prepare(config, resume=resume)
    with sole_trainer(config.run.path), ledger.session(config.run.path), display:
        display.phase("starting Ray")
        with ray_session(config) as session:
            outcome = _drive(config, display, session, train or _loop())
            cause = _cause(outcome, config) if outcome.error is not None else None
            if isinstance(cause, WorkerFailure):
                session.keep_logs(config.run.path / "logs" / "ray")
        if cause is not None:
            raise cause
    return Result(
        outcome.summary,
        config.run.path,
        restarts=max(outcome.news.attempt - 1, 0),
        stopped=outcome.signal if not outcome.summary.finished else None,
    )


def _loop() -> TrainFunction:
    from trainer.loop import train

    return train


@dataclass(frozen=True)
class _Outcome:
    """What is left of a run when Ray is gone; holds nothing of Ray's."""

    summary: Any
    error: BaseException | None
    news: News
    signal: str | None


def _drive(config: Config, display: Display, session: Session, train: TrainFunction) -> _Outcome:
    import ray

    display.phase("starting workers")
    here = {NODE_ID: ray.get_runtime_context().get_node_id()}
    hub = ray.remote(num_cpus=0, label_selector=here)(Hub).options(name=f"headway:{config.run.name}").remote()
    summary = error = None
    with _Watcher(hub, display) as watcher, _signals(hub, display) as caught:
        try:
            summary = _trainer(config, hub, session, train).fit().return_value
        except Exception as failure:
            error = failure.with_traceback(None)  # its frames hold Ray's handles, which must not outlive Ray
    return _Outcome(summary, error, watcher.news, caught[0].name if caught else None)


class _Watcher(threading.Thread):
    """Shows what the hub knows while the main thread waits for Ray Train; has ended before Ray does."""

    def __init__(self, hub: Any, display: Display) -> None:
        super().__init__(name="watcher", daemon=True)
        self._hub, self._display, self._done = hub, display, threading.Event()
        self._told = 0
        self.news = News()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()
        self._look()

    def run(self) -> None:
        """Until the run has ended."""
        while not self._done.wait(_LOOK_EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        import ray
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            self.news = cast(News, ray.get(self._hub.news.remote(), timeout=5))
            for note in self.news.notes[self._told :]:
                self._display.note(note)
            self._told = len(self.news.notes)
            _show(self.news, self._display)


def _trainer(config: Config, hub: Any, session: Session, train: TrainFunction) -> Any:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from cluster.controller import LeanTrainer
    from cluster.worker import work

    wanted = config.cluster
    resources = {"CPU": wanted.cpus_per_worker}
    if wanted.gpus_per_worker:
        resources["GPU"] = wanted.gpus_per_worker
    storage = session.folder if session.local else config.run.path
    return LeanTrainer(
        work,
        train_loop_config={"task": Task(config, hub, train)},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if wanted.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=wanted.workers, use_gpu=wanted.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(storage),
        ),
        config=config,
        hub=hub,
    )


def _show(news: News, display: Display) -> None:
    for reason in news.lost[display.restarts :]:
        display.restarting(reason)
    if news.progress is not None:
        display.progress(news.progress)


@contextlib.contextmanager
def _signals(hub: Any, display: Display) -> Iterator[list[signal.Signals]]:
    """The first SIGINT or SIGTERM asks the run to save and end, the second ends it at once.

    Ray looks for signals once a second while the main thread waits for it, and two of a kind within that second
    reach Python as one; the pipe has a byte for each.
    """
    caught: list[signal.Signals] = []
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)

    def handle(number: int, frame: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            caught.extend(signal.Signals(byte) for byte in os.read(reader, 16) if byte in before)
        if len(caught) > 1:
            raise KeyboardInterrupt
        hub.stop.remote()
        display.note("saving and stopping after this step; Ctrl-C again ends it at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    wakeup = signal.set_wakeup_fd(writer)
    try:
        yield caught
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _cause(outcome: _Outcome, config: Config) -> BaseException:
    """The error to show: the user's mistake as it was raised, else the failure that came first."""
    inner = [getattr(outcome.error, "controller_failure", None)]
    inner += getattr(outcome.error, "worker_failures", {}).values()
    mistake = next((error for error in inner if isinstance(error, UserError)), None)
    if mistake is not None:
        return mistake
    logs, failures = config.run.path / "logs", outcome.news.failures
    if not failures:
        return WorkerFailure(f"{outcome.error}\nlogs: {logs}")
    first = min(failures, key=lambda failure: failure.at)
    attempts = f"the last of {outcome.news.attempt} attempts" if outcome.news.attempt > 1 else "the only attempt"
    return WorkerFailure(
        f"rank {first.rank} on {first.host} failed first, in {attempts}:\n\n{first.traceback}\nlogs: {logs}"
    )
