"""One capture from wherever it lies: a folder of images, or a place in a dataset."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from data.capture import Capture
from data.dataset import Dataset
from data.ingest.nerfstudio import FILE, is_capture, read_nerfstudio


def open_capture(location: str) -> Capture:
    """A capture in the canonical frame.

    Args:
        location: a nerfstudio folder, `DATASET_URL#capture` or `DATASET_URL#subject`; without `#` for a dataset of
            one capture.

    Raises:
        UserError: nothing there, or not one capture.
    """
    url, _, name = location.partition("#")
    folder = Path(url)
    if "://" not in url and not name and not (folder / "dataset.json").is_file():
        if not folder.is_dir():
            raise UserError("there is no such capture", where=location, hint=_HINT)
        if not is_capture(folder):
            raise UserError(f"neither {FILE} nor a dataset is in it", where=f"capture {location}", hint=_HINT)
        return read_nerfstudio(folder)
    with Dataset.open(url) as dataset:
        if name:
            return dataset.capture(name)
        if len(dataset) > 1:
            some = dataset.index.text("name", 0)
            raise UserError(f"the dataset has {len(dataset)} captures", where=location, hint=f"say which: {url}#{some}")
        return dataset.capture(dataset.index.text("name", 0))


_HINT = "a folder with transforms.json, or DATASET_URL#capture"
