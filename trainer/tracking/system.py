"""How busy every node is: one rank of each measures it, and rank 0 writes it to the spool.

MLflow's own monitor sends every sample straight to the server and drops it when the server is away; ours goes
through the spool like every other metric, carries its node's name, and needs no MLflow in the process.
"""

from __future__ import annotations

import csv
import logging
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import psutil

from trainer.distributed import Distributed, broadcast_object
from trainer.tracking.mailbox import Mailbox
from trainer.tracking.nodes import Layout
from trainer.tracking.tracker import Tracker

logger = logging.getLogger(__name__)
Sample = dict[str, Any]
_EVERY_SECONDS = 5.0
_GPU_FIELDS = {
    "utilization.gpu": "utilization_percentage",
    "memory.used": "memory_usage_megabytes",
    "memory.total": "memory_total_megabytes",
    "power.draw": "power_usage_watts",
    "temperature.gpu": "temperature_celsius",
}
_SMI_SECONDS = 10


class NodeLoad:
    """What this node did since the last look: percent, megabytes, and watts of its GPUs."""

    def __init__(self, node: str) -> None:
        self._prefix = f"system/{node}/"
        self._process = psutil.Process()
        self._network = psutil.net_io_counters()
        self._smi = shutil.which("nvidia-smi")
        self.sample()  # the first CPU percentage covers no time and means nothing

    def sample(self) -> dict[str, float]:
        """`{"system/NODE/NAME": value}`."""
        memory, network, disk = psutil.virtual_memory(), psutil.net_io_counters(), psutil.disk_usage("/")
        sent, received = (
            network.bytes_sent - self._network.bytes_sent,
            network.bytes_recv - self._network.bytes_recv,
        )
        self._network = network
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
            "process_cpu_percentage": self._process.cpu_percent(),
            "process_memory_megabytes": self._process.memory_info().rss / 1e6,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / 1e6,
            "network_transmit_megabytes": sent / 1e6,
            "network_receive_megabytes": received / 1e6,
        }
        values |= gpu_values(self._ask_gpus()) if self._smi else {}
        return {self._prefix + name: value for name, value in values.items()}

    def _ask_gpus(self) -> str:
        query = f"--query-gpu=index,{','.join(_GPU_FIELDS)}"
        command = [str(self._smi), query, "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("no load of GPUs is measured: %s", error)
            self._smi = None
            return ""
        return done.stdout


def gpu_values(answer: str) -> dict[str, float]:
    """`{"gpu_0_utilization_percentage": value, ...}` from nvidia-smi's lines, without what it does not know."""
    found: dict[str, float] = {}
    for index, *fields in csv.reader(answer.splitlines(), skipinitialspace=True):
        for name, text in zip(_GPU_FIELDS.values(), fields, strict=False):
            try:
                found[f"gpu_{index}_{name}"] = float(text)
            except ValueError:  # `[N/A]`
                continue
    return found


class SystemMetrics:
    """A thread that samples until it is closed; that it fails is nobody else's trouble.

    Args:
        sample: what to measure.
        deliver: takes `{"values": ..., "step": ..., "at": ...}`: a step is the seconds since the run began, so that it
            goes on growing over restarts; `at` is in milliseconds since the epoch.
        began: seconds since the epoch.
        collect: samples of other nodes; asked for after every sample of our own.
        every_seconds: between samples; five, if none.
    """

    def __init__(
        self,
        sample: Callable[[], dict[str, float]],
        deliver: Callable[[Sample], None],
        began: float,
        collect: Callable[[], list[Sample]] | None = None,
        every_seconds: float | None = None,
    ) -> None:
        self._sample, self._deliver, self._collect = sample, deliver, collect
        self._began, self._every = began, every_seconds or _EVERY_SECONDS
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sampling, and deliver what has come; a link that hangs is left behind."""
        self._done.set()
        self._thread.join(2)

    def _run(self) -> None:
        try:
            while not self._done.wait(self._every):
                self._forward(self._measured())
            self._forward([])
        except Exception as error:
            if not self._done.is_set():
                logger.warning("the load of this node is not reported any more: %s", error)

    def _measured(self) -> list[Sample]:
        now = time.time()
        return [{"values": self._sample(), "step": int(now - self._began), "at": int(now * 1000)}]

    def _forward(self, samples: list[Sample]) -> None:
        for sample in (*samples, *(self._collect() if self._collect else ())):
            self._deliver(sample)


def watch_nodes(layout: Layout, world: Distributed, tracker: Tracker | None) -> SystemMetrics | None:
    """Measure this node, where this rank leads it; rank 0 also gathers and tracks what the others measure. Collective.

    Args:
        layout: of all ranks.
        world: this rank.
        tracker: on rank 0.
    """
    began, name = broadcast_object((tracker.began if tracker else 0.0, uuid.uuid4().hex))
    if not layout.leads(world.rank):
        return None
    load = NodeLoad(layout.name(world.rank)).sample
    box = Mailbox(name) if len(layout.names) > 1 else None
    if tracker is not None:
        return SystemMetrics(load, lambda sample: tracker.metrics(**sample), began, box.collect if box else None)
    assert box is not None, "a leader that is not rank 0 is on another node"
    return SystemMetrics(load, box.post, began)
