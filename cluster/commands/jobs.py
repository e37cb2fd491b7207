"""`headway jobs`: what runs on a cluster."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.text import duration
from configs import UserError

if TYPE_CHECKING:
    from cluster.jobs import Job, Jobs

app = typer.Typer(
    no_args_is_help=True, help="Look at the jobs of a cluster, and stop them.", rich_markup_mode="markdown"
)

Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="the cluster's Ray dashboard, http://HOST:8265"),
]
Which = Annotated[str, typer.Argument(help="a job's id, or a run's name for its newest job")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


@app.command("list")
def list_jobs(address: Address = None, as_json: AsJson = False) -> None:
    """Print every job that the cluster remembers, newest first.

    **Example:** `headway jobs list --address http://head:8265`
    """
    jobs = _open(address).list()
    if as_json:
        print(json.dumps([asdict(job) for job in jobs], indent=1))
        return
    rows = [("job", "state", "began", "took", "run"), *(_row(job) for job in jobs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def status(job: Which, address: Address = None, as_json: AsJson = False) -> None:
    """Say how a job is doing; exit code 1 if it failed.

    **Example:** `headway jobs status headsup-base --address http://head:8265`
    """
    found = _open(address).find(job)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print(_sentence(found))
    raise typer.Exit(found.status == "FAILED")


@app.command()
def logs(
    job: Which,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the job ends")] = False,
) -> None:
    """Print what a job has printed; with -f until it ends, and exit with 1 if it failed.

    **Example:** `headway jobs logs -f headsup-base --address http://head:8265`
    """
    cluster = _open(address)
    found = cluster.find(job)
    if follow:
        follow_log(cluster, found.id)
        return
    print(cluster.logs(found.id), end="")


@app.command()
def stop(
    job: Which,
    address: Address = None,
    patience: Annotated[float, typer.Option(min=0, help="seconds to wait for it to save and end")] = 150.0,
) -> None:
    """Ask a job to save and end, and wait for it.

    Submitting the same config again goes on from what it saved.

    **Example:** `headway jobs stop headsup-base --address http://head:8265`
    """
    cluster = _open(address)
    found = cluster.find(job)
    if not found.over:
        found = cluster.stop(found.id, patience)
    print(_sentence(found))
    raise typer.Exit(not found.over)


def follow_log(cluster: Jobs, job: str) -> None:
    """Print a job's log until it ends; Ctrl-C ends the printing only."""
    try:
        for part in cluster.follow(job):
            print(part, end="", flush=True)
    except KeyboardInterrupt:
        print(f"\nthe job goes on; headway jobs logs -f {job}, headway jobs stop {job}")
        raise typer.Exit(130) from None
    found = cluster.find(job)
    print(_sentence(found))
    raise typer.Exit(found.status != "SUCCEEDED")


def _open(address: str | None) -> Jobs:
    from cluster.jobs import Jobs

    if address is None:
        hint = "--address http://HOST:8265, or RAY_API_SERVER_ADDRESS"
        raise UserError("which cluster?", where="--address", hint=hint)
    return Jobs(address)


def _row(job: Job) -> tuple[str, str, str, str, str]:
    began = time.strftime("%F %T", time.localtime(job.began)) if job.began else "-"
    took = duration((job.ended or time.time()) - job.began) if job.began else "-"
    return job.id, job.status, began, took, f"{job.run} ({job.config})" if job.run else "-"


def _sentence(job: Job) -> str:
    first = (job.message.strip().splitlines() or [""])[0].partition(", last available logs")[0].rstrip(".")
    return f"{job.id}: {job.status}" + (f", {first}" if first else "")
