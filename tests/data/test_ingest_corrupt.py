"""Whatever byte is wrong in whatever file of a data set: one message, or captures that hold what they promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import ava256, nersemble, renderme360, transforms

from configs import UserError
from data.ingest.ava256 import Ava256
from data.ingest.job import Format, Selection
from data.ingest.nerfstudio import Nerfstudio
from data.ingest.nersemble import Nersemble
from data.ingest.renderme360 import RenderMe360
from data.ingest.source import Source

Write = Callable[[Path], object]
SETS: dict[str, tuple[Format, Write]] = {
    "nerfstudio": (Nerfstudio(), lambda root: transforms.write(root, ("anna",))),
    "ava256": (Ava256(), lambda root: ava256.write(root, count=2)),
    "renderme360": (RenderMe360(), lambda root: renderme360.write(root, count=3)),
    "nersemble": (
        Nersemble(masks="background"),
        lambda root: nersemble.write(root, frames=2, per_camera=True, alpha=True, tracking=True),
    ),
}


def corrupted(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, changed, with a hole, or with something put in."""
    place, changed = int(rng.integers(len(data))), bytearray(data)
    kind = rng.integers(4)
    if kind == 0:
        return data[:place]
    if kind == 1:
        for at in rng.integers(len(data), size=4):
            changed[at] ^= int(rng.integers(1, 256))
    elif kind == 2:
        del changed[place : place + int(rng.integers(1, 64))]
    else:
        changed[place:place] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(changed)


@pytest.mark.parametrize("name", SETS)
def test_no_corruption_is_more_than_a_message(name: str, tmp_path: Path) -> None:
    form, write = SETS[name]
    root = tmp_path / "set"
    write(root)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    outcomes: dict[str, int] = {"fine": 0, "refused": 0, "nowhere": 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        path: Any = files[rng.integers(len(files))]
        good = path.read_bytes()
        path.write_bytes(corrupted(good, rng))
        try:
            source = Source(root)
            for unit in form.units(source, Selection()):
                for capture in form.captures(source, unit, Selection()):
                    capture.validate()
            outcomes["fine"] += 1
        except UserError as error:
            outcomes["refused" if error.where else "nowhere"] += 1
        path.write_bytes(good)
    assert (outcomes["refused"] >= 10, outcomes["nowhere"]) == (True, 0)
