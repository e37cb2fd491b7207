"""Fits the law: Huber on logs, from many starts, to the last digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from trainer.scaling.law import EXTRA, Array, Form, Law, limits_are_fine, log_data
from trainer.scaling.solver import minimise

DELTA = 1e-3
"""Huber's corner, in units of log error (Hoffmann et al. 2022, appendix D.3)."""

EXPONENTS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.6)
FREE: Mapping[Form, tuple[float, ...]] = {
    "samples": (0.0,),
    "identities": (0.0,),
    "views": (-4.0, -2.0, -0.5, 1.0, 3.0),
    "repeats": (0.0, 1.5, 3.0, 5.0),
}
"""Starts of logit rho and of log R*."""

STEEPEST = 4.0
"""No exponent is larger: A = exp(...) stays finite where a resample's trials leave a term nothing to do."""
TINY, FLATTEST, SURE, LASTING = 1e-300, 1e-9, 1e-12, (1e-6, 1e9)


@dataclass(frozen=True)
class Fitted:
    """What a fit found.

    Attributes:
        law: the best of all starts; its arrays have length 1.
        objective: the sum over trials of Huber(log error - log prediction), delta 1e-3.
        residuals: log error - log prediction, `[trial]`.
        agreeing: how many of the starts ended within 1e-6 of the best objective.
        starts: how many there were.
    """

    law: Law
    objective: float
    residuals: Array
    agreeing: int
    starts: int


class Problem:
    """Objective and gradient of the law on one table, for many fits at once.

    The unknowns `[fit, 5 or 6]` are log E, log A and log B at the table's mean sizes (which unties them from the
    exponents), the logits of alpha / 4 and beta / 4, and the form's free number. So error falls with size and data by
    construction.

    Args:
        form: what D is.
        columns: positive arrays `[trial]`: `parameters` and what the form needs.
    """

    def __init__(self, form: Form, columns: Mapping[str, Array]) -> None:
        self.form: Form = form
        self.columns = columns
        self.log_size = np.log(columns["parameters"])
        self.size_centre = float(self.log_size.mean())
        self.data_centre = float(log_data(form, columns, np.zeros(1))[0].mean())
        self.unknowns = 5 + (EXTRA[form] is not None)

    @limits_are_fine
    def logs(self, x: Array) -> tuple[Array, Array]:
        """log prediction `[fit, trial]` and its derivatives `[fit, unknown, trial]`."""
        free = x[:, 5] if self.unknowns == 6 else np.zeros(len(x))
        log_d, by_free = log_data(self.form, self.columns, free)
        alpha, beta = _exponent(x[:, 3:4]), _exponent(x[:, 4:5])
        size, data = self.log_size[None] - self.size_centre, log_d - self.data_centre
        terms = np.stack([np.broadcast_to(x[:, 0:1], data.shape), x[:, 1:2] - alpha * size, x[:, 2:3] - beta * data], 1)
        top = terms.max(axis=1, keepdims=True)
        shares = np.exp(terms - top)
        total = shares.sum(axis=1, keepdims=True)
        shares /= total
        by_alpha = -shares[:, 1] * size * alpha * (1 - alpha / STEEPEST)
        by_beta = -shares[:, 2] * data * beta * (1 - beta / STEEPEST)
        slopes = [shares, by_alpha[:, None], by_beta[:, None]]
        if self.unknowns == 6:
            slopes.append((-shares[:, 2] * beta * by_free)[:, None])
        return (top + np.log(total))[:, 0], np.concatenate(slopes, axis=1)

    @limits_are_fine
    def value(self, x: Array, log_error: Array, weights: Array) -> tuple[Array, Array]:
        """Sum over trials of weight x Huber, `[fit]`, and its gradient `[fit, unknown]`; both in units of delta^2."""
        prediction, slopes = self.logs(x)
        residual = (log_error - prediction) / DELTA
        pull = np.clip(residual, -1, 1)
        value = (weights * pull * (residual - pull / 2)).sum(axis=1)
        gradient = -np.einsum("sn,sun->su", weights * pull, slopes) / DELTA
        lost = ~np.isfinite(value) | ~np.isfinite(gradient).all(axis=1)
        value[lost], gradient[lost] = np.inf, 0
        return value, gradient

    def inverse(self, x: Array, log_error: Array, weights: Array) -> Array:
        """Inverse of the reweighted Gauss-Newton Hessian with some damping, `[fit, unknown, unknown]`."""
        prediction, slopes = self.logs(x)
        weights = weights / np.maximum(np.abs(log_error - prediction), DELTA) / DELTA
        hessian = np.einsum("sun,sn,svn->suv", slopes, np.broadcast_to(weights, prediction.shape), slopes)
        damping = 1e-3 * np.einsum("suu->s", hessian) / self.unknowns
        return np.linalg.inv(hessian + (damping + 1e-9)[:, None, None] * np.eye(self.unknowns))

    def starts(self, log_error: Array) -> Array:
        """Points `[start, unknown]`: a grid over the exponents with E, A, B solved for, by least relative squares."""
        alpha, beta, free = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS, FREE[self.form], indexing="ij"))
        log_d, _ = log_data(self.form, self.columns, free)
        size = -alpha[:, None] * (self.log_size - self.size_centre)
        basis = np.exp(np.stack([np.zeros(size.shape), size, -beta[:, None] * (log_d - self.data_centre)], 2))
        basis /= np.exp(log_error)[:, None]
        gram = np.einsum("sni,snj->sij", basis, basis) + 1e-9 * np.eye(3) * len(log_error)
        solved = np.linalg.solve(gram, basis.sum(axis=1)[..., None])[..., 0]
        floor = 1e-2 * float(np.exp(log_error.min()))
        columns = [*np.log(np.maximum(solved, floor)).T, _unbounded(alpha), _unbounded(beta), free]
        return np.stack(columns[: self.unknowns], axis=1)

    @limits_are_fine
    def law(self, x: Array) -> Law:
        """The unknowns as coefficients."""
        alpha, beta = (np.maximum(_exponent(x[:, place]), FLATTEST) for place in (3, 4))
        extra = np.zeros(len(x))
        if self.form == "views":
            extra = np.clip(1 / (1 + np.exp(-x[:, 5])), SURE, 1 - SURE)
        elif self.form == "repeats":
            extra = np.clip(np.exp(x[:, 5]), *LASTING)
        logs = (x[:, 0], x[:, 1] + alpha * self.size_centre, x[:, 2] + beta * self.data_centre)
        E, A, B = (np.maximum(np.exp(each), TINY) for each in logs)
        return Law(self.form, E, A, B, alpha, beta, extra)

    def point(self, law: Law) -> Array:
        """The coefficients as unknowns `[fit, unknown]`."""
        columns = [
            np.log(law.E),
            np.log(law.A) - law.alpha * self.size_centre,
            np.log(law.B) - law.beta * self.data_centre,
            _unbounded(law.alpha),
            _unbounded(law.beta),
        ]
        if self.form == "views":
            columns.append(np.log(law.extra) - np.log1p(-law.extra))
        elif self.form == "repeats":
            columns.append(np.log(law.extra))
        return np.stack(columns, axis=1)


def _exponent(x: Array) -> Array:
    """From any number to (0, 4)."""
    return STEEPEST / (1 + np.exp(-x))


def _unbounded(exponent: Array) -> Array:
    """From (0, 4) to any number."""
    share = np.clip(exponent / STEEPEST, TINY, 1 - SURE)
    return np.log(share) - np.log1p(-share)


def solve(
    problem: Problem,
    start: Array,
    log_error: Array,
    weights: Array,
    told: Callable[[int, int], None] | None = None,
) -> tuple[Array, Array]:
    """Fit from every start; each may have errors and weights of its own.

    Args:
        problem: the table.
        start: `[fit, unknown]`.
        log_error: `[fit or 1, trial]`.
        weights: how often each trial counts, `[fit or 1, trial]`.
        told: is told how many fits are done, of how many.

    Returns:
        Unknowns `[fit, unknown]` and objectives `[fit]` (sums, not in units of delta).
    """
    shape = (len(start), len(problem.log_size))
    log_error, weights = np.broadcast_to(log_error, shape), np.broadcast_to(weights, shape)
    x, value = minimise(
        lambda x, rows: problem.value(x, log_error[rows], weights[rows]),
        start,
        problem.inverse(start, log_error, weights),
        told=told,
    )
    return x, value * DELTA**2


def fit(form: Form, columns: Mapping[str, Array], error: Array) -> Fitted:
    """Fit the law to trials (Hoffmann et al. 2022, equation 3: Huber on logs through log-sum-exp).

    Args:
        form: what D is.
        columns: positive arrays `[trial]`: `parameters` and what the form needs.
        error: positive, `[trial]`.
    """
    problem = Problem(form, columns)
    log_error = np.log(error)[None]
    x, objectives = solve(problem, problem.starts(log_error[0]), log_error, np.ones((1, 1)))
    best = int(np.nanargmin(objectives))
    residuals = log_error[0] - problem.logs(x[best : best + 1])[0][0]
    agreeing = int((objectives <= objectives[best] * (1 + 1e-6) + 1e-20).sum())
    return Fitted(problem.law(x[best : best + 1]), float(objectives[best]), residuals, agreeing, len(x))
