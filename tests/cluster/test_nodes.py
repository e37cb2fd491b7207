"""Which workers go to which nodes; and whether a node answers, asked of real sockets."""

from __future__ import annotations

import socket
from concurrent import futures

import grpc
from hypothesis import given
from hypothesis import strategies as st

from cluster.nodes import Avoided, Host, answering, answers, lay_out, room


def host(address: str = "127.0.0.1", port: int = 1, **free: float) -> Host:
    return Host(address, address, port, {"CPU": 8.0, "GPU": 4.0}, free)


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 9), max_size=6),
    st.integers(1, 4),
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
)
def test_a_layout_is_the_largest_that_fits_in_whole_units(rooms: dict[str, int], unit: int, times: list[int]) -> None:
    sizes = [unit * count for count in times]
    placed = lay_out(rooms, sizes, unit)
    capacity = sum(count // unit * unit for count in rooms.values())
    assert len(placed) == max((size for size in sizes if size <= capacity), default=0)
    for node in set(placed):
        assert placed.count(node) <= rooms[node]
        assert placed.count(node) % unit == 0
        first = placed.index(node)
        assert placed[first : first + placed.count(node)] == [node] * placed.count(node)


def test_as_few_nodes_as_will_do_in_the_order_given() -> None:
    assert lay_out({"a": 1, "b": 4, "c": 2}, [6], 1) == ["b"] * 4 + ["c"] * 2
    assert lay_out({"a": 2, "b": 2}, [1, 2, 4]) == ["a", "a", "b", "b"]
    assert lay_out({"a": 1}, [2]) == []


def test_room_counts_what_is_free_and_what_we_hold_ourselves() -> None:
    assert room(host(CPU=3.0), {"CPU": 1.5}) == 2
    assert room(host(CPU=0.0), {"CPU": 2.0}, held=2) == 2
    assert room(host(CPU=8.0), {"CPU": 4.0}, held=2) == 2, "no more than there is"
    assert room(host(CPU=8.0), {"CPU": 1.0, "GPU": 1.0}) == 0
    assert room(host(CPU=0.3), {"CPU": 0.1}) == 3


def test_a_port_nobody_listens_on_does_not_answer_and_one_that_listens_without_speaking_neither() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        assert not answers(host(port=mute.getsockname()[1]))
        mute.listen()
        assert not answers(host(port=mute.getsockname()[1]))


def test_a_server_that_refuses_the_question_is_alive() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        alive, dead = host(port=port), host(port=1)
        assert answering([dead, alive, dead]) == [alive]
    finally:
        server.stop(None)
    assert answering([]) == []


def test_a_node_is_avoided_after_two_strikes_and_forgiven_in_time() -> None:
    now = [0.0]
    avoided = Avoided(strikes=2, seconds=10, clock=lambda: now[0])
    avoided.strike("a")
    assert "a" not in avoided
    avoided.strike("a")
    assert "a" in avoided
    assert "b" not in avoided
    now[0] = 11.0
    assert "a" not in avoided
