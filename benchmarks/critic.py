"""Does the set critic tell consistent views from inconsistent ones, on heads that it has never seen?

    python benchmarks/critic.py [--json] [--seeds 3] [--steps 800]

Synthetic people as Gaussians, drawn at 64 x 64 from four random cameras. Positives show one head. Negatives show mixed
heads at the same poses, or the same head with another shape ("bent") or another pose ("turned") in every view. Each
view on its own is drawn from the same distribution in both: a positive's head is bent and turned too, once for the
whole set. So neither a single image nor the cameras give anything away, only what the views say about each other.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace

import torch
from _report import finish, median_and_spread
from _sets import KINDS, Strength, draw, head, some, stack
from scipy.stats import rankdata
from torch import Tensor

from configs.critics import SetCriticConfig
from models.critics import SetCritic
from models.critics.losses import critic_logistic
from models.gaussians import Gaussians

SETS = 18
"""Positives of a step, and negatives."""
CRITIC = SetCriticConfig(
    patch=16, stem_channels=(16, 32, 64, 96), width=96, blocks=3, heads=3, se3_channels=16, translation_init=1.0
)


def main() -> None:
    """Train with every seed, report areas under the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800, help="of training for each seed")
    parser.add_argument("--heads", type=int, default=128, help="to train on; 32 others are held out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--degrees", type=float, default=Strength.degrees, help="how far heads turn between views")
    parser.add_argument("--metres", type=float, default=Strength.metres, help="how far heads bend between views")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    strength = Strength(arguments.degrees, arguments.metres)
    heads = stack([head(number) for number in range(arguments.heads + 32)])
    seen, held_out = heads[: arguments.heads], heads[arguments.heads :]
    results = []
    for seed in range(arguments.seeds):
        began = time.perf_counter()
        critic = train(seen, strength, seed, arguments.steps)
        results.append({"minutes": (time.perf_counter() - began) / 60, **evaluate(critic, held_out, strength)})
        print("  ".join(f"{key} {value:.4g}" for key, value in results[-1].items()), flush=True)
    summary = {key: median_and_spread([result[key] for result in results]) for key in results[0]}
    finish({"seeds": results, **summary}, arguments.json)


def train(heads: Gaussians, strength: Strength, seed: int, steps: int, rate: float = 1e-3) -> SetCritic:
    """A critic after so many steps; a step sees as many positives as negatives, these in equal parts."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    critic = SetCritic(CRITIC)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        drawn = [
            draw(some(heads, SETS // (1 if kind == "one" else len(KINDS)), generator), kind, strength, generator)
            for kind in ("one", *KINDS)
        ]
        images, told = zip(*drawn, strict=True)
        seen = replace(
            told[0], world_to_camera=torch.cat([c.world_to_camera for c in told]), K=torch.cat([c.K for c in told])
        )
        logits = critic(torch.cat(images), seen)
        loss = critic_logistic(logits[:SETS], logits[SETS:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"    {step + 1}: {loss.item():.3f}", flush=True)
    return critic


@torch.no_grad()
def evaluate(critic: SetCritic, heads: Gaussians, strength: Strength, rounds: int = 16) -> dict[str, float]:
    """Area under the curve of positives against every kind of negative, and against both hard kinds together."""
    generator = torch.Generator().manual_seed(1_000_000)
    logits = {
        kind: torch.cat([critic(*draw(heads, kind, strength, generator)) for _ in range(rounds)])
        for kind in ("one", *KINDS)
    }
    hard = torch.cat([logits["bent"], logits["turned"]])
    return {
        f"auc_{name}": auc(logits["one"], negatives) for name, negatives in [*list(logits.items())[1:], ("hard", hard)]
    }


def auc(positives: Tensor, negatives: Tensor) -> float:
    """Chance that a positive's logit is above a negative's."""
    ranks = rankdata(torch.cat([positives, negatives]).numpy())
    n = len(positives)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negatives)))


if __name__ == "__main__":
    main()
