"""The index of a set of latents: where each lies and whose it is, in columns, opened whole and checked."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.errors import UserError, nearest
from data.index import Shard
from data.latents.shards import ROWS, Floats, npy_length
from data.store import Range

LATENTS = pa.schema([pa.field("shard", pa.int32()), *ROWS])


class LatentIndex:
    """Every latent of a set; a few hundred bytes each.

    Args:
        table: `LATENTS`, one row per latent.
        shards: the tars, in the order of the column `shard`.
        shape: (c, h, w) of every latent.
        names: of the k coefficients.
        where: names the set in messages.

    Raises:
        UserError: anything that would lead outside a shard, or does not fit together.
    """

    def __init__(
        self,
        table: pa.Table,
        shards: tuple[Shard, ...],
        shape: tuple[int, int, int],
        names: tuple[str, ...],
        where: str,
    ) -> None:
        self.shards, self.shape, self.where = shards, shape, where
        self._columns = {name: self._column(table, name) for name in LATENTS.names}
        places = {name: self._columns[name].to_numpy() for name in ("shard", "offset", "length", "crc32")}
        self._shard, self._offset, self._crc32 = places["shard"], places["offset"], places["crc32"]
        self._length = npy_length(shape)
        self._check(places["length"], len(names))
        flat = self._columns["coefficients"].values.to_numpy()
        self.coefficients: Floats = flat.reshape(len(self), len(names))

    def __len__(self) -> int:
        """How many latents there are."""
        return len(self._shard)

    @property
    def names(self) -> pa.StringArray:
        """Names of the captures by row."""
        return self._columns["name"]

    @cached_property
    def _codes(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        encoded = self._columns["subject"].dictionary_encode()
        return encoded.indices.to_numpy(), tuple(encoded.dictionary.to_pylist())

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects in the order in which they first appear."""
        return self._codes[1]

    @property
    def subject_numbers(self) -> NDArray[np.int32]:
        """Of each row, the number in `subjects` of its subject."""
        return self._codes[0]

    @cached_property
    def neutral_rows(self) -> NDArray[np.int64]:
        """Of each row, the row of its subject's neutral capture: the first whose coefficients have the least sum."""
        codes = self.subject_numbers
        order = np.lexsort((np.arange(len(self)), self.coefficients.sum(axis=1), codes))
        return order[np.searchsorted(codes[order], codes)]

    def rows_of(self, subject: int) -> NDArray[np.int64]:
        """Rows of one subject's captures; `subject` counts in `subjects`."""
        return np.flatnonzero(self.subject_numbers == subject)

    def row(self, name: str) -> int:
        """Row of a capture by its name.

        Raises:
            UserError: there is none, naming the nearest.
        """
        row = self.names.index(name).as_py()
        if row < 0:
            some = self.names[:1000].to_pylist()
            raise UserError(f"no latent is called '{name}'", where=self.where, hint=nearest(name, some))
        return row

    def text(self, column: str, row: int) -> str:
        """`name`, `subject`, `frame` or `caption` of a row."""
        return self._columns[column][row].as_py()

    def attributes(self, row: int) -> dict[str, Any]:
        """What the capture's maker knew."""
        return json.loads(self._columns["attributes"][row].as_py())

    def range(self, row: int) -> Range:
        """Where the latent lies."""
        path, name = self.shards[self._shard[row]].path, self.text("name", row)
        return Range(path, int(self._offset[row]), self._length, int(self._crc32[row]), f"{name}.npy")

    def _column(self, table: pa.Table, name: str) -> Any:
        kind = LATENTS.field(name).type
        if name not in table.column_names or table.schema.field(name).type != kind:
            raise UserError(f"the index has no column '{name}' of {kind}", where=self.where)
        column = table.column(name).combine_chunks()
        column = pa.array([], kind) if isinstance(column, pa.ChunkedArray) else column
        values = column.values if pa.types.is_list(kind) else column
        if column.null_count or values.null_count:
            raise UserError(f"the index has gaps in column '{name}'", where=self.where)
        return column

    def _check(self, lengths: NDArray[np.int32], coefficients: int) -> None:
        if len(self) == 0:
            raise UserError("the set has no latents", where=self.where)
        known = (self._shard >= 0) & (self._shard < len(self.shards))
        self._demand(known, "names a shard that is not listed")
        sizes = np.array([shard.bytes for shard in self.shards])[self._shard]
        self._demand(lengths == self._length, f"is not of shape {list(self.shape)}")
        self._demand((self._offset >= 512) & (self._offset <= sizes - lengths), "lies outside its shard")
        if len(self.names.unique()) != len(self):
            raise UserError("two latents have the same name", where=self.where)
        column = self._columns["coefficients"]
        self._demand(np.diff(column.offsets.to_numpy()) == coefficients, f"has not {coefficients} coefficients")
        values = column.values.to_numpy().reshape(len(self), -1)
        self._demand(((values >= 0) & (values <= 1)).all(axis=1), "has a coefficient outside of [0, 1]")

    def _demand(self, good: NDArray[np.bool_], what: str) -> None:
        if not good.all():
            where = f"{self.where}, latent {self.names[int(np.argmin(good))].as_py()}"
            raise UserError(f"the index is wrong: the latent {what}", where=where, hint="run `headway latents` again")
