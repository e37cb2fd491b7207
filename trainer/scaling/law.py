"""The law that is fitted: error = E + A / N^alpha + B / D^beta, and what D is in each of its forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Form = Literal["samples", "identities", "views", "repeats"]

COLUMNS: Mapping[Form, tuple[str, ...]] = {
    "samples": ("samples",),
    "identities": ("identities",),
    "views": ("identities", "views"),
    "repeats": ("samples", "identities"),
}
"""What a form computes D from."""

EXTRA: Mapping[Form, str | None] = {
    "samples": None,
    "identities": None,
    "views": "rho",
    "repeats": "repeats",
}
"""The sixth coefficient of a form: the correlation of views, or the repeats after which data are worn out (R*)."""

FORMULAS: Mapping[Form, str] = {
    "samples": "error = E + A / N^alpha + B / samples^beta",
    "identities": "error = E + A / N^alpha + B / identities^beta",
    "views": "error = E + A / N^alpha + B / D^beta, D = identities views / (1 + (views - 1) rho)",
    "repeats": "error = E + A / N^alpha + B / D^beta, D = U (1 + R* (1 - exp(-R / R*))), U unique, R repeats",
}


limits_are_fine = np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore")
"""For formulas that are right, as zero, infinity or NaN, where a term has nothing to do."""


@limits_are_fine
def log_data(form: Form, columns: Mapping[str, Array], free: Array) -> tuple[Array, Array]:
    """log D and its derivative by the form's free number.

    - `samples`, `identities`: D is that column (Hoffmann et al. 2022, equation 2).
    - `views`: a person's views are correlated repeats. With correlation rho between any two, V views inform as
      V / (1 + (V - 1) rho) independent ones do (the design effect: Kish 1965, Survey Sampling, section 5.4); D is that
      times the identities. That the law's D may be read so is our assumption.
    - `repeats`: U unique samples seen again R times count as U + U R* (1 - exp(-R / R*)) (Muennighoff et al. 2023,
      equation 5; their term for parameters in excess is left out). Identities are the unique samples.

    Args:
        form: which.
        columns: positive arrays `[trial]`.
        free: logit rho, or log R*, or anything where the form has none, `[fit]`.

    Returns:
        Two arrays `[fit, trial]`.
    """
    free = np.asarray(free, float)[:, None]
    if form in ("samples", "identities"):
        logs = np.log(columns[form])[None]
        return np.broadcast_to(logs, (len(free), logs.shape[1])), np.zeros((len(free), logs.shape[1]))
    if form == "views":
        rho = 1 / (1 + np.exp(-free))
        others = columns["views"][None] - 1
        shrink = 1 + others * rho
        logs = np.log(columns["identities"] * columns["views"])[None] - np.log(shrink)
        return logs, -others * rho * (1 - rho) / shrink
    unique = np.minimum(columns["identities"], columns["samples"])[None]
    repeats, worn = columns["samples"][None] / unique - 1, np.exp(free)
    ratio = repeats / worn
    gain = worn * -np.expm1(-ratio)
    slope = worn * (-np.expm1(-ratio) - ratio * np.exp(-ratio))
    return np.log(unique) + np.log1p(gain), slope / (1 + gain)


@dataclass(frozen=True)
class Law:
    """One law, or as many as its arrays are long (a bootstrap's).

    Attributes:
        form: what D is.
        E: error that no size and no data removes, >= 0, `[fit]`.
        A: weight of the parameters' term, `[fit]`.
        B: weight of the data's term, `[fit]`.
        alpha: its exponent, > 0, `[fit]`.
        beta: its exponent, > 0, `[fit]`.
        extra: rho in (0, 1) or R* > 0 where the form has one, else 0, `[fit]`.
    """

    form: Form
    E: Array
    A: Array
    B: Array
    alpha: Array
    beta: Array
    extra: Array

    def __len__(self) -> int:
        return len(self.E)

    @property
    def split(self) -> Array:
        """a = beta / (alpha + beta): with compute proportional to N D, the best N grows as compute^a, `[fit]`."""
        return self.beta / (self.alpha + self.beta)

    @limits_are_fine
    def data(self, columns: Mapping[str, Array]) -> Array:
        """Effective D of trials, `[fit, trial]`."""
        free = self.extra
        if self.form == "views":
            free = np.log(self.extra) - np.log1p(-self.extra)
        elif self.form == "repeats":
            free = np.log(self.extra)
        return np.exp(log_data(self.form, columns, free)[0])

    @limits_are_fine
    def error(self, parameters: Array, data: Array) -> Array:
        """Error of models with so many parameters `[trial]` and so much effective data `[fit or 1, trial]`."""
        over_size = self.A[:, None] * np.asarray(parameters, float) ** -self.alpha[:, None]
        return self.E[:, None] + over_size + self.B[:, None] * np.asarray(data, float) ** -self.beta[:, None]

    def predict(self, columns: Mapping[str, Array]) -> Array:
        """Error of trials given by their columns (`parameters` and what the form needs), `[fit, trial]`."""
        return self.error(columns["parameters"], self.data(columns))

    @limits_are_fine
    def optimum(self, product: float) -> tuple[Array, Array]:
        """N and D of least error where N D = `product` (Hoffmann et al. 2022, equation 4), two `[fit]`."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * product**self.split
        return parameters, product / parameters

    @limits_are_fine
    def cheapest(self, error: float) -> tuple[Array, Array]:
        """N and D that reach an error with the least N D; NaN where E alone is more, two `[fit]`."""
        room = np.where(error > self.E, error - self.E, np.nan)
        over_size, over_data = room * self.split, room * (1 - self.split)
        return (self.A / over_size) ** (1 / self.alpha), (self.B / over_data) ** (1 / self.beta)

    @limits_are_fine
    def data_for(self, error: float, parameters: float) -> Array:
        """Effective D that reaches an error with so many parameters; NaN where none does, `[fit]`."""
        room = error - self.E - self.A * float(parameters) ** -self.alpha
        return (self.B / np.where(room > 0, room, np.nan)) ** (1 / self.beta)

    @limits_are_fine
    def parameters_for(self, error: float, data: Array | float) -> Array:
        """Parameters that reach an error with so much effective data; NaN where none does, `[fit]`."""
        room = error - self.E - self.B * np.asarray(data, float) ** -self.beta
        return (self.A / np.where(room > 0, room, np.nan)) ** (1 / self.alpha)

    def coefficients(self) -> dict[str, Array]:
        """By name, the split and the form's sixth one included, each `[fit]`."""
        named = {"E": self.E, "A": self.A, "B": self.B, "alpha": self.alpha, "beta": self.beta, "a": self.split}
        extra = EXTRA[self.form]
        return {**named, extra: self.extra} if extra else named
