"""Doubts: each is raised where it should be and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.scaling import Form, Law, Study, Table, analyse, back_test, reaching, read_study, write_study
from trainer.scaling.diagnose import largest
from trainer.scaling.isoflop import bias, lines_around, lines_of
from trainer.scaling.law import Array

TRUTH = Law("samples", *(np.array([value]) for value in (0.1, 50.0, 30.0, 0.35, 0.4, 0.0)))


def table(size: Array, data: Array, scatter: float = 0.01, law: Law = TRUTH, **more: Array) -> Table:
    columns = {"parameters": size, "samples": data, **more}
    error = law.predict(columns)[0] * np.exp(scatter * np.random.default_rng(3).standard_normal(len(size)))
    return Table("all", columns, error[:, None])


def grid(
    size: tuple[float, float] = (1e5, 1e9), data: tuple[float, float] = (1e2, 1e7), places: int = 5
) -> list[Array]:
    return [a.ravel() for a in np.meshgrid(np.geomspace(*size, places), np.geomspace(*data, places))]


def study(trials: Table) -> Study:
    return analyse(trials, resamples=100)


def kinds(trials: Table) -> set[str]:
    return {warned.kind for warned in study(trials).warned}


def test_a_good_grid_raises_no_doubt() -> None:
    assert study(table(*grid())).warned == []


def test_too_narrow_a_range() -> None:
    found = study(table(*grid(data=(1e4, 5e4)), scatter=0.002))
    narrow = [warned.text for warned in found.warned if warned.kind == "narrow"]
    assert len(narrow) == 1
    assert "samples span a factor of 5 in 5 places" in narrow[0]


def test_size_and_data_that_go_together() -> None:
    size = np.geomspace(1e5, 1e9, 16)
    assert "collinear" in kinds(table(size, size / 20 * np.exp(0.1 * np.sin(np.arange(16)))))


def test_noise_that_hides_the_exponents() -> None:
    assert kinds(table(*grid(places=4), scatter=0.5)) & {"unidentified", "no_floor"}


def test_saturation_at_the_floor() -> None:
    flat = Law("samples", *(np.array([value]) for value in (0.5, 50.0, 30.0, 0.6, 0.8, 0.0)))
    found = study(table(*grid(), scatter=0.02, law=flat))
    assert any("the metric is saturated" in warned.text for warned in found.warned)


def test_an_accuracy_in_place_of_an_error() -> None:
    size, data = grid()
    falls = table(size, data)
    rising = Table("all", falls.columns, 1 - 0.2 * falls.errors / falls.errors.max())
    texts = [warned.text for warned in study(rising).warned if warned.kind == "rising"]
    assert any("1 - SSIM, not SSIM" in text for text in texts)


def test_what_makes_no_difference() -> None:
    idle = Law("samples", *(np.array([value]) for value in (0.1, 1e-9, 3.0, 0.35, 0.4, 0.0)))
    texts = [warned.text for warned in study(table(*grid(), law=idle)).warned if warned.kind == "no_trend"]
    assert len(texts) == 1
    assert "hardly falls with parameters" in texts[0]


def test_people_seen_again_and_again() -> None:
    size, data = grid()
    assert "repeated" in kinds(table(size, data, identities=data / 50))
    assert "repeated" not in kinds(table(size, data, identities=data / 2))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["samples", "identities", "views", "repeats"])
def test_noise_alone_is_fitted_and_doubted(form: Form, tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    size, people, views = np.exp(draw.uniform(np.log([1e5, 10, 1]), np.log([1e9, 1e4, 64]), (16, 3))).T
    columns = {"parameters": size, "samples": people * draw.uniform(1, 300, 16), "identities": people, "views": views}
    found = analyse(Table("all", columns, np.exp(draw.normal(0, 0.5, (16, 1)))), form, resamples=60)
    assert {warned.kind for warned in found.warned} >= {"no_trend", "unidentified"}
    write_study(found, tmp_path / "fit.json")
    for answer in reaching(read_study(tmp_path / "fit.json"), 1.5 * float(found.law.E[0]), {}):
        assert "nan" not in answer.text
        assert "inf" not in answer.text


def test_flops_of_two_conventions() -> None:
    size, data = grid()
    factor = np.where(np.arange(25) % 2, 6.0, 18.0)
    assert "mixed_flops" in kinds(table(size, data, flops=factor * size * data))
    assert "mixed_flops" not in kinds(table(size, data, flops=6 * size * data))


def test_an_outlier_is_told() -> None:
    trials = table(*grid())
    trials.errors[12] *= 1.5
    assert "outliers" in kinds(trials)


SURFACES = {
    "Chinchilla": ((0.34, 0.28), (-0.32, -1.29, -2.88, -5.06)),
    "re-fit": ((0.3478, 0.3658), (0.10, 0.39, 0.88, 1.57)),
    "asymmetric": ((0.465, 0.155), (-1.66, -6.45, -13.81, -22.97)),
}


@pytest.mark.parametrize("name", SURFACES)
def test_the_published_bias_of_parabolas(name: str) -> None:
    (alpha, beta), expected = SURFACES[name]
    law = Law("samples", *(np.array([value]) for value in (1.69, 406.4, 410.7, alpha, beta, 0.0)))
    budgets = np.geomspace(1e17, 1e21, 5) / 6
    found = [100 * bias(law, lines_around(law, budgets, width), 1e24 / 6) for width in (2, 4, 8, 16)]
    np.testing.assert_allclose(found, expected, atol=0.005)


def test_isoflop_lines_are_warned_about() -> None:
    law = Law("samples", *(np.array([value]) for value in (1.69, 406.4, 410.7, 0.465, 0.155, 0.0)))
    lines = lines_around(law, np.geomspace(1e17, 1e21, 5) / 6, 16, points=6)
    size = np.concatenate([sizes for _, sizes in lines])
    data = np.concatenate([budget / sizes for budget, sizes in lines])
    assert len(lines_of(size, data)) == 5
    texts = [warned.text for warned in study(table(size, data, 0.0005, law)).warned if warned.kind == "isoflop"]
    assert "5 IsoFLOP lines, 16 times to either side" in texts[0]
    assert "-2" in texts[0]  # more than twenty percent
    assert lines_of(*grid()) == []


def test_the_largest_trials_are_held_out() -> None:
    trials = table(*grid())
    held = largest(trials, "samples")
    product = trials.columns["parameters"] * trials.columns["samples"]
    assert held.sum() == 3
    assert product[held].min() > product[~held].max()


def test_a_law_that_holds_passes_its_back_test() -> None:
    found = back_test(table(*grid()), "samples", 100)
    assert found is not None
    assert found.inside == len(found.error) == 3
    np.testing.assert_allclose(found.predicted, found.error, rtol=0.05)


def test_a_law_that_breaks_fails_its_back_test() -> None:
    trials = table(*grid())
    trials.errors[largest(trials, "samples")] *= 1.4
    found = back_test(trials, "samples", 100)
    assert found is not None
    assert found.inside == 0
    assert "back_test" in kinds(trials)


def test_too_few_to_hold_any_out() -> None:
    size, data = grid(places=3)
    few = table(size[:6], data[:6])
    assert back_test(few, "samples", 50) is None
    assert "back_test" in kinds(few)
