"""Parabolas through IsoFLOP lines, and how far off they are: the way that this package does not go."""

from __future__ import annotations

import numpy as np

from trainer.scaling.law import Array, Law


def parabola_optimum(lines: list[tuple[float, Array, Array]], product: float) -> float:
    """Best D at a compute, as "Approach 2" has it (Hoffmann et al. 2022, section 3.2).

    A parabola of error over log N on every line gives its best N; a straight line through their logs extrapolates.

    Args:
        lines: for each line its N D, parameters `[trial]` and errors `[trial]`, two lines or more.
        product: N D to extrapolate to.
    """
    best = []
    for _, parameters, error in lines:
        logs = np.log(parameters)
        square, straight, _ = np.polyfit(logs - logs.mean(), error, 2)
        best.append(logs.mean() - straight / (2 * square))
    budgets = np.log([line[0] for line in lines])
    slope, height = np.polyfit(budgets, best, 1)
    return float(product / np.exp(slope * np.log(product) + height))


def bias(law: Law, lines: list[tuple[float, Array]], product: float) -> float:
    """Relative error of the parabolas' best D on noise-free trials of a law.

    Args:
        law: of length 1, with samples as data.
        lines: for each IsoFLOP line its N D and parameters `[trial]`.
        product: N D to extrapolate to.
    """
    drawn = [(budget, sizes, law.error(sizes, (budget / sizes)[None])[0]) for budget, sizes in lines]
    return parabola_optimum(drawn, product) / float(law.optimum(product)[1][0]) - 1


def lines_around(law: Law, budgets: Array, width: float, points: int = 16) -> list[tuple[float, Array]]:
    """IsoFLOP lines from 1 / width to width times the best N.

    Args:
        law: of length 1.
        budgets: N D of each line.
        width: a factor, > 1.
        points: trials on each line.
    """
    factors = np.geomspace(1 / width, width, points)
    return [(float(budget), float(law.optimum(budget)[0][0]) * factors) for budget in budgets]


def lines_of(parameters: Array, samples: Array) -> list[tuple[float, Array]]:
    """IsoFLOP lines among trials: four sizes or more at one N D (within 5 %), spread 1.5-fold or more.

    Returns:
        Each line's N D and its parameters; empty where less than half of the trials lie on such lines.
    """
    product = parameters * samples
    order = np.argsort(product)
    breaks = np.flatnonzero(np.diff(np.log(product[order])) > 0.05) + 1
    lines = []
    for rows in np.split(order, breaks):
        sizes = parameters[rows]
        if len(np.unique(sizes)) >= 4 and sizes.max() / sizes.min() >= 1.5 and np.ptp(np.log(product[rows])) < 0.1:
            lines.append((float(np.exp(np.log(product[rows]).mean())), sizes))
    enough = len(lines) >= 2 and sum(len(sizes) for _, sizes in lines) >= len(parameters) / 2
    return lines if enough else []
