"""How many workers a group has, and on which nodes: as many as wanted, or as few as will do."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import ray
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision, ScalingPolicy

from cluster.hub import Wish
from cluster.nodes import Avoided, Host, answering, hosts, lay_out, room
from configs import Config, UserError

_ANSWER_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 0.5
_LOOK_EVERY_SECONDS = 2.0


class Elastic(ScalingPolicy):
    """Ray asks it before every start of a group, and five times a second while one runs.

    Ray's own policy counts nodes that do not answer any more, numbers of workers that do not divide the batch, and
    throws away the steps since the last checkpoint when it grows.

    Args:
        config: of the run.
        scaling: Ray's form of it.
        hub: handle of the run's `Hub`.

    Attributes:
        placed: the node of each rank, as decided last.
        held: which nodes the workers of the present group occupy, one entry per worker.
        avoided: nodes that are passed over.
    """

    def __init__(self, config: Config, scaling: ScalingConfig, hub: Any) -> None:
        super().__init__(scaling)
        self._config, self._hub = config, hub
        self._sizes = config.world_sizes
        self._each = cast(dict[str, float], scaling._resources_per_worker_not_none)
        self.placed: list[str] = []
        self.held: Callable[[], list[str]] = list
        self.avoided = Avoided()
        self._waiting_since = math.inf
        self._looked = self._told_at = -math.inf
        self._paused = False

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """A new group, or patience.

        Raises:
            UserError: the nodes that it takes have not come for `cluster.wait_seconds`, or the user stops.
        """
        self._maybe_send_resource_request()
        self.placed, self._paused = self._lay_out(self._present()), False
        if self.placed:
            self._waiting_since = math.inf
            return ResizeDecision(len(self.placed), self._each)
        self._wait()
        return NoopDecision()

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Never by force: workers are asked to save and end, and the next group is another one."""
        self._maybe_send_resource_request()
        now = time.monotonic()
        if self._paused or now - self._looked < _LOOK_EVERY_SECONDS:
            return NoopDecision()
        self._looked = now
        reason = self._reason_to_pause(worker_group_state.num_workers, now - worker_group_state.start_time)
        if reason:
            self._paused = True
            self._hub.pause.remote(reason)
        return NoopDecision()

    def _reason_to_pause(self, workers: int, age: float) -> str | None:
        ours = set(self.held())
        known = hosts()
        going = [host.address for host in known if host.draining and host.id in ours]
        if going:
            return f"node {', '.join(going)} is taken away"
        if workers < self._sizes[-1] and age > self._config.cluster.grow_seconds:
            more = len(self._lay_out(known))
            if more > workers and len(self._lay_out(self._usable(known))) > workers:
                return f"{more} workers instead of {workers}: there are nodes again"
        return None

    def _present(self) -> list[Host]:
        return self._usable(hosts())

    def _usable(self, known: list[Host]) -> list[Host]:
        """Those that answer; nodes with a bad record only if there are too few others."""
        there = answering([host for host in known if not host.draining])
        good = [host for host in there if host.id not in self.avoided]
        return good if self._lay_out(good) else there

    def _lay_out(self, candidates: list[Host]) -> list[str]:
        held = Counter(self.held())
        rooms = {host.id: room(host, self._each, held[host.id]) for host in candidates if not host.draining}
        return lay_out(rooms, self._sizes, self._config.cluster.workers_per_unit)

    def _wait(self) -> None:
        now, cluster = time.monotonic(), self._config.cluster
        self._waiting_since = min(self._waiting_since, now)
        if self._stop_is_wished():
            raise UserError(
                "stopped while it waited for nodes", hint="headway resume goes on from the newest checkpoint"
            )
        if now - self._waiting_since > cluster.wait_seconds:
            raise UserError(
                f"no room for {self._sizes[0]} workers has come in {cluster.wait_seconds:g} s",
                where="cluster",
                hint="cluster.min_workers=N goes on with fewer, cluster.wait_seconds=N waits longer",
            )
        if now - self._told_at > 60:
            self._told_at = now
            self._hub.note.remote(f"waiting for nodes with room for {self._sizes[0]} workers")
        time.sleep(_ASK_AGAIN_SECONDS)

    def _stop_is_wished(self) -> bool:
        with contextlib.suppress(Exception):
            return cast(Wish, ray.get(self._hub.wish.remote(), timeout=_ANSWER_SECONDS)).stop
        return False

    def _get_num_workers_for_resource_request(self) -> int:
        return self._sizes[-1]


def evict(node: str, pids: list[int], timeout: float) -> str | None:
    """End processes on a node, after they have written their stacks; what was found there.

    Args:
        node: Ray's id.
        pids: of workers.
        timeout: seconds to wait for the node.

    Returns:
        States and stacks as text, or None if the node does not answer.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from cluster.autopsy import end

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ending = ray.remote(num_cpus=0, max_retries=0)(end).options(scheduling_strategy=there).remote(pids)
    try:
        return ray.get(ending, timeout=timeout)
    except Exception:
        ray.cancel(ending, force=True)
        return None
