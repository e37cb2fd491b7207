"""One training step of `headsup-base` at the paper's size on whatever machine this is: does it run, in how much memory?

    python benchmarks/base_step.py [--json] [--steps 1] [--lpips random] [KEY=VALUE ...]

Ten source views of a synthetic capture at 500x375, batch 1, the preset's objective and Adam through the engine. LPIPS
is off unless asked for, since its weights would be downloaded; `random` costs what it costs with other numbers.
Memory is the process's resident peak, beside what it held before the model was built.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import time

import numpy as np
import torch
from _report import finish
from PIL import Image
from torch import Tensor

from configs import Config, load_config
from data.synth import synthesise_subject
from data.views import Batch, Cameras, Views
from models.system import build
from trainer.engine import Engine
from trainer.objectives import build_objective
from trainer.timing import CountedForward, Stopwatch


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--steps", type=int, default=1, help="training steps")
    parser.add_argument("--lpips", choices=("off", "random"), default="off", help="random: another network's cost")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="key=value settings")
    arguments = parser.parse_args()
    config = settings(arguments)
    results = measure(config, capture(config), arguments.steps)
    for key, value in results.items():
        print(f"{key}: {value}")
    finish(results, arguments.json)


def settings(arguments: argparse.Namespace) -> Config:
    """`headsup-base` on one worker, with one capture per step and all ten source views."""
    lpips = {"off": ["objective.lpips.weight=0"], "random": ["objective.lpips.weights=random"]}[arguments.lpips]
    return load_config(
        "headsup-base",
        [
            "cluster.workers=1",
            "data.batch_size=1",
            "data.source_views=10",
            "engine.zero_stage=0",
            "engine.precision=fp32",
            "optimizer.warmup_steps=0",
            f"run.threads={arguments.threads}",
            *lpips,
            *arguments.overrides,
        ],
    )


def capture(config: Config) -> Batch:
    """One synthetic person, source and target views from different cameras."""
    height, width = config.data.image_size
    person = synthesise_subject(0, 1, image_size=(height, width))[0]
    images, masks = (torch.stack([picture(data) for data in files]) for files in (person.images, person.masks))
    extrinsics, K = (torch.from_numpy(a).float() for a in (person.world_to_camera, person.K))
    views = Views(
        images[None], masks[None, :, :1], Cameras(extrinsics[None], K[None], width, height), torch.zeros(1, 52)
    )
    sources, targets = config.data.source_views[1], config.data.target_views
    order = torch.randperm(len(person.images), generator=torch.Generator().manual_seed(0))
    chosen = [slice(None), order[:sources].tolist()], [slice(None), order[sources : sources + targets].tolist()]
    return Batch(views[tuple(chosen[0])], views[tuple(chosen[1])], ("synthetic",), 1)


def picture(data: bytes | None) -> Tensor:
    """`[channels, h, w]` in [0, 1]."""
    array = np.asarray(Image.open(io.BytesIO(data or b"")), np.float32) / 255
    return torch.from_numpy(array).reshape(*array.shape[:2], -1).movedim(-1, 0)


def measure(config: Config, batch: Batch, steps: int) -> dict[str, float]:
    """Seconds by section of the last step, and the peak."""
    before = peak()
    print(f"the capture is ready, peak {before:.2f} GiB", flush=True)
    torch.manual_seed(config.run.seed)
    system = build(config.model)
    engine = Engine(system, config)
    objective = build_objective(config.objective, system, engine.device)
    built, forward, clock = peak(), CountedForward(engine), Stopwatch(engine.device)
    seconds: dict[str, float] = {}
    losses: list[float] = []
    processor = time.process_time()
    for step in range(steps):
        began = time.perf_counter()
        loss = objective(forward, batch, step, clock)
        print(f"forward done after {time.perf_counter() - began:.1f} s, peak {peak():.2f} GiB", flush=True)
        with clock("backward"):
            engine.backward(loss.total)
        print(f"backward done after {time.perf_counter() - began:.1f} s, peak {peak():.2f} GiB", flush=True)
        with clock("optimizer"):
            engine.step()
        losses.append(loss.total.item())
        seconds = {f"seconds_{name}": value for name, value in clock.read().items()}
        seconds["seconds_step"] = time.perf_counter() - began
        print(
            f"step {step + 1}: loss {losses[-1]:.4f}, {seconds['seconds_step']:.1f} s, peak {peak():.2f} GiB",
            flush=True,
        )
    return {
        "parameters": sum(p.numel() for p in system.parameters()),
        "forward_tflop": (forward.flops or 0) / 1e12,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        **seconds,
        "processor_seconds_per_step": (time.process_time() - processor) / steps,
        "gib_before": before,
        "gib_built": built,
        "gib_peak": peak(),
    }


def peak() -> float:
    """Largest resident size of this process so far, GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


if __name__ == "__main__":
    main()
