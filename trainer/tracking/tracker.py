"""What rank 0 tells MLflow. Nothing here waits for a server: it is written to a spool, which a thread sends."""

from __future__ import annotations

import logging
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from configs import Config, flatten
from trainer.tracking.delivery import connect
from trainer.tracking.identity import FOLDER, Identity
from trainer.tracking.provenance import code_version, without_secrets
from trainer.tracking.sender import Sender
from trainer.tracking.spool import Spool
from trainer.tracking.store import Store

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
_THUMBNAIL_PIXELS = 256  # MLflow's image grid shows this size and loads the full one on a click


class Tracker:
    """One MLflow run, the same over all restarts of `run_dir`; use on rank 0 only.

    Sends the config as parameters and the code's version as tags by itself.

    Args:
        config: its `tracking` section says where; relative databases count from the current folder.
        run_dir: the run's folder; `tracking/` in it holds the spool and the run's identity.
        known: the `identity` of the run that this one goes on with, where it is known from elsewhere than `run_dir`.
    """

    def __init__(self, config: Config, run_dir: Path, *, known: Mapping[str, Any] | None = None) -> None:
        self._run_dir, self._folder = run_dir, run_dir / FOLDER
        self._spool = Spool(self._folder)
        self._spool.hold(alone=False)  # so that nobody else sends; where somebody does, `_connect` waits for it
        self._identity = Identity(self._folder, known)
        self._settings, self._run_name = config.tracking, config.tracking.run_name or config.run.name
        # Encoding a picture takes milliseconds; the step does not wait for it.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="tracker-images")
        self._append("start")
        self._later(lambda: self.tags(code_version()))
        self.params(flatten(config))
        self._sender = Sender(self._spool, self._connect)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, or None until the server has answered for the first time."""
        return self._identity.run_id

    @property
    def identity(self) -> dict[str, Any]:
        """What another machine needs to go on with the same run; as JSON."""
        return self._identity.record()

    @property
    def began(self) -> float:
        """When the run began for the first time, in seconds since the epoch."""
        return self._identity.began

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, as text without secrets; one that changes later appears as the tag `changed.NAME`."""
        self._append("params", values={name: without_secrets(name, value) for name, value in values.items()})

    def metrics(self, values: Mapping[str, float], step: int, at: int | None = None) -> None:
        """Numbers at a step; NaN and infinities are kept.

        Args:
            values: by name.
            step: whole number.
            at: milliseconds since the epoch; now, if none.
        """
        found = {_name(name): float(value) for name, value in values.items()}
        self._append("metrics", at=at, step=int(step), values=found)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Texts that describe the run, without secrets."""
        self._append("tags", values={name: without_secrets(name, value) for name, value in values.items()})

    def image(self, name: str, image: Image.Image | np.ndarray, step: int) -> None:
        """A picture at a step; MLflow shows the pictures of one name with a slider.

        Args:
            name: letters, digits, `_-./` and spaces.
            image: PIL, or an array `[h, w, 3]`, `[h, w]` or `[3, h, w]`, uint8 or float in [0, 1]; it is copied.
            step: optimiser steps done.
        """
        picture = image.copy() if isinstance(image, Image.Image) else _picture(np.array(image))
        # MLflow's own naming scheme (MlflowClient.log_image), which its image grid reads.
        stem = f"{_name(name).replace('/', '~')}+step+{int(step)}+timestamp+{_now()}+{uuid.uuid4()}"
        self._later(lambda: self._encode(picture, stem))

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file or a folder; it is copied at once, so the original may change or go.

        One that cannot be copied is left out, with a warning.
        """
        path = Path(path)
        try:
            target = self._place() / path.name
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copy2(path, target)
        except OSError as error:
            logger.warning("%s does not reach MLflow: %s", path.name, error)
            return
        self._append("file", path=str(target.relative_to(self._folder)), folder=folder)

    def close(self, status: Status = "FINISHED", *, patience_seconds: float = 20.0) -> bool:
        """Say how the run ended and send the rest.

        Args:
            status: a run that is `KILLED` or `FAILED` may be gone on with.
            patience_seconds: how long to try while the server is away; afterwards the lines wait in the spool
                until the run goes on.

        Returns:
            Whether everything was sent.
        """
        self._encoder.shutdown(wait=True)
        self._append("end", status=status)
        all_sent = self._sender.close(patience_seconds)
        if not all_sent:
            logger.warning("%d records wait for MLflow: headway track sync %s", self._spool.waiting(), self._run_dir)
        self._spool.close()
        return all_sent

    def _connect(self) -> Store:
        if not self._spool.hold(alone=False):
            raise BlockingIOError("`headway track sync` is sending")
        settings = self._settings
        return connect(self._spool, self._identity, settings.uri, settings.experiment, self._run_name)

    def _later(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception:
                logger.exception("something was not tracked")

        self._encoder.submit(guarded)

    def _encode(self, picture: Image.Image, stem: str) -> None:
        place = self._place() / "images"
        place.mkdir()
        picture.save(place / f"{stem}.png", compress_level=1)
        picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
        picture.save(place / f"{stem}+compressed.webp", quality=75)
        self._append("file", path=str(place.relative_to(self._folder)), folder="images")

    def _place(self) -> Path:
        """A new folder of its own, so that names never clash and a sent file goes with its folder."""
        place = self._folder / "files" / uuid.uuid4().hex
        place.mkdir(parents=True)
        return place

    def _append(self, kind: str, at: int | None = None, **content: Any) -> None:
        self._spool.append({"kind": kind, "at": _now() if at is None else at, **content})


def _now() -> int:
    return int(time.time() * 1000)


def _name(name: str) -> str:
    """`name` in the characters that MLflow allows."""
    return re.sub(r"[^A-Za-z0-9_\-. /:]", "_", name)


def _picture(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[-1] != 3:
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))
