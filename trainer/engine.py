"""A model with its optimiser under DeepSpeed: forward, backward, step, and the average of its weights."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from configs import Config, UserError
from trainer.distributed import initialise
from trainer.ema import MovingAverage
from trainer.frugal import frugal
from trainer.masters import find_masters
from trainer.optimizer import build_optimizer, learning_rate_factor, set_learning_rate

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

MODEL = "model"  # names the system's engine; further ones are named by their objective
LARGEST_BUCKET = 200_000_000  # elements; a bucket as large as a small model makes one message of its gradients


@dataclass(frozen=True)
class StepReport:
    """What one call of `Engine.step` did.

    Attributes:
        gradient_norm: global L2 norm before clipping; nan between boundaries, nan or inf where gradients are.
        learning_rate: of the update just made, for a multiplier of 1.
        boundary: whether the weights were updated.
    """

    gradient_norm: float
    learning_rate: float
    boundary: bool


class Engine:
    """One model, its optimiser, schedule, precision and sharding; several may live in one process.

    `module` stays the caller's: call the engine for a training forward, and use `module` only for its attributes.
    With bf16, weights are bf16 beside fp32 masters and the forward runs under autocast, so inputs may be fp32 and
    geometry that needs fp32 can switch autocast off.

    Args:
        module: the model, the same on every rank.
        config: `engine`, `optimizer` and `trainer` sections are used.

    Raises:
        UserError: settings that DeepSpeed cannot combine, or a bad `optimizer.multipliers`.
    """

    def __init__(self, module: nn.Module, config: Config) -> None:
        if config.engine.offload != "none" and config.engine.zero_stage == 0:
            raise UserError("needs sharded optimiser state", where="engine.offload", hint="set zero_stage to 1, 2 or 3")
        if not torch.distributed.is_initialized():
            initialise(config.run.threads, config.run.seed)
        self.config = config
        self.module = module
        self.steps = 0
        for name, parameter in module.named_parameters():
            if parameter.ndim == 0:
                raise UserError("DeepSpeed cannot hold a parameter without dimensions", where=name, hint="shape [1]")
            parameter.data = parameter.data.contiguous()  # masters are views of flat memory
        optimizer = build_optimizer(module, config.optimizer)
        with frugal():
            self.deepspeed = _start_deepspeed(_UnderAutocast(module, self.autocast), optimizer, config)
        if config.engine.compile:
            self.deepspeed.compile()
        self._device = torch.device(self.deepspeed.device or "cpu")
        self._reset_bf16_replicas()
        self.masters = find_masters(self.deepspeed, module)
        self.average = MovingAverage(self.masters, config.trainer.ema_decay) if config.trainer.ema_decay else None
        self._until: Callable[[], None] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward through DeepSpeed, which gathers sharded weights and prepares the backward pass."""
        return self.deepspeed(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        return self._device

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision as the forward uses it; nothing in fp32."""
        if self.config.engine.precision == "fp32":
            return nullcontext()
        return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)

    def backward(self, loss: Tensor) -> None:
        """Gradients of one micro-batch's mean loss; averaged over micro-batches and ranks."""
        self.deepspeed.backward(loss)

    def step(self) -> StepReport:
        """Count one micro-batch; at the accumulation boundary clip, update the weights, then their average."""
        if not self.deepspeed.is_gradient_accumulation_boundary():
            self.deepspeed.step()
            return StepReport(float("nan"), self.learning_rate, boundary=False)
        rate = self.learning_rate
        set_learning_rate(self.masters.optimizer.param_groups, rate)
        norm = self._clip_replicas() if self._clips_itself else None
        self.settle()
        self.deepspeed.step()
        if norm is None:
            norm = float(self.deepspeed.get_global_grad_norm() or 0.0)
        if norm < 0:
            norm = float("nan")  # DeepSpeed's word for a norm that is not finite
        self.steps += 1
        if self.average is not None:
            self.average.update()
        return StepReport(norm, rate, boundary=True)

    def hold(self, until: Callable[[], None]) -> None:
        """Have the next change of weights, moments or average wait: they are being copied.

        Forward and backward passes do not; they may change buffers and gradients.

        Args:
            until: returns when they may change; called once, by whatever is about to change them.
        """
        self.settle()
        self._until = until

    def settle(self) -> None:
        """Return when weights, moments and average may change."""
        until, self._until = self._until, None
        if until is not None:
            until()

    @property
    def learning_rate(self) -> float:
        """Of the coming update, for a multiplier of 1."""
        settings = self.config.optimizer
        return settings.learning_rate * learning_rate_factor(settings, self.config.trainer.steps, self.steps)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model holds its moving average inside, and exactly its own weights afterwards. Collective.

        Without a moving average the model simply keeps its weights.
        """
        self.settle()
        with self.average.swapped_in() if self.average is not None else nullcontext():
            yield

    @property
    def _clips_itself(self) -> bool:
        """DeepSpeed does not tell the norm when nothing is sharded and nothing is cast."""
        return self.config.engine.zero_stage == 0 and self.config.engine.precision == "fp32"

    def _clip_replicas(self) -> float:
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.config.engine.gradient_clip:
            nn.utils.clip_grads_with_norm_(self.masters.owners, self.config.engine.gradient_clip, norm)
        return norm.item()

    def _reset_bf16_replicas(self) -> None:
        # DeepSpeed 0.19 makes a real update with zero gradients while it builds its bf16 optimiser at stage 0.
        if self.config.engine.zero_stage == 0 and self.config.engine.precision == "bf16":
            zero: Any = self.deepspeed.optimizer
            zero.refresh_fp32_params()
            zero.optimizer.state.clear()


class _UnderAutocast(nn.Module):
    """The model as DeepSpeed sees it: DeepSpeed switches off an autocast that is entered outside of it."""

    def __init__(self, module: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.module = module
        self._autocast = autocast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._autocast():
            return self.module(*args, **kwargs)


def _start_deepspeed(module: nn.Module, optimizer: torch.optim.Optimizer, config: Config) -> DeepSpeedEngine:
    """Hand model and optimiser to DeepSpeed through accelerate."""
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed
    from accelerate import Accelerator, DeepSpeedPlugin
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    class Plugin(DeepSpeedPlugin):
        def set_deepspeed_weakref(self) -> None:
            """Leave transformers out of it: only its `from_pretrained` asks for what accelerate keeps there."""

    if not torch.cuda.is_available():
        # A shared-memory all-reduce for inference, which it would compile for 20 seconds and training never calls.
        operators: Any = deepspeed.ops
        operators.__compatible_ops__ = {"deepspeed_shm_comm": False}
    AcceleratorState._reset_state()  # accelerate keeps one plugin a process; every engine here has its own
    accelerator = Accelerator(
        mixed_precision="bf16" if config.engine.precision == "bf16" else "no",
        deepspeed_plugin=Plugin(hf_ds_config=deepspeed_config(config, module)),
        kwargs_handlers=[InitProcessGroupKwargs(backend="nccl" if torch.cuda.is_available() else "gloo")],
    )
    engine = accelerator.prepare(module, optimizer)[0]
    if not isinstance(engine, deepspeed.DeepSpeedEngine):
        raise RuntimeError(f"accelerate made a {type(engine).__name__} where a DeepSpeedEngine was asked for")
    return engine


def deepspeed_config(config: Config, module: nn.Module) -> dict[str, Any]:
    """DeepSpeed's own settings for a run."""
    engine = config.engine
    elements = sum(p.numel() for p in module.parameters())
    bucket = min(LARGEST_BUCKET, elements + elements % 2 + 2)  # DeepSpeed wants it even
    zero: dict[str, Any] = {
        "stage": engine.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket,
        "round_robin_gradients": False,  # makes DeepSpeed's own map of masters wrong
    }
    if not torch.cuda.is_available():
        # No streams to overlap, one copy fewer, and no replacing of `torch.nn.functional.linear` for the whole process.
        zero |= {"overlap_comm": False, "contiguous_gradients": False, "memory_efficient_linear": False}
    if engine.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's throughput meter reads it
        "gradient_accumulation_steps": engine.accumulation,
        "gradient_clipping": 0.0 if engine.zero_stage == 0 and engine.precision == "fp32" else engine.gradient_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused Adam needs no compiler and is as fast
        "bf16": {"enabled": engine.precision == "bf16"},
    }
    if engine.precision == "bf16" and engine.zero_stage:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
