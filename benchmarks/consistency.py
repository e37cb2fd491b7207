"""Does training against the set critic make the heads of unseen people agree better from view to view?

    python benchmarks/consistency.py [--json] [--seeds 3] [--steps 200] [--weights 0.01] [--out FOLDER]

Synthetic people in 16 views of 64 x 64. One `headsup-nano` learns to reconstruct, and beside it a set critic learns
whose verdict does not count yet. From that checkpoint every seed goes on twice, with the same samples in the same
order: without the critic, and with its verdict, whose weight rises over the first quarter. Unseen people are measured
on the way. A head of Gaussians is one object,
so its renderings agree with each other whatever it looks like. What can disagree, and is measured:

- `agreement`: heads made from two sets of four photos of one person, which share no camera, drawn at the same four
  other cameras: PSNR between the two, in dB. What one set's head has to invent, the other set has seen. Blur raises it,
  so it counts only beside `psnr`.
- `warped`: every pixel of a rendered view is carried by the head's depth into the real photo of the nearest camera:
  PSNR between the two where the head covers the pixel and the neighbour sees that point. Wrong geometry brings in
  wrong colours even where the rendering itself looks right. Blur lowers it. A gloss that moves bounds it.
- `psnr`: of those renderings against the photos taken there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _report import finish, median_and_spread
from _unseen import Measures, Person, measure, person

from configs import Config, load_config
from data.dataset import Dataset
from data.synth import synthesise
from trainer.observer import Silent
from trainer.run import Run

SIZE = (64, 64)
CRITIC = (
    "objective.objective=adversarial",
    "objective.image.weight=0",
    "objective.views.start=0",
    "objective.views.penalty_every=8",
    "objective.views.network.stem_channels=[16,32,64,96]",
    "objective.views.network.width=96",
    "objective.views.network.blocks=3",
    "objective.views.network.heads=3",
    "objective.views.network.se3_channels=16",
    "objective.views.optimizer.learning_rate=1e-3",
)
UNHEARD = 1e-9
"""Weight with which a critic learns and moves nothing."""
SHOWN = ("psnr", "agreement", "warped", "seen")


def main() -> None:
    """Train with and without, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", type=int, default=300, help="steps before the runs part")
    parser.add_argument("--steps", type=int, default=200, help="of every run from there")
    parser.add_argument("--every", type=int, default=50, help="steps between measurements")
    parser.add_argument("--people", type=int, default=128, help="to train on")
    parser.add_argument("--unseen", type=int, default=24, help="to measure")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.01], help="of the verdict in the loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keeps data and runs; what is there is not done again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out: Path = arguments.out or Path(folder)
        synthesise(f"{out}/train", arguments.people, image_size=SIZE, workers=1)
        synthesise(f"{out}/unseen", arguments.unseen, first=100_000, image_size=SIZE, workers=1)
        with Dataset.open(f"{out}/unseen") as unseen:
            people = [person(unseen, name, SIZE) for name in unseen.captures]
        curves = experiment(out, people, arguments)
    report(curves, arguments.json)


def experiment(out: Path, people: Sequence[Person], arguments: argparse.Namespace) -> dict[str, list[list[Measures]]]:
    """Label -> seed -> measures at every point of the curve, the first where the runs part."""
    base = settings(out, "base", 0, arguments.base, arguments.threads, *verdict(UNHEARD, 0))
    checkpoint, first = trained(base, people, arguments.base)
    start = f"run.start_from={checkpoint}"
    arms = {"without": ()} | {f"with {weight:g}": verdict(weight, arguments.steps // 4) for weight in arguments.weights}
    curves: dict[str, list[list[Measures]]] = {label: [] for label in arms}
    for seed in range(1, arguments.seeds + 1):
        for label, overrides in arms.items():
            name = f"{label.replace(' ', '-')}-seed{seed}"
            config = settings(out, name, seed, arguments.steps, arguments.threads, start, *overrides)
            _, curve = trained(config, people, arguments.every)
            curves[label].append([{**first[-1], "step": 0}, *curve])
            print(f"seed {seed}, {label:<12}{time.process_time():8.0f} s" + _line(curve[-1]), flush=True)
    return curves


def settings(out: Path, name: str, seed: int, steps: int, threads: int, *overrides: str) -> Config:
    """`headsup-nano` at 64 x 64 in this process."""
    return load_config(
        "headsup-nano",
        [
            f"run.dir={out}/runs",
            f"run.name={name}",
            f"run.seed={seed}",
            f"run.threads={threads}",
            f"tracking.uri=sqlite:///{out}/mlflow.db",
            "tracking.system_metrics=false",
            f"data.train={out}/train",
            f"data.image_size=[{SIZE[0]}, {SIZE[1]}]",
            "data.target_views=4",
            "cluster.workers=1",
            "engine.zero_stage=0",
            f"trainer.steps={steps}",
            "trainer.images_every=0",
            f"optimizer.warmup_steps={steps // 10}",
            *overrides,
        ],
    )


def verdict(weight: float, ramp: int) -> tuple[str, ...]:
    """Settings that add the set critic, and its verdict's weight in the loss after `ramp` steps."""
    return (*CRITIC, f"objective.views.weight={weight}", f"objective.views.ramp={ramp}")


def trained(config: Config, people: Sequence[Person], every: int) -> tuple[str, list[Measures]]:
    """Train to the end; the checkpoint, and what unseen people measure after every `every` steps."""
    done = config.run.path / f"curve-{config.hash}-{every}.json"
    if done.exists():
        return tuple(json.loads(done.read_text()))
    shutil.rmtree(config.run.path, ignore_errors=True)  # what an interrupted or another run left
    curve = []
    with Run(config, Silent()) as run:
        run.start()
        while not run.finished:
            batches = run.fetch()
            losses = run.step(batches)
            run.agree(losses)
            run.report(batches)
            if run.due(every) or run.finished:
                curve.append({"step": run.engine.steps, **measure(run.forward, people)})
                if "views/loss" in losses:
                    curve[-1] |= {name: losses[name].item() for name in losses if name.startswith("views/")}
        run.finish()
        checkpoint = str(run.results()["checkpoint"])
    done.write_text(json.dumps([checkpoint, curve]))
    return checkpoint, curve


def report(curves: dict[str, list[list[Measures]]], as_json: bool) -> None:
    """Median curves of every arm; differences from the first arm, seed by seed, at the end."""
    for label, runs in curves.items():
        print(f"\n{label}: median over {len(runs)} seeds")
        for points in zip(*runs, strict=True):
            middle = {name: median_and_spread([point[name] for point in points])["median"] for name in points[0]}
            print(f"  step {middle['step']:>4.0f}" + _line(middle))
    without, *others = curves
    differences: dict[str, dict[str, list[float]]] = {}
    for label in others:
        ends = [(a[-1], b[-1]) for a, b in zip(curves[label], curves[without], strict=True)]
        differences[label] = {name: [a[name] - b[name] for a, b in ends] for name in SHOWN}
        print(f"\n{label}, minus without, after the last step, seed by seed")
        for name, values in differences[label].items():
            figures = median_and_spread(values)
            each = " ".join(f"{value:+.3f}" for value in values)
            print(f"  {name:<10}{each}   median {figures['median']:+.3f} iqr {figures['iqr']:.3f}")
    finish({"curves": curves, "differences": differences}, as_json)


def _line(measures: Measures) -> str:
    return "".join(f"  {name} {measures[name]:.3f}" for name in SHOWN)


if __name__ == "__main__":
    main()
