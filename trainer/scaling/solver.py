"""Many small minimisations side by side: BFGS with a weak Wolfe search, one array operation for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainer.scaling.law import Array

Rows = np.ndarray
Objective = Callable[[Array, Rows], tuple[Array, Array]]
"""Points `[problem, unknown]` and which problems they are of -> values `[problem]` and gradients alike."""

DECREASE, CURVATURE = 1e-4, 0.9
SMALL, PATIENCE, TRIES = 1e-13, 4, 40


def minimise(
    objective: Objective, start: Array, inverse: Array, steps: int = 600, told: Callable[[int, int], None] | None = None
) -> tuple[Array, Array]:
    """Minimise every problem from its start, until it gains no more than 1e-13 of its value four times running.

    BFGS keeps its whole matrix: the unknowns are five or six, so nothing is saved by keeping less. The step is searched
    by bisection for Armijo's and the weak Wolfe condition, which also serves kinks such as Huber's corners
    (Lewis and Overton 2013, algorithm 2.6). Every round evaluates each unfinished problem once.

    Args:
        objective: values and gradients.
        start: `[problem, unknown]`.
        inverse: first guess of the inverse Hessian, positive definite, `[problem, unknown, unknown]`.
        steps: rounds per problem at most.
        told: is told how many problems are done, of how many.

    Returns:
        The points `[problem, unknown]` and their values `[problem]`.
    """
    x, first = start.copy(), inverse
    everyone = np.arange(len(x))
    f, g = objective(x, everyone)
    search = _Search(len(x))
    matrix = first.copy()
    direction = -np.einsum("sij,sj->si", matrix, g)
    fresh, calm = np.ones(len(x), bool), np.zeros(len(x), int)
    live = everyone[np.isfinite(f)]
    for _ in range(steps):
        if not len(live):
            break
        trial = x[live] + search.step[live, None] * direction[live]
        value, gradient = objective(trial, live)
        slope = np.einsum("si,si->s", g[live], direction[live])
        accepted = search.judge(live, f[live], value, slope, np.einsum("si,si->s", gradient, direction[live]))
        moved, failed = live[accepted], live[search.tries[live] > TRIES]
        if len(moved):
            gain = f[moved] - value[accepted]
            calm[moved] = np.where(gain <= SMALL * np.abs(f[moved]), calm[moved] + 1, 0)
            matrix[moved] = _updated(matrix[moved], trial[accepted] - x[moved], gradient[accepted] - g[moved])
            x[moved], f[moved], g[moved] = trial[accepted], value[accepted], gradient[accepted]
            fresh[moved] = False
        # A search that finds nothing begins once more downhill before it gives up.
        again = failed[~fresh[failed]]
        matrix[again], fresh[again] = first[again], True
        turned = np.concatenate([moved, again])
        direction[turned] = -np.einsum("sij,sj->si", matrix[turned], g[turned])
        search.restart(turned)
        stopped = (calm[live] >= PATIENCE) | ~g[live].any(axis=1)
        stopped |= np.isin(live, failed) & ~np.isin(live, again)
        live = live[~stopped]
        if told and len(live):
            told(len(x) - len(live), len(x))
    if told:
        told(len(x), len(x))
    return x, f


class _Search:
    """The bracket of every problem's step."""

    def __init__(self, problems: int) -> None:
        self.step, self.low, self.high = np.ones(problems), np.zeros(problems), np.full(problems, np.inf)
        self.tries = np.zeros(problems, int)

    def restart(self, rows: Rows) -> None:
        self.step[rows], self.low[rows], self.high[rows], self.tries[rows] = 1.0, 0.0, np.inf, 0

    def judge(self, rows: Rows, before: Array, value: Array, slope: Array, slope_there: Array) -> np.ndarray:
        """Which steps are good; the others' brackets are narrowed."""
        step = self.step[rows]
        with np.errstate(invalid="ignore"):
            falls = value <= before + DECREASE * step * slope
        flat = slope_there >= CURVATURE * slope
        self.high[rows] = np.where(falls, self.high[rows], step)
        self.low[rows] = np.where(falls & ~flat, step, self.low[rows])
        middle = (self.low[rows] + np.where(np.isfinite(self.high[rows]), self.high[rows], 0)) / 2
        self.step[rows] = np.where(np.isfinite(self.high[rows]), middle, 2 * step)
        self.tries[rows] += 1
        return falls & flat


def _updated(matrix: Array, moved: Array, turned: Array) -> Array:
    """BFGS's inverse Hessian after a move (Nocedal and Wright 2006, equation 6.17); unchanged without curvature."""
    along = np.einsum("si,si->s", moved, turned)
    good = along > 0
    rho = np.where(good, 1 / np.where(good, along, 1), 0)[:, None, None]
    left = np.eye(moved.shape[1]) - rho * moved[:, :, None] * turned[:, None, :]
    new = left @ matrix @ left.transpose(0, 2, 1) + rho * moved[:, :, None] * moved[:, None, :]
    return np.where(good[:, None, None], new, matrix)
