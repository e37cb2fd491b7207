"""Makes the picture of docs/benchmarks/ablations.md from ablations.json there: `python docs/make_ablations_picture.py`.

That file is the last line of `python benchmarks/ablations.py --json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DOCS = Path(__file__).parent


def main() -> None:
    """Draw four studies side by side."""
    results = json.loads((DOCS / "benchmarks" / "ablations.json").read_text())
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    views(axes[0], results["views"])
    identities(axes[1], results["identities"])
    bars(axes[2], results["switches"], "at equal steps")
    bars(axes[3], results["switches-time"], "at equal processor time")
    for axis in axes:
        axis.set_ylabel("PSNR of unseen people, dB")
        axis.grid(alpha=0.3)
    figure.savefig(DOCS / "images" / "ablations.png", dpi=110)


def views(axis: Axes, study: dict[str, Any]) -> None:
    """PSNR over the number of source views."""
    for label, figures in study.items():
        counts = sorted(int(key.removeprefix("psnr_")) for key in figures if key.startswith("psnr_"))
        axis.plot(counts, [figures[f"psnr_{count}"] for count in counts], "o-", label=label)
    axis.set(xscale="log", xlabel="source views", title="views in training")
    axis.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axis.minorticks_off()
    axis.legend()


def identities(axis: Axes, study: dict[str, Any]) -> None:
    """PSNR over the number of people to learn from, with the interval of the gain over the fewest."""
    counts = [int(label.split()[0]) for label in study]
    figures = list(study.values())
    means = [each["psnr_4"] for each in figures]
    spread = [
        [each["gain_4"]["mean"] - each["gain_4"]["low"] for each in figures],
        [each["gain_4"]["high"] - each["gain_4"]["mean"] for each in figures],
    ]
    axis.errorbar(counts, means, spread, fmt="o-", capsize=3)
    axis.set(xscale="log", xlabel="people in training", title="identities, 4 source views")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()


def bars(axis: Axes, study: dict[str, Any], title: str) -> None:
    """One bar for each switch."""
    heights = [figures["psnr_4"] for figures in study.values()]
    drawn = axis.bar(range(len(study)), heights, color=["0.6", "C0", "C1", "C2"])
    axis.bar_label(drawn, [f"{height:.1f}" for height in heights])
    axis.set_xticks(range(len(study)), [label.replace(" ", "\n") for label in study], fontsize=8)
    axis.set(title=f"switches, {title}", ylim=(min(heights) - 2, max(heights) + 1))


if __name__ == "__main__":
    main()
