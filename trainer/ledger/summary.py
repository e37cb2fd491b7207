"""A run's ledger: what every rank's wall time was spent on, and what of it counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trainer.ledger.windows import CATEGORIES


@dataclass(frozen=True)
class Span:
    """A piece of one rank's time.

    Attributes:
        began, ended: seconds since the epoch.
        seconds: by category; they sum to its length.
        lost_steps: of the optimiser steps in it, those that had to be done again.
    """

    began: float
    ended: float
    seconds: Mapping[str, float]
    lost_steps: float = 0.0


@dataclass(frozen=True)
class RankLedger:
    """One rank's time, without gaps from the beginning of every session to its end.

    Attributes:
        rank: which.
        seconds: by category.
        lost_steps: optimiser steps that had to be done again.
        spans: the time line; empty for most ranks of a large job.
    """

    rank: int
    seconds: Mapping[str, float]
    lost_steps: float
    spans: tuple[Span, ...] = ()

    @staticmethod
    def of(rank: int, spans: Iterable[Span], *, keep: bool) -> RankLedger:
        """The sums of a time line, and, to `keep`, itself."""
        seconds, lost, kept = dict.fromkeys(CATEGORIES, 0.0), 0.0, []
        for span in spans:
            lost += span.lost_steps
            for name, value in span.seconds.items():
                seconds[name] += value
            if keep:
                kept.append(span)
        return RankLedger(rank, seconds, lost, tuple(kept))


@dataclass(frozen=True)
class Ledger:
    """A job's time.

    Attributes:
        ranks: all that ever took part, in order.
        sessions: beginning and end of every stretch in which the job was meant to run.
        attempts: how often it was started.
    """

    ranks: tuple[RankLedger, ...]
    sessions: tuple[tuple[float, float], ...]
    attempts: int

    @cached_property
    def wall(self) -> float:
        """Seconds in which the job was meant to run."""
        return math.fsum(ended - began for began, ended in self.sessions)

    @cached_property
    def seconds(self) -> dict[str, float]:
        """By category, mean over ranks; they sum to `wall`."""
        return {name: math.fsum(rank.seconds[name] for rank in self.ranks) / len(self.ranks) for name in CATEGORIES}

    @property
    def goodput(self) -> float:
        """Share of the wall time that went into the computing of steps that counted, in [0, 1]."""
        return self.seconds["compute"] / self.wall if self.wall else 0.0

    @property
    def lost_steps(self) -> float:
        """Optimiser steps that had to be done again, of the rank that has most."""
        return max(rank.lost_steps for rank in self.ranks)

    def metrics(self) -> dict[str, float]:
        """For MLflow."""
        found = {f"ledger/{name}_seconds": value for name, value in self.seconds.items()}
        return found | {
            "ledger/wall_seconds": self.wall,
            "ledger/goodput": self.goodput,
            "ledger/attempts": float(self.attempts),
            "ledger/lost_steps": self.lost_steps,
        }

    def record(self) -> dict[str, Any]:
        """As JSON: the job and every rank, in seconds."""
        return {
            "wall_seconds": self.wall,
            "goodput": self.goodput,
            "attempts": self.attempts,
            "lost_steps": self.lost_steps,
            "sessions": [list(pair) for pair in self.sessions],
            "seconds": self.seconds,
            "ranks": {str(rank.rank): dict(rank.seconds) for rank in self.ranks},
        }
