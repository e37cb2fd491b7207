"""Ray, torch.distributed, DeepSpeed, logs and MLflow's node names agree on who is who, in real workers."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ray import cloudpickle

from cluster.launch import launch
from configs import Config, load_config
from trainer.observer import Observer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@dataclass
class Answers:
    """What a loop returns, and what every rank said of itself."""

    steps: int = 1
    finished: bool = True
    ranks: list[dict] = field(default_factory=list)


def ask(config: Config, observer: Observer) -> Answers:
    """Ask everybody who this worker is."""
    import deepspeed.comm
    import ray.train

    from trainer.distributed import gather_objects, initialise
    from trainer.tracking.nodes import gather_layout

    world = initialise()
    deepspeed.comm.init_distributed("gloo", verbose=False)
    context = ray.train.get_context()
    layout = gather_layout(world)
    place = layout.places[world.rank]
    mine = {
        "ray": [context.get_world_rank(), context.get_node_rank(), context.get_local_rank(), context.get_world_size()],
        "environment": [int(os.environ[name]) for name in ("RANK", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")],
        "ours": [world.rank, place.node, world.local_rank, world.world_size],
        "deepspeed": [
            deepspeed.comm.get_rank(),
            place.node,
            deepspeed.comm.get_local_rank(),
            deepspeed.comm.get_world_size(),
        ],
        "log": Path(os.readlink("/proc/self/fd/1")).name,
        "node": layout.name(world.rank),
        "leads": layout.leads(world.rank),
        "layout": str(layout),
    }
    return Answers(ranks=gather_objects(json.loads(json.dumps(mine))) or [])


def test_everybody_calls_a_worker_the_same(tmp_path: Path) -> None:
    import sys

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    place = [f"run.dir={tmp_path}", "run.name=r", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    result = launch(load_config("headsup-nano", [*place, "cluster.workers=2", "data.batch_size=2"]), train=ask)
    assert len(result.summary.ranks) == 2
    for rank, said in enumerate(result.summary.ranks):
        assert said["ray"] == said["environment"] == said["ours"] == said["deepspeed"] == [rank, 0, rank, 2]
        assert said["log"] == f"rank-{rank}.log"
        assert said["node"] == platform.node()
        assert said["leads"] == (rank == 0)
        assert said["layout"] == f"{platform.node()}: ranks 0-1"
