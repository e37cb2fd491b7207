"""Headway's training loop under Ray Train as its documentation has it, for comparison: `HEAD CONFIG`.

Checkpoint and restart with Ray's defaults: its controller, its failure policy without end, its elastic numbers of
workers, its health checks. The loop, the checkpoints and the ledger are ours, so that what differs is who starts it
again, and when.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.runs import prepare
from cluster.session import worker_environment
from configs import Config, load_config
from trainer import ledger


def train(settings: dict[str, Any]) -> None:
    """A worker."""
    from trainer.loop import train as loop

    config: Config = settings["config"]
    loop(config.at(ray.train.get_context().get_world_size()))


def main() -> None:
    """Until it is killed."""
    head, path = sys.argv[1:]
    config = load_config(path)
    prepare(config, resume=False)
    ray.init(address=head, runtime_env={"env_vars": worker_environment(config)})
    with ledger.session(config.run.path):
        TorchTrainer(
            train,
            train_loop_config={"config": config},
            scaling_config=ScalingConfig(num_workers=(1, config.cluster.workers), resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name="ray", storage_path=str(config.run.path), failure_config=FailureConfig(max_failures=-1)
            ),
        ).fit()


if __name__ == "__main__":
    main()
