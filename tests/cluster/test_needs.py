"""Whether a cluster holds a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.needs import Node, fitting, resources, shortage, there
from configs import Config, load_config

NODES = st.lists(st.builds(Node, st.just("n"), st.integers(0, 64).map(float), st.integers(0, 8).map(float)), max_size=6)


def wanting(workers: int, cpus: float, gpus: float) -> Config:
    sizes = [f"cluster.workers={workers}", f"cluster.cpus_per_worker={cpus}", f"cluster.gpus_per_worker={gpus}"]
    return load_config("headsup-nano", [*sizes, f"data.batch_size={workers}"])


@given(NODES, st.integers(1, 16), st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_fitting_workers_never_take_more_than_there_is(
    nodes: list[Node], workers: int, cpus: float, gpus: float
) -> None:
    config = wanting(workers, cpus, gpus)
    fit = fitting(config, nodes)
    assert 0 <= fit * cpus <= sum(node.cpus for node in nodes)
    assert fit * gpus <= sum(node.gpus for node in nodes)
    assert (shortage(config, nodes) is None) == (fit >= workers)
    assert fitting(config, [*nodes, Node("more", cpus, gpus)]) == fit + 1


def test_a_worker_is_not_split_between_machines() -> None:
    halves = [Node("a", 8, 1), Node("b", 8, 1)]
    assert shortage(wanting(1, 1, 2), halves) == (
        "1 worker of 1 CPU and 2 GPU are wanted, 0 fit on 2 nodes with 16 CPU and 2 GPU (at most 8 and 1 on one)"
    )
    assert shortage(wanting(2, 1, 1), halves) is None


@pytest.mark.parametrize(
    ("nodes", "words"), [([], "no node is up yet"), ([Node("a", 2, 0)], "1 node with 2 CPU and 0 GPU")]
)
def test_what_is_there_is_said_in_words(nodes: list[Node], words: str) -> None:
    assert there(nodes) == words


def test_what_is_wanted_is_summed() -> None:
    assert "48 CPU and 6 GPU in all" in resources(wanting(12, 4, 0.5))[0]
