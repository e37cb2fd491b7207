"""`headway ledger`: where a run's wall time went."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def ledger(
    run: Annotated[str, typer.Argument(help="a run's folder, or its name below out/runs")],
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON object: seconds of the job and of every rank")
    ] = False,
) -> None:
    """Say where the wall time of a run went, over all its restarts, and draw it; also while it trains.

    Every second of every rank belongs to one category; the job's is the mean over ranks. Goodput is the share of
    computing that counted (docs/ledger.md).

    **Example:** `headway ledger first`
    """
    from cluster.runs import find_run
    from trainer.ledger import LEDGER, PICTURE, draw, summarise

    folder = find_run(run)
    found = summarise(folder)
    picture = folder / LEDGER / PICTURE
    draw(found, picture, folder.name)
    if as_json:
        print(json.dumps(found.record()))
        return
    attempts = f"{found.attempts} attempts" if found.attempts > 1 else "1 attempt"
    ranks = f"{len(found.ranks)} ranks" if len(found.ranks) > 1 else "1 rank"
    print(f"{folder.name}: {found.wall:.1f} s, {ranks}, {attempts}, goodput {found.goodput:.1%}")
    print(f"  {'':<16} {'seconds':>10} {'share':>7} {'least':>10} {'most':>10}  of a rank")
    for name, seconds in found.seconds.items():
        every = [rank.seconds[name] for rank in found.ranks]
        share = seconds / found.wall if found.wall else 0.0
        print(f"  {name.replace('_', ' '):<16} {seconds:>10.1f} {share:>7.1%} {min(every):>10.1f} {max(every):>10.1f}")
    if found.lost_steps:
        print(f"  steps done again: {found.lost_steps:.0f}")
    print(f"  picture: {picture}")
