"""Any slice of any parameter of a checkpoint, whichever files it was cut into."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor

from trainer.checkpoint import randomness
from trainer.checkpoint.manifest import Damaged, Manifest, buffer_key, piece_key
from trainer.checkpoint.shards import ShardReader
from trainer.checkpoint.sources import Sources


class Pieces:
    """Slices of a checkpoint's parameters, read from the files they happen to lie in."""

    def __init__(self, sources: Sources, manifest: Manifest, engine: str) -> None:
        self._sources, self._manifest, self._engine = sources, manifest, engine
        self._stack = ExitStack()
        self._open: dict[int, ShardReader] = {}
        self._sorted: dict[str, list[tuple[int, int, int]]] = {}

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def read(self, name: str, kind: str, start: int, out: Tensor) -> None:
        """Fill the 1-D `out` with elements of a parameter from `start` on."""
        if name not in self._sorted:
            self._sorted[name] = sorted(self._manifest.engines[self._engine].parameters[name].pieces)
        pieces, end = self._sorted[name], start + out.numel()
        first = max(0, bisect_right(pieces, start, key=lambda piece: piece[0]) - 1)
        for begin, numel, shard in pieces[first:]:
            low, high = max(start, begin), min(end, begin + numel)
            if low >= high:
                break
            key = piece_key(self._engine, name, kind, begin)
            with self._shard(shard) as reader:
                reader.read(key, low - begin, out[low - start : high - start])

    def buffer(self, name: str) -> Tensor:
        """A buffer of rank 0."""
        with self._shard(0) as reader:
            return reader.tensor(buffer_key(self._engine, name))

    def randomness(self, rank: int) -> dict[str, Tensor]:
        """The random generators of a rank."""
        with self._shard(rank) as reader:
            return {key: reader.tensor(key) for key in reader.keys() if key.startswith(randomness.PREFIX)}  # noqa: SIM118

    @contextmanager
    def _shard(self, index: int) -> Iterator[ShardReader]:
        """A file, opened once; one that does not hold what the manifest says is damaged, whatever the cause."""
        try:
            if index not in self._open:
                self._open[index] = self._stack.enter_context(self._sources.open(index))
            yield self._open[index]
        except (KeyError, ValueError, EOFError) as error:
            raise Damaged(f"damaged: {error}", where=self._sources.place(index)) from None
