"""The index: where every member lies and what every capture is, in columns, opened whole and checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.errors import UserError, nearest
from data.images import SUFFIXES
from data.store import Range

MAX_MEMBER = 2**28  # bytes
_PLAIN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"

# Columns that hold one item per view, beside what they are called in a part.
PER_VIEW = {
    "image_format": pa.string(),
    "image_offset": pa.int64(),
    "image_length": pa.int32(),
    "image_crc32": pa.uint32(),
    "mask_offset": pa.int64(),  # -1 where there is no mask
    "mask_length": pa.int32(),
    "mask_crc32": pa.uint32(),
}
CAPTURE_COLUMNS = {
    "name": pa.string(),
    "subject": pa.string(),
    "frame": pa.string(),
    "expression_names": pa.list_(pa.string()),
    "expression_values": pa.list_(pa.float32()),
    "sample_offset": pa.int64(),
    "sample_length": pa.int32(),
    "sample_crc32": pa.uint32(),
    **{name: pa.list_(kind) for name, kind in PER_VIEW.items()},
}
RIG_COLUMNS = {
    "cameras": pa.list_(pa.string()),
    "world_to_camera": pa.list_(pa.float64()),
    "K": pa.list_(pa.float64()),
    "sizes": pa.list_(pa.int32()),
}
CAPTURES = pa.schema({"shard": pa.int32(), "rig": pa.int32(), **CAPTURE_COLUMNS})
RIGS = pa.schema(RIG_COLUMNS)
PART = pa.schema({"rig": pa.binary(16), **CAPTURE_COLUMNS, **RIG_COLUMNS})


@dataclass(frozen=True)
class Shard:
    """A tar: its path beneath the dataset's URL, its size and the SHA-256 of its bytes."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Rig:
    """Cameras of one or many captures: v names, `[v, 4, 4]`, `[v, 3, 3]`, (height, width) of each."""

    cameras: tuple[str, ...]
    world_to_camera: NDArray[np.float64]
    K: NDArray[np.float64]
    sizes: tuple[tuple[int, int], ...]

    def views(self, cameras: tuple[str, ...], where: str) -> list[int]:
        """Numbers of the named cameras, or an error naming the one that is missing."""
        for camera in cameras:
            if camera not in self.cameras:
                raise UserError(f"missing camera {camera!r}", where=where, hint=nearest(camera, self.cameras))
        return [self.cameras.index(camera) for camera in cameras]


class Index:
    """Every capture and member of a dataset; a few hundred bytes per view, no object per member.

    Args:
        captures: table `CAPTURES`, one row per capture.
        rigs: table `RIGS`, one row per distinct rig.
        shards: the tars, in the order of the column `shard`.
        where: names the dataset in messages.

    Raises:
        UserError: anything that would lead outside a shard, or does not fit together, by name.
    """

    def __init__(self, captures: pa.Table, rigs: pa.Table, shards: tuple[Shard, ...], where: str) -> None:
        self.shards, self.where = shards, where
        self._captures = {name: _column(captures, name, CAPTURES, where) for name in CAPTURES.names}
        self._rigs = {name: _column(rigs, name, RIGS, where) for name in RIGS.names}
        self._view_starts = self._captures["image_offset"].offsets.to_numpy()
        self._rig_starts = self._rigs["cameras"].offsets.to_numpy()
        self._flat = {name: _numpy(self._captures[name].values) for name in PER_VIEW if name != "image_format"}
        self._rig_flat = {name: _numpy(self._rigs[name].values) for name in RIG_COLUMNS if name != "cameras"}
        self._shard, self._rig = _numpy(self._captures["shard"]), _numpy(self._captures["rig"])
        self._check()

    def __len__(self) -> int:
        """How many captures there are."""
        return len(self._shard)

    @property
    def views(self) -> int:
        """How many images there are."""
        return int(self._view_starts[-1])

    @property
    def names(self) -> pa.StringArray:
        """Capture names by row."""
        return self._captures["name"]

    @cached_property
    def _subject_codes(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        encoded = self._captures["subject"].dictionary_encode()
        return _numpy(encoded.indices), tuple(encoded.dictionary.to_pylist())

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects in the order in which they first appear."""
        return self._subject_codes[1]

    @property
    def subject_numbers(self) -> NDArray[np.int32]:
        """Of each row, the number in `subjects` of its subject."""
        return self._subject_codes[0]

    @property
    def shard_numbers(self) -> NDArray[np.int32]:
        """Of each row, the number in `shards` of its shard."""
        return self._shard

    @property
    def rig_numbers(self) -> NDArray[np.int32]:
        """Of each row, the number of its rig; rows with the same number have the same cameras."""
        return self._rig

    @cached_property
    def _subject_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        codes = self._subject_codes[0]
        starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(self.subjects)))])
        return np.argsort(codes, kind="stable"), starts

    def rows_of(self, subject: int) -> NDArray[np.int64]:
        """Rows of one subject's captures; `subject` counts in `subjects`."""
        rows, starts = self._subject_rows
        return rows[starts[subject] : starts[subject + 1]]

    def siblings(self, row: int) -> NDArray[np.int64]:
        """Rows of all captures of the subject of a row."""
        return self.rows_of(int(self.subject_numbers[row]))

    def row(self, name: str) -> int:
        """Row of the capture called `name`, or of the only capture of the subject called so."""
        row = pc.index(self.names, name).as_py()
        if row >= 0:
            return row
        if name in self.subjects:
            rows = self.rows_of(self.subjects.index(name))
            if len(rows) == 1:
                return int(rows[0])
            some = ", ".join(self.names[int(r)].as_py() for r in rows[:5])
            raise UserError(f"subject '{name}' has {len(rows)} captures", where=self.where, hint=f"such as {some}")
        some = [*self.subjects[:1000], *self.names[:1000].to_pylist()]
        raise UserError(f"no capture is called '{name}'", where=self.where, hint=nearest(name, some))

    def text(self, column: str, row: int) -> str:
        """`name`, `subject` or `frame` of a row."""
        return self._captures[column][row].as_py()

    def expression(self, row: int) -> dict[str, float]:
        """Blendshape coefficients of a row, in float32."""
        names, values = self._captures["expression_names"][row], self._captures["expression_values"][row]
        return dict(zip(names.as_py(), values.as_py(), strict=True))

    def view_count(self, row: int) -> int:
        """How many cameras saw the capture."""
        return int(self._view_starts[row + 1] - self._view_starts[row])

    def view_counts(self) -> NDArray[np.int32]:
        """How many cameras saw each capture."""
        return np.diff(self._view_starts)

    def capture_bytes(self) -> NDArray[np.int64]:
        """Bytes of each capture's members together, without the tar's headers."""
        each = self._flat["image_length"].astype(np.int64) + self._flat["mask_length"]
        ends = np.concatenate([[0], np.cumsum(each)])[self._view_starts]
        return np.diff(ends) + _numpy(self._captures["sample_length"])

    def rig(self, row: int) -> Rig:
        """The cameras of a row."""
        number = int(self._rig[row])
        start, stop = int(self._rig_starts[number]), int(self._rig_starts[number + 1])
        sizes = self._rig_flat["sizes"][2 * start : 2 * stop].reshape(-1, 2).tolist()
        return Rig(
            tuple(self._rigs["cameras"][number].as_py()),
            self._rig_flat["world_to_camera"][16 * start : 16 * stop].reshape(-1, 4, 4),
            self._rig_flat["K"][9 * start : 9 * stop].reshape(-1, 3, 3),
            tuple((height, width) for height, width in sizes),
        )

    def sample_range(self, row: int) -> Range:
        """Where the capture's JSON lies."""
        column = self._captures
        offset, length, crc = (int(column[f"sample_{key}"][row].as_py()) for key in ("offset", "length", "crc32"))
        return Range(self.shards[self._shard[row]].path, offset, length, crc, f"{self.text('name', row)}.json")

    def image_ranges(self, row: int, views: list[int], cameras: tuple[str, ...]) -> list[Range]:
        """Where the images of some views lie; `cameras` are the names of all views of the row."""
        formats = self._captures["image_format"].values
        first, name = int(self._view_starts[row]), self.text("name", row)
        return [
            self._range("image", row, view, f"{name}.{cameras[view]}.{formats[first + view].as_py()}") for view in views
        ]

    def mask_ranges(self, row: int, views: list[int], cameras: tuple[str, ...]) -> list[Range | None]:
        """Where the masks of some views lie; None where a view has none."""
        offsets, first, name = self._flat["mask_offset"], int(self._view_starts[row]), self.text("name", row)
        return [
            self._range("mask", row, view, f"{name}.{cameras[view]}.mask.png") if offsets[first + view] >= 0 else None
            for view in views
        ]

    def _range(self, kind: str, row: int, view: int, member: str) -> Range:
        place = int(self._view_starts[row]) + view
        offset, length, crc = (int(self._flat[f"{kind}_{key}"][place]) for key in ("offset", "length", "crc32"))
        return Range(self.shards[self._shard[row]].path, offset, length, crc, member)

    def _check(self) -> None:
        """Refuse whatever would lead outside, in whole columns."""
        count = len(self)
        if count == 0:
            raise UserError("the dataset has no captures", where=self.where)
        self._demand((self._shard >= 0) & (self._shard < len(self.shards)), "names a shard that is not listed")
        self._demand((self._rig >= 0) & (self._rig < len(self._rig_starts) - 1), "names a rig that is not listed")
        if len(self.names.unique()) != count:
            raise UserError("two captures have the same name", where=self.where)
        cameras = np.diff(self._rig_starts)
        for name, each in (("world_to_camera", 16), ("K", 9), ("sizes", 2)):
            if not np.array_equal(np.diff(self._rigs[name].offsets.to_numpy()), each * cameras):
                raise UserError(f"the rigs' column '{name}' has a wrong length", where=self.where)
        for name in PER_VIEW:
            lengths = np.diff(self._captures[name].offsets.to_numpy())
            self._demand(lengths == cameras[self._rig], f"has not one {name} per camera")
        if (self._rig_flat["sizes"] < 1).any():
            raise UserError("a camera's image has no pixels", where=self.where)
        for column in (self._captures[name] for name in ("name", "subject", "frame")):
            self._demand(_plain(column), "has a name with odd characters")
        if not _plain(self._rigs["cameras"].values).all():
            raise UserError("a camera has a name with odd characters", where=self.where)
        if not all(np.isfinite(self._rig_flat[name]).all() for name in ("world_to_camera", "K")):
            raise UserError("a camera holds NaN or infinity", where=self.where)
        formats = set(self._captures["image_format"].values.unique().to_pylist())
        if odd := formats - set(SUFFIXES):
            raise UserError(f"members of kind {sorted(odd)} are refused", where=self.where, hint=f"known: {SUFFIXES}")
        self._check_bounds()

    def _check_bounds(self) -> None:
        sizes = np.array([shard.bytes for shard in self.shards])
        rows = np.repeat(np.arange(len(self)), np.diff(self._view_starts))
        for kind in ("image", "mask"):
            offset, length = self._flat[f"{kind}_offset"], self._flat[f"{kind}_length"].astype(np.int64)
            inside = _inside(offset, length, sizes[self._shard[rows]])
            if kind == "mask":
                inside |= offset == -1
            self._demand(inside, f"has {kind}s outside its shard", rows)
        offset, length = _numpy(self._captures["sample_offset"]), _numpy(self._captures["sample_length"])
        inside = _inside(offset, length.astype(np.int64), sizes[self._shard])
        self._demand(inside, "has its description outside its shard")

    def _demand(self, good: NDArray[np.bool_], what: str, rows: NDArray[np.int64] | None = None) -> None:
        """Every item of a column must be good; else name the first capture whose is not."""
        if good.all():
            return
        first = int(np.argmin(good))
        row = first if rows is None else int(rows[first])
        where = f"{self.where}, capture {self.names[row].as_py()}"
        raise UserError(f"the index is wrong: the capture {what}", where=where, hint="write the dataset again")


def _column(table: pa.Table, name: str, schema: pa.Schema, where: str) -> Any:
    """One contiguous column of the right type, without nulls."""
    if name not in table.column_names or table.schema.field(name).type != schema.field(name).type:
        raise UserError(f"the index has no column '{name}' of {schema.field(name).type}", where=where)
    chunks = table.column(name)
    # Combining copies, one chunk too.
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.array([], schema.field(name).type)
    values = column.values if pa.types.is_list(column.type) else column
    if column.null_count or values.null_count:
        raise UserError(f"the index has gaps in column '{name}'", where=where)
    return column


def _inside(offset: Any, length: Any, size: Any) -> Any:
    """Whether members lie in their shards, behind a header, and are of a size that is read in one piece."""
    return (offset >= 512) & (length > 0) & (length <= MAX_MEMBER) & (offset <= size - length)


def _plain(names: Any) -> NDArray[np.bool_]:
    """Whether names are words that go into messages and tars."""
    matched = pc.call_function("match_substring_regex", [names], pc.MatchSubstringOptions(_PLAIN))
    return matched.to_numpy(zero_copy_only=False)


def _numpy(array: Any) -> Any:
    return array.to_numpy(zero_copy_only=True)
