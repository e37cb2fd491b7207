"""Makes docs/images/regions.jpg and measures what it shows: `python docs/make_regions_picture.py`, some 20 seconds.

Three synthetic people with faces on, seen by five cameras of their rigs; the boxes of the region losses, drawn where
they count, and the crops of the camera in front. The boxes come from the neutral template alone. Then, over many
people and faces, how often the painted eyes and lips lie wholly in their boxes.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from configs.objectives.reconstruction import RegionsConfig
from data.capture import Capture
from data.synth import synthesise_subject
from data.synth.body import Body
from data.synth.expressions import draw_expression
from data.synth.head import template
from data.synth.regions import eye_opening, lips
from data.synth.rig import rig_cameras
from data.synth.subject import CAMERAS, draw_subject
from data.views import Cameras
from models.template import Region, face_regions, load_template
from trainer.objectives.regions import Boxes, crop, region_boxes

OUT = Path(__file__).parent / "images" / "regions.jpg"
PEOPLE = ((26, 1), (12, 3), (8, 3))  # number and frame
SIZE, CROP, GAP = 256, 126, 4
COLORS = ("#2a7de1", "#2a7de1", "#f08a24")


def main() -> None:
    """Draw a row for each person."""
    regions = list(face_regions(load_template("headway").mesh).values())
    rows = []
    for number, frame in PEOPLE:
        capture = synthesise_subject(0, number, frames=frame + 1, image_size=(SIZE, SIZE))[frame]
        chosen = views_of(capture)
        images, cameras = pixels_of(capture, chosen), cameras_of(capture, chosen)
        boxes = region_boxes(regions, cameras, RegionsConfig().padding)
        rows.append(row(images, boxes))
    sheet = Image.new("RGB", (rows[0].width, sum(r.height for r in rows) + GAP * (len(rows) - 1)), "white")
    for place, picture in enumerate(rows):
        sheet.paste(picture, (0, place * (SIZE + GAP)))
    sheet.save(OUT, quality=88)
    for name, shares in coverage(regions).items():
        whole = np.mean(np.array(shares) > 0.99)
        print(f"{name}: {len(shares)} boxes, {whole:.1%} whole, {np.mean(shares):.2%} of it inside")


def coverage(regions: list[Region], people: int = 80) -> dict[str, list[float]]:
    """Of every box that counts, the share of the painted part that lies in it: neutral and two faces of each person."""
    head = template()
    points = head.positions
    left, eyes = points[:, 0] > 0, eye_opening(points) > 0.5
    painted = {"left eye": eyes & left, "right eye": eyes & ~left, "lips": lips(points) > 0.5}
    found: dict[str, list[float]] = {name: [] for name in painted}
    for number in range(people):
        subject = draw_subject(0, number)
        matrices, K = (torch.from_numpy(each).float() for each in rig_cameras(16, (SIZE, SIZE), subject.rng(CAMERAS)))
        cameras, body = Cameras(matrices, K, SIZE, SIZE), Body(subject)
        boxes = region_boxes(regions, cameras, RegionsConfig().padding)
        for frame in range(3):
            vertices = body.vertices(draw_expression(subject, frame, head.mesh.expression_names))
            for place, (name, part) in enumerate(painted.items()):
                pixels, corners = cameras.project(torch.from_numpy(vertices[part]))[0], boxes.corners[:, place, None]
                inside = ((pixels >= corners[..., :2]) & (pixels <= corners[..., 2:])).all(dim=-1)
                found[name] += inside.float().mean(dim=1)[boxes.seen[:, place]].tolist()
    return found


def views_of(capture: Capture) -> list[int]:
    """Five cameras, from the one that looks at the face most squarely to one at the back of the head."""
    centers = capture.centers / np.linalg.norm(capture.centers, axis=1, keepdims=True)
    order = np.argsort(-centers[:, 2])
    return [int(order[place]) for place in (0, 2, 4, 7, len(order) - 1)]


def pixels_of(capture: Capture, views: list[int]) -> Tensor:
    """`[1, v, 3, h, w]`."""
    pictures = [np.asarray(Image.open(io.BytesIO(capture.images[view])), np.float32) / 255 for view in views]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[None]


def cameras_of(capture: Capture, views: list[int]) -> Cameras:
    """`[1, v]`."""
    matrices, K = (torch.from_numpy(each[views])[None].float() for each in (capture.world_to_camera, capture.K))
    return Cameras(matrices, K, SIZE, SIZE)


def row(images: Tensor, boxes: Boxes) -> Image.Image:
    """The views with their boxes, then the first view's crops."""
    views = images.shape[1]
    picture = Image.new("RGB", ((SIZE + GAP) * views + 2 * CROP + GAP, SIZE), "white")
    for view in range(views):
        shown = to_image(images[0, view])
        draw = ImageDraw.Draw(shown)
        for corners, seen, color in zip(boxes.corners[0, view].tolist(), boxes.seen[0, view], COLORS, strict=True):
            if seen:
                draw.rectangle(corners, outline=color, width=2)
        picture.paste(shown, (view * (SIZE + GAP), 0))
    left = (SIZE + GAP) * views
    right_eye, left_eye, mouth = (to_image(c) for c in crop(images, boxes.corners, CROP)[0, 0, [1, 0, 2]])
    places = ((left, 0), (left + CROP + GAP, 0), (left + (CROP + GAP) // 2, CROP + GAP))
    for place, part in zip(places, (right_eye, left_eye, mouth), strict=True):
        picture.paste(part, place)
    return picture


def to_image(pixels: Tensor) -> Image.Image:
    """`[3, h, w]` in [0, 1]."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


if __name__ == "__main__":
    main()
