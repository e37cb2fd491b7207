"""`headway cluster`: what brings up a cluster for a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.commands.train import Overrides, changes
from configs import UserError, load_config

if TYPE_CHECKING:
    from cluster.manifests import ManifestSettings

app = typer.Typer(no_args_is_help=True, help="Describe a cluster for a run.", rich_markup_mode="markdown")

Kind = Literal["rayjob", "raycluster", "slurm", "container"]


Source = Annotated[str, typer.Argument(help="a preset (`headway config show`) or a YAML file")]
KindOption = Annotated[
    Kind, typer.Option(help="a cluster that trains and goes, one that stays, a batch script, an image recipe")
]
Out = Annotated[Path | None, typer.Option(help="file to write; default is the terminal")]
Name = Annotated[str | None, typer.Option(help="name of the run; default is the config's run.name")]
Image = Annotated[str, typer.Option(help="image with Headway in it (--kind container)")]
Namespace = Annotated[str, typer.Option(help="of Kubernetes")]
NodeCpus = Annotated[int, typer.Option(min=1, help="processors of a machine that workers are put on")]
NodeGpus = Annotated[int, typer.Option(min=0, help="its GPUs")]
WorkerMemory = Annotated[float, typer.Option(min=1, help="host memory for each worker, GiB")]
CpuNodes = Annotated[int, typer.Option(min=0, help="machines without GPUs beside them, for data work")]
Spot = Annotated[int, typer.Option(min=0, help="how many of the workers' machines come from the spot pool")]
SpotLabel = Annotated[str, typer.Option(metavar="KEY=VALUE", help="label and taint of spot machines")]
NodeLabel = Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="label of the machines for workers")]
Autoscale = Annotated[bool, typer.Option("--autoscale", help="machines come and go with the demand")]
ServiceAccount = Annotated[
    str | None, typer.Option(help="of the pods; the usual way to a role that may read the store")
]
Secret = Annotated[list[str] | None, typer.Option(help="Kubernetes secret whose keys become variables (repeatable)")]
Volumes = Annotated[
    list[str] | None, typer.Option(metavar="CLAIM:PATH", help="shared volume and where it is mounted (repeatable)")
]
Shared = Annotated[
    list[str] | None, typer.Option(help="--kind slurm: a folder that every node sees, beside this one (repeatable)")
]
Mlflow = Annotated[str | None, typer.Option(help="URL of the tracking server; sets tracking.uri")]
S3Endpoint = Annotated[str | None, typer.Option(help="URL of an object store that is not AWS's")]
S3Region = Annotated[str | None, typer.Option(help="its region")]
Redis = Annotated[str | None, typer.Option(help="HOST:PORT; lets the head come back with what it knew")]
RedisSecret = Annotated[str | None, typer.Option(help="secret with the key `password` for it")]
Retries = Annotated[int, typer.Option(min=0, help="times that a job is started again on a new cluster")]
Partition = Annotated[str | None, typer.Option(help="of SLURM")]
Account = Annotated[str | None, typer.Option(help="of SLURM")]
Limit = Annotated[str | None, typer.Option(help="of SLURM: HH:MM:SS or DAYS-HH; a run that is cut goes on")]
Activate = Annotated[str | None, typer.Option(help="file that SLURM's nodes source to find headway")]
Grace = Annotated[int, typer.Option(min=10, help="seconds between a machine's notice and its end")]


@app.callback()
def group() -> None:
    """Describe a cluster for a run."""


@app.command()
def manifest(
    config: Source,
    overrides: Overrides = None,
    kind: KindOption = "rayjob",
    out: Out = None,
    name: Name = None,
    image: Image = "headway:latest",
    namespace: Namespace = "default",
    node_cpus: NodeCpus = 64,
    node_gpus: NodeGpus = 8,
    worker_memory: WorkerMemory = 16.0,
    cpu_nodes: CpuNodes = 0,
    spot: Spot = 0,
    spot_label: SpotLabel = "cloud.google.com/gke-spot=true",
    node_label: NodeLabel = None,
    autoscale: Autoscale = False,
    service_account: ServiceAccount = None,
    secret: Secret = None,
    claim: Volumes = None,
    shared: Shared = None,
    mlflow: Mlflow = None,
    s3_endpoint: S3Endpoint = None,
    s3_region: S3Region = None,
    redis: Redis = None,
    redis_secret: RedisSecret = None,
    retries: Retries = 2,
    partition: Partition = None,
    account: Account = None,
    time: Limit = None,
    activate: Activate = None,
    grace: Grace = 120,
) -> None:
    """Write what brings up a cluster of the size that a run needs: KubeRay YAML, a SLURM script, a container recipe.

    No secret is ever written: pods get them from Kubernetes secrets and service accounts, SLURM jobs from the
    environment of their user.

    **Example:** `headway cluster manifest headsup-base cluster.workers=16 cluster.gpus_per_worker=1
    data.train=s3://bucket/heads checkpoint.url=s3://bucket/runs --mlflow http://mlflow:5000 --spot 1 --out job.yaml`
    """
    from cluster.manifests import Claim, ManifestSettings, container

    if kind == "container":
        _write(container(), out)
        return
    claims = tuple(Claim(*_pair(text)) for text in claim or [])
    machines = (node_cpus, node_gpus, worker_memory, spot, spot_label, node_label, cpu_nodes, autoscale)
    access = (service_account, tuple(secret or ()), claims, mlflow, s3_endpoint, s3_region, redis, redis_secret)
    settings = ManifestSettings(
        image, namespace, *machines, *access, retries, partition, account, time, activate, grace
    )
    changed = changes(overrides, {"run.name": name, "tracking.uri": mlflow})
    _write(_render(config, changed, kind, settings, shared), out)


def _render(source: str, changed: list[str], kind: Kind, settings: ManifestSettings, shared: list[str] | None) -> str:
    from cluster.manifests import ray_cluster, ray_job, slurm
    from cluster.reach import place, refuse_loopback
    from cluster.runs import resolve
    from cluster.secrecy import refuse_secret, refuse_secrets

    config = load_config(source, changed)
    refuse_secrets(config)
    urls = {"--mlflow": settings.mlflow or "", "--s3-endpoint": settings.s3_endpoint or ""}
    for option, value in urls.items():
        refuse_secret(option, value)
    refuse_loopback(urls)
    if kind == "raycluster":
        return ray_cluster(config, settings)
    if kind == "slurm":
        return slurm(place(resolve(config), here=False, shared=[str(Path.cwd()), *(shared or [])]), settings)
    return ray_job(place(config, here=False, shared=[claim.path for claim in settings.claims]), settings)


def _pair(text: str) -> tuple[str, str]:
    name, colon, path = text.partition(":")
    if not colon:
        raise UserError(f"'{text}' is no volume", where="--claim", hint="CLAIM:PATH, for example heads:/data")
    return name, path


def _write(text: str, out: Path | None) -> None:
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(out)) from None
    print(out)
