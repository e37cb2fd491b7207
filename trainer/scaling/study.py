"""A whole analysis of one table: the fit, its uncertainty, its back-test and its warnings; kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError
from trainer.scaling.bootstrap import LEVEL, bootstrap, interval, noise
from trainer.scaling.diagnose import BackTest, Warned, back_test, warnings
from trainer.scaling.fit import DELTA, Problem, fit
from trainer.scaling.law import COLUMNS, EXTRA, FORMULAS, Array, Form, Law
from trainer.scaling.table import Table, check

VERSION = 1


@dataclass(frozen=True)
class Study:
    """What one table tells.

    Attributes:
        law: the best fit, of length 1.
        draws: the bootstrap's laws.
        counting: how parameters are counted.
        metric: what the error is, in words.
        trials: how many were fitted.
        subjects: held-out people that were weighed anew; 0 where the table names none.
        dropped: trials of highest error that were left out before.
        objective: sum over trials of Huber(log error - log prediction), delta 1e-3.
        starts: how many starts there were.
        agreeing: how many of them ended at the objective.
        residuals: log error - log prediction, `[trial]`.
        tried: smallest, median and largest value of each column.
        flops_per_product: FLOP per parameter and sample, where known.
        tested: the back-test, where there were trials enough.
        warned: every reason to doubt.
    """

    law: Law
    draws: Law
    counting: str
    metric: str
    trials: int
    subjects: int
    dropped: int
    objective: float
    starts: int
    agreeing: int
    residuals: Array
    tried: dict[str, tuple[float, float, float]]
    flops_per_product: float | None
    tested: BackTest | None
    warned: list[Warned]

    @property
    def scatter(self) -> Array:
        """Noise that a new trial may have, in log error, `[trial]`."""
        return noise(self.residuals, 5 + (EXTRA[self.law.form] is not None))

    def coefficients(self) -> dict[str, tuple[float, float, float]]:
        """Value and ends of the 90 % interval of every coefficient and of the split `a`."""
        draws = self.draws.coefficients()
        return {name: (float(value[0]), *interval(draws[name])) for name, value in self.law.coefficients().items()}


def analyse(
    table: Table,
    form: Form = "samples",
    metric: str = "error",
    resamples: int = 1000,
    seed: int = 0,
    drop_highest: int = 0,
    told: Callable[[int, int], None] | None = None,
) -> Study:
    """Fit, bootstrap, back-test and diagnose.

    Args:
        table: the trials.
        form: what D is.
        metric: what the error is, in words.
        resamples: refits of the bootstrap.
        seed: of its weights.
        drop_highest: trials of highest error to leave out.
        told: is told how many refits are done, of how many.

    Raises:
        UserError: the table cannot be fitted at all (`check`).
    """
    kept = table.without_highest(drop_highest) if drop_highest else table
    check(kept, form)
    found = fit(form, kept.columns, kept.error)
    draws = bootstrap(Problem(form, kept.columns), found.law, kept.errors, resamples, seed, told)
    tested = back_test(kept, form, min(resamples, 200), seed)
    doubts = [Warned("duplicated", text) for text in table.warnings if drop_highest]
    return Study(
        law=found.law,
        draws=draws,
        counting=kept.counting,
        metric=metric,
        trials=len(kept),
        subjects=len(kept.subjects),
        dropped=drop_highest,
        objective=found.objective,
        starts=found.starts,
        agreeing=found.agreeing,
        residuals=found.residuals,
        tried={name: (float(v.min()), float(np.median(v)), float(v.max())) for name, v in kept.columns.items()},
        flops_per_product=kept.flops_per_product,
        tested=tested,
        warned=doubts + warnings(kept, found.law, draws, found.residuals, tested),
    )


def write_study(study: Study, path: Path) -> None:
    """Write it as one JSON object, which `read_study` and every other reader of JSON can read."""
    law, tested = study.law, study.tested
    record: dict[str, Any] = {
        "headway_scaling": VERSION,
        "form": law.form,
        "formula": FORMULAS[law.form],
        "counting": study.counting,
        "metric": study.metric,
        "trials": study.trials,
        "subjects": study.subjects,
        "dropped_highest": study.dropped,
        "objective": study.objective,
        "delta": DELTA,
        "starts": study.starts,
        "agreeing_starts": study.agreeing,
        "level": LEVEL,
        "coefficients": {
            name: {"value": value, "low": _finite(low), "high": _finite(high)}
            for name, (value, low, high) in study.coefficients().items()
        },
        "tried": study.tried,
        "flops_per_parameter_and_sample": study.flops_per_product,
        "back_test": None if tested is None else {name: list(values) for name, values in vars(tested).items()},
        "warnings": [warned._asdict() for warned in study.warned],
        "residuals": list(study.residuals),
        "draws": {name: [float(f"{v:.10g}") for v in values] for name, values in _arrays(study.draws).items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=None, allow_nan=False) + "\n")


def read_study(path: Path) -> Study:
    """Read what `write_study` wrote.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path), hint="headway scaling fit writes it")
    try:
        record = json.loads(path.read_text())
        version = record["headway_scaling"]
        if version != VERSION:
            raise UserError(f"is of version {version}; this reads {VERSION}", where=str(path), hint="fit again")
        form: Form = record["form"]
        if form not in COLUMNS:
            raise KeyError(form)
        value = {name: np.array([each["value"]]) for name, each in record["coefficients"].items()}
        sixth = EXTRA[form]
        tested = record["back_test"]
        return Study(
            law=Law(
                form,
                **{name: value[name] for name in ("E", "A", "B", "alpha", "beta")},
                extra=value[sixth] if sixth else np.zeros(1),
            ),
            draws=Law(form, **{name: np.array(values, float) for name, values in record["draws"].items()}),
            counting=record["counting"],
            metric=record["metric"],
            trials=record["trials"],
            subjects=record["subjects"],
            dropped=record["dropped_highest"],
            objective=record["objective"],
            starts=record["starts"],
            agreeing=record["agreeing_starts"],
            residuals=np.array(record["residuals"], float),
            tried={name: (low, middle, high) for name, (low, middle, high) in record["tried"].items()},
            flops_per_product=record["flops_per_parameter_and_sample"],
            tested=tested and BackTest(**{name: np.array(values, float) for name, values in tested.items()}),
            warned=[Warned(**each) for each in record["warnings"]],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("is not a fit", where=str(path), hint="headway scaling fit writes one") from error


def _arrays(law: Law) -> dict[str, Array]:
    return {name: getattr(law, name) for name in ("E", "A", "B", "alpha", "beta", "extra")}


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
