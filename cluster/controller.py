"""What runs in Ray Train's controller: groups of workers are placed, watched and started again by rules of ours."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, cast

import psutil
import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupContext
from ray.train.v2.api.exceptions import WorkerGroupError

from cluster.budget import Budget, Evicted
from cluster.elastic import Elastic, evict
from cluster.nodes import NODE_ID, answers, hosts
from cluster.pulse import heed_signals
from cluster.watch import Beats, Finding, Judge, Member
from configs import Config

_LOOK_EVERY_SECONDS = 1.0
_NODE_ACTS_SECONDS = 8.0
_SETTINGS_SECONDS = 30.0


class Watch(WorkerGroupCallback):
    """Looks at the signs of life whenever Ray polls the workers, and ends a group that does not get on.

    Args:
        config: of the run.
        hub: handle of its `Hub`.
        policy: told of nodes where workers hang.
    """

    def __init__(self, config: Config, hub: Any, policy: Elastic) -> None:
        self._config, self._hub, self._policy = config, hub, policy
        self._members: dict[int, Member] = {}
        self._judge: Judge | None = None
        self._began = self._looked = 0.0
        self._beats: Any = None

    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        """Before the workers join each other: which network they use, and that SIGTERM is a notice."""
        ray.get([each.execute_async(settle_in, each.metadata.node_ip) for each in workers], timeout=_SETTINGS_SECONDS)
        return {}

    def after_worker_group_training_start(self, worker_group: WorkerGroup) -> None:
        """A new group to look at."""
        cluster = self._config.cluster
        self._members = {
            rank: Member(each.metadata.node_id, each.metadata.node_ip, each.metadata.pid)
            for rank, each in enumerate(worker_group.get_workers())
        }
        self._judge = Judge(self._members, cluster.silent_seconds, cluster.hang_seconds)
        self._began, self._beats = time.monotonic(), None

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:
        """Its workers are ended now."""
        self._judge = None

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Once a second.

        Raises:
            WorkerGroupError: somebody must be replaced.
        """
        now = time.monotonic()
        if self._judge is None or worker_group_status.finished or now - self._looked < _LOOK_EVERY_SECONDS:
            return
        self._looked = now
        waiting, self._beats = self._beats, self._hub.beats.remote()
        if waiting is None or not ray.wait([waiting], timeout=0)[0]:
            return
        beats, age = cast(Beats, ray.get(waiting)), now - self._began
        for line in self._judge.stragglers(beats, age):
            self._hub.note.remote(line)
        finding = self._judge.find(beats, age)
        if finding is not None and not worker_group_status.errors:
            self._replace(finding)

    def _replace(self, finding: Finding) -> None:
        self._judge = None
        self._hub.note.remote(finding.reason)
        found = [self._end(node, finding) for node in dict.fromkeys(self._members[r].node for r in finding.ranks)]
        self._write(finding, "\n".join(found))
        evicted = Evicted(f"evicted: rank {', '.join(map(str, finding.ranks))}")  # the note has said why
        raise WorkerGroupError(finding.reason, dict.fromkeys(finding.ranks, evicted))

    def _end(self, node: str, finding: Finding) -> str:
        members = [self._members[rank] for rank in finding.ranks if self._members[rank].node == node]
        there = any(host.id == node and answers(host) for host in hosts())
        found = evict(node, [member.pid for member in members], _NODE_ACTS_SECONDS) if there else None
        if found is None:
            return f"node {members[0].host} does not answer"
        self._policy.avoided.strike(node)
        return found

    def _write(self, finding: Finding, found: str) -> None:
        """The stacks, for whoever asks why."""
        logs = self._config.run.path / "logs"
        with contextlib.suppress(OSError):
            logs.mkdir(parents=True, exist_ok=True)
            with (logs / "evicted.log").open("a") as file:
                file.write(f"--- {time.strftime('%F %T')} {finding.reason}\n{found}\n")


class Controller(TrainController):
    """Ray's, with each worker pinned to the node that the policy chose: nobody is placed on one that is gone."""

    def __init__(self, config: Config, hub: Any, **rest: Any) -> None:
        scaling = rest["train_run_context"].scaling_config
        policy = Elastic(config, scaling, hub)
        policy.held = self._nodes_held
        rest["callbacks"] = [Watch(config, hub, policy), *(rest.get("callbacks") or [])]
        self._elastic = policy
        super().__init__(**(rest | {"scaling_policy": policy, "failure_policy": Budget(config.cluster, hub)}))

    def _nodes_held(self) -> list[str]:
        group = self.get_worker_group()
        return [each.metadata.node_id for each in group.get_workers()] if group and group.has_started() else []

    def _start_worker_group(self, num_workers: int, resources_per_worker: dict[str, float]) -> None:
        context = WorkerGroupContext(
            run_attempt_id=self._get_run_attempt_id(),
            train_fn_ref=self._train_fn_ref,
            num_workers=num_workers,
            resources_per_worker=resources_per_worker,
            label_selector=[{NODE_ID: node} for node in self._elastic.placed],
        )
        self._worker_group = self.worker_group_cls.create(
            train_run_context=self._train_run_context,
            worker_group_context=context,
            callbacks=self._worker_group_callbacks_to_propagate,
        )


class LeanTrainer(TorchTrainer):
    """Ray's trainer with our controller, without two actors, and with our handling of Ctrl-C.

    The actors hand out Ray datasets and sweep up after a lost controller; we stream data ourselves, and placement
    groups end with the job. Each costs seconds of a processor, as it imports Ray Train, torch and pandas.

    Args:
        config: of the run.
        hub: handle of its `Hub`.
    """

    def __init__(self, *args: Any, config: Config, hub: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._of_run = {"config": config, "hub": hub}

    def _create_default_callbacks(self) -> list[Any]:
        unused = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in unused]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        here = {NODE_ID: ray.get_runtime_context().get_node_id()}
        actor = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": get_env_vars_to_propagate()})
        controller = actor(Controller).remote(**self._of_run, **controller_init_kwargs)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


def settle_in(address: str) -> None:
    """In a worker, on its main thread: heed SIGTERM, and let gloo and NCCL use the interface that Ray reaches it by.

    Left to itself gloo takes the address that the host's name stands for, which other hosts may not reach.

    Args:
        address: of its node, as Ray knows it.
    """
    heed_signals()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
