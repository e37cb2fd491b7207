"""What live engines hold, in bytes, beside what `headway model describe` says: a helper of tests and of docs.

python -m tests.trainer.held_memory prints the table of docs/capacity.md.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.describe import Live
from tests.trainer.ranks import run_ranks, small_config
from trainer.describe import zero_memory

RANKS, LAYERS, WIDTH, REPEATS = 2, 24, 96, 4
KINDS = ("weights", "gradients", "masters", "moments", "average", "passing")
SETTINGS = [(stage, precision) for precision in ("fp32", "bf16") for stage in (0, 1, 2, 3)]

Setting = tuple[int, str]
Bytes = dict[str, int]


class Stack(nn.Module):
    """Many equal layers, the last one frozen: no parameter is a large share, and activations are next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.layers[-1].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + F.silu(layer(x))
        return x


def config_of(setting: Setting, accumulation: int = 1) -> Any:
    stage, precision = setting
    engine = {"zero_stage": stage, "precision": precision, "accumulation": accumulation}
    return small_config(engine=engine, optimizer={"multipliers": {r"layers\.1\d": 0.5}})


def described(setting: Setting) -> Bytes:
    """What `headway model describe` says one of two ranks holds."""
    config, module = config_of(setting), Stack()
    sizes = {
        trains: sum(p.numel() for p in module.parameters() if p.requires_grad == trains) for trains in (True, False)
    }
    memory = zero_memory(sizes[True], sizes[False], RANKS, config.engine, config.optimizer, average=True)
    return {kind: size for kind, size in asdict(memory).items() if kind in KINDS}


def held(settings: Sequence[Setting], accumulation: int = 1) -> list[Bytes]:
    """The same of the engines that this rank makes; collective."""
    from trainer.distributed import initialise

    initialise(1, seed=0)
    return [_held(setting, accumulation) for setting in settings]


def _held(setting: Setting, accumulation: int) -> Bytes:
    """A few steps of one engine; `passing` is how far their peak is above all that stays from pass to update."""
    from trainer.engine import Engine

    gc.collect()
    gc.freeze()  # what is there by now is not listed any more
    module = Stack()
    engine = Engine(module, config_of(setting, accumulation))
    inputs = torch.rand(1, WIDTH)

    def micro_batch() -> None:
        engine.backward(engine(inputs).float().square().mean())

    for _ in range(2 * accumulation):
        micro_batch()
        engine.step()
    # gloo's threads let go of a message a moment after it was sent: what only one step shows is that.
    steps = [_step(engine, module, micro_batch, accumulation) for _ in range(REPEATS)]
    least = {kind: min(step[kind] for step in steps) for kind in steps[0]}
    return least | {"passing": least["peak"] - sum(least[kind] for kind in KINDS if kind in least)}


def _step(engine: Any, module: nn.Module, micro_batch: Callable[[], None], accumulation: int) -> Bytes:
    """One step: what is held after its last backward pass, and its `peak`."""
    peaks = []
    for number in range(accumulation):
        peaks.append(_peak(micro_batch))
        if number < accumulation - 1:
            engine.step()
    kinds = _by_kind(engine, module)
    found = {name: storage.nbytes() for name, storage in _storages().items()}
    sizes = {kind: sum(found.pop(name, 0) for name in names) for kind, names in kinds.items()}
    sizes["gradients"] = sum(found.values())  # all that is left, wherever DeepSpeed keeps it
    return sizes | {"peak": max(*peaks, _peak(engine.step))}


def _peak(work: Callable[[], Any]) -> int:
    there = list(_storages().values())
    with Live(_tensors()) as live:
        work()
    return sum(storage.nbytes() for storage in there) + live.peak


def _by_kind(engine: Any, module: nn.Module) -> dict[str, set[int]]:
    """Storages that the engine shows; each under the first kind that it is of."""
    parameters: list[Any] = list(module.parameters())
    states = engine.masters.optimizer.state.values()
    kinds: dict[str, Iterable[Tensor]] = {
        "weights": [getattr(p, "ds_tensor", p.data) for p in parameters],
        "gathered": [p.data for p in parameters if hasattr(p, "ds_tensor")],
        "masters": engine.masters.owners,
        "moments": [value for state in states for value in state.values() if isinstance(value, Tensor)],
        "average": engine.average.flats,
    }
    return {kind: {tensor.untyped_storage()._cdata for tensor in tensors} for kind, tensors in kinds.items()}


def _tensors() -> list[Tensor]:
    time.sleep(0.01)
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects warn when they are asked what they are
        everything = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    tensors = [tensor for tensor in everything if not tensor.is_meta]  # DeepSpeed keeps shapes of its groups so
    return [*tensors, *(tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None)]


def _storages() -> dict[int, Any]:
    storages = (tensor.untyped_storage() for tensor in _tensors())
    return {storage._cdata: storage for storage in storages}


def main() -> None:
    """Print described and held bytes of rank 0, thousands."""
    print("| | " + " | ".join(KINDS) + " |\n|---|" + "---:|" * len(KINDS))
    for setting, found in zip(SETTINGS, run_ranks(RANKS, held, SETTINGS)[0], strict=True):
        said = described(setting)
        cells = [f"{said[kind] / 1000:,.0f} / {found[kind] / 1000:,.0f}" for kind in KINDS]
        print(f"| {setting[1]}, ZeRO {setting[0]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
