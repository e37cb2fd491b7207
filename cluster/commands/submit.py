"""`headway submit`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.jobs import Address, follow_log
from cluster.commands.train import Overrides, changes
from configs import Config, UserError, load_config

if TYPE_CHECKING:
    from cluster.jobs import Jobs
    from cluster.submission import Submission
    from data.plan.model import Plan, Site

Name = Annotated[str | None, typer.Option(help="name of the run; default is the config's run.name")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run and what it needs, then end")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="print the job's log until it ends")]
Wait = Annotated[
    bool, typer.Option("--wait", help="submit though the cluster is too small now; the job waits for machines")
]
Shared = Annotated[
    list[str] | None, typer.Option(help="a folder that every node sees under the same path (repeatable)")
]
Env = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="a variable for the job; never a secret (repeatable)")
]
Python = Annotated[str, typer.Option(help="the interpreter on the cluster")]
Install = Annotated[
    bool, typer.Option("--install", help="let Ray install this machine's versions of the packages on every node")
]
AnyVersions = Annotated[
    bool, typer.Option("--any-versions", help="run though the cluster has other versions than this machine")
]
NoCheckData = Annotated[
    bool, typer.Option("--no-check-data", help="do not open the datasets here; only the cluster may read them")
]
Speed = Annotated[float | None, typer.Option(min=1e-6, help="--dry-run: samples per second of the run, all workers")]
Link = Annotated[float, typer.Option(min=0.1, help="--dry-run: between the store and each worker, Mbit/s")]


@dataclass(frozen=True)
class Wishes:
    """How the user wants the job to be run; each is an option of `headway submit`."""

    variables: dict[str, str]
    shared: tuple[str, ...]
    python: str
    wait: bool
    install: bool
    any_versions: bool
    read: bool


def submit(
    config: Annotated[str, typer.Argument(help="a preset (`headway config show`) or a YAML file")],
    overrides: Overrides = None,
    address: Address = None,
    name: Name = None,
    dry_run: DryRun = False,
    follow: Follow = False,
    wait: Wait = False,
    shared: Shared = None,
    env: Env = None,
    python: Python = "python",
    install: Install = False,
    any_versions: AnyVersions = False,
    no_check_data: NoCheckData = False,
    samples_per_second: Speed = None,
    link_mbit: Link = 500.0,
) -> None:
    """Train on a Ray cluster: ship this code and the config as a job, and come back.

    Shipped are Headway's own packages, the resolved config, and variables that say where things are; credentials
    never are: the cluster has its own. The same config under the same name is one run: a job that ended or was
    stopped goes on from its newest checkpoint when it is submitted again.

    **Example:** `headway submit headsup-base data.train=s3://bucket/heads checkpoint.url=s3://bucket/runs
    tracking.uri=http://mlflow:5000 --address http://head:8265`
    """
    run, read = load_config(config, changes(overrides, {"run.name": name})), not no_check_data
    wishes = Wishes(_variables(env or []), tuple(shared or ()), python, wait, install, any_versions, read)
    if address is None and not dry_run:
        hint = "--address http://HOST:8265, or RAY_API_SERVER_ADDRESS; --dry-run needs none"
        raise UserError("which cluster?", where="--address", hint=hint)
    cluster = _cluster(address)
    if dry_run:
        _print_needs(run, cluster, samples_per_second, link_mbit, read=read)
    if cluster is None:
        return
    job = _prepare(run, cluster, wishes)
    if dry_run:
        _print_job(job)
    else:
        _start(cluster, job, follow)


def _variables(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            shown = name if name.isidentifier() else "a name of letters, digits and _"
            raise UserError("a variable is NAME=VALUE", where=f"--env {shown}", hint="for example NCCL_DEBUG=INFO")
        found[name] = value
    return found


def _cluster(address: str | None) -> Jobs | None:
    if address is None:
        return None
    from cluster.jobs import Jobs

    return Jobs(address)


def _prepare(run: Config, cluster: Jobs, wishes: Wishes) -> Submission:
    """Everything that can be known to fail fails here, before anything is shipped."""
    from cluster.needs import shortage
    from cluster.reach import check_data, place, refuse_loopback
    from cluster.submission import submission

    nodes = cluster.nodes()
    here = cluster.here(nodes)
    placed = place(run, here=here, shared=wishes.shared)
    job = submission(
        placed,
        variables=wishes.variables,
        python=wishes.python,
        wait=wishes.wait,
        check_versions=not wishes.any_versions,
        install=wishes.install,
    )
    if not here:
        refuse_loopback(job.variables)
    missing = shortage(placed, nodes)
    if missing and not wishes.wait:
        hint = "cluster.workers=N, cluster.gpus_per_worker=N, a larger cluster, or --wait if it grows by itself"
        raise UserError(f"the cluster is too small: {missing}", where=cluster.address, hint=hint)
    if wishes.read:
        check_data(placed)
    return job


def _start(cluster: Jobs, job: Submission, follow: bool) -> None:
    from cluster.secrecy import credentials_needed

    started = cluster.submit(job)
    print(f"submitted: {started}")
    for line in credentials_needed(job.config):
        print(f"  the cluster needs, {line}")
    if follow:
        follow_log(cluster, started)
        return
    print(f"  watch it:  headway jobs logs -f {started} --address {cluster.address}")
    print(f"  end it:    headway jobs stop {started} --address {cluster.address}")


def _print_needs(run: Config, cluster: Jobs | None, speed: float | None, link_mbit: float, *, read: bool) -> None:
    from cluster.needs import bandwidth, memory, resources, shortage, there
    from trainer.describe import describe

    print(f"run        {run.run.name} ({run.hash}): {run.trainer.steps:,} steps of {run.data.batch_size:,} captures")
    print("\n".join([*resources(run), *memory(describe(run))]))
    if read:
        try:
            print("\n".join(bandwidth(*_plan(run, speed, link_mbit))))
        except UserError as error:
            print(f"store      unknown: {str(error).splitlines()[0]}")
    if cluster is not None:
        nodes = cluster.nodes()
        print(f"cluster    {cluster.address}, Ray {cluster.version}: {there(nodes)}")
        print(f"           {shortage(run, nodes) or 'as many workers as it takes find room'}")
    sys.stdout.flush()


def _plan(run: Config, speed: float | None, link_mbit: float) -> tuple[Plan, Site]:
    from data.plan.demand import Demand
    from data.plan.estimate import make_plan
    from data.plan.holding import open_holdings
    from data.plan.model import Site

    site = Site(link_mbit, in_flight=run.data.store.in_flight)
    demand = Demand(open_holdings(run.data), run.data, run.run.seed, site.cost)
    return make_plan(demand, run, site, speed), site


def _print_job(job: Submission) -> None:
    from cluster.secrecy import credentials_needed

    print(f"job        {job.id}: {job.entrypoint}")
    print("           code and config as working_dir, no credentials" + (", packages by pip" if job.install else ""))
    for key, value in sorted(job.variables.items()):
        print(f"           {key}={value}")
    for line in credentials_needed(job.config):
        print(f"needs      {line}")
    print(f"runs       in {job.config.run.path}, checkpoints in {job.config.checkpoints}")
    print("dry run: nothing was submitted")
