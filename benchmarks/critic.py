"""Does the set critic tell consistent views from inconsistent ones, on heads that it has never seen?

    python benchmarks/critic.py [--json] [--seeds 3] [--steps 1200]

Synthetic people as Gaussians, drawn at 64 x 64 from four random cameras that stand near each other, as neighbours on a
dense rig do; tested also with cameras further apart than in training. Positives show one head. Negatives show mixed
heads at the same poses, or the same head with another shape ("bent") or another pose ("turned") in every view. Each
view on its own is drawn from the same distribution in both: a positive's head is bent and turned too, once for the
whole set. So neither a single image nor the cameras give anything away, only what the views say about each other.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from _report import finish, median_and_spread
from _sets import KINDS, SPREAD, Strength, displacement, draw, head, joined, pairs, some, stack
from scipy.stats import rankdata
from torch import Tensor

from configs.critics import SetCriticConfig
from models.critics import SetCritic
from models.critics.losses import critic_logistic
from models.gaussians import Gaussians

PAIRS, LATER = (2, 4, 1), (0, 6, 1)
"""Heads of every kind in a step; each gives two positives and two negatives. `LATER` in three steps of four once
`SETTLED` of them are done: mixed heads are known by then, and bent ones need the most examples."""
SETTLED = 0.15
BOOST = 0.5
"""How much further heads bend and turn at the start of training; gone after 60 % of it."""
FACTORS = (0.5, 1.0, 1.5)
"""Strengths to test at, times the one to train with."""
SPREADS = (20.0, 75.0)
"""Degrees, as `SPREAD`: how far apart cameras stand in further tests."""
CRITIC = SetCriticConfig(patch=16, stem_channels=(16, 32, 64, 96), width=96, blocks=3, heads=3, se3_channels=16)


def main() -> None:
    """Train with every seed, report areas under the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200, help="of training for each seed")
    parser.add_argument("--heads", type=int, default=128, help="to train on; 32 others are held out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--degrees", type=float, default=Strength.degrees, help="how far heads turn between views")
    parser.add_argument("--metres", type=float, default=Strength.metres, help="how far heads bend between views")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    strength = Strength(arguments.degrees, arguments.metres)
    heads = stack([head(number) for number in range(arguments.heads + 32)])
    seen, held_out = heads[: arguments.heads], heads[arguments.heads :]
    pixels = displacement(held_out, strength, torch.Generator().manual_seed(0))
    print(f"a bend moves what one sees by {pixels:.2f} pixels, root mean square")
    results = []
    for seed in range(arguments.seeds):
        began = time.process_time()
        critic = train(seen, held_out, strength, seed, arguments.steps)
        result = {"cpu_minutes": (time.process_time() - began) / 60}
        for factor in FACTORS:
            areas = evaluate(critic, held_out, strength.times(factor))
            result |= {f"{kind}_x{factor:g}": area for kind, area in areas.items()}
        for spread in SPREADS:
            areas = evaluate(critic, held_out, strength, spread=spread)
            result |= {f"{kind}_{spread:g}degrees": area for kind, area in areas.items()}
        results.append(result)
        print("  ".join(f"{key} {value:.3f}" for key, value in result.items()), flush=True)
    summary = {key: median_and_spread([result[key] for result in results]) for key in results[0]}
    print(f"\n{'area under the curve':<24}{'median':>8}{'iqr':>8}")
    for key, figures in summary.items():
        print(f"{key:<24}{figures['median']:>8.3f}{figures['iqr']:>8.3f}")
    finish({"seeds": results, "pixels": pixels, **summary}, arguments.json)


def train(
    heads: Gaussians, held_out: Gaussians, strength: Strength, seed: int, steps: int, rate: float = 2e-3
) -> SetCritic:
    """A critic after so many steps; heads bend and turn further at first, which is easier to see."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    critic = SetCritic(CRITIC)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        now = strength.times(1 + BOOST * max(0.0, 1 - step / (0.6 * steps)))
        counts = PAIRS if step < SETTLED * steps or step % 4 == 0 else LATER
        drawn = [
            pairs(some(heads, count, generator), kind, now, generator)
            for kind, count in zip(KINDS, counts, strict=True)
            if count
        ]
        positives, negatives, told = zip(*drawn, strict=True)
        logits = critic(torch.cat(positives + negatives), joined([*told, *told]))
        loss = critic_logistic(*logits.chunk(2))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 199:
            areas = evaluate(critic, held_out, strength, rounds=2)
            print(f"    step {step + 1}: " + "  ".join(f"{k} {area:.3f}" for k, area in areas.items()), flush=True)
    return critic


@torch.no_grad()
def evaluate(
    critic: SetCritic, heads: Gaussians, strength: Strength, rounds: int = 6, spread: float = SPREAD
) -> dict[str, float]:
    """Area under the curve of positives against every kind of negative, and against both hard kinds together."""
    generator = torch.Generator().manual_seed(1_000_000)
    logits = {
        kind: torch.cat([critic(*draw(heads, kind, strength, generator, spread=spread)) for _ in range(rounds)])
        for kind in ("one", *KINDS)
    }
    logits["hard"] = torch.cat([logits["bent"], logits["turned"]])
    return {kind: auc(logits["one"], logits[kind]) for kind in (*KINDS, "hard")}


def auc(positives: Tensor, negatives: Tensor) -> float:
    """Chance that a positive's logit is above a negative's."""
    ranks = rankdata(torch.cat([positives, negatives]).numpy())
    n = len(positives)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negatives)))


if __name__ == "__main__":
    main()
