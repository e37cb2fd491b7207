"""Which group comes next, of nodes that are given; and that nobody waits for ever."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from direct import Direct
from ray.train import ScalingConfig

from cluster.elastic import Elastic
from cluster.nodes import Host
from configs import UserError, load_config


def policy(direct: Direct, *settings: str) -> Elastic:
    config = load_config("headsup-nano", ["data.batch_size=12", *settings])
    scaling = ScalingConfig(num_workers=config.cluster.workers, resources_per_worker={"CPU": 1})
    return Elastic(config, scaling, direct)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    """Nodes, as Ray would tell of them; those whose port is 0 do not answer."""
    known: list[Host] = []
    monkeypatch.setattr("cluster.elastic.hosts", lambda: known)
    monkeypatch.setattr("cluster.elastic.answering", lambda there: [host for host in there if host.port])
    return known


def node(name: str, cpus: float = 1, *, port: int = 1, draining: bool = False) -> Host:
    return Host(name, name, port, {"CPU": cpus}, {"CPU": cpus}, draining)


def group(policy: Elastic) -> Sequence[str]:
    return policy._lay_out(policy._present())


def test_a_group_takes_what_divides_the_batch_of_nodes_that_answer_and_stay(
    direct: Direct, cluster: list[Host]
) -> None:
    elastic = policy(direct, "cluster.workers=6", "cluster.min_workers=2")
    cluster += [node("a", 2), node("b", 2), node("c", 2)]
    assert group(elastic) == ["a", "a", "b", "b", "c", "c"]
    cluster[1] = node("b", 2, port=0)
    assert group(elastic) == ["a", "a", "c", "c"]
    cluster[1] = node("b", 1)
    assert group(elastic) == ["a", "a", "c", "c"], "5 do not divide 12"
    cluster[2] = node("c", 2, draining=True)
    assert group(elastic) == ["a", "a", "b"]
    cluster[0] = node("a", 0)
    assert group(elastic) == [], "fewer than min_workers"


def test_a_node_with_a_bad_record_is_taken_only_where_the_others_will_not_do(
    direct: Direct, cluster: list[Host]
) -> None:
    elastic = policy(direct, "cluster.workers=2", "cluster.min_workers=1")
    cluster += [node("a"), node("b")]
    for _ in range(2):
        elastic.avoided.strike("a")
    assert group(elastic) == ["b"]
    cluster.pop()
    assert group(elastic) == ["a"]


def test_what_our_own_workers_hold_counts_as_room(direct: Direct, cluster: list[Host]) -> None:
    elastic = policy(direct, "cluster.workers=2")
    cluster += [Host("a", "a", 1, {"CPU": 2.0}, {"CPU": 0.0})]
    assert group(elastic) == []
    elastic.held = lambda: ["a", "a"]
    assert group(elastic) == ["a", "a"]


def test_workers_are_asked_to_pause_when_their_node_goes_or_more_may_come(direct: Direct, cluster: list[Host]) -> None:
    elastic = policy(direct, "cluster.workers=2", "cluster.min_workers=1", "cluster.grow_seconds=60")
    elastic.held = lambda: ["a"]
    cluster += [node("a"), node("b", draining=True)]
    assert elastic._reason_to_pause(1, age=1000) is None, "somebody else's node"
    cluster[1] = node("b", port=0)
    assert elastic._reason_to_pause(1, age=1000) is None, "it does not answer"
    cluster[1] = node("b")
    assert elastic._reason_to_pause(1, age=59) is None
    assert elastic._reason_to_pause(1, age=61) == "2 workers instead of 1: there are nodes again"
    cluster[0] = node("a", draining=True)
    assert elastic._reason_to_pause(1, age=1) == "node a is taken away"


def test_waiting_ends_when_the_user_stops_it_or_it_was_long_enough(direct: Direct) -> None:
    patient = policy(direct, "cluster.workers=2")
    patient._wait()
    assert direct.hub.news().notes == ["waiting for nodes with room for 2 workers"]
    direct.hub.stop()
    with pytest.raises(UserError, match=r"stopped while it waited[\s\S]*headway resume"):
        patient._wait()
    direct.hub = type(direct.hub)()
    hasty = policy(direct, "cluster.workers=2", "cluster.wait_seconds=0")
    hasty._wait()
    with pytest.raises(UserError, match="no room for 2 workers"):
        hasty._wait()
