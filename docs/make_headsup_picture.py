"""Draws docs/images/headsup.png: the architecture, with what a trained network really makes at each place.

make demo
python docs/make_headsup_picture.py out/demo/run/checkpoints/step-00000720 'out/demo/data/unseen#s1000003'

The numbers are read from the presets headsup-base and headsup-nano, the pictures from the checkpoint.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon
from torch import Tensor

from configs import load_config
from configs.systems.headsup import HeadsUpConfig
from data.locate import open_capture
from data.views import Cameras, Views
from models.headsup.decoder import map_channels
from models.system import Prediction, composite, predict
from models.template import load_template
from trainer.inference import load_system
from trainer.reconstruct import capture_views, choose_views

OUT = Path(__file__).parent / "images" / "headsup.png"
INK, FAINT, LINE = "#1f2430", "#667085", "#98a2b3"
BLUE, GREEN, ORANGE, PURPLE = (
    ("#e3edfb", "#2a5db0"),
    ("#e2f3ea", "#2f8f63"),
    ("#fdeedd", "#d9771f"),
    ("#efe7fb", "#7048b6"),
)
WIDTH, HEIGHT = 160.0, 78.0


def main(checkpoint: str, location: str) -> None:
    """Predict one head and draw around it."""
    sizes = headsup("headsup-base"), headsup("headsup-nano")
    shown = pictures(checkpoint, location)
    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": INK})
    figure = plt.figure(figsize=(WIDTH / 10, HEIGHT / 10), dpi=115)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    inputs(axes, shown)
    foreground(axes, sizes, shown)
    queries(axes, sizes, shown)
    outputs(axes, sizes, shown)
    background(axes, sizes, shown)
    switches(axes)
    table(axes, sizes)
    figure.savefig(OUT)


def headsup(preset: str) -> tuple[HeadsUpConfig, tuple[int, int]]:
    """A preset's network and its image size."""
    config = load_config(preset)
    assert isinstance(config.model, HeadsUpConfig)
    return config.model, config.data.image_size


@torch.no_grad()
def pictures(checkpoint: str, location: str) -> dict[str, Any]:
    """What is shown: photographs, the template, the maps that were predicted, and renders of them."""
    system, config = load_system(checkpoint)
    capture = open_capture(location)
    names, held = choose_views(capture, 4)
    source = capture_views(capture, names, config.data.image_size)
    prediction = predict(system, source)
    side = math.isqrt(len(prediction.foreground))
    front = facing(capture_views(capture, held, config.data.image_size))
    alone = Prediction(prediction.foreground, None, {})
    behind = Prediction(prediction.foreground.map(lambda t: t[:, :0]), prediction.background, {})
    fields = prediction.foreground
    maps = {
        "position": normed(fields.means[0].view(side, side, 3)),
        "scale": normed(fields.scales[0].view(side, side, 3)),
        "opacity": torch.sigmoid(fields.opacities[0].view(side, side, 1)).expand(-1, -1, 3),
        "colour": (0.5 + 0.28209 * fields.sh[0, :, 0]).view(side, side, 3).clamp(0, 1),
    }
    return {
        "source": [picture(image) for image in source.images[0]],
        "prior": normed(load_template("headway").maps(64).positions).numpy(),
        "maps": {name: image.numpy() for name, image in maps.items()},
        "person": picture(composite(alone, larger(front.cameras), background=torch.ones(3)).images[0, 0]),
        "background": picture(composite(behind, larger(front.cameras)).images[0, 0]),
        "both": picture(composite(prediction, larger(front.cameras)).images[0, 0]),
        "target": picture(front.images[0, 0]),
    }


def facing(views: Views) -> Views:
    """The one view that looks at the face most squarely."""
    place = int(views.cameras.centers[0, :, 2].argmax())
    return views[:, place : place + 1]


def larger(cameras: Cameras) -> Cameras:
    """The same cameras, for pictures of 256x256."""
    return cameras.resized(256, 256)


def normed(values: Tensor) -> Tensor:
    """`[s, s, 3]` stretched to [0, 1] channel by channel, all but the outermost hundredth."""
    flat = values.flatten(0, 1)
    low, high = flat.quantile(0.01, dim=0), flat.quantile(0.99, dim=0)
    return ((values - low) / (high - low)).clamp(0, 1)


def picture(image: Tensor) -> Any:
    """`[3, h, w]` as matplotlib takes it."""
    return image.clamp(0, 1).permute(1, 2, 0).numpy()


# --- parts of the drawing


def inputs(axes: Axes, shown: dict[str, Any]) -> None:
    """The source views."""
    for place, image in enumerate(shown["source"]):
        paste(axes, image, 3 + 8.8 * (place % 2), 58.6 - 8.8 * (place // 2), 8.4)
    text(axes, 11.6, 69.9, "source views", bold=True)
    text(axes, 11.6, 47.2, "any number, calibrated;\n+ Plücker rays of every pixel")


def foreground(axes: Axes, sizes: Any, shown: dict[str, Any]) -> None:
    """Encoder, tokens, blocks, latent, decoder."""
    (base, size), _ = sizes
    arrow(axes, (20.6, 58), (24, 58))
    funnel(axes, 24, 58, (9, 5), BLUE, "residual\nencoder")
    text(axes, 29, 46.4, "every view\non its own")
    arrow(axes, (34, 58), (37.4, 58))
    for place in range(3, -1, -1):
        grid(axes, 37.6 + 0.8 * place, 54.0 + 0.8 * place, 6, BLUE, above=2 - 0.1 * place)
    text(axes, 41.8, 64.3, "tokens", bold=True)
    tokens = f"{math.ceil(size[0] / base.stride)} x {math.ceil(size[1] / base.stride)} a view"
    text(axes, 41.8, 51.6, f"{tokens},\n{base.width} channels")
    arrow(axes, (46.6, 58), (51, 58), GREEN[1])
    text(axes, 48.8, 59.6, "K, V", color=GREEN[1])
    box(axes, 51, 46.6, 24, 21, ("#ffffff", GREEN[1]))
    text(axes, 63, 69.9, f"{base.blocks} blocks", bold=True)
    for place, name in enumerate(("cross-attention\nlatents read the tokens", "self-attention", "MLP")):
        low, tall = ((59.6, 6.4), (54.0, 4.2), (48.4, 4.2))[place]
        box(axes, 53, low, 20, tall, GREEN, name)
        if place:
            arrow(axes, (63, low + tall + 1.4), (63, low + tall), GREEN[1])
    arrow(axes, (75, 58), (78.4, 58))
    grid(axes, 78.6, 53.0, 10, PURPLE)
    text(axes, 83.6, 65.6, "latent Z", bold=True)
    text(axes, 83.6, 50.9, f"{base.latent_size} x {base.latent_size} x {base.width},\nhowever many views")
    arrow(axes, (88.8, 58), (92, 58))
    funnel(axes, 92, 58, (5, 9), PURPLE, "residual\ndecoder")
    text(axes, 97, 46.4, "twice the side\nper level")
    arrow(axes, (102, 58), (105.4, 58))


def queries(axes: Axes, sizes: Any, shown: dict[str, Any]) -> None:
    """Learnable tokens and the template's prior."""
    (base, _), _ = sizes
    grid(axes, 51.6, 31.6, 8, ORANGE)
    text(axes, 55.6, 29.4, f"learnable queries\n{base.latent_size} x {base.latent_size} x {base.width}")
    text(axes, 62.8, 35.6, "+", size=15)
    paste(axes, shown["prior"], 66.2, 31.6, 8)
    text(axes, 70.2, 29.4, "prior: where the neutral\ntemplate's points are")
    arrow(axes, (63, 38), (63, 46.6), ORANGE[1])
    text(axes, 64, 42.6, "latents", color=ORANGE[1], align="left")


def outputs(axes: Axes, sizes: Any, shown: dict[str, Any]) -> None:
    """UV maps and the Gaussians that they are."""
    (base, _), _ = sizes
    for place, (name, image) in enumerate(shown["maps"].items()):
        x, y = 105.6 + 9.2 * (place % 2), 59.2 - 10.6 * (place // 2)
        paste(axes, image, x, y, 8.4)
        text(axes, x + 4.2, y - 1.1, name, size=7.5)
    text(axes, 114.4, 69.9, "UV maps", bold=True)
    text(axes, 114.4, 45.0, f"{base.uv_size} x {base.uv_size} x {map_channels(base.sh_degree)}")
    arrow(axes, (123.6, 58), (128.4, 58))
    text(axes, 126, 60.6, "+ neutral\ntemplate", size=7.5)
    paste(axes, shown["person"], 129, 49.4, 17.4)
    text(axes, 137.7, 69.9, f"{base.uv_size**2:,} Gaussians of the person", bold=True)


def background(axes: Axes, sizes: Any, shown: dict[str, Any]) -> None:
    """The branch below, and the two laid over each other."""
    (base, _), _ = sizes
    y, settings = 19.5, base.background
    axes.plot([11.4, 11.4], [44.8, y], color=LINE, linewidth=1.4)
    arrow(axes, (11.4, y), (24, y))
    funnel(axes, 24, y, (6, 2.6), BLUE, "background\nencoder")
    arrow(axes, (34, y), (37.4, y))
    box(axes, 37.6, y - 1.4, 9.4, 2.8, PURPLE, f"{settings.latent} numbers")
    text(axes, 42.3, y + 2.6, "mean over views")
    arrow(axes, (47, y), (92, y))
    funnel(axes, 92, y, (2.6, 6), PURPLE, "background\ndecoder")
    arrow(axes, (102, y), (108.8, y))
    paste(axes, shown["background"], 109, y - 5.5, 11)
    text(axes, 114.5, y - 7.3, f"{settings.height} x {settings.width} Gaussians on a sphere")
    arrow(axes, (120.2, y), (128.6, y))
    arrow(axes, (137.7, 49.2), (137.7, y + 9.2))
    text(axes, 138.7, y + 14.6, "laid over", align="left")
    paste(axes, shown["both"], 129, y - 8.7, 17.4)
    text(axes, 137.7, y - 10.5, "as a held-back camera sees it")
    paste(axes, shown["target"], 149, y - 3.4, 8)
    text(axes, 153, y - 5.2, "photograph")


def switches(axes: Axes) -> None:
    """The two shortcuts beyond the paper, dashed."""
    dashed: dict[str, Any] = {"linestyle": (0, (4, 2.5)), "linewidth": 1.4, "color": ORANGE[1]}
    axes.plot([11.6, 11.6, 114.4, 114.4], [71.4, 74.0, 74.0, 72.6], **dashed)
    arrow(axes, (114.4, 72.8), (114.4, 71.2), ORANGE[1])
    words = "model.color_skip (ours): source colours where the Gaussians project, through a gate"
    text(axes, 63, 75.6, words, color=ORANGE[1])
    axes.plot([29, 29, 49.4], [44.4, 35.6, 35.6], **dashed)
    arrow(axes, (49.2, 35.6), (51.2, 35.6), ORANGE[1])
    text(axes, 38, 31.8, "model.pixel_features (ours):\nfeatures where the\ntemplate's points project", color=ORANGE[1])


def table(axes: Axes, sizes: Any) -> None:
    """What the two presets have."""
    columns = (3.0, 26.0, 46.0)
    rows = [("", "headsup-base", "headsup-nano")]
    left, right = facts(*sizes[0]), facts(*sizes[1])
    rows += [(name, left[name], right[name]) for name in left]
    for place, cells in enumerate(rows):
        for column, cell in zip(columns, cells, strict=True):
            color = INK if column == columns[0] else ""
            text(axes, column, 10.4 - 2.1 * place, cell, align="left", bold=place == 0, color=color)
    said = "Numbers in the drawing: headsup-base. Pictures: headsup-nano after make demo."
    text(axes, 157, 2.0, said, align="right", size=7.5)


def facts(model: HeadsUpConfig, size: tuple[int, int]) -> dict[str, str]:
    """Sizes of a network in words."""
    tokens = math.ceil(size[0] / model.stride) * math.ceil(size[1] / model.stride)
    return {
        "images, tokens a view": f"{size[0]} x {size[1]}, {tokens:,}",
        "latent Z": f"{model.latent_size} x {model.latent_size} x {model.width}",
        "blocks, heads": f"{model.blocks}, {model.heads}",
        "Gaussians": f"{model.uv_size**2:,} + {model.gaussians - model.uv_size**2:,}",
    }


# --- strokes


def text(axes: Axes, x: float, y: float, words: str, **style: Any) -> None:
    """Words around a point; `bold`, `color`, `align` and `size` where they differ."""
    bold = style.get("bold", False)
    color = style.get("color") or (INK if bold else FAINT)
    font = {"fontsize": style.get("size", 8.5), "fontweight": "bold" if bold else "normal"}
    axes.text(x, y, words, ha=style.get("align", "center"), va="center", color=color, **font)


def box(axes: Axes, x: float, y: float, wide: float, tall: float, colors: tuple[str, str], words: str = "") -> None:
    """A rounded box with words in it."""
    shape = FancyBboxPatch((x, y), wide, tall, boxstyle="round,pad=0,rounding_size=0.9")
    shape.set(facecolor=colors[0], edgecolor=colors[1], linewidth=1.2)
    axes.add_patch(shape)
    text(axes, x + wide / 2, y + tall / 2, words, color=INK)


def funnel(axes: Axes, x: float, y: float, halves: tuple[float, float], colors: tuple[str, str], words: str) -> None:
    """A trapezoid ten wide that begins at `x`; its half heights left and right."""
    (left, right), end = halves, x + 10
    corners = [(x, y - left), (x, y + left), (end, y + right), (end, y - right)]
    axes.add_patch(Polygon(corners, facecolor=colors[0], edgecolor=colors[1], linewidth=1.2, joinstyle="round"))
    text(axes, x + 5, y, words, color=INK)


def grid(axes: Axes, x: float, y: float, side: float, colors: tuple[str, str], above: float = 1.0) -> None:
    """A square of cells; `above` orders those that overlap."""
    shape = FancyBboxPatch((x, y), side, side, boxstyle="round,pad=0,rounding_size=0.3", zorder=above)
    shape.set(facecolor=colors[0], edgecolor=colors[1])
    axes.add_patch(shape)
    for line in np.arange(1, side):
        axes.plot([x + line, x + line], [y, y + side], color=colors[1], linewidth=0.35, zorder=above)
        axes.plot([x, x + side], [y + line, y + line], color=colors[1], linewidth=0.35, zorder=above)


def paste(axes: Axes, image: Any, x: float, y: float, side: float) -> None:
    """A picture, square."""
    axes.imshow(image, extent=(x, x + side, y, y + side), aspect="auto", interpolation="lanczos", zorder=2)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = LINE) -> None:
    """From one point to another."""
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, lw=1.4, color=color, shrinkA=0, shrinkB=0)
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
