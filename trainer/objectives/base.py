"""What the loop knows of an objective: losses of the system, and of whatever else is trained beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from configs import Config
from configs.schema import EngineConfig, OptimizerConfig
from models.system import Composite
from trainer.distributed import Distributed
from trainer.engine import MODEL

if TYPE_CHECKING:
    from trainer.evaluation import Evaluation

Clock = Callable[[str], AbstractContextManager[None]]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Losses:
    """One micro-batch.

    Attributes:
        total: scalar to differentiate.
        terms: unweighted detached scalars by name, for the curves.
        rendered: what the prediction looks like from the target cameras, where there are pictures to show.
    """

    total: Tensor
    terms: dict[str, Tensor]
    rendered: Composite | None = None


@dataclass(frozen=True)
class Network:
    """A model that is trained beside the system, a critic for instance, with an engine of its own.

    Attributes:
        module: the same on every rank.
        optimizer, engine: its own settings; accumulation is the run's.
        updates: how many it gets in a run of so many steps, for its learning-rate schedule.
    """

    module: nn.Module
    optimizer: OptimizerConfig
    engine: EngineConfig
    updates: Callable[[int], int]

    def config(self, config: Config) -> Config:
        """The run's config as this network's engine reads it."""
        engine = self.engine.model_copy(update={"accumulation": config.engine.accumulation})
        trainer = config.trainer.model_copy(
            update={"steps": max(1, self.updates(config.trainer.steps)), "ema_decay": 0.0}
        )
        return config.model_copy(update={"optimizer": self.optimizer, "engine": engine, "trainer": trainer})


@dataclass(frozen=True)
class Update:
    """One update of one model.

    Attributes:
        engine: `MODEL`, or a key of `Objective.networks`.
        losses: called as an objective is, on every micro-batch of the step, with that model's forward.
    """

    engine: str
    losses: Callable[[Forward, Any, int, Clock], Losses]


class Objective(ABC):
    """Turns a batch into losses. `updates` says which models learn from it, and in which order.

    Attributes:
        networks: models that are trained beside the system, by name; none unless a subclass makes some.
    """

    networks: Mapping[str, Network] = {}

    @abstractmethod
    def __call__(self, forward: Forward, batch: Any, step: int, clock: Clock) -> Losses:
        """The system's losses.

        Args:
            forward: the system or the engine around it.
            batch: what the stream yields.
            step: optimiser steps done.
            clock: times `model` and `render` apart.
        """

    def updates(self, step: int) -> Sequence[Update]:
        """What happens in the training step that follows `step` done ones; a pure function of `step`."""
        return (Update(MODEL, self),)

    def evaluate(self, forward: Forward, held_out: Any, config: Config, world: Distributed) -> Evaluation:
        """Measure on the dataset of held-out subjects; the image protocol unless a subclass has another. Collective."""
        from trainer.evaluation import evaluate  # it measures with the losses that lie in this package

        return evaluate(forward, held_out, config, world)
