"""What must be true of a job when it has ended, whatever was done to it, beside one that was left in peace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tests.chaos.job import Job, Reports

SAME_COURSE = 1e-6
"""Relative difference of losses that were summed in another order, by another number of workers."""


NEXT = 5
"""Steps after a change of the number of workers that are compared so: later, the difference has grown."""


@dataclass(frozen=True)
class Comparison:
    """Two runs' losses, step by step, as each step was done last.

    Attributes:
        steps: how many.
        equal: of these, the same bits.
        first_other: the first step that is not, if any.
        worst: the largest relative difference; small ones grow, as training is chaotic.
        next_worst: the largest in the first `NEXT` steps from `first_other` on.
        again: steps of the disturbed run that were done again.
        again_worst: the largest relative difference between two times of doing one step.
    """

    steps: int
    equal: int
    first_other: int | None
    worst: float
    next_worst: float
    again: int
    again_worst: float


def compare(disturbed: Reports, calm: Reports) -> Comparison:
    """Losses of two runs of the same config.

    Raises:
        AssertionError: they did not do the same steps.
    """
    ours, theirs = disturbed.losses(), calm.losses()
    assert ours.keys() == theirs.keys(), f"steps {sorted(ours.keys() ^ theirs.keys())} are in one of the two runs only"
    pairs = {step: (ours[step][-1], theirs[step][-1]) for step in sorted(theirs)}
    other = [step for step, (left, right) in pairs.items() if left != right]
    twice = [values for values in ours.values() if len(values) > 1]
    return Comparison(
        len(pairs),
        len(pairs) - len(other),
        min(other, default=None),
        max(_difference(*pair) for pair in pairs.values()),
        max((_difference(*pairs[step]) for step in pairs if other and 0 <= step - min(other) < NEXT), default=0.0),
        len(twice),
        max((_difference(values[0], value) for values in twice for value in values), default=0.0),
    )


def complaints(job: Job, workers: int) -> list[str]:
    """What is wrong with an ended run by itself; nothing if every step is there and every second is accounted for.

    Args:
        job: ended.
        workers: how many it was meant to have.
    """
    steps = set(range(1, job.config.trainer.steps + 1))
    wrong = sorted(steps ^ job.reports.losses().keys())
    found = [f"steps {wrong} are missing, or too many"] if wrong else []
    return [*found, *_samples(job), *_tracking(job, steps), *_ledger(job.ledger(), workers)]


def _samples(job: Job) -> list[str]:
    """Every step of the final history consumed the next batch of the sequence, so no sample is lost or seen twice.

    The sequence itself is a pure function of the position; that equal positions mean equal samples shows in the losses.
    """
    batch = job.config.data.batch_size
    wrong = {step: seen for step, seen in sorted(job.reports.consumed().items()) if seen != step * batch}
    return [f"samples consumed after steps, not {batch} each: {wrong}"] if wrong else []


def _tracking(job: Job, steps: set[int]) -> list[str]:
    """One run in MLflow, every step in it; one that was done again is there as often as it was reported."""
    tracked = job.tracked()
    if len(tracked) != 1:
        return [f"MLflow has {len(tracked)} runs of the name: {sorted(tracked)}"]
    (points,) = tracked.values()
    reported = sorted((step, value) for step, values in job.reports.losses().items() for value in values)
    if steps - {step for step, _ in points}:
        return [f"MLflow lacks steps {sorted(steps - {step for step, _ in points})}"]
    extra = set(points) ^ set(reported)
    return [f"MLflow and the spool differ: {sorted(extra)[:5]}"] if extra or len(points) != len(reported) else []


def _ledger(ledger: dict[str, Any], workers: int) -> list[str]:
    wall = ledger["wall_seconds"]
    of_all = {"the job": ledger["seconds"], **{f"rank {rank}": of for rank, of in ledger["ranks"].items()}}
    sums = {name: math.fsum(seconds.values()) / wall for name, seconds in of_all.items()}
    found = [
        f"the ledger of {name} is {share:.4f} of the wall" for name, share in sums.items() if abs(share - 1) > 0.01
    ]
    if len(ledger["ranks"]) != workers:
        found.append(f"the ledger has ranks {sorted(ledger['ranks'])}, not {workers}")
    return found


def _difference(left: float, right: float) -> float:
    return abs(left - right) / max(abs(left), abs(right), 1e-30)
