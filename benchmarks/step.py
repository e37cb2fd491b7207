"""One optimiser step of Headway against a bare hand-written loop over the same model, data and losses.

    python benchmarks/step.py [--json] [--blocks 12] [--steps 10]

Both loops live in one process and take turns, a block of steps each, so that a noisy machine hurts both alike. The bare
loop is what one would write without Headway: next batch, forward, render, losses, backward, clip, Adam. Ours adds
DeepSpeed, the schedule, the guard with its all-reduce, timing, metrics and the tracker.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from _report import finish, median_and_spread

from configs import Config, load_config
from data.dataset import Dataset
from data.stream import CaptureStream
from data.synth import synthesise
from data.views import PackedBatch
from models.system import build
from trainer.objectives import build_objective
from trainer.observer import Silent
from trainer.run import Run


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--blocks", type=int, default=12, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=10, help="steps per turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="key=value settings")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = settings(Path(folder), arguments)
        synthesise(config.data.train, 16, image_size=config.data.image_size, workers=2)
        times = measure(config, arguments.blocks, arguments.steps)
    ours, bare = median_and_spread(times["ours"]), median_and_spread(times["bare"])
    pairs = [a / b for a, b in zip(times["ours"], times["bare"], strict=True)]
    ratio = median_and_spread(pairs)
    print(f"{'loop':<8}{'ms per step':>14}{'iqr':>10}")
    for name, figures in (("headway", ours), ("bare", bare)):
        print(f"{name:<8}{figures['median'] * 1e3:>14.1f}{figures['iqr'] * 1e3:>10.1f}")
    print(f"ratio {ratio['median']:.3f} (iqr {ratio['iqr']:.3f}, {ratio['repeats']} pairs); wanted: at most 1.05")
    finish({"step_ratio": ratio, "headway_seconds": ours, "bare_seconds": bare}, arguments.json)


def settings(folder: Path, arguments: argparse.Namespace) -> Config:
    """`headsup-nano` on one worker with two threads."""
    return load_config(
        "headsup-nano",
        [
            f"run.dir={folder}/runs",
            f"data.train={folder}/train",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"run.threads={arguments.threads}",
            "cluster.workers=1",
            "trainer.steps=100000",
            *arguments.overrides,
        ],
    )


def measure(config: Config, blocks: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of every block, ours and bare by turns."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    with Run(config, Silent()) as run, Dataset.open(config.data.train) as dataset:
        run.start()
        stream = CaptureStream(dataset, config.data, seed=0, rank=0, world_size=1)
        while run.reporter.run_id is None:
            time.sleep(0.1)  # MLflow's import and its new database belong to the start, not to a step
        loops = {"ours": lambda: headway_step(run), "bare": bare_loop(config, stream)}
        for loop in loops.values():
            block_seconds(loop, 5)  # caches fill, kernels are chosen
        for turn in range(blocks):
            for name in ("ours", "bare") if turn % 2 else ("bare", "ours"):
                times[name].append(block_seconds(loops[name], steps))
        stream.close()
    return times


def block_seconds(step: Callable[[], None], steps: int) -> float:
    """Mean seconds of a step."""
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - began) / steps


def headway_step(run: Run) -> None:
    """The body of `trainer.loop.train`."""
    batches = run.fetch()
    losses = run.step(batches)
    run.agree(losses)
    run.report(batches)


def bare_loop(config: Config, stream: Iterator[PackedBatch]) -> Callable[[], None]:
    """What one would write by hand, as a function that makes one step."""
    torch.manual_seed(0)
    system = build(config.model)
    objective = build_objective(config.objective, system, torch.device("cpu"))
    optimizer = torch.optim.Adam(system.parameters(), lr=config.optimizer.learning_rate, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        losses = objective(system, next(stream).unpack(), 0, lambda _: nullcontext())
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), config.engine.gradient_clip)
        optimizer.step()
        losses.total.item()

    return step


if __name__ == "__main__":
    main()
