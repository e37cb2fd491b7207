"""Every node's load under its own name, through rank 0's spool; one layout by which all name ranks and nodes."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import run_ranks
from test_tracking import config

from trainer.distributed import initialise
from trainer.tracking import Tracker
from trainer.tracking.nodes import Layout, Place, arrange, node_rank
from trainer.tracking.spool import Spool
from trainer.tracking.system import NodeLoad, SystemMetrics, gpu_values


def layout(*ranks: tuple[str, int | None, int]) -> Layout:
    return Layout(arrange(ranks))


def test_hosts_with_names_of_their_own_keep_them() -> None:
    found = layout(("head", 0, 0), ("head", 0, 1), ("worker", 1, 0), ("worker", 1, 1))
    assert [found.name(rank) for rank in range(4)] == ["head", "head", "worker", "worker"]
    assert [rank for rank in range(4) if found.leads(rank)] == [0, 2]
    assert str(found) == "head: ranks 0-1; worker: ranks 2-3"


def test_nodes_that_share_a_host_name_are_told_apart_by_their_rank() -> None:
    found = layout(("box", 0, 0), ("box", 1, 0), ("other", 2, 0))
    assert list(found.names.values()) == ["box-0", "box-1", "other"]


def test_where_the_launcher_names_no_nodes_one_begins_with_every_local_rank_0() -> None:
    found = layout(("a", None, 0), ("a", None, 1), ("b", None, 0))
    assert found.places == (Place("a", 0, 0), Place("a", 0, 1), Place("b", 1, 0))


def test_a_name_has_only_characters_that_mlflow_takes() -> None:
    assert layout(("my host/ü", 0, 0)).name(0) == "my-host--"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"NODE_RANK": "2"}, 2), ({"GROUP_RANK": "1"}, 1), ({}, None), ({"NODE_RANK": ""}, None)],
)
def test_the_node_s_rank_is_the_launcher_s(environment: dict[str, str], expected: int | None) -> None:
    assert node_rank(environment) == expected


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), min_size=1, max_size=12))
def test_every_node_has_one_name_of_its_own_and_one_leader(nodes: list[tuple[str, int]]) -> None:
    places = [(host, number, local) for number, (host, count) in enumerate(nodes) for local in range(count)]
    found = layout(*places)
    assert len(set(found.names.values())) == len(nodes) == len(found.leaders)
    assert layout(*((host, None, local) for host, _, local in places)) == found


def test_a_sample_carries_the_node_the_time_and_a_growing_step() -> None:
    seen: list[dict] = []
    monitor = SystemMetrics(NodeLoad("here").sample, seen.append, time.time() - 100, every_seconds=0.02)
    while len(seen) < 2:
        time.sleep(0.01)
    monitor.close()
    first, second = seen[:2]
    assert first["step"] >= 100
    assert first["at"] < second["at"]
    assert all(name.startswith("system/here/") for name in first["values"])
    assert "system/here/cpu_utilization_percentage" in first["values"]
    assert all(math.isfinite(value) for value in json.loads(json.dumps(first["values"])).values())


def test_a_store_that_has_gone_ends_the_thread_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def gone(_: dict) -> None:
        raise ConnectionError("rank 0 has left")

    monitor = SystemMetrics(dict, gone, 0.0, every_seconds=0.01)
    monitor._thread.join(10)
    monitor.close()
    assert caplog.text.count("the load of this node is not reported any more: rank 0 has left") == 1


def test_what_a_gpu_does_not_know_is_left_out() -> None:
    answer = "0, 87, 10240, 81920, 350.12, 61\n1, [N/A], 512, 81920, [Not Supported], 33\n"
    assert gpu_values(answer) == {
        "gpu_0_utilization_percentage": 87,
        "gpu_0_memory_usage_megabytes": 10240,
        "gpu_0_memory_total_megabytes": 81920,
        "gpu_0_power_usage_watts": 350.12,
        "gpu_0_temperature_celsius": 61,
        "gpu_1_memory_usage_megabytes": 512,
        "gpu_1_memory_total_megabytes": 81920,
        "gpu_1_temperature_celsius": 33,
    }
    assert gpu_values("") == {}


def watch(folder: Path) -> str:
    """A rank of four on two nodes: measures for a while, and says what it calls its node."""
    from trainer.tracking import system
    from trainer.tracking.nodes import gather_layout

    rank = int(os.environ["RANK"])
    os.environ |= {"NODE_RANK": str(rank // 2), "LOCAL_RANK": str(rank % 2)}
    world = initialise()
    system._EVERY_SECONDS = 0.05
    tracker = Tracker(config(f"sqlite:///{folder}/mlflow.db"), folder) if rank == 0 else None
    names = gather_layout(world)
    monitor = system.watch_nodes(names, world, tracker)
    assert (monitor is not None) == (rank in (0, 2))
    if rank == 0:
        give_up = time.monotonic() + 60
        while len(nodes_in(folder)) < 2 and time.monotonic() < give_up:
            time.sleep(0.02)
    import torch.distributed as dist

    dist.barrier()
    if monitor:
        monitor.close()
    if tracker:
        tracker.close(patience_seconds=0)
    return names.name(rank)


def nodes_in(folder: Path) -> set[str]:
    """Nodes whose load lies in the spool."""
    lines = Spool(folder / "tracking", mend=False).read(0)
    records = [line.record for line in lines if line.record and line.record["kind"] == "metrics"]
    return {name.split("/")[1] for record in records for name in record["values"] if name.startswith("system/")}


def test_rank_0_s_spool_has_the_load_of_every_node(tmp_path: Path) -> None:
    names = run_ranks(4, watch, tmp_path)
    assert names[0] == names[1] != names[2] == names[3]
    assert nodes_in(tmp_path) == set(names)
    assert {name.rpartition("-")[2] for name in names} == {"0", "1"}
