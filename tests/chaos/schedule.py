"""A seeded course of faults, each at a step of the job and not at a time, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from tests.chaos.faults import FAULTS
from tests.chaos.job import Job

_BETWEEN_STEPS = 6


@dataclass(frozen=True)
class Planned:
    """A fault that will strike.

    Attributes:
        step: when the job has reported it.
        name: in `FAULTS`.
    """

    step: int
    name: str


@dataclass(frozen=True)
class Struck:
    """A fault that struck.

    Attributes:
        planned: as planned.
        at: furthest step when it struck.
        what: it hit.
        seconds: until the job trained with all of its workers again; of a busy machine.
    """

    planned: Planned
    at: int
    what: str
    seconds: float

    def __str__(self) -> str:
        return f"step {self.at:4}: {self.planned.name}: {self.what}; over after {self.seconds:.0f} s"


def plan(names: Sequence[str], seed: int, first: int = 8, apart: int = 12) -> list[Planned]:
    """Every fault once, in an order and at steps that the seed decides.

    Args:
        names: in `FAULTS`.
        seed: of order and distances.
        first: step of the earliest.
        apart: fewest steps between two; most are half as many more.
    """
    draw = np.random.default_rng(seed)
    distances = draw.integers(apart, apart + apart // 2 + 1, size=len(names))
    steps = first + np.cumsum(distances) - distances[0]
    order = [int(place) for place in draw.permutation(len(names))]
    return [Planned(int(step), names[place]) for step, place in zip(steps, order, strict=True)]


def conduct(job: Job, course: Sequence[Planned], seed: int) -> list[Struck]:
    """Let every fault of the course strike a running job; returns when it has got over the last."""
    struck = []
    for number, planned in enumerate(course):
        job.wait_for_step(planned.step)
        at, began = job.step, time.monotonic()
        what = FAULTS[planned.name](job, _draw(seed, number))
        job.wait_for_more(_BETWEEN_STEPS)  # where services boot slowly, the next one's step has gone by
        struck.append(Struck(planned, at, what, time.monotonic() - began))
        print(struck[-1], flush=True)
    return struck


def _draw(seed: int, number: int) -> Generator:
    return np.random.default_rng([seed, number])
