"""Nodes of the Ray cluster as a group of workers needs them: who answers, what is free, which workers go where."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

NODE_ID = "ray.io/node-id"
"""Label of every node, by which one can be chosen."""

_ANSWER_SECONDS = 2.0
_AT_ONCE = 64
Resources = Mapping[str, float]


@dataclass(frozen=True)
class Host:
    """One node that Ray believes to be alive.

    Attributes:
        id: Ray's.
        address: IP.
        port: of its raylet.
        total, free: resources by Ray's names.
        draining: whether it will be taken away.
    """

    id: str
    address: str
    port: int
    total: Resources
    free: Resources
    draining: bool = False


def hosts() -> list[Host]:
    """All of them, in the order of their addresses, so that ranks are laid out alike in every attempt."""
    import ray
    from ray._private.state import available_resources_per_node, state

    free, draining = available_resources_per_node(), state.get_draining_nodes()
    found = [
        Host(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["NodeManagerPort"],
            node["Resources"],
            free.get(node["NodeID"], {}),
            draining=node["NodeID"] in draining,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda host: (_by_number(host.address), host.id))


def answers(host: Host) -> bool:
    """Whether its raylet answers now. Ray notices a cut link only after a minute or more."""
    import grpc

    with grpc.insecure_channel(f"{host.address}:{host.port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            check(b"", timeout=_ANSWER_SECONDS)
        except grpc.RpcError as error:
            silent = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
            return error.code() not in silent  # pyright: ignore[reportAttributeAccessIssue]
    return True


def answering(candidates: Sequence[Host], ask: Callable[[Host], bool] = answers) -> list[Host]:
    """Those that answer, in their order; all are asked at once."""
    if not candidates:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(candidates))) as pool:
        return [host for host, there in zip(candidates, pool.map(ask, candidates), strict=True) if there]


def room(host: Host, each: Resources, held: int = 0) -> int:
    """How many workers fit on a node.

    Args:
        host: of the cluster.
        each: what a worker needs.
        held: workers of our own that run there now and would make room.
    """
    needs = {name: amount for name, amount in each.items() if amount > 0}
    free = {
        name: min(host.total.get(name, 0.0), host.free.get(name, 0.0) + held * need) for name, need in needs.items()
    }
    return min((math.floor(free[name] / need + 1e-9) for name, need in needs.items()), default=0)


def lay_out(rooms: Mapping[str, int], sizes: Iterable[int], unit: int = 1) -> list[str]:
    """The largest group that fits, as the node of each rank; empty if none does.

    Ranks of a node follow each other, whole units only. Nodes are filled in the order given, as few as will do:
    workers that share a node exchange gradients without the network.

    Args:
        rooms: workers that fit on each node, by its id.
        sizes: numbers of workers that are allowed, multiples of `unit`.
        unit: workers that must share a node.
    """
    whole = {node: count // unit * unit for node, count in rooms.items()}
    size = max((size for size in sizes if size <= sum(whole.values())), default=0)
    placed: list[str] = []
    for node in sorted(whole, key=lambda node: -whole[node]):
        placed += [node] * min(whole[node], size - len(placed))
    order = {node: place for place, node in enumerate(rooms)}
    return sorted(placed, key=order.__getitem__)


class Avoided:
    """Nodes on which workers came to grief, and which are passed over while the rest will do.

    Args:
        strikes: of a node that answers, before it is avoided.
        seconds: for so long.
        clock: seconds.
    """

    def __init__(self, strikes: int = 2, seconds: float = 600.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed, self._seconds, self._clock = strikes, seconds, clock
        self._strikes: dict[str, list[float]] = {}

    def strike(self, node: str) -> None:
        """A worker hung there."""
        self._strikes.setdefault(node, []).append(self._clock())

    def __contains__(self, node: str) -> bool:
        recent = [at for at in self._strikes.get(node, []) if self._clock() - at < self._seconds]
        return len(recent) >= self._allowed


def _by_number(address: str) -> tuple[int, ...] | tuple[str]:
    parts = address.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else (address,)
