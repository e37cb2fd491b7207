"""What HeadsUp's parts bring, on synthetic people at nano scale: every study trains its variants with the same seeds.

    python benchmarks/ablations.py [--json] [--study NAME ...] [--seeds 3] [--steps 400] [--jobs 2] [--out FOLDER]

256 people with four expressions each in 16 views of 64 x 64; 32 others are measured, all their expressions, four views
that no source shows, the same views whatever the number of sources. Every trial is one process with one thread. What
is in `--out` already is not trained again. Differences are paired: same seed, same people. Their interval is from a
bootstrap over seeds and people.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _report import finish
from _trials import Trial, run_trials

from data.synth import synthesise

SIZE, FRAMES = (64, 64), 4
BASE = ("data.image_size=[64,64]", "data.target_views=4", "data.source_views=[1,8]", "optimizer.warmup_steps=40")
FAITHFUL = ("model.pixel_features=false", "model.color_skip=false")
REGIONS = ("objective.regions.eyes=0.5", "objective.regions.mouth=0.5", "objective.regions.size=32")


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        question: that it answers.
        variants: label -> settings over `BASE`. The first is what the others are compared with.
        views: numbers of source views in the table.
        equal_time: whether variants get as many steps as take the first one's processor time.
        regions: whether the boxes around eyes and mouth are measured, not whole images.
    """

    question: str
    variants: dict[str, tuple[str, ...]]
    views: tuple[int, ...] = (4,)
    equal_time: bool = False
    regions: bool = False


SWITCHES = {
    "faithful": FAITHFUL,
    "pixel features": ("model.color_skip=false",),
    "colour skip": ("model.pixel_features=false",),
    "both": (),
}
STUDIES = {
    "views": Study(
        "Does a number of source views drawn for every batch serve 1 to 8 views better than four always?",
        {"always 4": ("data.source_views=[4,4]",), "1 to 8, drawn": ()},
        (1, 2, 4, 8),
    ),
    "identities": Study(
        "Do more people in training make unseen people better, at equal steps?",
        {f"{count} people": (f"data.subjects={count}",) for count in (4, 16, 64)} | {"256 people": ()},
    ),
    "switches": Study("What do pixel-aligned features and the colour skip bring at equal steps?", SWITCHES),
    "switches-time": Study("And at equal processor time?", SWITCHES, equal_time=True),
    "anchor": Study(
        "The paper's ablation: Gaussians anchored to the neutral template, or to the mesh that follows the expression?",
        {"neutral": FAITHFUL, "tracked": (*FAITHFUL, "model.anchor=tracked")},
    ),
    "regions": Study(
        "Do the losses on eyes and mouth make eyes and mouth better?",
        {"without": (), "with": REGIONS},
        regions=True,
    ),
}


def main() -> None:
    """Train what is missing, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--people", type=int, default=256, help="to train on")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    parser.add_argument("--out", type=Path, default=Path("out/ablations"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    synthesise(f"{out}/data/train", arguments.people, image_size=SIZE, frames=FRAMES, workers=arguments.jobs)
    synthesise(f"{out}/data/unseen", 32, first=1_000_000, image_size=SIZE, frames=FRAMES, workers=arguments.jobs)
    results = {}
    for name in arguments.study:
        results[name] = answer(STUDIES[name], out, arguments.seeds, arguments.steps, arguments.jobs)
        show(name, STUDIES[name], results[name])
    finish(results, arguments.json)


def answer(study: Study, out: Path, seeds: int, steps: int, jobs: int) -> dict[str, Any]:
    """Figures of every variant; see `compare`."""
    lengths = dict.fromkeys(study.variants, steps)
    found = train(study, lengths, out, seeds, jobs)
    if study.equal_time:
        seconds = {label: float(np.median([r["cpu_seconds_per_step"] for r in runs])) for label, runs in found.items()}
        first = next(iter(seconds.values()))
        lengths = {label: round(steps * first / spent / 10) * 10 for label, spent in seconds.items()}
        found = train(study, lengths, out, seeds, jobs)
    return {label: compare(study, runs, next(iter(found.values()))) for label, runs in found.items()}


def train(study: Study, lengths: dict[str, int], out: Path, seeds: int, jobs: int) -> dict[str, list[dict[str, Any]]]:
    """Results of every variant, one for each seed."""
    trials = {
        label: [Trial((*BASE, f"trainer.steps={lengths[label]}", *extra), seed, f"{out}/data") for seed in range(seeds)]
        for label, extra in study.variants.items()
    }
    by_seed = [trial for together in zip(*trials.values(), strict=True) for trial in together]
    results = run_trials(by_seed, out / "trials", jobs)
    return {label: [results[trial] for trial in runs] for label, runs in trials.items()}


def compare(study: Study, runs: list[dict[str, Any]], first: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean PSNR by number of views, what that is above the first variant with its 95 % interval, and the costs."""
    figures: dict[str, Any] = {
        "steps": runs[0]["steps"],
        "cpu_seconds_per_step": float(np.median([run["cpu_seconds_per_step"] for run in runs])),
    }
    for views in map(str, study.views):
        own, others = (table(each, "regions" if study.regions else "psnr", views) for each in (runs, first))
        low, high = interval(own - others)
        figures[f"psnr_{views}"] = float(own.mean())
        figures[f"gain_{views}"] = {"mean": float((own - others).mean()), "low": low, "high": high}
        for cost in ("seconds", "decoder_seconds", "gaussians"):
            figures[f"{cost}_{views}"] = float(np.median([run[cost][views] for run in runs]))
    return figures


def table(runs: list[dict[str, Any]], kind: str, views: str) -> np.ndarray:
    """`[seed, person]` dB, mean over the person's captures."""
    rows = []
    for run in runs:
        people: dict[str, list[float]] = {}
        for capture, decibels in run[kind][views].items():
            people.setdefault(capture.rsplit("_", 1)[0], []).append(decibels)
        rows.append([np.mean(people[person]) for person in sorted(people)])
    return np.array(rows)


def interval(differences: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % of a bootstrap over seeds and people of `[seed, person]`."""
    rng = np.random.default_rng(0)
    seeds, people = differences.shape
    means = [
        differences[rng.integers(0, seeds, seeds)][:, rng.integers(0, people, people)].mean() for _ in range(draws)
    ]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def show(name: str, study: Study, results: dict[str, Any]) -> None:
    """The study's table."""
    print(f"\n{name}: {study.question}\n{'':<18}{'views':>6}{'dB':>8}{'gain':>8}{'95 %':>18}{'steps':>7}{'s/step':>8}")
    for label, figures in results.items():
        for views in study.views:
            gain = figures[f"gain_{views}"]
            between = f"{gain['low']:+.2f} to {gain['high']:+.2f}"
            print(
                f"{label:<18}{views:>6}{figures[f'psnr_{views}']:>8.2f}{gain['mean']:>+8.2f}{between:>18}"
                f"{figures['steps']:>7}{figures['cpu_seconds_per_step']:>8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
