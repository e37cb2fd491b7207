"""`headway track`: what runs have to tell MLflow, and have not yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs import UserError

app = typer.Typer(
    no_args_is_help=True, help="Send to MLflow what runs could not send themselves.", rich_markup_mode="markdown"
)


@app.command()
def sync(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="folders of runs, or names below out/runs")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="every run below out/runs that has records waiting")] = False,
    to: Annotated[
        str | None, typer.Option(metavar="URI", help="another MLflow server or database than the run's tracking.uri")
    ] = None,
) -> None:
    """Send what lies in the spools of runs that trained off line, or whose server was away when they ended.

    A run needs no server: its metrics, pictures and artifacts are written to out/runs/NAME/tracking first and sent from
    there. To train where no server can be reached, set tracking.uri to the server that shall have the run, or leave it,
    and sync afterwards. It is one MLflow run however often it was restarted or synced; a second sync sends nothing, and
    one that is killed is simply run again. A server given by --to that does not have the run gets its whole history
    (pictures and artifacts stay with the one that got them first).

    **Example:** `headway track sync first --to http://mlflow:5000`
    """
    from rich.console import Console

    from cluster.display import counter
    from cluster.runs import read_run
    from trainer.tracking.syncing import sync as send
    from trainer.tracking.syncing import waiting

    console = Console(highlight=False, soft_wrap=True, markup=False)
    for folder in _chosen(runs or [], every, elsewhere=to is not None):
        config = read_run(folder)
        uri, name = to or config.tracking.uri, config.tracking.run_name or config.run.name
        if not waiting(folder) and to is None:
            console.print(f"{folder.name}: nothing waits")
            continue
        with counter("records", console) as progress:
            done = send(folder, uri, config.tracking.experiment, name, progress)
        refused = f"; {done.refused} were refused, see {folder}/tracking/refused.jsonl" if done.refused else ""
        console.print(f"{folder.name}: {done.sent} records sent to MLflow run {done.run_id}{refused}")


def waiting_line(folder: Path) -> str | None:
    """What a run that has ended says of records that its server did not take; None where all are sent."""
    from trainer.tracking.syncing import waiting

    count = waiting(folder)
    return f"{count} records wait for MLflow; send them: headway track sync {_named(folder)}" if count else None


def _chosen(runs: list[str], every: bool, *, elsewhere: bool) -> list[Path]:
    """Folders of the runs that were named, or of all that may have something to send."""
    from cluster.runs import find_run
    from trainer.tracking.syncing import waiting

    if runs and not every:
        return [find_run(run) for run in runs]
    behind = [folder for folder in _known() if elsewhere or waiting(folder)]
    if every:
        if not behind:
            print("nothing waits")
        return behind
    names = ", ".join(folder.name for folder in behind)
    raise UserError("which runs?", hint=f"records wait in {names}: name some, or --all" if behind else "nothing waits")


def _known() -> list[Path]:
    from cluster.runs import CONFIG_FILE, RUNS

    return sorted(path.parent.absolute() for path in RUNS.glob(f"*/{CONFIG_FILE}"))


def _named(folder: Path) -> str:
    from cluster.runs import RUNS

    return folder.name if folder.absolute().parent == RUNS.absolute() else str(folder)
