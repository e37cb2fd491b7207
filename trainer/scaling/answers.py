"""Answers to questions about size and data, in words and numbers, with 90 % intervals and a word on extrapolation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from configs import UserError
from trainer.scaling.bootstrap import interval, of_a_trial
from trainer.scaling.law import COLUMNS, Array, Law
from trainer.scaling.study import Study

FAR = 10.0
SURE = 0.05


class Answer(NamedTuple):
    """One answer.

    Attributes:
        text: a sentence or two.
        numbers: the same for programs; an interval is a list of two, None stands for unreachable.
    """

    text: str
    numbers: dict[str, Any]


def error_of(study: Study, asked: Mapping[str, float]) -> Answer:
    """The error of one model on given data.

    Args:
        study: the fit.
        asked: `parameters` and the columns of the form's data.

    Raises:
        UserError: one of them is missing.
    """
    needed = ("parameters", *COLUMNS[study.law.form])
    missing = [name for name in needed if name not in asked]
    if missing:
        raise UserError(
            f"the form '{study.law.form}' also needs {' and '.join('--' + name for name in missing)}",
            hint="or ask what reaches an error: --error X",
        )
    place = {name: np.array([float(asked[name])]) for name in needed}
    value, curves = float(study.law.predict(place)[0, 0]), study.draws.predict(place)[:, 0]
    law, trial = interval(curves), interval(of_a_trial(curves, study.scatter))
    where = ", ".join(f"{amount(asked[name])} {name}" for name in needed)
    text = (
        f"{where}: {study.metric} {value:.4g}, 90 % interval of the law {law[0]:.4g} to {law[1]:.4g}, "
        f"of one trained model {trial[0]:.4g} to {trial[1]:.4g}."
    )
    beyond = _beyond(study, {name: float(asked[name]) for name in needed})
    return Answer(text + beyond, {"error": value, "law": list(law), "trial": list(trial), **dict(asked)})


def reaching(study: Study, error: float, asked: Mapping[str, float]) -> list[Answer]:
    """What reaches an error: at the least size x data, at the largest size and at the most data tried, or as asked.

    Args:
        study: the fit.
        error: to reach, > 0.
        asked: `parameters`, or the data in the form's columns, or neither; of data only what the form counts in may
            be left open (views and epochs stay at the median tried unless given).
    """
    if not error > 0:
        raise UserError("must be positive", where="--error")
    counted = _counted(study)
    if error <= float(study.law.E[0]):
        value, low, high = study.coefficients()["E"]
        text = (
            f"{study.metric} {error:.4g} is below the floor E = {value:.4g} (90 % interval {low:.4g} to {high:.4g}): "
        )
        return [
            Answer(text + "by this law no size and no data reach it.", {"error": error, "floor": [value, low, high]})
        ]
    if "parameters" in asked:
        return [_data_at(study, error, asked["parameters"], asked, "")]
    if counted in asked:
        return [_size_at(study, error, asked[counted], asked, "")]
    return [
        _cheapest(study, error, asked),
        _data_at(study, error, study.tried["parameters"][2], asked, " (the largest tried)"),
        _size_at(study, error, study.tried[counted][2], asked, " (the most tried)"),
    ]


def optimum(study: Study, flops: float) -> Answer:
    """The best size and data for an amount of compute, and the error there."""
    each = study.flops_per_product
    if study.law.form != "samples" or each is None:
        raise UserError(
            "compute is not known to this fit",
            where="--flops",
            hint="it needs a table with flops and --form samples",
        )
    if not flops > 0:
        raise UserError("must be positive", where="--flops")
    size, data = (float(found[0]) for found in study.law.optimum(flops / each))
    sizes, samples = study.draws.optimum(flops / each)
    value = float(study.law.error(np.array([size]), np.array([[data]]))[0, 0])
    errors = study.draws.A * sizes**-study.draws.alpha + study.draws.B * samples**-study.draws.beta + study.draws.E
    text = (
        f"{amount(flops)} FLOP are best spent on {_ranged(size, sizes)} parameters and {_ranged(data, samples)} "
        f"samples: {study.metric} {value:.4g} ({' to '.join(f'{end:.4g}' for end in interval(errors))})."
    )
    numbers = {"flops": flops, "parameters": _three(size, sizes), "samples": _three(data, samples)}
    beyond = _beyond(study, {"parameters": size, "samples": data})
    return Answer(text + beyond, {**numbers, "error": _three(value, errors)})


def amount(number: float) -> str:
    """`512`, `1.5 K`, `58.9 M`, `8.02 G`: three digits, powers of 1000; `5.9e+23` beyond."""
    if abs(number) >= 999.5e15 or 0 < abs(number) < 0.1:
        return f"{number:.3g}"
    for unit in ("", " K", " M", " G", " T"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def _cheapest(study: Study, error: float, asked: Mapping[str, float]) -> Answer:
    counted = _counted(study)
    size, data = study.law.cheapest(error)
    sizes, datas = study.draws.cheapest(error)
    best, needed = float(size[0]), float(_as_counted(study, study.law, data, asked)[0])
    many = _as_counted(study, study.draws, datas, asked)
    text = (
        f"To reach {study.metric} {error:.4g} at the least size x data: {_ranged(best, sizes)} parameters and "
        f"{_ranged(needed, many)} {counted}{_held(study, asked)}."
    )
    if study.flops_per_product and study.law.form == "samples":
        spent = study.flops_per_product * best * needed
        text = text[:-1] + f", {_ranged(spent, study.flops_per_product * sizes * many)} FLOP."
    numbers = {"error": error, "parameters": _three(best, sizes), counted: _three(needed, many)}
    beyond = _doubt(sizes) + _beyond(study, {"parameters": best, counted: needed})
    return Answer(text + beyond, {**numbers, "unreachable": _share(sizes)})


def _data_at(study: Study, error: float, parameters: float, asked: Mapping[str, float], which: str) -> Answer:
    counted = _counted(study)
    data = float(_as_counted(study, study.law, study.law.data_for(error, parameters), asked)[0])
    many = _as_counted(study, study.draws, study.draws.data_for(error, parameters), asked)
    head = f"With {amount(parameters)} parameters{which}: "
    numbers = {"error": error, "parameters": parameters, counted: _three(data, many), "unreachable": _share(many)}
    if not np.isfinite(data):
        return Answer(f"{head}no amount of data reaches {study.metric} {error:.4g}.", numbers)
    beyond = _doubt(many) + _beyond(study, {"parameters": parameters, counted: data})
    return Answer(f"{head}{_ranged(data, many)} {counted}{_held(study, asked)}.{beyond}", numbers)


def _size_at(study: Study, error: float, data: float, asked: Mapping[str, float], which: str) -> Answer:
    counted = _counted(study)
    place = {name: np.array([_fixed(study, name, asked)]) for name in COLUMNS[study.law.form]}
    place[counted] = np.array([float(data)])
    if study.law.form == "repeats":
        place["samples"] = np.array([data * _epochs(study, asked)])
    size = float(study.law.parameters_for(error, study.law.data(place)[:, 0])[0])
    sizes = study.draws.parameters_for(error, study.draws.data(place)[:, 0])
    head = f"With {amount(data)} {counted}{which}{_held(study, asked)}: "
    numbers = {"error": error, counted: data, "parameters": _three(size, sizes), "unreachable": _share(sizes)}
    if not np.isfinite(size):
        return Answer(f"{head}no size reaches {study.metric} {error:.4g}.", numbers)
    beyond = _doubt(sizes) + _beyond(study, {"parameters": size, counted: data})
    return Answer(f"{head}{_ranged(size, sizes)} parameters.{beyond}", numbers)


def _counted(study: Study) -> str:
    """The column in which an answer counts data."""
    return "samples" if study.law.form == "samples" else "identities"


def _epochs(study: Study, asked: Mapping[str, float]) -> float:
    """How often an answer sees each person: as asked, or as the median trial does."""
    if "samples" in asked and "identities" in asked:
        return max(1.0, asked["samples"] / asked["identities"])
    return max(1.0, study.tried["samples"][1] / study.tried["identities"][1])


def _fixed(study: Study, name: str, asked: Mapping[str, float]) -> float:
    return float(asked.get(name, study.tried[name][1]))


def _held(study: Study, asked: Mapping[str, float]) -> str:
    """What an answer about identities holds fixed."""
    if study.law.form == "views":
        return f" of {amount(_fixed(study, 'views', asked))} views each"
    if study.law.form == "repeats":
        return f" seen {amount(_epochs(study, asked))} times each"
    return ""


def _as_counted(study: Study, law: Law, data: Array, asked: Mapping[str, float]) -> Array:
    """Effective D in the column that answers count in, `[fit]`."""
    one = np.ones(1)
    if study.law.form == "views":
        return data / law.data({"identities": one, "views": one * _fixed(study, "views", asked)})[:, 0]
    if study.law.form == "repeats":
        return data / law.data({"identities": one, "samples": one * _epochs(study, asked)})[:, 0]
    return data


def _three(value: float, draws: Array) -> list[float | None]:
    return [float(number) if np.isfinite(number) else None for number in (value, *interval(draws))]


def _ranged(value: float, draws: Array) -> str:
    low, high = interval(draws)
    end = amount(high) if np.isfinite(high) else "no end"
    return f"{amount(value)} ({amount(low) if np.isfinite(low) else 'no beginning'} to {end})"


def _share(draws: Array) -> float:
    return float(np.mean(~np.isfinite(draws)))


def _doubt(draws: Array) -> str:
    share = _share(draws)
    return f" In {share:.0%} of the refits it cannot be reached so." if share > SURE / 5 else ""


def _beyond(study: Study, place: Mapping[str, float]) -> str:
    """A sentence on how far from the trials an answer is; empty inside their range."""
    said = []
    for name, value in place.items():
        low, _, high = study.tried[name]
        if value > high * 1.01:
            said.append(f"{value / high:.3g} times the largest {name} tried")
        elif value < low / 1.01:
            share = f"{value / low:.3g} of" if value > 1e-3 * low else "a vanishing share of"
            said.append(f"{share} the least {name} tried")
    if not said:
        return ""
    far = any(value > FAR * study.tried[name][2] or value < study.tried[name][0] / FAR for name, value in place.items())
    word = " Far from any trial: the interval holds only if the law does." if far else ""
    return f" Extrapolated: {' and '.join(said)}.{word}"
