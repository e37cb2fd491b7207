"""Makes the picture of docs/critics.md: `python docs/make_critics_picture.py`, about ten seconds on one core.

The sets that benchmarks/critic.py trains the set critic on: two heads, four cameras each; one row for each kind.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from _sets import KINDS, Strength, draw, head, stack  # noqa: E402

SIZE, SUBJECTS, LABEL = 128, (0, 5), 18
ROWS = {
    "one": "positive: one head",
    "mixed": "negative: mixed heads at the same poses",
    "bent": "hard negative: one head, another shape in every view (1.5 cm)",
    "turned": "hard negative: one head, turned between the views (30 degrees)",
}


def main() -> None:
    """Draw every kind with the same cameras."""
    heads = stack([head(number, stride=1) for number in SUBJECTS])
    rows = []
    for kind in ("one", *KINDS):
        images, _ = draw(heads, kind, Strength(), torch.Generator().manual_seed(4), SIZE)
        label = Image.new("RGB", (SIZE * images.shape[1] * len(SUBJECTS), LABEL), "white")
        ImageDraw.Draw(label).text((4, 3), ROWS[kind], fill="black")
        pictures = torch.cat(list(images.flatten(0, 1)), dim=-1).clamp(0, 1)
        rows += [np.asarray(label), (pictures * 255).round().byte().permute(1, 2, 0).numpy()]
    Image.fromarray(np.concatenate(rows)).save(Path(__file__).parent / "images" / "critic_sets.jpg", quality=90)


if __name__ == "__main__":
    main()
