"""A dataset opened as what it is, and a rank's stream of it: by threads, or by processes around `CaptureStream`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, cast

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import data.stream
from configs.errors import UserError
from configs.schema import DataConfig
from data.batches import BatchStream
from data.dataset import Dataset
from data.latents import manifest as latents
from data.latents.dataset import LatentSet
from data.latents.sampling import LatentSampler
from data.latents.stream import LatentStream
from data.quarantine import Found, Quarantine
from data.sampling import Sampler
from data.store import Store
from data.stream import CaptureStream
from data.views import PackedBatch


def open_dataset(url: str, config: DataConfig) -> Dataset | LatentSet:
    """Captures or latents, as the manifest at `url` says.

    Raises:
        UserError: neither is there.
    """
    store = Store(url, config.store)
    try:
        kind = LatentSet if latents.manifest_format(store) == latents.FORMAT else Dataset
    except BaseException:
        store.close()
        raise
    return kind.of(store, verify=config.verify)


def open_datasets(config: DataConfig) -> list[Dataset] | list[LatentSet]:
    """`data.train`, then every dataset of `data.mixture`; all of captures, or all of latents.

    Raises:
        UserError: one that is not there, or one of the other kind.
    """
    urls = [config.train, *(other.url for other in config.mixture)]
    with ExitStack() as stack:
        opened = [stack.enter_context(open_dataset(url, config)) for url in urls]
        for other in opened:
            if type(other) is not type(opened[0]):
                what = f"captures and latents do not mix: {opened[0].url} holds the other kind"
                raise UserError(what, where=f"data.mixture: {other.url}")
        stack.pop_all()  # all are there, so they stay open
    return cast("list[Dataset] | list[LatentSet]", opened)


def sampler_of(
    datasets: Sequence[Dataset] | Sequence[LatentSet], config: DataConfig, seed: int
) -> Sampler | LatentSampler:
    """What decides which samples a stream over these datasets yields; its `fingerprint` names the data."""
    if isinstance(datasets[0], LatentSet):
        return LatentSampler(cast("Sequence[LatentSet]", datasets), config, seed)
    return data.stream.sampler_of(cast("Sequence[Dataset]", datasets), config, seed)


def open_stream(
    datasets: Sequence[Dataset] | Sequence[LatentSet], config: DataConfig, **place: Any
) -> CaptureStream | ProcessStream | LatentStream:
    """This rank's micro-batches, by threads or, for captures with `data.loaders`, by processes.

    Args:
        datasets: as `open_datasets` gives them.
        config: the section `data`.
        place: `seed`, `rank`, `world_size`, `accumulation`, `start` and `pin` of `CaptureStream`.
    """
    if isinstance(datasets[0], LatentSet):
        return LatentStream(cast("Sequence[LatentSet]", datasets), config, **place)
    stream = ProcessStream if config.loaders else CaptureStream
    return stream(cast("Sequence[Dataset]", datasets), config, **place)


class ProcessStream(BatchStream[PackedBatch]):
    """The batches of one `CaptureStream`, each made by one of `config.loaders` spawned processes in turn.

    Every process opens the datasets and makes its clients itself, so nothing is inherited by a fork.

    Attributes:
        sampler, quarantine, waited: as in `CaptureStream`.
    """

    def __init__(self, datasets: Sequence[Dataset], config: DataConfig, *, pin: bool = False, **place: Any) -> None:
        super().__init__(Quarantine(config.bad_share))
        self.sampler: Sampler = data.stream.sampler_of(datasets, config, place["seed"])
        loader = DataLoader(
            _Stripes(list(datasets), config, place),
            batch_size=None,
            num_workers=config.loaders,
            multiprocessing_context="spawn",
            prefetch_factor=max(1, config.prefetch // config.loaders),
            pin_memory=pin,
        )
        self._made: Iterator[_Made] | None = iter(loader)

    def _take(self) -> PackedBatch:
        assert self._made is not None, "it is not closed"
        made = next(self._made)
        self.quarantine.merge(made.bad)
        if isinstance(made.outcome, Exception):
            raise made.outcome
        return made.outcome

    def _end(self) -> None:
        self._made = None  # the iterator ends its processes when nobody holds it


@dataclass(frozen=True)
class _Made:
    """What a process hands over: a batch or why there is none, and the bad members that it met so far."""

    outcome: PackedBatch | Exception
    bad: Found

    def pin_memory(self) -> _Made:
        if isinstance(self.outcome, Exception):
            return self
        return _Made(self.outcome.pin_memory(), self.bad)


class _Stripes(IterableDataset):
    """What each process of a `ProcessStream` runs."""

    def __init__(self, datasets: list[Dataset], config: DataConfig, place: dict[str, Any]) -> None:
        self._datasets, self._config, self._place = datasets, config, place

    def __iter__(self) -> Iterator[_Made]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        stream: CaptureStream | None = None
        try:
            with CaptureStream(self._datasets, self._config, **self._place, worker=worker, workers=workers) as stream:
                # A loader's process ends in the middle of this loop: threads must not decode into a dying interpreter.
                Finalize(None, stream.close, exitpriority=100)
                for batch in stream:
                    yield _Made(batch, stream.quarantine.found)
        except Exception as error:  # as it is: DataLoader would make a text with a traceback of it
            yield _Made(error, stream.quarantine.found if stream else {})
