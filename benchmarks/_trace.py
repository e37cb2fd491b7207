"""What our reader delivers and when, in a process of its own: one job in JSON as argument, one answer on stdout."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CONFIG = {"batch_size": 8, "image_size": (256, 256), "source_views": (4, 4), "target_views": 4, "cache_mb": 0}
THREADS = 8


def start(environment: dict[str, str], **job: Any) -> subprocess.Popen[str]:
    """Begin a job in a process of its own."""
    everything = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, __file__, json.dumps(job)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=everything, start_new_session=True)


def result(process: subprocess.Popen[str], limit: float = 600.0) -> dict[str, Any]:
    """Its answer."""
    try:
        answer, _ = process.communicate(timeout=limit)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(f"the reader ended with {process.returncode}; its messages are above")
    return json.loads(answer.splitlines()[-1])


def stream(url: str, hedge: bool, batches: int | None = None, seconds: float = 0.0) -> dict[str, Any]:
    """Wall-clock time and digest of every batch, for so many batches or so many seconds."""
    from configs.schema import DataConfig
    from configs.store import StoreConfig
    from data.dataset import Dataset
    from data.stream import CaptureStream

    config = DataConfig(**CONFIG, readers=2, prefetch=16)  # type: ignore[arg-type]
    times, digests = [], []
    end = time.monotonic() + seconds
    with (
        Dataset.open(url, settings=StoreConfig(hedge=hedge)) as dataset,
        CaptureStream(dataset, config, seed=0, rank=0, world_size=1) as batch_stream,
    ):
        for number in itertools.count():
            if number == batches or (batches is None and time.monotonic() > end):
                return {"times": times, "digests": digests}
            batch = next(batch_stream)
            times.append(time.time())
            digests.append(digest(batch))
    raise AssertionError


def samples(url: str, hedge: bool, count: int) -> dict[str, Any]:
    """Seconds that each of `count` samples takes, a few at a time."""
    from configs.store import StoreConfig
    from data.dataset import Dataset

    with (
        Dataset.open(url, settings=StoreConfig(hedge=hedge)) as dataset,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        names = dataset.captures

        def read(number: int) -> float:
            dice = random.Random(number)
            name = dice.choice(names)
            cameras = dice.sample(dataset.cameras(name), 8)
            began = time.perf_counter()
            dataset.views(name, cameras, (256, 256))
            return time.perf_counter() - began

        return {"seconds": list(pool.map(read, range(count)))}


def digest(batch: Any) -> str:
    """Of all names, pixels, masks and cameras."""
    found = hashlib.blake2b(" ".join(batch.names).encode(), digest_size=16)

    def add(tensor: Any) -> Any:
        found.update(tensor.contiguous().numpy())
        return tensor

    batch.map(add)
    return found.hexdigest()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps({"stream": stream, "samples": samples}[asked.pop("kind")](**asked)))
