"""The datasets of a plan: opened where they lie, or made up from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from configs.errors import UserError
from configs.schema import Config, DataConfig
from data.manifest import describe, open_index
from data.order import Captures
from data.plan.regular import Numbers, RegularIndex
from data.sampling import Catalogue
from data.store import Range, Store


class Layout(Catalogue, Protocol):
    """What planning asks of an index: what sampling does, and where members lie."""

    def __len__(self) -> int: ...

    def image_ranges(self, row: int, views: list[int], cameras: tuple[str, ...]) -> Sequence[Range]:
        """Where the images of some views lie."""
        ...

    def mask_ranges(self, row: int, views: list[int], cameras: tuple[str, ...]) -> Sequence[Range | None]:
        """Where their masks lie; None where a view has none."""
        ...


@dataclass(frozen=True)
class Holding:
    """A dataset as a plan sees it.

    Attributes:
        layout: its index, or something that stands in for it.
        fingerprint: of it.
        bytes: of all shards together.
        shards: how many.
        captures: what a run draws from, where that is known without looking.
    """

    layout: Layout
    fingerprint: str
    bytes: int
    shards: int
    captures: Captures | None = None


def open_holdings(config: DataConfig) -> list[Holding]:
    """Open the indexes of `data.train` and `data.mixture`; no images are read.

    Raises:
        UserError: no dataset at one of the URLs.
    """
    return [_open(url) for url in (config.train, *(other.url for other in config.mixture))]


def made_up(numbers: Numbers, config: DataConfig) -> list[Holding]:
    """A dataset of which only numbers are known, in place of `data.train`.

    Raises:
        UserError: the config names several datasets or a number of subjects, which numbers do not describe.
    """
    if config.mixture:
        raise UserError(
            "a described dataset cannot stand in for several",
            where="data.mixture",
            hint="leave out --captures and plan with the datasets themselves, or empty data.mixture",
        )
    if config.subjects is not None:
        raise UserError(
            "a described dataset has no names to choose subjects by",
            where="data.subjects",
            hint="set data.subjects=null and describe the subset with --captures",
        )
    index = RegularIndex(numbers)
    return [Holding(index, repr(numbers), len(index) * index.capture_bytes, index.shards, index.captures)]


def on_ranks(config: Config, ranks: int) -> Config:
    """The same run on another number of workers, each with as many captures as before."""
    share = config.data.batch_size // config.cluster.workers
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"batch_size": share * ranks}),
            "cluster": config.cluster.model_copy(update={"workers": ranks}),
        }
    )


def _open(url: str) -> Holding:
    store = Store(url)
    try:
        index, manifest = open_index(store)
    except UserError as error:
        hint = "a dataset that does not exist yet is described by --captures, --views, --image-kb"
        raise UserError(error.what, where=error.where, hint=hint) from None
    finally:
        store.close()
    info = describe(index, manifest, store.url)
    return Holding(index, info.fingerprint, info.bytes, info.shards)
