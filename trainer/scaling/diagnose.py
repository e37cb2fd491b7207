"""What the trials cannot tell: a back-test on the largest, and warnings where the law is not identified."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trainer.scaling import isoflop
from trainer.scaling.bootstrap import bootstrap, interval, noise, of_a_trial
from trainer.scaling.fit import STEEPEST, Problem, fit
from trainer.scaling.law import COLUMNS, EXTRA, Array, Form, Law
from trainer.scaling.table import Table

NARROW, WIDE_INTERVAL, FEW_EPOCHS, FAR = 10.0, 3.0, 4.0, 1000.0
HELD_OUT, ODD, EDGES = 0.1, 10.0, (0.01, 0.97 * STEEPEST)


class Warned(NamedTuple):
    """A reason to doubt the fit.

    Attributes:
        kind: `narrow`, `collinear`, `unidentified`, `no_floor`, `no_trend`, `rising`, `saturated`, `repeated`,
            `isoflop`, `mixed_flops`, `back_test`, `duplicated` or `outliers`.
        text: what is wrong and what would help, in words.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class BackTest:
    """The largest trials, predicted from all others.

    Attributes:
        parameters: of the held-out trials, `[held]`.
        data: their effective D under the law of the others, `[held]`.
        error: what they showed, `[held]`.
        predicted: what the others' law says, `[held]`.
        low: lower ends of 90 % prediction intervals, `[held]`.
        high: upper ends, `[held]`.
    """

    parameters: Array
    data: Array
    error: Array
    predicted: Array
    low: Array
    high: Array

    @property
    def inside(self) -> int:
        """How many lie inside their interval, to six digits."""
        return int(((self.low <= self.error * (1 + 1e-6)) & (self.error <= self.high * (1 + 1e-6))).sum())


def largest(table: Table, form: Form) -> np.ndarray:
    """Which trials are held out: a tenth of them, the largest in parameters x data, and their equals, `[trial]`."""
    cost = np.log(table.columns["parameters"])
    for name in {"repeats": ("samples",)}.get(form, COLUMNS[form]):
        cost = cost + np.log(table.columns[name])
    count = max(1, math.ceil(HELD_OUT * len(table)))
    return cost >= np.sort(cost)[-count] - 0.01


def back_test(table: Table, form: Form, resamples: int = 200, seed: int = 0) -> BackTest | None:
    """Fit without the largest trials and predict them; None where too few trials are left for a fit."""
    held = largest(table, form)
    rest, unseen = table.of(~held), table.of(held)
    unknowns = 5 + (EXTRA[form] is not None)
    used = ("parameters", *COLUMNS[form])
    places = np.unique(np.stack([rest.columns[name] for name in used], 1), axis=0)
    if len(places) <= unknowns or any(len(np.unique(rest.columns[name])) < 2 for name in used):
        return None
    found = fit(form, rest.columns, rest.error)
    draws = bootstrap(Problem(form, rest.columns), found.law, rest.errors, resamples, seed)
    scatter, curves = noise(found.residuals, unknowns), draws.predict(unseen.columns)
    ends = [interval(of_a_trial(curve, scatter, seed)) for curve in curves.T]
    low, high = (np.array(end) for end in zip(*ends, strict=True))
    data, predicted = found.law.data(unseen.columns)[0], found.law.predict(unseen.columns)[0]
    return BackTest(unseen.columns["parameters"], data, unseen.error, predicted, low, high)


def warnings(table: Table, law: Law, draws: Law, residuals: Array, tested: BackTest | None) -> list[Warned]:
    """Every reason to doubt a fit.

    Args:
        table: the trials.
        law: the best fit.
        draws: the bootstrap's laws.
        residuals: log error - log prediction, `[trial]`.
        tested: the back-test.
    """
    found = [Warned("duplicated", text) for text in table.warnings]
    found += _ranges(table, law)
    found += _intervals(law, draws)
    found += _trends(table, law, residuals)
    found += _repeats(table, law)
    found += _flops(table)
    if law.form == "samples":
        found += _lines(table, law)
    if tested is None:
        found.append(Warned("back_test", "too few trials to hold out the largest: nothing vouches for extrapolation"))
    elif 2 * tested.inside < len(tested.error):
        miss = np.median(np.abs(np.log(tested.error / tested.predicted)))
        text = f"only {tested.inside} of the {len(tested.error)} largest trials lie inside the others' 90 % intervals"
        found.append(Warned("back_test", f"{text} (median miss {miss:.1%}): beyond them, doubt more than they say"))
    return found


def _ranges(table: Table, law: Law) -> list[Warned]:
    found = []
    for name in ("parameters", *(name for name in COLUMNS[law.form] if name != "views")):
        values = table.columns[name]
        span, places = float(values.max() / values.min()), len(np.unique(values))
        if span < NARROW or places < 3:
            text = f"{name} span a factor of {span:.3g} in {places} places: too narrow to tell a power from a floor"
            found.append(Warned("narrow", f"{text}; 3 or more places over a factor of {NARROW:.0f} would"))
    together = float(np.corrcoef(np.log(table.columns["parameters"]), np.log(law.data(table.columns)[0]))[0, 1])
    if abs(together) > 0.95:
        text = f"size and data go together (correlation of logs {together:+.2f}): which of them helped cannot be told"
        found.append(Warned("collinear", f"{text}; vary one at a fixed other"))
    return found


def _intervals(law: Law, draws: Law) -> list[Warned]:
    found = []
    for name in ("alpha", "beta", *(["repeats"] if law.form == "repeats" else [])):
        low, high = interval(draws.coefficients()[name])
        value = float(law.coefficients()[name][0])
        if name != "repeats" and not EDGES[0] < value < EDGES[1]:
            text = f"{name} ran to the end of its range ({value:.2g}): its interval means nothing"
            found.append(Warned("unidentified", text))
        elif high > WIDE_INTERVAL * low:
            text = f"{name} may be anything from {low:.2g} to {high:.2g}: these trials do not identify it"
            found.append(Warned("unidentified", text))
    if law.form == "views":
        low, high = interval(draws.extra)
        if high - low > 0.5:
            found.append(Warned("unidentified", f"rho may be anything from {low:.2g} to {high:.2g}"))
    low, _ = interval(draws.E)
    if low < 0.1 * float(law.E[0]):
        text = f"the floor E may be anything down to {low:.2g}: predictions far ahead rest on the form alone"
        found.append(Warned("no_floor", text))
    return found


def _trends(table: Table, law: Law, residuals: Array) -> list[Warned]:
    """Saturation, no trend, and trends the wrong way."""
    # Huber's fit goes through about as many trials as it has coefficients; these say nothing of the scatter.
    robust = float(1.4826 * np.median(np.sort(np.abs(residuals))[5:]))
    parameters, data = table.columns["parameters"], law.data(table.columns)[0]
    found = []
    best = float(law.error(parameters.max()[None], data.max()[None, None])[0, 0])
    if np.log(best / law.E[0]) < 2 * robust:
        text = f"at the largest size and data the law is {best / float(law.E[0]) - 1:.1%} above its floor"
        text += f", and trials scatter by {robust:.1%}: the metric is saturated there"
        found.append(Warned("saturated", f"{text}; a sharper metric or more held-out people would help"))
    for name, values, other in (("parameters", parameters, data), ("data", data, parameters)):
        middle = np.exp(np.median(np.log(other)))[None]
        ends = np.array([values.min(), values.max()])
        curve = law.error(ends, middle[None]) if name == "parameters" else law.error(middle, ends[None])
        if np.log(curve[0, 0] / curve[0, 1]) < 2 * robust:
            text = f"error hardly falls with {name}: over all of them by less than twice the trials' scatter"
            found.append(Warned("no_trend", text))
    logs = np.stack([np.ones(len(data)), np.log(parameters), np.log(data)], 1)
    slopes, spread = _least_squares(logs, np.log(table.error))
    for name, slope, doubt in zip(("parameters", "data"), slopes[1:], spread[1:], strict=True):
        if slope > 3 * doubt:
            text = f"error grows with {name}: is it an error (1 - SSIM, not SSIM), or are larger trials under-trained?"
            found.append(Warned("rising", text))
    odd = int((np.abs(residuals) > ODD * max(robust, 1e-6)).sum())
    if odd:
        text = f"{odd} trials lie more than {ODD:.0f} scatters from the law: was anything else different about them?"
        found.append(Warned("outliers", text))
    return found


def _least_squares(basis: Array, values: Array) -> tuple[Array, Array]:
    """Coefficients and their standard errors; those of a direction that nothing tells are infinite."""
    found, _, rank, _ = np.linalg.lstsq(basis, values)
    solved = np.asarray(found, np.float64)
    if rank < basis.shape[1] or len(values) <= basis.shape[1]:
        return solved, np.full(len(solved), np.inf)
    variance = float(((values - basis @ solved) ** 2).sum()) / (len(values) - basis.shape[1])
    return solved, np.asarray(np.sqrt(variance * np.diag(np.linalg.inv(basis.T @ basis))), float)


def _repeats(table: Table, law: Law) -> list[Warned]:
    if law.form != "samples" or "identities" not in table.columns:
        return []
    epochs = table.columns["samples"] / table.columns["identities"]
    many = int((epochs > FEW_EPOCHS).sum())
    if not many:
        return []
    text = f"{many} of {len(table)} trials see a person more than {FEW_EPOCHS:.0f} times (up to {epochs.max():.3g})"
    advice = "repeats are worth less than new people (Muennighoff et al. 2023): try --form repeats or identities"
    return [Warned("repeated", f"{text}; {advice}")]


def _flops(table: Table) -> list[Warned]:
    if "flops" not in table.columns:
        return []
    each = table.columns["flops"] / (table.columns["parameters"] * table.columns["samples"])
    if each.max() <= 2 * each.min():
        return []
    text = f"FLOP per parameter and sample go from {each.min():.3g} to {each.max():.3g}"
    return [Warned("mixed_flops", f"{text}: is every trial counted by the same convention ({table.counting})?")]


def _lines(table: Table, law: Law) -> list[Warned]:
    lines = isoflop.lines_of(table.columns["parameters"], table.columns["samples"])
    if not lines:
        return []
    product = FAR * max(budget for budget, _ in lines)
    off = isoflop.bias(law, lines, product)
    width = float(np.median([np.sqrt(sizes.max() / sizes.min()) for _, sizes in lines]))
    text = f"the trials lie on {len(lines)} IsoFLOP lines, {width:.3g} times to either side: parabolas through them"
    text += f" would miss the best D at {FAR:.0f} times the compute by {off:+.1%} even without noise"
    return [Warned("isoflop", f"{text}; this fit of the surface has no such bias, so do not mix the two")]
