"""Captures of one synthetic subject: body, colours, cameras and pictures put together."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from data.capture import Capture
from data.synth.body import Body
from data.synth.expressions import draw_expression
from data.synth.head import template
from data.synth.render import Figure, Picture
from data.synth.rig import RigSize, check_least, rig_cameras
from data.synth.studio import Backdrop
from data.synth.subject import CAMERAS, Subject, draw_subject
from data.synth.texture import albedo

QUALITY = 92


def synthesise_subject(
    seed: int, number: int, frames: int = 1, rig: RigSize = 16, image_size: tuple[int, int] = (128, 128)
) -> list[Capture]:
    """All captures of one subject: a pure function of the arguments, to the byte.

    Args:
        seed: of the population.
        number: of the subject in it.
        frames: captures to take; the first is neutral, the others show expressions.
        rig: 16 or 80 cameras, the same for all frames.
        image_size: height and width in pixels.

    Raises:
        UserError: a rig, size or number that cannot be.
    """
    for where, value, least in (("seed", seed, 0), ("number", number, 0), ("frames", frames, 1)):
        check_least(where, value, least)
    subject = draw_subject(seed, number)
    cameras = rig_cameras(rig, image_size, subject.rng(CAMERAS))
    body, backdrop = Body(subject), Backdrop(seed)
    names = template().mesh.expression_names
    captures = []
    for frame in range(frames):
        expression = draw_expression(subject, frame, names)
        figure = pose(subject, body, expression, image_size)
        views = [
            figure.view(world_to_camera, K, image_size, backdrop, subject.exposure)
            for world_to_camera, K in zip(*cameras, strict=True)
        ]
        captures.append(_capture(subject, frame, cameras, views, expression))
    return captures


def pose(subject: Subject, body: Body, expression: dict[str, float], image_size: tuple[int, int]) -> Figure:
    """A subject with a face on, ready to be seen; its texture has about twice the resolution of the images."""
    texels = min(max(2 ** int(np.ceil(np.log2(1.6 * max(image_size)))), 256), 1024)
    return Figure(body.vertices(expression), albedo(subject, texels, expression.get("jawOpen", 0.0)), body.gloss)


def _capture(
    subject: Subject,
    frame: int,
    cameras: tuple[NDArray[np.float64], NDArray[np.float64]],
    views: list[Picture],
    expression: dict[str, float],
) -> Capture:
    count = len(views)
    height, width = views[0].mask.shape
    return Capture(
        subject=subject.name,
        frame=f"f{frame:03d}",
        cameras=tuple(f"c{camera:02d}" for camera in range(count)),
        world_to_camera=cameras[0],
        K=cameras[1],
        sizes=((height, width),) * count,
        images=tuple(simplejpeg.encode_jpeg(view.image, QUALITY, colorsubsampling="444") for view in views),
        masks=tuple(_png(view.mask) for view in views),
        expression=expression,
        meta={"source": "synthetic", "seed": subject.seed, "number": subject.number, **subject.attributes},
    )


def _png(mask: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
