"""Small real sets of latents for tests of whatever reads them."""

from __future__ import annotations

import numpy as np

from data.latents import Base, Latent, LatentInfo, Origin, commit_latents, write_latents

SHAPE = (3, 4, 4)
BASE = Base("memory://base/step-00000001", "b" * 64)
ORIGIN = Origin("memory://captures", "c" * 64, views=4, image_size=(32, 32))


def latent_of(subject: int, frame: int, shape: tuple[int, int, int] = SHAPE) -> Latent:
    """A latent whose values are a function of its subject and frame; frame 1 is the neutral one."""
    rng = np.random.default_rng((subject, frame))
    scale = np.arange(1, shape[0] + 1, dtype=np.float32)[:, None, None]
    values = rng.normal(size=shape).astype(np.float32) * scale + 10 * scale + subject
    return Latent(
        subject=f"s{subject:03d}",
        frame=f"f{frame:02d}",
        latents=values,
        expression={} if frame == 1 else {"jawOpen": 0.1 + 0.2 * frame, "eyeBlinkLeft": 0.5},
        attributes={"skin": "tan", "hair": "bob", "hair_colour": "brown", "number": subject},
    )


def write_set(
    url: str,
    subjects: int = 5,
    frames: int = 3,
    shape: tuple[int, int, int] = SHAPE,
    per_shard: int = 2,
    first: int = 0,
) -> LatentInfo:
    """A committed set of `subjects` x `frames` latents."""
    everybody = range(first, first + subjects)
    for shard, start in enumerate(range(0, subjects, per_shard)):
        chosen = everybody[start : start + per_shard]
        write_latents(url, shard, (latent_of(subject, frame, shape) for subject in chosen for frame in range(frames)))
    return commit_latents(url, BASE, ORIGIN, licence="CC0-1.0")
