"""The readers that are compared. Each is an iterator of batches without end: 8 decoded views of every capture.

A batch is (names, pixels): names of the captures and uint8 `[b, 8, h, w, 3]`, but for ours, which hands over what goes
to the device: uint8 images, masks and cameras. Every reader decodes with simplejpeg, on the same cores.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import litdata
import numpy as np
import s3fs
import simplejpeg
import torch
import webdataset as wds
from _captures import LITDATA_AHEAD, LITDATA_CHUNK, SIZE, CaptureSet, pool
from _servers import presign
from numpy.typing import NDArray

if TYPE_CHECKING:
    from data.store import Range

VIEWS, BATCH, AHEAD = 8, 8, 2
Encoded = tuple[str, list[bytes]]
Batches = Iterator[Any]


@dataclass(frozen=True)
class Job:
    """What to read and how.

    Attributes:
        reader: a key of `READERS`.
        captures: the set.
        local: from disk instead of from the server.
        workers: processes of a DataLoader, 0 for none; for `headway` its reader threads.
        opener: how webdataset opens a URL: `s3fs` or `curl`.
        cores: threads that decode, where this process decodes.
        seed: of the order and of the views.
    """

    reader: str
    captures: CaptureSet
    local: bool = False
    workers: int = 0
    opener: str = "s3fs"
    cores: int = 2
    seed: int = 0

    @property
    def limit(self) -> int | None:
        """Samples after which a rate means nothing: litdata has then read all that is left of its epoch."""
        ahead = LITDATA_AHEAD * max(1, self.workers) * LITDATA_CHUNK / (self.captures.views * self.captures.image_bytes)
        return self.captures.captures - int(ahead) if self.reader == "litdata" else None


@contextmanager
def read_headway(job: Job) -> Iterator[Batches]:
    """Ours: only the views that are needed."""
    from configs.schema import DataConfig
    from data.dataset import Dataset
    from data.stream import CaptureStream

    config = DataConfig(
        batch_size=BATCH,
        image_size=(SIZE, SIZE),
        source_views=(VIEWS // 2, VIEWS // 2),
        target_views=VIEWS - VIEWS // 2,
        source_sampling="uniform",
        readers=job.workers or job.cores,
        prefetch=2 * AHEAD,
        cache_mb=0,
    )
    with (
        Dataset.open(job.captures.local if job.local else job.captures.remote) as dataset,
        CaptureStream(dataset, config, seed=job.seed, rank=0, world_size=1) as stream,
    ):
        yield stream


@contextmanager
def read_webdataset(job: Job) -> Iterator[Batches]:
    """Whole shards one after the other, every member read, the views that are needed decoded."""
    from data.manifest import open_index
    from data.store import Store

    store = Store(job.captures.remote)
    paths = [f"{job.captures.remote}/{shard.path}" for shard in open_index(store)[0].shards]
    store.close()
    _register_s3()
    pipeline = wds.WebDataset(  # type: ignore[operator]
        [_presigned(path) for path in paths] if job.opener == "curl" else paths,
        shardshuffle=False,
        workersplitter=wds.split_by_worker,  # type: ignore[attr-defined]
        empty_check=False,
    )
    stages = pipeline.repeat().map(_Pick(job)).batched(BATCH, collation_fn=_Decode(job))
    if not job.workers:
        yield iter(stages)
        return
    context = torch.multiprocessing.get_context("forkserver")
    loader = torch.utils.data.DataLoader(
        stages, batch_size=None, num_workers=job.workers, multiprocessing_context=context, worker_init_fn=_register_s3
    )
    yield from _closing(loader)


@contextmanager
def read_litdata(job: Job) -> Iterator[Batches]:
    """Whole chunks through a cache on disk that is new in every epoch; the views that are needed decoded."""
    folder = tempfile.mkdtemp(prefix="headway-litdata-")
    _allow_http()
    try:
        with closing(_epochs(job, folder)) as batches:
            yield batches
    finally:
        _stop_fetching()
        shutil.rmtree(folder, ignore_errors=True)


def _epochs(job: Job, folder: str) -> Generator[Any]:
    for epoch in itertools.count():
        cache = f"{folder}/{epoch}"
        dataset = litdata.StreamingDataset(job.captures.optimized, cache_dir=cache, transform=_Pick(job))
        loader = litdata.StreamingDataLoader(
            dataset,
            batch_size=BATCH,
            num_workers=job.workers,
            collate_fn=_Decode(job),
            worker_init_fn=_allow_http,
            multiprocessing_context=torch.multiprocessing.get_context("forkserver") if job.workers else None,
        )
        yield from loader
        _stop_fetching()
        shutil.rmtree(cache, ignore_errors=True)


def _stop_fetching() -> None:
    """What litdata still fetches ahead would slow the next reader down."""
    for thread in threading.enumerate():
        if type(thread).__name__ == "PrepareChunksThread":
            thread.force_stop()  # type: ignore[attr-defined]
            thread.join(30)


@contextmanager
def read_s3fs(job: Job) -> Iterator[Batches]:
    """The floor: one ranged request for every view through s3fs, batches fetched ahead."""
    from data.dataset import Dataset

    dataset, dice, decode = Dataset.open(job.captures.remote), random.Random(job.seed), _Decode(job)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    root = job.captures.remote.removeprefix("s3://")

    def fetch(_: int) -> list[Encoded]:
        rows = dice.sample(range(len(dataset)), BATCH)
        wanted: list[Range] = []
        for row in rows:
            cameras = dataset.index.rig(row).cameras
            wanted += dataset.index.image_ranges(row, dice.sample(range(len(cameras)), VIEWS), cameras)
        starts, stops = [part.offset for part in wanted], [part.offset + part.length for part in wanted]
        data = files.cat_ranges([f"{root}/{part.path}" for part in wanted], starts, stops, on_error="raise")
        names = [dataset.index.text("name", row) for row in rows]
        return [(name, data[VIEWS * place :][:VIEWS]) for place, name in enumerate(names)]

    with ThreadPoolExecutor(1) as ahead:
        yield (decode(samples) for samples in _ahead(ahead, fetch))
    dataset.close()
    files.close_session(files.loop, files._s3)


@contextmanager
def read_bare(job: Job) -> Iterator[Batches]:
    """No reading at all: JPEGs in memory, decoded by as many threads as there are cores."""
    encoded, decode = pool()[0], _Decode(job)
    dice = random.Random(job.seed)
    with ThreadPoolExecutor(1) as ahead:
        yield _ahead(ahead, lambda _: decode([("", dice.sample(encoded, VIEWS)) for _ in range(BATCH)]))


READERS: dict[str, Callable[[Job], Any]] = {
    "headway": read_headway,
    "webdataset": read_webdataset,
    "litdata": read_litdata,
    "s3fs": read_s3fs,
    "bare": read_bare,
}


def samples_of(batch: Any) -> tuple[Sequence[str], NDArray[np.uint8]]:
    """Names and uint8 pixels `[b, v, h, w, 3]` of any reader's batch."""
    if isinstance(batch, tuple | list):
        return batch[0], np.asarray(batch[1])
    whole = batch.unpack()
    images = torch.cat([whole.source.images, whole.target.images], dim=1)
    return batch.names, (images * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()


class _Pick:
    """8 views of a sample, drawn by the seed and the name; a sample is a dictionary of members."""

    def __init__(self, job: Job) -> None:
        self.seed = job.seed

    def __call__(self, sample: dict[str, Any]) -> Encoded:
        name = str(sample["__key__"] if "__key__" in sample else sample["name"])
        cameras = sorted(key for key in sample if key.startswith("cam_"))
        digest = hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=8).digest()
        return name, [sample[camera] for camera in random.Random(digest).sample(cameras, VIEWS)]


class _Decode:
    """Encoded samples to a batch; by threads where no worker processes share the decoding."""

    def __init__(self, job: Job) -> None:
        self.threads = 1 if job.workers else job.cores
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"threads": self.threads, "_pool": None}

    def __call__(self, samples: Sequence[Encoded]) -> tuple[list[str], torch.Tensor]:
        pixels = np.empty((len(samples), VIEWS, SIZE, SIZE, 3), np.uint8)
        places = [(i, j, data) for i, (_, images) in enumerate(samples) for j, data in enumerate(images)]

        def decode(place: tuple[int, int, bytes]) -> None:
            simplejpeg.decode_jpeg(place[2], buffer=pixels[place[0], place[1]])

        if self.threads == 1:
            for place in places:
                decode(place)
        else:
            self._pool = self._pool or ThreadPoolExecutor(self.threads)
            list(self._pool.map(decode, places))
        return [name for name, _ in samples], torch.from_numpy(pixels)


def _ahead(pool: ThreadPoolExecutor, make: Callable[[int], Any]) -> Iterator[Any]:
    """`make(0)`, `make(1)`, ... with a few under way while the consumer works."""
    under_way: deque[Future[Any]] = deque()
    number = 0
    try:
        while True:
            while len(under_way) < AHEAD:
                under_way.append(pool.submit(make, number))
                number += 1
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


def _register_s3(_: int = 0) -> None:
    """webdataset knows no s3:// by itself."""
    wds.gopen_schemes["s3"] = _open_s3  # type: ignore[index]


def _allow_http(_: int = 0) -> None:
    """litdata knows no switch for a server without TLS."""
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # type: ignore[typeddict-unknown-key]


def _open_s3(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> Any:
    return s3fs.S3FileSystem().open(url, mode)


def _presigned(url: str) -> str:
    """A pipe from curl, which reads while this process decodes."""
    return f"pipe:curl -s -f '{presign(url, os.environ)}'"


def _closing(loader: Any) -> Iterator[Batches]:
    batches = iter(loader)
    try:
        yield batches
    finally:
        batches._shutdown_workers()
