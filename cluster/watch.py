"""Who of the workers is silent, who holds the others up, who is slow: judged from their signs of life alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.hub import Beat

Beats = Mapping[int, tuple[Beat, float]]

_FIRST_BEAT_FACTOR = 4.0  # a worker that starts imports for seconds, on a loaded machine for many
_LOOKS = 3  # after a pause of the whole machine the beats come a moment after the first look
_WAITING = "communication"


@dataclass(frozen=True)
class Member:
    """One worker of the present group.

    Attributes:
        node: Ray's id of its node.
        host: the node's address.
        pid: its process there.
    """

    node: str
    host: str
    pid: int


@dataclass(frozen=True)
class Finding:
    """Workers that must be replaced.

    Attributes:
        ranks: of the culprits.
        reason: one line that names rank, host, process and operation.
        silent: whether they give no sign of life; otherwise they live and do not get on.
    """

    ranks: tuple[int, ...]
    reason: str
    silent: bool


class Judge:
    """Looks at one group of workers, from its start to its end.

    Args:
        members: by rank.
        silent_seconds: a worker that gives no sign for so long is lost.
        hang_seconds: a group that makes no step for so long hangs.
        slow: a worker whose own work takes so many times what the others' takes is a straggler.
        window_seconds: over which steps are timed for that.
    """

    def __init__(
        self,
        members: Mapping[int, Member],
        silent_seconds: float,
        hang_seconds: float,
        *,
        slow: float = 1.5,
        window_seconds: float = 30.0,
    ) -> None:
        self._members, self._silent, self._hang = members, silent_seconds, hang_seconds
        self._slow, self._window = slow, window_seconds
        self._marked: dict[int, Beat] = {}
        self._marked_at = 0.0
        self._told: set[int] = set()
        self._suspected = 0

    def find(self, beats: Beats, age: float) -> Finding | None:
        """Who must go, if anybody.

        Args:
            beats: by rank, the last sign of life and the seconds since; those of earlier groups are passed over.
            age: seconds since the group began to train.
        """
        own = self._own(beats)
        lost = [rank for rank in self._members if self._is_silent(own.get(rank), age)]
        self._suspected = self._suspected + 1 if lost else 0
        if self._suspected >= _LOOKS:
            lines = [f"{self._name(rank)} gives no sign of life, {self._last_seen(own.get(rank))}" for rank in lost]
            return Finding(tuple(lost), "; ".join(lines), silent=True)
        still = {rank: beat.still + since for rank, (beat, since) in own.items()}
        if len(still) < len(self._members) or min(still.values()) < self._hang:
            return None
        culprits = self._culprits({rank: beat for rank, (beat, _) in own.items()})
        lines = [f"{self._name(rank)} in {own[rank][0].operation} at step {own[rank][0].step}" for rank in culprits]
        return Finding(tuple(culprits), f"no step for {min(still.values()):.0f} s: {'; '.join(lines)}", silent=False)

    def stragglers(self, beats: Beats, age: float) -> list[str]:
        """A line for each worker that turned out slow since the last call; the others wait for it in every step."""
        own = {rank: beat for rank, (beat, _) in self._own(beats).items()}
        if len(own) < len(self._members) or len(own) < 2 or age - self._marked_at < self._window:
            return []
        before, self._marked, self._marked_at = self._marked, own, age
        costs = {
            rank: (beat.worked - before[rank].worked) / (beat.step - before[rank].step)
            for rank, beat in own.items()
            if rank in before and beat.step > before[rank].step
        }
        lines = []
        usual = statistics.median_low(costs.values()) if costs else 0.0
        for rank, cost in costs.items():
            if cost > self._slow * usual and rank not in self._told:
                self._told.add(rank)
                lines.append(
                    f"{self._name(rank)} is slow: {cost:.3g} s of its own work in a step, the others {usual:.3g} s"
                )
        return lines

    def _own(self, beats: Beats) -> dict[int, tuple[Beat, float]]:
        members = self._members
        return {rank: beat for rank, beat in beats.items() if rank in members and beat[0].pid == members[rank].pid}

    def _is_silent(self, seen: tuple[Beat, float] | None, age: float) -> bool:
        if seen is None:
            return age > _FIRST_BEAT_FACTOR * self._silent
        beat, since = seen
        return since > self._silent * (_FIRST_BEAT_FACTOR if beat.operation == "starting" else 1.0)

    def _culprits(self, beats: Mapping[int, Beat]) -> list[int]:
        """Those that do not wait for the others; if all do, those that are a step behind; if none is, all."""
        busy = [rank for rank, beat in beats.items() if beat.operation != _WAITING]
        if busy and len(busy) < len(beats):
            return busy
        last = min(beat.step for beat in beats.values())
        return [rank for rank, beat in beats.items() if beat.step == last]

    def _name(self, rank: int) -> str:
        member = self._members[rank]
        return f"rank {rank} on {member.host} (process {member.pid})"

    @staticmethod
    def _last_seen(seen: tuple[Beat, float] | None) -> str:
        if seen is None:
            return "since it was started"
        beat, since = seen
        return f"since {since:.0f} s; it was in {beat.operation} at step {beat.step}"
