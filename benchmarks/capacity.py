"""Does one learning rate serve every capacity? Short runs of a small HeadsUp over rates and capacities.

    python benchmarks/capacity.py [--json] [--capacities 1 2 4] [--rates 5e-4 1e-3 ...] [--steps 200] [--seeds 1]

Every capacity is trained with every rate, with the rate carried over from capacity 2 and with the rate as it is. What
counts is where the lowest loss lies: at the same rate for every capacity, if the rule holds.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch
from _report import finish

from configs import Config, load_config
from data.dataset import Dataset
from data.stream import CaptureStream
from data.synth import synthesise
from data.views import Batch
from models.system import build
from trainer.objectives import build_objective
from trainer.optimizer import build_optimizer, learning_rate_factor, set_learning_rate

RULES = {"carried over": "2", "as it is": "null"}
LAST = 0.2  # share of the steps whose mean loss counts


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--capacities", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--subjects", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        batches = data(Path(folder), arguments.subjects, arguments.steps)
    results: dict[str, dict[str, float | str]] = {}
    for rule, base in RULES.items():
        print(f"{'rate ' + rule:<20}" + "".join(f"{rate:>10.2g}" for rate in arguments.rates) + f"{'best':>10}")
        for capacity in arguments.capacities:
            losses = [
                sum(
                    train(settings(capacity, base, rate, arguments.steps, seed), batches)
                    for seed in range(arguments.seeds)
                )
                / arguments.seeds
                for rate in arguments.rates
            ]
            best = arguments.rates[min(range(len(losses)), key=lambda i: losses[i])]
            print(f"  capacity {capacity:<9}" + "".join(f"{x:>10.4f}" for x in losses) + f"{best:>10.2g}", flush=True)
            table = {f"{rate:g}": loss for rate, loss in zip(arguments.rates, losses, strict=True)}
            results[f"{rule}, capacity {capacity}"] = {**table, "best": best}
    finish(results, arguments.json)


def settings(capacity: int, base: str, rate: float, steps: int, seed: int) -> Config:
    """Nano with few latents and small images."""
    return load_config(
        "headsup-nano",
        [
            f"model.capacity={capacity}",
            f"model.base_capacity={base}",
            f"optimizer.learning_rate={rate}",
            f"trainer.steps={steps}",
            f"optimizer.warmup_steps={steps // 10}",
            f"run.seed={seed}",
            "cluster.workers=1",
            "model.latent_size=8",
            "model.uv_size=32",
            "model.pixel_grid=16",
            "data.image_size=[48, 48]",
            "data.target_views=4",
        ],
    )


def data(folder: Path, subjects: int, steps: int) -> list[Batch]:
    """The batches of all steps, the same for every run."""
    config = settings(2, "null", 1e-3, steps, 0)
    synthesise(str(folder / "train"), subjects, image_size=config.data.image_size, workers=1)
    with Dataset.open(str(folder / "train")) as dataset:
        stream = CaptureStream(dataset, config.data, seed=0, rank=0, world_size=1)
        batches = [next(stream).unpack() for _ in range(steps)]
        stream.close()
    return batches


def train(config: Config, batches: list[Batch]) -> float:
    """Mean loss of the last steps; infinity where it is no number."""
    torch.manual_seed(config.run.seed)
    system = build(config.model)
    objective = build_objective(config.objective, system, torch.device("cpu"))
    optimizer = build_optimizer(system, config.optimizer)
    losses = []
    for step, batch in enumerate(batches):
        rate = config.optimizer.learning_rate * learning_rate_factor(config.optimizer, len(batches), step)
        set_learning_rate(optimizer.param_groups, rate)
        optimizer.zero_grad()
        loss = objective(system, batch, step, lambda _: nullcontext()).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), config.engine.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
    last = losses[-max(1, round(LAST * len(losses))) :]
    mean = sum(last) / len(last)
    return mean if math.isfinite(mean) else math.inf


if __name__ == "__main__":
    main()
