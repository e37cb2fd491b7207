"""From windows of ranks to time lines without gaps: every second in one category, lost work taken out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from configs import UserError
from trainer.ledger.summary import Ledger, RankLedger, Span
from trainer.ledger.windows import CATEGORIES, LEDGER, Journals, Window, read_sessions

_OF_STEPS = ("compute", "data_wait", "communication", "idle")
_WRITTEN = CATEGORIES.keys() - {"lost_work"}
_KEPT = ("start_up", "restart")  # never counts as lost work: it is a loss already
_DETAILED = 32  # time lines that a picture can show
_CLEAN = ("FINISHED", "KILLED")
Windows = Mapping[int, Sequence[Window]]


def summarise(run: Path) -> Ledger:
    """The ledger of a run, finished or not, by what lies in its folder.

    Raises:
        UserError: no rank has written anything.
    """
    ranks = Journals(run)
    if not any(ranks.values()):
        raise UserError("has no ledger", where=str(run / LEDGER), hint="it is written while the run trains")
    return settle(ranks, read_sessions(run))


def settle(ranks: Windows, launches: Sequence[tuple[float, float | None]] = ()) -> Ledger:
    """The ledger of what ranks wrote; of more than 32 ranks, 32 keep their time lines.

    Args:
        ranks: windows by rank, in order.
        launches: when a launcher began and ended; an end of None is one that was killed, or goes on.
    """
    story = _Story(ranks)
    sessions = _sessions(story, launches)
    order = list(ranks)
    detailed = {order[index * len(order) // _DETAILED] for index in range(_DETAILED)}
    found = tuple(
        RankLedger.of(rank, story.spans(rank, sessions), keep=len(order) <= _DETAILED or rank in detailed)
        for rank in order
    )
    return Ledger(found, sessions, story.order[-1])


def _sessions(story: _Story, launches: Sequence[tuple[float, float | None]]) -> tuple[tuple[float, float], ...]:
    """Stretches of time in which the job was meant to run.

    A launcher's, as long as it lived; where it was killed, on to the next one. Attempts without a launcher: from the
    first beginning on to an end that somebody asked for.
    """
    known: list[list[float]] = []
    for number, (began, ended) in enumerate(launches):
        following = launches[number + 1][0] if number + 1 < len(launches) else math.inf
        end = min(following, math.inf if ended is None else ended)
        if known and known[-1][1] == began:
            known[-1][1] = end
        else:
            known.append([began, max(began, end)])
    if known and known[-1][1] == math.inf:
        known[-1][1] = max([known[-1][0], *(story.ended[attempt] for attempt in story.order)])
    alone: list[list[float]] = []
    open_ended = False
    for attempt in story.order:
        began, ended = story.began[attempt], story.ended[attempt]
        if any(first <= began < last for first, last in known):
            open_ended = False
            continue
        if open_ended:
            alone[-1][1] = max(alone[-1][1], ended)
        else:
            alone.append([began, ended])
        open_ended = attempt not in story.clean
    return _apart(sorted(known + alone))


def _apart(pairs: Iterable[list[float]]) -> tuple[tuple[float, float], ...]:
    """Without overlaps, which clocks of several hosts could make."""
    found: list[tuple[float, float]] = []
    for began, ended in pairs:
        began = max(began, found[-1][1]) if found else began
        if ended > began:
            found.append((began, ended))
    return tuple(found)


class _Story:
    """What is known of a job's attempts, over all ranks."""

    def __init__(self, ranks: Windows) -> None:
        self.ranks = ranks
        self.began: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.clean: set[int] = set()
        self._resumed: dict[int, int] = {}
        for window in (window for windows in ranks.values() for window in windows):
            attempt = window.attempt
            self.began[attempt] = min(window.began, self.began.get(attempt, math.inf))
            self.ended[attempt] = max(window.ended, self.ended.get(attempt, -math.inf))
            if window.end in _CLEAN:
                self.clean.add(attempt)
            if window.resumed is not None:
                self._resumed[attempt] = min(window.resumed, self._resumed.get(attempt, window.resumed))
        self.order = sorted(self.began)

    def spans(self, rank: int, sessions: Iterable[tuple[float, float]]) -> Iterator[Span]:
        """A rank's time of all sessions, without gaps."""
        windows = self.ranks[rank]
        kept = self._kept(windows)
        for began, ended in sessions:
            inside = [attempt for attempt in self.order if began <= self.began[attempt] < ended]
            yield from self._session([w for w in windows if w.attempt in inside], kept, inside, began, ended)

    def _session(
        self, windows: list[Window], kept: Mapping[int, int], inside: list[int], began: float, ended: float
    ) -> Iterator[Span]:
        fences = self._fences(windows, ended)
        finals = {window.attempt: window.last for window in windows}
        cursor, before = began, None
        for window in windows:
            fence = max(fences[window.attempt], cursor)
            start = min(max(window.began, cursor), fence)
            end = min(max(window.ended, start), fence)
            yield from self._gap(cursor, start, before, window.attempt, inside)
            cut_off = window.attempt not in self.clean and window.last == finals[window.attempt]
            again = bool(inside) and window.attempt != inside[0]
            yield _span(window, start, end, kept.get(id(window)), cut_off=cut_off, again=again)
            cursor, before = end, window
        yield from self._gap(cursor, ended, before, None, inside)

    def _fences(self, windows: Sequence[Window], ended: float) -> dict[int, float]:
        """When each attempt is over at the latest: a process that was given up may go on to write."""
        starts: dict[int, float] = {}
        for window in windows:
            starts.setdefault(window.attempt, window.began)
        order = sorted(starts)
        following = {attempt: starts[after] for attempt, after in itertools.pairwise(order)}
        return {attempt: min(following.get(attempt, ended), ended) for attempt in order}

    def _kept(self, windows: Sequence[Window]) -> dict[int, int]:
        """By window: the last step that was never done again; none where all of it counts."""
        found: dict[int, int] = {}
        least: float = math.inf
        later = dict.fromkeys(self.order, math.inf)
        for attempt in reversed(self.order):
            later[attempt] = least
            least = min(least, self._resumed.get(attempt, math.inf))
        attempt, own = None, math.inf
        for window in reversed(windows):
            if window.attempt != attempt:
                attempt, own = window.attempt, math.inf
            least = min(own, later[window.attempt])
            if least < math.inf:
                found[id(window)] = int(least)
            if window.resumed is not None:
                own = min(own, window.resumed)
        return found

    def _gap(
        self, began: float, ended: float, before: Window | None, following: int | None, inside: Sequence[int]
    ) -> Iterator[Span]:
        """Time of which a rank wrote nothing: before its first attempt, between two, after its last."""
        if before is not None and following == before.attempt:
            until, first, then = ended, "idle", "idle"  # a line is missing
        elif before is None:
            until, first, then = (self.began[inside[0]] if inside else ended), "start_up", "idle"
            if not inside or following == inside[0]:
                until = ended
        else:
            after = [attempt for attempt in inside if attempt > before.attempt]
            until, first, then = (self.began[after[0]] if after else ended), "restart", "idle"
            if after and following == after[0]:
                until = ended
            if not after and (before.end or before.attempt in self.clean):
                until = began
        until = min(max(until, began), ended)
        for start, end, category in ((began, until, first), (until, ended, then)):
            if end > start:
                yield Span(start, end, {category: end - start})


def _span(window: Window, began: float, ended: float, kept: int | None, *, cut_off: bool, again: bool) -> Span:
    """A window in its place on the time line.

    Args:
        window: as it was written.
        began, ended: its place, no longer than the window.
        kept: steps after this one were done again.
        cut_off: whether the attempt crashed in the step that follows it.
        again: whether the attempt is a restart.
    """
    spent = {name: max(value, 0.0) for name, value in window.seconds.items() if name in _WRITTEN}
    scale = (ended - began) / max(math.fsum(spent.values()), 1e-9)
    seconds = {name: scale * value for name, value in spent.items()}
    seconds["idle"] = seconds.get("idle", 0.0) + max(ended - began - math.fsum(seconds.values()), 0.0)
    steps = window.last - window.first
    lost = 0.0 if kept is None else float(min(max(window.last - kept, 0), max(steps, 0)))
    share: dict[str, float]
    if steps > 0:
        share = dict.fromkeys(seconds, lost / steps)
    elif kept is not None and window.first > kept:
        share = dict.fromkeys(seconds, 1.0)
    else:
        share = dict.fromkeys(_OF_STEPS, 1.0 if cut_off else 0.0)
    moved = {name: seconds[name] * share.get(name, 0.0) for name in seconds if name not in _KEPT}
    seconds = {name: max(value - moved.get(name, 0.0), 0.0) for name, value in seconds.items()}
    seconds["lost_work"] = math.fsum(moved.values())
    if again and seconds.get("start_up"):
        seconds["restart"] = seconds.get("restart", 0.0) + seconds.pop("start_up")
    return Span(began, ended, seconds, lost)
