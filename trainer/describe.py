"""What a config would train: parameters, arithmetic, memory per rank; nothing is allocated (docs/capacity.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from configs import Config
from configs.objectives.reconstruction import ReconstructionConfig
from configs.schema import EngineConfig, OptimizerConfig
from models.describe import (
    activation_bytes,
    gaussians_by_layer,
    outline,
    parameters_by_part,
    render_flops,
    source_inputs,
)
from models.system import System
from models.transfer import Transferring
from trainer.engine import LARGEST_BUCKET
from trainer.objectives import build_objective
from trainer.objectives.base import Network
from trainer.timing import CountedForward

STAGES = (0, 1, 2, 3)
LIVE = 1_000_000_000  # parameters that DeepSpeed's stage 3 may hold whole at a time, by default
LARGEST_MESSAGE = 500_000_000  # gradients that DeepSpeed copies into one message where it does not go by buckets
BACKWARD = 2  # forwards that a backward pass costs (Kaplan et al. 2020)


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank holds for one network, whatever the batch.

    Attributes:
        weights: what the forward pass computes with.
        gradients: from the first backward pass of an accumulation window to the update.
        masters: fp32 copies that the optimiser updates, where the weights themselves are not these.
        moments: the optimiser's own state.
        average: the moving average.
        passing: the most that comes by in between: copies of gradients on their way to other ranks or to the
            update, and weights that stage 3 gathers.
        host: how much of all that lies in the host's memory; the rest is on the device.
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    average: int
    passing: int
    host: int = 0

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return self.total - self.host

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.masters + self.moments + self.average + self.passing


@dataclass(frozen=True)
class NetworkDescription:
    """One network and its optimiser.

    Attributes:
        parameters: by part.
        trained: how many of them learn.
        stage, precision: of its engine.
        memory: by ZeRO stage, as precision, offloading and the number of workers are set.
        offloaded: the same with the optimiser's state on the host; stage 0 cannot.
        learning_rates: how many parameters learn at which factor of the learning rate by the capacity's rule.
    """

    parameters: dict[str, int]
    trained: int
    stage: int
    precision: str
    memory: dict[int, Memory]
    offloaded: dict[int, Memory]
    learning_rates: dict[float, int]

    @property
    def total(self) -> int:
        """Parameters of all parts."""
        return sum(self.parameters.values())


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations of one sample; a multiplication and an addition are two.

    Attributes:
        model: of the forward pass, counted by torch.
        render: of the forward pass, estimated (`models.describe.render_flops`).
        training_model, training_render: forward and backward, without what checkpointing computes again.
        gaussians: by layer.
        activations: bytes that the model's passes hold for one micro-batch in fp32, beside weights and gradients.
    """

    model: int
    render: int
    training_model: int
    training_render: int
    gaussians: dict[str, int]
    activations: int


@dataclass(frozen=True)
class Description:
    """A config, described.

    Attributes:
        networks: the system as `model`, then what is trained beside it.
        workers: ranks that share.
        precision: of the engine.
        micro_batch: samples of one pass on one rank.
        views: source views that `arithmetic` is for, the most that the config draws.
        arithmetic: none for a network that does not take images.
    """

    networks: dict[str, NetworkDescription]
    workers: int
    precision: str
    micro_batch: int
    views: int
    arithmetic: Arithmetic | None

    def plain(self) -> dict[str, Any]:
        """Nested plain values, sums included, for JSON."""
        plain = asdict(self)
        for name, network in self.networks.items():
            plain["networks"][name]["total"] = network.total
            for table in ("memory", "offloaded"):
                for stage, memory in getattr(network, table).items():
                    plain["networks"][name][table][stage] |= {"device": memory.device, "total": memory.total}
        return plain


def describe(config: Config) -> Description:
    """Describe a config and everything that it trains; no weight is allocated."""
    system = outline(config.model)
    average = config.trainer.ema_decay > 0
    networks = {"model": describe_network(system, config.optimizer, config.engine, config.cluster.workers, average)}
    arithmetic = None
    if isinstance(system, System):
        arithmetic = _arithmetic(system, config)
        for name, network in _beside(system, config).items():
            networks[name] = describe_network(network.module, network.optimizer, network.engine, config.cluster.workers)
    return Description(
        networks=networks,
        workers=config.cluster.workers,
        precision=config.engine.precision,
        micro_batch=_micro_batch(config),
        views=config.data.source_views[1],
        arithmetic=arithmetic,
    )


def describe_network(
    module: nn.Module, optimizer: OptimizerConfig, engine: EngineConfig, workers: int, average: bool = False
) -> NetworkDescription:
    """Parameters and memory of one network, on any device."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters()) - trained

    def memory(stage: int, offload: str) -> Memory:
        at_stage = engine.model_copy(update={"zero_stage": stage, "offload": offload if stage else "none"})
        return zero_memory(trained, frozen, workers, at_stage, optimizer, average)

    return NetworkDescription(
        parameters=parameters_by_part(module),
        trained=trained,
        stage=engine.zero_stage,
        precision=engine.precision,
        memory={stage: memory(stage, engine.offload) for stage in STAGES},
        offloaded={stage: memory(stage, "cpu") for stage in STAGES[1:]},
        learning_rates=_learning_rates(module),
    )


def zero_memory(
    trained: int, frozen: int, workers: int, engine: EngineConfig, optimizer: OptimizerConfig, average: bool
) -> Memory:
    """Memory of one rank under DeepSpeed 0.19 as `trainer.engine` sets it up (Rajbhandari et al. 2020, section 5).

    Padding and fragmentation are left out. Engines were measured: tests/trainer/test_described_memory.py.

    Args:
        trained, frozen: parameters.
        workers: ranks that share.
        engine: stage, precision and offloading.
        optimizer: decides how many moments there are.
        average: whether the engine keeps a moving average.
    """
    stage, half = engine.zero_stage, engine.precision == "bf16"
    low, whole = 2 if half else 4, trained + frozen
    shared = -(-trained // workers) if stage else trained
    masters = 4 * shared if stage or half else 0
    moments = 4 * shared * _moments(optimizer)
    averaged = 4 * shared if average else 0
    gradients = 4 * shared if stage > 1 else low * trained
    if stage == 1 and half:
        gradients += 4 * trained  # bf16 from autograd, and their sum
    passing = _passing(stage, half, trained, shared, whole)
    weights = low * (-(-whole // workers) if stage == 3 else whole)
    host = masters + moments + averaged + (gradients if stage > 1 else 0) if engine.offload == "cpu" else 0
    return Memory(weights, gradients, masters, moments, averaged, passing, host)


def _passing(stage: int, half: bool, trained: int, shared: int, whole: int) -> int:
    """The most bytes of copies at a time, in backward pass, reduction and update."""
    low, message, bucket = 2 if half else 4, min(trained, LARGEST_MESSAGE), min(trained, LARGEST_BUCKET)
    if stage == 0:
        return 4 * trained if half else 4 * message  # in fp32 for the update; or flat for the reduction
    if stage == 1:
        return (4 + low) * message if half else 4 * max(bucket, shared)
    if stage == 2:
        return max(2 * low * bucket, 4 * shared)  # a bucket and its flat copy; or this rank's share, flat
    return 3 * low * bucket + low * min(whole, LIVE)


def _beside(system: System, config: Config) -> Mapping[str, Network]:
    """What the objective trains beside the system, without memory and without fetching a perceptual network."""
    settings = config.objective
    if isinstance(settings, ReconstructionConfig):
        lpips = settings.lpips.model_copy(update={"weights": "off"})
        settings = settings.model_copy(update={"lpips": lpips})
    with torch.device("meta"):
        return build_objective(settings, system, torch.device("meta")).networks


def _micro_batch(config: Config) -> int:
    return config.data.batch_size // (config.cluster.workers * config.engine.accumulation)


def _moments(optimizer: OptimizerConfig) -> int:
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 2


def _learning_rates(module: nn.Module) -> dict[float, int]:
    factors = module.learning_rate_factors() if isinstance(module, Transferring) else {}
    found: dict[float, int] = {}
    for name, parameter in module.named_parameters():
        factor = factors.get(name, 1.0)
        found[factor] = found.get(factor, 0) + parameter.numel()
    return dict(sorted(found.items()))


def _arithmetic(system: System, config: Config) -> Arithmetic:
    height, width = config.data.image_size
    views, targets = config.data.source_views[1], config.data.target_views
    forward = CountedForward(system)
    with torch.no_grad():
        outputs = forward(*source_inputs(1, views, height, width))
    gaussians = gaussians_by_layer(outputs)
    drawn = render_flops(gaussians, targets, height, width)
    return Arithmetic(
        model=forward.flops or 0,
        render=drawn,
        training_model=forward.training_flops(),
        training_render=(1 + BACKWARD) * drawn,
        gaussians=gaussians,
        activations=activation_bytes(system, source_inputs(_micro_batch(config), views, height, width)),
    )
