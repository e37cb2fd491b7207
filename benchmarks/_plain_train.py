"""Ray Train as its documentation has it, for comparison: `HEAD FOLDER`. Steps of nothing, a checkpoint every ten.

Everything is Ray's default but for elastic numbers of workers, without which a lost node is waited for, and failures
without end.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def train(settings: dict[str, Any]) -> None:
    """A step is an all-reduce and a tenth of a second; rank 0 notes it with its process."""
    step, given = 0, ray.train.get_checkpoint()
    if given is not None:
        with given.as_directory() as folder:
            step = json.loads((Path(folder) / "step.json").read_text())
    while True:
        dist.all_reduce(torch.ones(1))
        time.sleep(0.1)
        step += 1
        if dist.get_rank() == 0:
            with open(Path(settings["folder"]) / "steps", "a") as file:
                file.write(f"{os.getpid()} {step}\n")
        if step % 10 == 0:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "step.json").write_text(json.dumps(step))
                saved = Checkpoint.from_directory(folder) if dist.get_rank() == 0 else None
                ray.train.report({"step": step}, checkpoint=saved)


def main() -> None:
    """Until it is killed."""
    head, folder = sys.argv[1:]
    ray.init(address=head)
    TorchTrainer(
        train,
        train_loop_config={"folder": folder},
        scaling_config=ScalingConfig(num_workers=(1, 3), resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="plain", storage_path=folder, failure_config=FailureConfig(max_failures=-1)),
    ).fit()


if __name__ == "__main__":
    main()
