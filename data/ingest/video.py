"""Frames of videos, one after the other; a video that is cut off is named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.images import MAX_PIXELS

Bytes = NDArray[np.uint8]


class Video:
    """A video that is read forward only: seeking in mp4 is slow and, with some encoders, inexact.

    Args:
        path: a local file.
        where: names the video in messages.

    Raises:
        UserError: no video, or larger than `MAX_PIXELS`.
    """

    def __init__(self, path: Path, where: str) -> None:
        # What is wrong is said once, by us; the libraries read these when they are loaded.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        import cv2

        self.where, self._next = where, 0
        # The number of threads must not steal cores from the other workers.
        self._file: Any = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._file.isOpened():
            raise UserError("no video that can be read, or cut off", where=where)
        self.frames = int(self._file.get(cv2.CAP_PROP_FRAME_COUNT))
        self.size = (int(self._file.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(self._file.get(cv2.CAP_PROP_FRAME_WIDTH)))
        if self.frames < 1 or not 0 < self.size[0] * self.size[1] <= MAX_PIXELS:
            self.close()
            raise UserError(f"{self.frames} frames of {self.size[1]} x {self.size[0]} pixels", where=where)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def frame(self, number: int) -> Bytes:
        """RGB `[h, w, 3]` of a frame that lies ahead.

        Raises:
            UserError: it cannot be decoded.
        """
        import cv2

        while self._next <= number:
            if not self._file.grab():
                raise UserError(f"ends after {self._next} of {self.frames} frames; cut off?", where=self.where)
            self._next += 1
        good, pixels = self._file.retrieve()
        if not good:
            raise UserError(f"frame {number} cannot be decoded", where=self.where)
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        """Let go of the decoder."""
        self._file.release()


def common_length(videos: Sequence[Video]) -> int:
    """Frames of the shortest."""
    return min(video.frames for video in videos)
