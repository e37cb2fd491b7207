"""Seconds from nothing to the first batch, in fresh processes with cold caches, at the start and amid an epoch.

    headway data synth s3://bucket/heads --subjects 10240 --image-size 64x64
    python benchmarks/first_batch.py s3://bucket/heads [--json] [--repeats 5]

Imports are over before the clock starts. Also what the open index takes of memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _report import finish, median_and_spread

from data.synth import synthesise

CODE = """
import json, sys, time
import psutil, pyarrow.parquet, torch, obstore.store
from configs.schema import DataConfig
from data import open_datasets, open_stream
import data.loader

config = DataConfig(train=sys.argv[1], batch_size=8, image_size=(64, 64), source_views=4, target_views=4, readers=2)
memory = psutil.Process().memory_info().rss
began = time.perf_counter()
datasets = open_datasets(config)
opened = time.perf_counter()
index = psutil.Process().memory_info().rss - memory
captures = len(datasets[0])
start = int(float(sys.argv[2]) * captures) // 8 * 8
with open_stream(datasets, config, seed=0, rank=0, world_size=1, start=start) as stream:
    next(stream)
    first = time.perf_counter()
datasets[0].close()
found = {"index_seconds": opened - began, "first_batch_seconds": first - began, "index_megabytes": index / 1e6}
print(json.dumps(found | {"captures": captures, "subjects": len(datasets[0].subjects)}))
"""


PLACES = {"start": 0.0, "amid": 7.5}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="dataset; a small one is made on disk where none is given")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--repeats", type=int, default=5, help="processes for each place")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.url or synthesise(folder, 64, image_size=(64, 64)).url
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in PLACES}
        for _ in range(arguments.repeats):
            for name, epochs in PLACES.items():
                turns[name].append(once(url, epochs))
    results = {
        name: {key: median_and_spread([turn[key] for turn in those]) for key in those[0]}
        for name, those in turns.items()
    }
    for name, figures in results.items():
        line = ", ".join(f"{key} {value['median']:.2f} (iqr {value['iqr']:.2f})" for key, value in figures.items())
        print(f"{name}: {line}")
    finish(results, arguments.json)


def once(url: str, epochs: float) -> dict[str, float]:
    """One fresh process that begins so many epochs into the run."""
    command = [sys.executable, "-c", CODE, url, str(epochs)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
