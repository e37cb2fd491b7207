"""Pictures of lenses that bend become pictures of a pinhole with the same K."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


def undistort(pixels: Bytes, K: Floats, distortion: Floats) -> Bytes:
    """Resample an image, bilinear; what the lens did not see repeats its border, in a mask it is 0.

    Args:
        pixels: `[h, w, 3]`, or a mask `[h, w]`.
        K: `[3, 3]` for this image, pixel centres at +0.5.
        distortion: `[4]` or `[5]`, OpenCV's k1, k2, p1, p2, k3.
    """
    import cv2

    centered = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV's pixel centres are at whole numbers
    size = (pixels.shape[1], pixels.shape[0])
    across, down = cv2.initUndistortRectifyMap(centered, distortion, np.eye(3), centered, size, cv2.CV_32FC1)
    border = cv2.BORDER_REPLICATE if pixels.ndim == 3 else cv2.BORDER_CONSTANT
    return np.asarray(cv2.remap(pixels, across, down, cv2.INTER_LINEAR, borderMode=border), np.uint8)
