"""`headway train` and `headway resume`."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.track import waiting_line
from cluster.runs import RUNS, WARNINGS_FILE, find_run, read_run, resolve
from cluster.session import cluster_address
from cluster.text import duration
from configs import Config, UserError, load_config

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.launch import Result

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="settings to change, for example data.batch_size=8"),
]
Address = Annotated[
    str | None, typer.Option(help="HOST:PORT of a Ray head; without it a private Ray is started on this machine")
]


def changes(overrides: list[str] | None, options: Mapping[str, str | None]) -> list[str]:
    """What the command line changes in a config: its overrides, then the options that stand for a setting."""
    return [*(overrides or []), *(f"{key}={json.dumps(value)}" for key, value in options.items() if value)]


def train(
    config: Annotated[str, typer.Argument(help="a preset (`headway config show`) or a YAML file")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="name of the run; default is the config's run.name")] = None,
    address: Address = None,
) -> None:
    """Train a model, on as many workers as the config says.

    The run lives in a folder out/runs/NAME: config, checkpoints, logs, and what MLflow was sent. If that folder
    holds the same config already, the run goes on from its newest checkpoint. Ctrl-C saves and ends.

    **Example:** `headway train headsup-nano trainer.steps=500 --name first`
    """
    _run(load_config(config, changes(overrides, {"run.name": name, "cluster.address": address})), resume=False)


def resume(
    run: Annotated[str, typer.Argument(help="a run's folder, or its name below out/runs")],
    overrides: Overrides = None,
    address: Address = None,
) -> None:
    """Go on with a run from its newest checkpoint, with its own config.

    Settings of the trainer, the optimiser, the engine, the cluster and the tracking may change; the model may not.

    **Example:** `headway resume first trainer.steps=2000`
    """
    changed = changes(overrides, {"cluster.address": address})
    _run(read_run(find_run(run), changed), resume=True)


def _run(config: Config, *, resume: bool) -> None:
    from rich.console import Console

    from cluster.display import display
    from cluster.launch import launch

    config = resolve(config)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    workers = f"{config.cluster.workers} workers" if config.cluster.workers > 1 else "1 worker"
    where = cluster_address(config) or "this machine"
    console.print(f"run {config.run.name} ({config.hash}): {config.trainer.steps} steps, {workers} on {where}")
    try:
        result = launch(config, display(console), resume=resume)
    except KeyboardInterrupt:
        console.print(f"ended at once; go on from the newest checkpoint: {_resume_command(config)}")
        raise typer.Exit(130) from None
    _report(console, config, result)
    if result.stopped:
        raise typer.Exit(128 + signal.Signals[result.stopped])


def _report(console: Console, config: Config, result: Result) -> None:
    summary = result.summary
    verb = "saved and stopped" if result.stopped else "done"
    console.print(f"{verb}: step {summary.steps} of {config.trainer.steps} in {duration(summary.seconds)}")
    for name, value in summary.metrics.items():
        console.print(f"  {name}: {value:.4g}")
    console.print(f"  checkpoint: {summary.checkpoint}")
    if summary.mlflow_run_id:
        console.print(f"  MLflow: run {summary.mlflow_run_id}, {_look_at(config.tracking.uri)}")
    if line := waiting_line(result.folder):
        console.print(f"  {line}")
    with contextlib.suppress(UserError):  # a run that could not write its ledger has trained all the same
        console.print(f"  {_goodput(result)}")
    if result.restarts:
        console.print(f"  restarts: {result.restarts}")
    warnings = result.folder / "logs" / WARNINGS_FILE
    if warnings.is_file():
        console.print(f"  warnings: {warnings}")
    if result.stopped:
        console.print(f"go on with: {_resume_command(config)}")


def _goodput(result: Result) -> str:
    """`goodput: 85.5% of 6:10; start up 9%, evaluation 3%; out/runs/first/ledger/ledger.png`."""
    from trainer.ledger import LEDGER, PICTURE, summarise

    found = summarise(result.folder)
    lost = {name: seconds / found.wall for name, seconds in found.seconds.items() if name != "compute" and found.wall}
    most = sorted(lost, key=lambda name: -lost[name])[:2]
    shares = ", ".join(f"{name.replace('_', ' ')} {lost[name]:.0%}" for name in most)
    picture = result.folder / LEDGER / PICTURE
    return f"goodput: {found.goodput:.1%} of {duration(found.wall)}; {shares}; {picture}"


def _resume_command(config: Config) -> str:
    here = config.run.path.absolute().parent == RUNS.absolute()
    return f"headway resume {config.run.name if here else config.run.path}"


def _look_at(uri: str) -> str:
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
