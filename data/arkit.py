"""ARKit's 52 expression coefficients: the names that captures, templates and batches share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_PAIRED = (
    "browDown browOuterUp cheekSquint eyeBlink eyeLookDown eyeLookIn eyeLookOut eyeLookUp eyeSquint eyeWide "
    "mouthDimple mouthFrown mouthLowerDown mouthPress mouthSmile mouthStretch mouthUpperUp noseSneer"
)
_SINGLE = (
    "browInnerUp cheekPuff jawForward jawLeft jawOpen jawRight mouthClose mouthFunnel mouthLeft mouthPucker mouthRight "
    "mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper tongueOut"
)
ARKIT = tuple(sorted([*_SINGLE.split(), *(name + side for name in _PAIRED.split() for side in ("Left", "Right"))]))
"""`ARFaceAnchor.BlendShapeLocation`, in alphabetical order."""


def coefficients(expression: Mapping[str, float]) -> NDArray[np.float32]:
    """Coefficients `[52]` in the order of `ARKIT`; 0 where a capture names none, other bases' names are left out."""
    return np.array([expression.get(name, 0.0) for name in ARKIT], np.float32)
