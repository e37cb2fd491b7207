"""A picture of a dataset: its most common rig from above and from the side, and what it holds as small histograms."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.capture import camera_centers
from data.index import Rig
from data.inspect.summary import Summary, size
from data.synth import neutral_head

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

_INK, _BAR, _SKIN = "#24292f", "#5b84b1", "#cdb8a6"
# The world's axes that run to the right and up in a picture.
_ABOVE, _SIDE = (0, 2), (2, 1)


def draw_dataset(summary: Summary) -> bytes:
    """PNG of the rig around the template head, from above (the face looks down) and from the subject's left.

    Cameras are numbered in the rig's order and coloured by their height; numbers that would lie on others are left out.
    """
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "font.family": "DejaVu Sans", "text.color": _INK}):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.5, 7), dpi=100, facecolor="white", layout="constrained")
        grid = figure.add_gridspec(2, 4, height_ratios=[3.4, 1])
        rig, times = summary.rig
        _draw_rig(figure.add_subplot(grid[0, :2]), rig, _ABOVE, "from above, the face looks down")
        _draw_rig(figure.add_subplot(grid[0, 2:]), rig, _SIDE, "from the side, the face looks to the right")
        _bars(figure.add_subplot(grid[1, 0]), "views per capture", _numbers(summary.views))
        _bars(figure.add_subplot(grid[1, 1]), "captures per subject", _numbers(summary.frames))
        sizes = Counter({f"{w} x {h}": n for (h, w), n in summary.sizes.items()})
        _bars(figure.add_subplot(grid[1, 2]), "views by image size", _most(sizes))
        masked = round(summary.masked * sum(summary.formats.values()))
        kinds = {**_most(summary.formats), "masks": masked}
        _bars(figure.add_subplot(grid[1, 3]), "views by format, and masks", kinds)
        info = summary.info
        title = f"{info.subjects:,} subjects, {info.captures:,} captures, {info.views:,} views, {size(info.bytes)}"
        share = f"most common of {summary.rigs:,} rigs: {len(rig.cameras)} cameras, {times:,} captures"
        figure.suptitle(f"{title}\n{share}", fontsize=11)
        FigureCanvasAgg(figure)
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_rig(axes: Axes, rig: Rig, plane: tuple[int, int], title: str) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.patheffects import withStroke

    head = neutral_head()
    shown = head.vertices[head.faces]
    triangles: Any = shown[shown[:, :, 1].min(axis=1) > -0.16][:, :, list(plane)]
    axes.add_collection(PolyCollection(triangles, facecolors=_SKIN, edgecolors=_SKIN, linewidths=0.6, zorder=3))
    centers = camera_centers(rig.world_to_camera)
    spread = float(np.ptp(centers[:, 1])) or 1.0
    colors = colormaps["viridis"](0.72 * (centers[:, 1] - centers[:, 1].min()) / spread)
    reach = 0.2 * float(np.median(np.linalg.norm(centers, axis=1)))
    labels = centers - 0.3 * reach * rig.world_to_camera[:, 2, :3]
    for view, color in enumerate(colors):
        lines = _frustum(rig.world_to_camera[view], rig.K[view], rig.sizes[view], reach)[:, :, list(plane)]
        axes.add_collection(LineCollection(list(lines), colors=[color], linewidths=0.9, zorder=4))
    for view in _apart(labels[:, list(plane)], 0.22 * reach):
        x, y = labels[view, list(plane)]
        text = axes.text(x, y, str(view), ha="center", va="center", fontsize=8, color=colors[view], zorder=5)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    held = np.vstack([labels, head.vertices[head.vertices[:, 1] > -0.16]])[:, list(plane)]
    low, high = held.min(axis=0) - 0.1 * reach, held.max(axis=0) + 0.1 * reach
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(*((high[1], low[1]) if plane == _ABOVE else (low[1], high[1])))
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"{'xyz'[plane[0]]} [m]")
    axes.set_ylabel(f"{'xyz'[plane[1]]} [m]")
    axes.set_axisbelow(True)
    axes.grid(color="#e6eaee", linewidth=0.8)
    _quiet(axes)


def _apart(places: Floats, distance: float) -> list[int]:
    """Places that do not lie on an earlier one."""
    kept: list[int] = []
    for place in range(len(places)):
        if not kept or np.linalg.norm(places[kept] - places[place], axis=1).min() > distance:
            kept.append(place)
    return kept


def _frustum(world_to_camera: Floats, K: Floats, image: tuple[int, int], reach: float) -> Floats:
    """Edges of the pyramid that a camera sees up to `reach` metres, `[8, 2, 3]` in the world."""
    height, width = image
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    local = np.linalg.solve(K, corners.T).T * reach
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    world = (local - translation) @ rotation
    center = -translation @ rotation
    around = np.stack([world, np.roll(world, -1, axis=0)], axis=1)
    return np.concatenate([np.stack([np.broadcast_to(center, world.shape), world], axis=1), around])


def _bars(axes: Axes, title: str, values: dict[str, int]) -> None:
    axes.barh(range(len(values)), list(values.values()), color=_BAR, height=0.55)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(max(2.5, len(values) - 0.4), -0.6)
    for place, value in enumerate(values.values()):
        axes.annotate(f" {value:,}", (value, place), va="center", fontsize=8, color=_INK)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlim(0, 1.25 * max(values.values()))
    axes.set_xticks([])
    _quiet(axes)


def _quiet(axes: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK)


def _numbers(counter: Counter[int], most: int = 6) -> dict[str, int]:
    """The values in order; of many only ranges of them."""
    if len(counter) <= most:
        return {str(value): counter[value] for value in sorted(counter)}
    edges = np.unique(np.linspace(min(counter), max(counter) + 1, most + 1).round().astype(int))
    binned = {}
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        name = str(low) if high == low + 1 else f"{low}-{high - 1}"
        binned[name] = sum(times for value, times in counter.items() if low <= value < high)
    return binned


def _most(counter: Counter[str], most: int = 3) -> dict[str, int]:
    shown = dict(counter.most_common(most))
    rest = sum(counter.values()) - sum(shown.values())
    return {**shown, "other": rest} if rest else shown
