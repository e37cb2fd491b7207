"""How sure a fit is: the law fitted again and again to trials and held-out subjects weighed anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainer.scaling.fit import Problem, solve
from trainer.scaling.law import Array, Law

LEVEL = 0.9
"""Share of an interval, between the quantiles 0.05 and 0.95."""


def bootstrap(
    problem: Problem,
    law: Law,
    errors: Array,
    resamples: int = 1000,
    seed: int = 0,
    told: Callable[[int, int], None] | None = None,
) -> Law:
    """Refit, from the best fit on, with random weights on the trials and on the subjects of their errors.

    Weights are exponential, as in the Bayesian bootstrap (Rubin 1981): their mean and variance are those of drawing
    with replacement, but no trial ever leaves the table, so that the corners of a small grid, which alone tell E from
    the exponents, stay in every refit. Subjects keep their weight over all trials of a resample: who is hard to
    reconstruct is hard at every size.

    Args:
        problem: the table.
        law: its best fit.
        errors: error of every trial on every held-out subject, `[trial, subject]`; with one column only trials are
            weighed.
        resamples: how many refits.
        seed: of the weights.
        told: is told how many refits are done, of how many.

    Returns:
        As many laws as resamples.
    """
    draw = np.random.default_rng(seed)
    weights = draw.exponential(size=(resamples, len(errors)))
    log_error = np.log(errors.mean(axis=1))[None]
    if errors.shape[1] > 1:
        people = draw.dirichlet(np.ones(errors.shape[1]), resamples)
        log_error = np.log(people @ errors.T)
    start = np.repeat(problem.point(law), resamples, axis=0)
    return problem.law(solve(problem, start, log_error, weights, told)[0])


def interval(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Quantiles that hold the middle share of the values; NaN counts as unreachably large (infinite)."""
    values = np.where(np.isnan(values), np.inf, values)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def noise(residuals: Array, unknowns: int) -> Array:
    """Noise of a trial that was not fitted: residuals, widened by sqrt(n / (n - unknowns)), `[trial]`."""
    return residuals * np.sqrt(len(residuals) / max(1, len(residuals) - unknowns))


def of_a_trial(predicted: Array, scatter: Array, seed: int = 0) -> Array:
    """Errors that a new trial may show, `[fit]`: each law's prediction with the noise of some trial.

    Args:
        predicted: by every resample, `[fit]`.
        scatter: see `noise`.
        seed: which noise goes with which prediction.
    """
    return predicted * np.exp(np.random.default_rng(seed).choice(scatter, len(predicted)))
