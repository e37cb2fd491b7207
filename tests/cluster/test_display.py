"""Progress on a terminal and in a log."""

from __future__ import annotations

import io

from rich.console import Console

from cluster.display import Live, Plain, counter, display, figures
from trainer.observer import Progress


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120), out


def at(step: int, phase: str = "training") -> Progress:
    return Progress(phase, step, 100, loss=0.5, psnr=20.25, samples_per_second=8.123, eta_seconds=61)


def test_what_is_not_known_is_left_out() -> None:
    assert figures(Progress("starting", 0, 100)) == ""
    assert figures(at(1)) == "loss 0.5000 · 20.25 dB · 8.12 samples/s · 1:01 left"


def test_a_log_gets_a_line_per_phase_and_no_repetition() -> None:
    target, out = console(terminal=False)
    shown = Plain(target, every_seconds=1000)
    with shown:
        shown.phase("starting Ray")
        for progress in (
            Progress("starting", 0, 100),
            Progress("starting", 0, 100),
            at(1),
            at(1),
            at(2),
            at(3),
            at(3, "saving"),
            at(100, "done"),
        ):
            shown.progress(progress)
        shown.restarting("rank 1: RayActorError: [it] died")
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "starting Ray",
        "starting 0/100",
        "training 1/100",
        "saving 3/100",
        "done 100/100",
        "restarting the workers (1): rank 1: RayActorError: [it] died",
    ]


def test_a_log_gets_a_line_every_few_seconds() -> None:
    target, out = console(terminal=False)
    shown = Plain(target, every_seconds=0)
    for step in range(3):
        shown.progress(at(step))
    assert len(out.getvalue().splitlines()) == 3


def test_a_terminal_gets_a_bar_and_notes_above_it() -> None:
    target, out = console(terminal=True)
    shown = display(target)
    assert isinstance(shown, Live)
    with shown:
        shown.phase("starting workers")
        shown.progress(at(42))
        shown.note("saving and stopping")
    text = out.getvalue()
    assert "42/100" in text
    assert "20.25 dB" in text
    assert "saving and stopping" in text


def test_counting_shows_the_end_even_without_a_terminal() -> None:
    target, out = console(terminal=False)
    with counter("people", target) as progress:
        for done in range(1, 4):
            progress(done, 3)
    assert out.getvalue().splitlines() == ["people 3/3"]
