"""The ledger as people see it: `RUN/ledger/ledger.json`, and a picture of every rank's time."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from configs import UserError
from trainer.ledger.settling import summarise
from trainer.ledger.summary import Ledger, RankLedger
from trainer.ledger.windows import CATEGORIES, LEDGER, note_session

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "ledger.png"
_COLORS = {
    "compute": "#2a9d5c",
    "data_wait": "#e9c46a",
    "communication": "#4a7fb5",
    "checkpoint_stall": "#8d6cab",
    "evaluation": "#7fc8a9",
    "start_up": "#9fb3c8",
    "restart": "#e76f51",
    "lost_work": "#b3261e",
    "idle": "#d9d9d9",
}
_MOST_BARS = 2000
log = logging.getLogger(__name__)


@contextlib.contextmanager
def session(run: Path) -> Iterator[None]:
    """A launcher runs the job inside; the ledger is published at its end, however it ends.

    Time between sessions is nobody's, unless the launcher itself was killed.
    """
    note_session(run, "began")
    try:
        yield
    finally:
        note_session(run, "ended")
        publish(run)


def publish(run: Path, *, picture: bool = True) -> Ledger | None:
    """Write `ledger.json` and the picture beside what the ranks wrote.

    None where no rank has written anything, or if it fails, with a line in the log.
    """
    try:
        ledger = summarise(run)
        (run / LEDGER / "ledger.json").write_text(json.dumps(ledger.record(), indent=1) + "\n")
        if picture:
            draw(ledger, run / LEDGER / PICTURE, run.name)
    except UserError:
        return None
    except Exception as error:  # a run that is done is not spoilt by its book-keeping
        log.warning("there is no ledger: %s", error)
        return None
    return ledger


def draw(ledger: Ledger, path: Path, title: str) -> None:
    """What every rank did when, and the job's seconds by category.

    Ranks that have no time line are left out, and so is the time between sessions.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [rank for rank in ledger.ranks if rank.spans]
    height = 0.8 + 0.35 * max(2, len(shown))
    figure = Figure(figsize=(11, height + 2.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": [height, 1.6]})
    for row, rank in enumerate(shown):
        _timeline(above, ledger, rank, row)
    above.set_yticks(range(len(shown)), [f"rank {rank.rank}" for rank in shown])
    above.invert_yaxis()
    above.set(xlim=(0, ledger.wall), xlabel="seconds of the job")
    attempts = "1 attempt" if ledger.attempts == 1 else f"{ledger.attempts} attempts"
    above.set_title(f"{title}: {ledger.wall:.0f} s, goodput {ledger.goodput:.1%}, {attempts}")
    _totals(below, ledger)
    figure.savefig(path, metadata={"Software": None})


def _timeline(axes: Axes, ledger: Ledger, rank: RankLedger, row: int) -> None:
    """A window's categories lie side by side in it, in the order of the legend; slivers join their neighbours."""
    bars: dict[str, list[tuple[float, float]]] = {name: [] for name in CATEGORIES}
    least = ledger.wall / _MOST_BARS
    pending, start = dict.fromkeys(CATEGORIES, 0.0), 0.0
    for number, span in enumerate(rank.spans):
        for name, value in span.seconds.items():
            pending[name] += value
        if sum(pending.values()) < least and number + 1 < len(rank.spans):
            continue
        for name, value in pending.items():
            if value:
                bars[name].append((start, value))
                start += value
        pending = dict.fromkeys(CATEGORIES, 0.0)
    for name, pieces in bars.items():
        axes.broken_barh(pieces, (row - 0.4, 0.8), facecolors=_COLORS[name], linewidth=0)


def _totals(axes: Axes, ledger: Ledger) -> None:
    start = 0.0
    for name, seconds in ledger.seconds.items():
        share = seconds / ledger.wall if ledger.wall else 0.0
        label = f"{name.replace('_', ' ')} {seconds:.1f} s, {share:.1%}"
        axes.barh(0, seconds, left=start, color=_COLORS[name], label=label)
        start += seconds
    axes.set(xlim=(0, ledger.wall), yticks=[0], yticklabels=["job"])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=4, fontsize=8, frameon=False)
