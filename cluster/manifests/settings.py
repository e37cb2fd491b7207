"""What a manifest needs to know beside the run's config."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from configs import Config, UserError

_IMAGE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")
_KUBERNETES_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_LABEL = re.compile(r"^([A-Za-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
_WORD = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._,+@-]*$")
_TIME = re.compile(r"^(\d+-)?\d{1,3}(:\d{2}){0,2}$")
_PATH = re.compile(r"^/[A-Za-z0-9._/-]+$")
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that does not answer is given up after half a minute. Ray's own 3 s, 10 s and 5 times take more than one.
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}
"""Of every Ray process."""

_NAME_ROOM = 40  # KubeRay adds suffixes of its own to a name of at most 63 characters


@dataclass(frozen=True)
class Claim:
    """A persistent volume that every node sees: the claim's name, and where it is mounted."""

    name: str
    path: str


@dataclass(frozen=True)
class ManifestSettings:
    """A cluster, but for what the run's config says.

    Attributes:
        image: container image with Headway in it.
        namespace: of Kubernetes.
        node_cpus, node_gpus: of a machine that workers are put on.
        worker_memory: GiB of host memory for each worker.
        spot: how many of the machines come from the spot pool.
        spot_label: `KEY=VALUE` that marks spot machines, as a label and as a taint.
        node_label: `KEY=VALUE` that marks the machines for workers, if any.
        cpu_nodes: machines without GPUs beside them, for data work.
        autoscale: whether machines come and go with the demand.
        service_account: of the pods; the way to a role that may read the store.
        secrets: names of Kubernetes secrets whose keys become environment variables.
        claims: shared volumes.
        mlflow: URL of the tracking server.
        s3_endpoint, s3_region: of the object store, where it is not AWS's own.
        redis, redis_secret: `HOST:PORT`, and the secret whose key `password` opens it; lets the head come back.
        retries: how often Kubernetes starts a job again on a new cluster.
        partition, account, time: of SLURM.
        activate: a file that SLURM's nodes source to find `headway` and `ray`.
        grace: seconds between the notice that a machine goes and its end.
    """

    image: str = "headway:latest"
    namespace: str = "default"
    node_cpus: int = 64
    node_gpus: int = 8
    worker_memory: float = 16.0
    spot: int = 0
    spot_label: str = "cloud.google.com/gke-spot=true"
    node_label: str | None = None
    cpu_nodes: int = 0
    autoscale: bool = False
    service_account: str | None = None
    secrets: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    mlflow: str | None = None
    s3_endpoint: str | None = None
    s3_region: str | None = None
    redis: str | None = None
    redis_secret: str | None = None
    retries: int = 2
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    activate: str | None = None
    grace: int = 120

    def __post_init__(self) -> None:
        """Refuse what no cluster would take; nothing here ever reaches a shell unchecked.

        Raises:
            UserError: naming the option.
        """
        self._check("--image", self.image, _IMAGE, "registry/name:tag")
        self._check("--namespace", self.namespace, _KUBERNETES_NAME, "lower-case letters, digits and -")
        self._check("--service-account", self.service_account, _KUBERNETES_NAME, "lower-case letters, digits and -")
        for name in (*self.secrets, *(claim.name for claim in self.claims), self.redis_secret):
            self._check("--secret, --claim, --redis-secret", name, _KUBERNETES_NAME, "the name of a secret or a claim")
        for claim in self.claims:
            self._check("--claim", claim.path, _PATH, "CLAIM:/ABSOLUTE/PATH")
        for option, label in (("--spot-label", self.spot_label), ("--node-label", self.node_label)):
            for part in (label or "").split("=", 1) if label is not None else ():
                self._check(option, part, _LABEL, "KEY=VALUE")
            if label is not None and "=" not in label:
                raise UserError(f"'{label}' is no label", where=option, hint="KEY=VALUE")
        self._check("--partition", self.partition, _WORD, "as sinfo names it")
        self._check("--account", self.account, _WORD, "as sacctmgr names it")
        self._check("--time", self.time, _TIME, "HH:MM:SS or DAYS-HH")
        self._check("--activate", self.activate, _PATH, "/shared/venv/bin/activate")
        if self.redis_secret and not self.redis:
            raise UserError("there is a password, but no Redis", where="--redis-secret", hint="--redis HOST:6379")

    @staticmethod
    def _check(option: str, value: str | None, pattern: re.Pattern[str], right: str) -> None:
        if value is not None and not pattern.fullmatch(value):
            raise UserError(f"'{value}' cannot be used", where=option, hint=right)


@dataclass(frozen=True)
class Shape:
    """How a run's workers are put on machines.

    Attributes:
        workers: on a machine, at most.
        nodes: machines.
        cpus, gpus, memory: that a machine gives to Ray; memory in GiB.
    """

    workers: int
    nodes: int
    cpus: int
    gpus: int
    memory: int


def shape(config: Config, settings: ManifestSettings) -> Shape:
    """As few machines as hold the run's workers.

    Raises:
        UserError: a worker does not fit on a machine, or more spot machines than machines.
    """
    want = config.cluster
    fit = math.floor(settings.node_cpus / want.cpus_per_worker + 1e-6)
    if want.gpus_per_worker:
        fit = min(fit, math.floor(settings.node_gpus / want.gpus_per_worker + 1e-6))
    if fit < 1:
        raise UserError(
            f"a worker of {want.cpus_per_worker:g} CPU and {want.gpus_per_worker:g} GPU does not fit on a machine of "
            f"{settings.node_cpus} and {settings.node_gpus}",
            where="--node-cpus, --node-gpus",
            hint="the size of your machines, or cluster.cpus_per_worker=N",
        )
    each = min(fit, want.workers)
    nodes = math.ceil(want.workers / each)
    if settings.spot > nodes:
        raise UserError(
            f"{settings.spot} spot machines of {nodes}", where="--spot", hint=f"at most {nodes}: the run needs no more"
        )
    return Shape(
        workers=each,
        nodes=nodes,
        cpus=math.ceil(each * want.cpus_per_worker),
        gpus=math.ceil(each * want.gpus_per_worker),
        memory=math.ceil(each * settings.worker_memory),
    )


def kubernetes_name(run: str) -> str:
    """A run's name as Kubernetes takes it."""
    name = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")[:_NAME_ROOM].strip("-")
    return name if name and name[0].isalpha() else f"run-{name}"[:_NAME_ROOM].strip("-")
