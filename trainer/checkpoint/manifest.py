"""What a checkpoint says about itself: which slices of which parameters lie in which file."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs import UserError
from trainer.checkpoint.storage import Folder

MANIFEST = "manifest.json"
MASTER, AVERAGE = "master", "ema"


class Damaged(UserError):
    """A checkpoint that is not what was written: an older one may be whole."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Shard(_Record):
    """One file; a name that cannot leave the folder."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Parameter(_Record):
    """One parameter, cut into pieces that all hold the same kinds of values.

    Attributes:
        shape: of the whole parameter; pieces are slices of it flattened in C order.
        trains: whether an optimiser owned it.
        step: the optimiser's own count of updates, where it keeps one.
        kinds: `master`, `ema`, and the optimiser's moments by torch's names.
        pieces: start, length in elements, index of the shard.
    """

    shape: tuple[int, ...]
    trains: bool
    step: float | None = None
    kinds: tuple[str, ...]
    pieces: list[tuple[int, int, int]]

    @property
    def numel(self) -> int:
        """Elements of the whole parameter."""
        return math.prod(self.shape)


class EngineRecord(_Record):
    """One engine: its model, optimiser and average.

    Attributes:
        steps: optimiser steps done.
        tied: name of an alias -> the name its parameter is kept under.
        buffers: name -> shape; all of rank 0.
        optimizer, groups: torch's class and its hyper-parameters when saved, for the record.
    """

    steps: int
    zero_stage: int
    precision: str
    optimizer: str
    groups: list[dict[str, Any]]
    parameters: dict[str, Parameter]
    tied: dict[str, str] = {}
    buffers: dict[str, tuple[int, ...]] = {}


class Manifest(_Record):
    """All about one checkpoint; `manifest.json` holds it together with its own digest.

    Attributes:
        step: optimiser steps done.
        created: UTC, ISO 8601.
        config, config_hash: the resolved config as YAML, and its name.
        architecture: digest of parameter names and shapes.
        versions: of Headway, its commit where known, python, torch, deepspeed.
        state: what the loop handed to `save`.
        engines: by name; `model` is the one that every run has.
        shards: files, in rank order.
    """

    format: Literal[1] = 1
    step: int
    created: str
    world_size: int
    config: str
    config_hash: str
    architecture: str
    versions: dict[str, str]
    state: dict[str, Any]
    engines: dict[str, EngineRecord]
    shards: list[Shard]

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def check(self) -> None:
        """Every element of every parameter lies in exactly one piece.

        Raises:
            ValueError: naming the parameter.
        """
        for record in self.engines.values():
            for name, parameter in record.parameters.items():
                check_coverage(name, parameter, len(self.shards))

    def to_bytes(self) -> bytes:
        """The content of `manifest.json`."""
        content = self.model_dump(mode="json")
        return json.dumps({**content, "digest": _digest(content)}).encode()


def check_coverage(name: str, parameter: Parameter, shards: int) -> None:
    """Pieces tile the parameter: no gap, no overlap, no end beyond it.

    Raises:
        ValueError: naming the parameter and the element.
    """
    at = 0
    for start, numel, shard in sorted(parameter.pieces):
        if start != at or numel <= 0:
            raise ValueError(f"{name}: {'a gap' if start > at else 'an overlap'} at element {min(at, start)}")
        if not 0 <= shard < shards:
            raise ValueError(f"{name}: a piece in shard {shard} of {shards}")
        at = start + numel
    if at != parameter.numel:
        raise ValueError(f"{name}: {at} of {parameter.numel} elements are there")


def piece_key(engine: str, name: str, kind: str, start: int) -> str:
    """What a piece is called inside its shard."""
    return f"{engine}/{name}/{kind}/{start}"


def buffer_key(engine: str, name: str) -> str:
    """What a buffer is called inside the first shard."""
    return f"{engine}/{name}/buffer"


def architecture(shapes: dict[str, dict[str, tuple[int, ...]]]) -> str:
    """Twelve hexadecimal digits that name all engines' parameter names and shapes."""
    return _digest({engine: {name: list(shape) for name, shape in s.items()} for engine, s in shapes.items()})[:12]


def read_manifest(folder: Folder) -> Manifest:
    """The manifest of a committed checkpoint, checked against itself and against the files beside it.

    Raises:
        Damaged: not what was written.
        UserError: not a checkpoint, or of another format.
    """
    try:
        content = json.loads(folder.read(MANIFEST))
        digest = content.pop("digest")
    except (FileNotFoundError, NotADirectoryError):
        hint = "a checkpoint is a folder with a manifest.json, for example .../checkpoints/step-00001000"
        raise UserError("not a checkpoint", where=folder.url, hint=hint) from None
    except (ValueError, KeyError, AttributeError):
        raise _damaged(folder, "it is not the JSON that was written") from None
    if content.get("format") != 1:
        raise UserError(f"a checkpoint of format {content.get('format')}; this version reads 1", where=folder.url)
    if digest != _digest(content):
        raise _damaged(folder, "its digest does not fit its content")
    try:
        manifest = Manifest.model_validate(content)
        manifest.check()
    except (ValidationError, ValueError) as error:
        raise _damaged(folder, str(error)) from None
    sizes = folder.sizes()
    for shard in manifest.shards:
        if sizes.get(shard.file) != shard.bytes:
            found = f"{sizes[shard.file]} bytes" if shard.file in sizes else "missing"
            raise Damaged(f"damaged: {found}, {shard.bytes} bytes were written", where=f"{folder.url}/{shard.file}")
    return manifest


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(folder: Folder, why: str) -> Damaged:
    return Damaged(f"damaged: {why}", where=f"{folder.url}/{MANIFEST}")
