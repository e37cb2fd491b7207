"""What faces a subject makes: ARKit coefficients per frame."""

from __future__ import annotations

import numpy as np

from data.synth.subject import EXPRESSION, Subject

# Faces people make, as ARKit coefficients without sides; both sides follow, not quite evenly.
FACES: dict[str, dict[str, float]] = {
    "smile": {"mouthSmile": 0.85, "cheekSquint": 0.5, "eyeSquint": 0.3},
    "grin": {"mouthSmile": 0.8, "mouthUpperUp": 0.5, "mouthLowerDown": 0.4, "jawOpen": 0.2, "cheekSquint": 0.5},
    "frown": {"mouthFrown": 0.8, "browDown": 0.7, "mouthShrugLower": 0.4},
    "surprise": {"browInnerUp": 0.8, "browOuterUp": 0.8, "eyeWide": 0.8, "jawOpen": 0.5},
    "open": {"jawOpen": 0.85, "mouthStretch": 0.2},
    "kiss": {"mouthPucker": 0.9, "mouthFunnel": 0.2},
    "speak": {"mouthFunnel": 0.7, "jawOpen": 0.3},
    "sneer": {"noseSneer": 0.9, "mouthUpperUp": 0.5, "browDown": 0.6},
    "puff": {"cheekPuff": 0.9, "mouthPress": 0.5},
    "blink": {"eyeBlink": 1.0},
    "aside": {"mouthLeft": 0.7, "jawLeft": 0.4, "eyeLookOut": 0.2},
    "tongue": {"tongueOut": 0.9, "jawOpen": 0.35},
    "bite": {"mouthRollLower": 0.8, "mouthDimple": 0.5, "mouthRollUpper": 0.3, "jawForward": 0.3},
}


def draw_expression(subject: Subject, frame: int, names: tuple[str, ...]) -> dict[str, float]:
    """Coefficients in [0, 1] by ARKit name, zeros left out; frame 0 is neutral.

    Args:
        subject: who makes the face.
        frame: number of the frame.
        names: of the blendshapes there are.
    """
    if frame == 0:
        return {}
    rng = subject.rng(EXPRESSION, frame)
    weights: dict[str, float] = {}
    for face, strength in zip(rng.choice(list(FACES), 2, replace=False), (rng.uniform(0.6, 1.0), 0.4), strict=True):
        for base, weight in FACES[str(face)].items():
            for name in (base, f"{base}Left", f"{base}Right"):
                if name in names:
                    weights[name] = weights.get(name, 0.0) + strength * weight * rng.uniform(0.8, 1.1)
    _add_gaze(weights, rng)
    return {name: round(float(np.clip(weight, 0.0, 1.0)), 4) for name, weight in sorted(weights.items())}


def _add_gaze(weights: dict[str, float], rng: np.random.Generator) -> None:
    """Both eyes look the same way."""
    across, up = rng.uniform(-0.8, 0.8), rng.uniform(-0.7, 0.7)
    sides = ("Out", "In") if across > 0 else ("In", "Out")
    for eye, side in zip(("Left", "Right"), sides, strict=True):
        weights[f"eyeLook{side}{eye}"] = abs(across)
        weights[f"eyeLook{'Up' if up > 0 else 'Down'}{eye}"] = abs(up)
