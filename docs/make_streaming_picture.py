"""Draws docs/images/streaming.png from what two benchmarks printed with `--json`.

python benchmarks/streaming.py --json | tail -1 > streaming.json
python benchmarks/faults.py --json | tail -1 > faults.json
python docs/make_streaming_picture.py streaming.json faults.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

OUT = Path(__file__).parent / "images" / "streaming.png"
COLORS = {"headway": "#2a5db0", "webdataset": "#e67e2e", "litdata": "#3a9c6b", "s3fs": "#9aa0ab"}
NAMES = {"headway": "Headway", "s3fs": "s3fs alone"}
INK, PALE = "#1d2129", "#e6e8ee"


def main(streaming: str, faults: str) -> None:
    """Three panels: samples per second, bytes asked, and the tail of the latency on a bad day."""
    rates, bad_day = (json.loads(Path(path).read_text()) for path in (streaming, faults))
    plt.rcParams.update({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": PALE})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), width_ratios=(2.2, 1.3, 1.3))
    groups = [
        (f"8 of {views}\n{link}", rates["links"][link][f"8_of_{views}"])
        for link in reversed(rates["links"])
        for views in (16, 80)
    ]
    bars(left, groups, "samples_per_second", "samples a second")
    shaped = [(label, found) for label, found in groups if "loopback" not in label]
    bars(middle, shaped, "link_over_needed", "bytes over the link / bytes of the views", limit=4.0)
    middle.axhline(1, color=INK, linewidth=0.8)
    tail(right, bad_day["sample_seconds"])
    handles = [Patch(color=color) for color in COLORS.values()]
    labels = [NAMES.get(name, name) for name in COLORS]
    figure.legend(handles, labels, loc="upper left", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    figure.savefig(OUT, dpi=110)


def bars(axes: Axes, groups: list[tuple[str, Any]], key: str, title: str, limit: float | None = None) -> None:
    """One group of bars for each set and link, the median of all turns, and the quartiles' distance as a line."""
    width = 0.8 / len(COLORS)
    for place, (_, found) in enumerate(groups):
        for number, name in enumerate(name for name in COLORS if key in found.get(name, {})):
            value = found[name][key]
            x = place + (number - (len(COLORS) - 1) / 2) * width
            shown = value["median"] if limit is None else min(value["median"], limit)
            axes.bar(x, shown, 0.92 * width, color=COLORS[name], yerr=value["iqr"] / 2, ecolor=INK)
            text = f"{value['median']:.0f}" if limit is None else f"{value['median']:.1f}"
            axes.annotate(text, (x, shown), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(range(len(groups)), [label for label, _ in groups])
    finish(axes, title)


def tail(axes: Axes, seconds: dict[str, dict[str, Any]]) -> None:
    """Share of samples that took longer than x seconds."""
    for name, color in (("unhedged", COLORS["webdataset"]), ("hedged", COLORS["headway"])):
        quantiles = seconds[name]["quantiles"]
        left = [1 - number / (len(quantiles) - 1) for number in range(len(quantiles))]
        axes.step(
            quantiles[:-1], left[:-1], where="post", color=color, label=f"hedges {'on' if name == 'hedged' else 'off'}"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.legend(frameon=False)
    finish(axes, "samples slower than that, on a bad day")


def finish(axes: Axes, title: str) -> None:
    """Quiet frames."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis="y", color=PALE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
