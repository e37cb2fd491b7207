"""Everything that can be set, typed and frozen. A run is one `Config`; its hash names it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SerializeAsAny, ValidationInfo, field_validator, model_validator

from configs.section import Section, kind_schema
from configs.store import StoreConfig

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Sections whose schema is chosen by a key: folder under configs/, and the key.
KINDS = {"model": ("systems", "system"), "objective": ("objectives", "objective")}


class RunConfig(Section):
    """Where a run lives and what makes it repeatable."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder name under `run.dir`")
    dir: str = Field(default="out/runs", description="folder that holds runs")
    start_from: str | None = Field(
        default=None,
        description="checkpoint whose weights a new run begins with (a second stage); its optimiser, schedule and data "
        "begin anew",
    )
    seed: int = Field(default=0, ge=0, description="seeds weights, sample order and every random choice")
    threads: int = Field(default=1, ge=1, description="torch threads per worker; part of bitwise equality on CPU")

    @property
    def path(self) -> Path:
        """The run's own folder."""
        return Path(self.dir) / self.name


class MixtureConfig(Section):
    """One more dataset to train on."""

    url: str = Field(description="dataset URL")
    weight: float = Field(default=1.0, gt=0, description="share of the samples, relative to the others' weights")
    subjects: int | None = Field(default=None, gt=0, description="the first n subjects of its nested order")


class DataConfig(Section):
    """What is streamed and how views are drawn."""

    train: str = Field(
        default="out/data/train", description="dataset URL: shards beside their index (file, s3, memory)"
    )
    test: str | None = Field(default=None, description="dataset URL of held-out subjects; none skips evaluation")
    subjects: int | None = Field(default=None, gt=0, description="train on the first n subjects of the nested order")
    mixture: tuple[MixtureConfig, ...] = Field(default=(), description="datasets drawn beside `train`, with weights")
    train_weight: float = Field(default=1.0, gt=0, description="weight of `train` in the mixture")
    frames: Literal["all", "one"] = Field(
        default="all", description="an epoch has every capture, or one frame of each subject, another one each time"
    )
    image_size: tuple[Positive, Positive] = Field(
        default=(128, 128), description="height, width that images are resized to"
    )
    batch_size: Positive = Field(default=4, description="captures per optimiser step, over all workers")
    source_views: tuple[Positive, Positive] = Field(
        default=(4, 4), description="fewest and most views the network sees"
    )
    target_views: Positive = Field(default=4, description="views that supervise each capture")
    source_sampling: Literal["uniform", "spread", "farthest", "fixed"] = Field(
        default="spread",
        description="sources at random, one from each sector of the rig, each the farthest from those before it "
        "beginning with a random one, or the first of `source_cameras`",
    )
    source_cameras: tuple[str, ...] = Field(default=(), description="names, for source_sampling: fixed")
    target_sampling: Literal["unseen", "any", "nearest_excluded", "fixed"] = Field(
        default="unseen",
        description="targets at random from cameras that are no sources, from all, from those not among the "
        "`nearest_excluded` nearest to any source, or the first of `target_cameras`",
    )
    target_cameras: tuple[str, ...] = Field(
        default=(), description="names, for target_sampling: fixed; random sources are never drawn from them"
    )
    nearest_excluded: int = Field(
        default=1, ge=0, description="cameras nearest to each source that target_sampling: nearest_excluded leaves out"
    )
    other_frame: Fraction = Field(
        default=0.0,
        description="share of samples whose targets come from another frame of the same subject, where it has one",
    )
    prefetch: int = Field(default=2, ge=0, description="batches prepared ahead")
    readers: Positive = Field(default=1, description="threads that decode in each worker or loader process")
    loaders: int = Field(default=0, ge=0, description="processes that load for each worker; 0 loads in its own threads")
    cache_mb: int = Field(default=512, ge=0, description="decoded views kept in memory by each worker, MiB")
    verify: bool = Field(default=True, description="check the checksum of every member read")
    bad_share: Fraction = Field(default=0.01, description="share of members read that may be bad before the run stops")
    quarantine: str | None = Field(
        default=None, description="file of members known to be bad, a name per line, as `headway data verify` writes it"
    )
    store: StoreConfig = StoreConfig()

    @field_validator("source_views", mode="before")
    @classmethod
    def _one_number_is_a_range(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _fewest_before_most(self) -> DataConfig:
        if self.source_views[0] > self.source_views[1]:
            raise ValueError("source_views: the fewest views come first, for example [2, 4]")
        return self

    @model_validator(mode="after")
    def _fixed_cameras_are_named(self) -> DataConfig:
        for kind, needed in (("source", self.source_views[1]), ("target", self.target_views)):
            fixed, names = getattr(self, f"{kind}_sampling") == "fixed", getattr(self, f"{kind}_cameras")
            if fixed and len(names) < needed:
                raise ValueError(f"{kind}_cameras: names {len(names)} cameras, {kind}_views asks for {needed}")
            if names and not fixed:
                raise ValueError(f"{kind}_cameras: only {kind}_sampling: fixed reads it")
            if len(set(names)) < len(names):
                raise ValueError(f"{kind}_cameras: a camera is named twice")
        return self


class OptimizerConfig(Section):
    """Optimiser and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: Fraction = Field(default=0.0, description="for sgd")
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(default=2000, ge=0, description="linear from 0")
    final_fraction: Fraction = Field(default=0.1, description="learning rate at the end over its peak")
    multipliers: dict[str, float] = Field(
        default_factory=dict, description="regular expression on parameter names -> factor of the learning rate"
    )


class EngineConfig(Section):
    """DeepSpeed through accelerate: how the optimiser is sharded, in which precision."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "cpu"] = Field(default="none", description="where optimiser state lives")
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_clip: float = Field(default=1.0, ge=0, description="global L2 norm; 0 is off")
    accumulation: Positive = Field(default=1, description="micro-batches per optimiser step")
    compile: bool = Field(default=False, description="torch.compile the model")


class TrainerConfig(Section):
    """The loop: how long, and what happens every so many steps (0 is never)."""

    steps: Positive = 1000
    log_every: Positive = 10
    images_every: int = Field(default=0, ge=0, description="source, target, prediction, error to MLflow")
    evaluate_every: int = Field(default=0, ge=0, description="held-out subjects; always once at the end")
    evaluate_at_start: bool = Field(default=False, description="also evaluate the untrained network, as a baseline")
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="moving average of the weights, used by evaluation; 0 is off"
    )


class GuardConfig(Section):
    """Losses that are not learned from: the step is left out, or the run goes back to a checkpoint and past them."""

    sigmas: float = Field(
        default=6.0, ge=0, description="above the mean of late losses; 0 refuses only what is no number"
    )
    window: int = Field(default=200, ge=2, description="steps that late losses are of")
    after: int = Field(default=100, ge=2, description="steps before losses are compared")
    skips: int = Field(default=3, ge=0, description="steps in a row that may be left out before the run goes back")
    rollbacks: int = Field(default=3, ge=0, description="times that the run may go back before it is given up")
    synchrony_every: int = Field(default=500, ge=0, description="steps between comparisons of the ranks' weights")


class CheckpointConfig(Section):
    """When a run is saved, where to, and what stays."""

    every: int = Field(default=500, ge=0, description="steps between saves; always once at the end, 0 is only then")
    url: str | None = Field(
        default=None, description="folder or URL that gets a folder of the run's name; none is inside the run's own"
    )
    background: bool = Field(default=True, description="write beside the training, which stops for a copy only")
    keep: int = Field(default=3, ge=0, description="how many of the newest stay; 0 is all")
    keep_every: int = Field(default=0, ge=0, description="steps whose multiples stay for good; 0 is none")
    keep_best: str | None = Field(
        default="psnr", description="metric whose best stays too, of those evaluated; or none"
    )
    tolerated: int = Field(default=2, ge=0, description="saves in a row that may fail before the run does")
    local: str | None = Field(
        default=None, description="folder on every node (/dev/shm/headway) that keeps its part of the newest save too"
    )


class EvaluationConfig(Section):
    """Protocol of the held-out evaluation; its numbers mean nothing without it."""

    subjects: int | None = Field(default=None, gt=0, description="how many held-out subjects; none is all")
    source_views: Positive = 4
    target_views: Positive = 4
    frames: Literal["first", "all"] = Field(
        default="first",
        description="the first capture of each subject, or all of them: mean over a subject's captures, then subjects",
    )
    lpips: bool = Field(default=False, description="needs objective.lpips weights")


class TrackingConfig(Section):
    """MLflow."""

    uri: str = Field(default="sqlite:///out/mlflow.db", description="tracking server or database")
    experiment: str = "headway"
    run_name: str | None = None
    system_metrics: bool = True


class ClusterConfig(Section):
    """Ray: who works, with what, and what happens when somebody is lost."""

    address: str | None = Field(default=None, description="a Ray cluster; none starts a local one")
    workers: Positive = Field(default=1, description="processes that train together")
    min_workers: Positive | None = Field(
        default=None,
        description="go on with that few when nodes are lost, and take more when they come; the global batch and the "
        "order of samples stay. None waits for all `workers`",
    )
    workers_per_unit: Positive = Field(
        default=1, description="workers that must share a node (a model-parallel unit); nodes hold whole units"
    )
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    max_failures: int = Field(
        default=3,
        ge=-1,
        description="failures without a new checkpoint between them before the run is given up; -1: none",
    )
    max_preemptions: int = Field(default=-1, ge=-1, description="nodes that may be taken away; -1 is without end")
    silent_seconds: float = Field(
        default=15.0, gt=0, description="a worker that gives no sign for so long is named, ended and replaced"
    )
    hang_seconds: float = Field(
        default=600.0,
        gt=0,
        description="no step for so long, though all give signs: who holds the others up is replaced",
    )
    grow_seconds: float = Field(
        default=60.0, ge=0, description="with fewer workers than wanted: how long to train before taking more"
    )
    wait_seconds: float = Field(
        default=3600.0, ge=0, description="how long to wait for nodes before the run is given up"
    )

    @property
    def fewest(self) -> int:
        """Workers without which the run waits."""
        return self.min_workers or self.workers

    @model_validator(mode="after")
    def _sizes(self) -> ClusterConfig:
        if self.fewest > self.workers:
            raise ValueError(f"min_workers: {self.fewest} is more than workers = {self.workers}")
        if self.workers % self.workers_per_unit:
            raise ValueError(f"workers: {self.workers} is no multiple of workers_per_unit = {self.workers_per_unit}")
        return self


class SystemConfig(Section):
    """Base of every system's settings (`configs/systems/`)."""

    system: str


class ObjectiveConfig(Section):
    """Base of every objective's settings (`configs/objectives/`)."""

    objective: str


class Config(Section):
    """One run, resolved."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: SerializeAsAny[SystemConfig]
    objective: SerializeAsAny[ObjectiveConfig]
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    trainer: TrainerConfig = TrainerConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()
    _planned: Config | None = PrivateAttr(default=None)

    @field_validator(*KINDS, mode="before")
    @classmethod
    def _by_kind(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Section):
            return value
        return kind_schema(*KINDS[str(info.field_name)], value).model_validate(value)

    @model_validator(mode="after")
    def _batches_divide(self) -> Config:
        parts = self.cluster.workers * self.engine.accumulation
        if self.data.batch_size % parts:
            raise ValueError(
                f"data.batch_size: {self.data.batch_size} captures cannot be shared by cluster.workers x "
                f"engine.accumulation = {parts}; take a multiple of {parts}"
            )
        return self

    def at(self, workers: int) -> Config:
        """The same run on another number of workers: same global batch, micro-batches no larger, same name.

        Args:
            workers: must divide `data.batch_size`.
        """
        if workers == self.cluster.workers:
            return self
        share = self.data.batch_size // workers
        micro = self.data.batch_size // (self.cluster.workers * self.engine.accumulation)
        micro = next(size for size in range(micro, 0, -1) if share % size == 0)
        engine = self.engine.model_copy(update={"accumulation": share // micro})
        cluster = self.cluster.model_copy(update={"workers": workers, "min_workers": None})
        other = self.model_copy(update={"engine": engine, "cluster": cluster})
        other._planned = self
        return other

    @property
    def world_sizes(self) -> list[int]:
        """Numbers of workers that the run can go on with, ascending: whole units that share the global batch evenly."""
        unit = self.cluster.workers_per_unit
        counts = range(unit, self.cluster.workers + 1, unit)
        return [count for count in counts if count >= self.cluster.fewest and self.data.batch_size % count == 0]

    @property
    def checkpoints(self) -> str:
        """Folder or URL of this run's checkpoints."""
        url = self.checkpoint.url
        return f"{url.rstrip('/')}/{self.run.name}" if url else str(self.run.path / "checkpoints")

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name what is trained; where it runs, is logged or how it reads is left out."""
        if self._planned is not None:
            return self._planned.hash
        speed = {"store", "prefetch", "readers", "loaders", "cache_mb", "verify"}
        content = self.model_dump(
            mode="json", exclude={"cluster": True, "tracking": True, "checkpoint": True, "data": speed}
        )
        start = {"start_from": self.run.start_from} if self.run.start_from else {}
        content["run"] = {"seed": self.run.seed, "threads": self.run.threads, **start}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
