"""Which rank works where: one layout, by which metrics, tags and messages name nodes."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.distributed import Distributed, broadcast_object, gather_objects

_NODE_RANK = ("NODE_RANK", "GROUP_RANK")  # Ray Train's name, torchrun's


@dataclass(frozen=True)
class Place:
    """Where one rank works.

    Attributes:
        host: its host's name.
        node: position of its node among the nodes.
        local_rank: position among the ranks of its node.
    """

    host: str
    node: int
    local_rank: int


@dataclass(frozen=True)
class Layout:
    """Where all ranks work, in rank order; the same on every rank."""

    places: tuple[Place, ...]

    @cached_property
    def names(self) -> dict[int, str]:
        """By node: its host's name in the characters of a metric; with the node's rank where hosts share a name."""
        hosts: dict[int, str] = {}
        for place in self.places:
            hosts.setdefault(place.node, re.sub(r"[^A-Za-z0-9_.-]", "-", place.host) or "node")
        every = list(hosts.values())
        return {node: host if every.count(host) == 1 else f"{host}-{node}" for node, host in sorted(hosts.items())}

    @cached_property
    def leaders(self) -> dict[int, int]:
        """By node: the lowest rank on it, which measures it."""
        found: dict[int, int] = {}
        for rank, place in enumerate(self.places):
            found.setdefault(place.node, rank)
        return found

    def name(self, rank: int) -> str:
        """Of the node that a rank works on."""
        return self.names[self.places[rank].node]

    def leads(self, rank: int) -> bool:
        """Whether a rank measures its node."""
        return self.leaders[self.places[rank].node] == rank

    def __str__(self) -> str:
        """`head: ranks 0-3; worker: ranks 4-7`."""
        ranks: dict[int, list[int]] = {node: [] for node in self.names}
        for rank, place in enumerate(self.places):
            ranks[place.node].append(rank)
        return "; ".join(f"{name}: {_ranges(ranks[node])}" for node, name in self.names.items())


def gather_layout(world: Distributed) -> Layout:
    """Ask every rank where it works. Collective."""
    found = gather_objects((platform.node(), node_rank(os.environ), world.local_rank))
    return Layout(broadcast_object(arrange(found) if found is not None else ()))


def node_rank(environment: Mapping[str, str]) -> int | None:
    """What the launcher calls this node; None where it does not say."""
    named = [environment[name] for name in _NODE_RANK if environment.get(name, "").isdigit()]
    return int(named[0]) if named else None


def arrange(ranks: Iterable[tuple[str, int | None, int]]) -> tuple[Place, ...]:
    """Places from host, node and local rank of every rank.

    Where a launcher names no nodes, a new one begins with every local rank 0, as launchers number ranks.
    """
    places: list[Place] = []
    begun = -1
    for host, node, local_rank in ranks:
        begun += local_rank == 0 or begun < 0
        places.append(Place(host, begun if node is None else node, local_rank))
    return tuple(places)


def _ranges(numbers: Sequence[int]) -> str:
    """`rank 3`, `ranks 0-3, 8`."""
    pairs: list[list[int]] = []
    for number in numbers:
        if pairs and number == pairs[-1][1] + 1:
            pairs[-1][1] = number
        else:
            pairs.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in pairs)
    return f"rank{'s' * (len(numbers) > 1)} {text}"
