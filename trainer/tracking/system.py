"""How busy a node is, sampled by a light thread.

MLflow's own monitor sends every sample straight to the server and drops it when the server is away; ours goes
through the spool like every other metric, carries its node's name, and needs no MLflow in the process.
"""

from __future__ import annotations

import platform
import re
import threading
import time
from collections.abc import Callable

import psutil

Sink = Callable[[dict[str, float], int], None]


class SystemMetrics:
    """Samples CPU, memory, disk and network of this node until closed.

    Args:
        sink: takes `{"system/NODE/NAME": value}` and the step.
        began: seconds since the epoch at which the run began; a sample's step is the seconds since then, so
            that it goes on growing over restarts.
        every_seconds: between samples.
    """

    def __init__(self, sink: Sink, began: float, every_seconds: float = 5.0) -> None:
        self._sink, self._began, self._every = sink, began, every_seconds
        self._prefix = f"system/{node_name()}/"
        self._done = threading.Event()
        self._process = psutil.Process()
        self._network = psutil.net_io_counters()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def sample(self) -> dict[str, float]:
        """Percent and megabytes since the last sample."""
        memory, network = psutil.virtual_memory(), psutil.net_io_counters()
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
            "disk_usage_percentage": psutil.disk_usage("/").percent,
            "network_transmit_megabytes": sent / 1e6,
            "network_receive_megabytes": received / 1e6,
        }
        return {self._prefix + name: value for name, value in values.items()}

    def close(self) -> None:
        """Stop sampling."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        self.sample()  # the first CPU percentage covers no time and means nothing
        while not self._done.wait(self._every):
            self._sink(self.sample(), int(time.time() - self._began))


def node_name() -> str:
    """This host's name in the characters that MLflow allows in a metric's name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", platform.node()) or "node"
