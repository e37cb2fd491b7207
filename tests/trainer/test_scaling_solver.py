"""Side by side is as good as one by one, also on bent valleys and kinks."""

from __future__ import annotations

import numpy as np

from trainer.scaling.law import Array
from trainer.scaling.solver import minimise


def identity(problems: int, unknowns: int = 2) -> Array:
    return np.repeat(np.eye(unknowns)[None], problems, axis=0)


def rosenbrock(x: Array, rows: np.ndarray) -> tuple[Array, Array]:
    """Each problem's valley bends as much as its number says; least at (1, 1)."""
    bend = 1.0 + 20 * rows
    across, along = x[:, 1] - x[:, 0] ** 2, 1 - x[:, 0]
    gradient = np.stack([-4 * bend * across * x[:, 0] - 2 * along, 2 * bend * across], 1)
    return bend * across**2 + along**2, gradient


def test_bent_valleys_side_by_side() -> None:
    start = np.random.default_rng(0).normal(0, 2, (12, 2))
    found, value = minimise(rosenbrock, start, identity(12))
    np.testing.assert_allclose(found, 1, atol=1e-7)
    assert value.max() < 1e-14


def test_neighbours_change_nothing() -> None:
    start = np.random.default_rng(1).normal(0, 2, (6, 2))
    together, _ = minimise(rosenbrock, start, identity(6))
    alone, _ = minimise(lambda x, _: rosenbrock(x, np.array([4])), start[4:5], identity(1))
    np.testing.assert_allclose(alone[0], together[4], atol=1e-12)


def test_kinks() -> None:
    centre = np.array([0.3, -2.0])

    def distance(x: Array, _: np.ndarray) -> tuple[Array, Array]:
        off = x - centre
        return (np.abs(off) * [1, 10]).sum(axis=1), np.sign(off) * [1, 10]

    found, _ = minimise(distance, np.array([[5.0, 5.0], [-3.0, 0.1]]), identity(2))
    np.testing.assert_allclose(found, np.broadcast_to(centre, (2, 2)), atol=1e-6)


def test_a_start_that_has_no_value_stays_where_it_is() -> None:
    def logarithm(x: Array, _: np.ndarray) -> tuple[Array, Array]:
        good = x[:, 0] > 0
        safe = np.where(good, x[:, 0], 1)
        return np.where(good, safe - np.log(safe), np.inf), np.where(good, 1 - 1 / safe, 0)[:, None]

    found, value = minimise(logarithm, np.array([[-1.0], [4.0]]), identity(2, 1))
    np.testing.assert_allclose(found[:, 0], [-1, 1], atol=1e-6)
    assert np.isinf(value[0])
    assert value[1] == 1


def test_the_last_word_on_progress_is_all() -> None:
    said: list[tuple[int, int]] = []
    minimise(rosenbrock, np.zeros((3, 2)), identity(3), steps=2, told=lambda *seen: said.append(seen))
    assert said[-1] == (3, 3)
