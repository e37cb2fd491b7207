"""`headway scaling`: a fit in JSON, answers in words and numbers, one message for nonsense."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import run

from trainer.scaling import Law, error_of, read_study

COUNTING = "all parameters, without critics"
TRUTH = Law("samples", *(np.array([value]) for value in (0.1, 50.0, 30.0, 0.35, 0.4, 0.0)))


def write(path: Path, law: Law = TRUTH, scatter: float = 0.01, subjects: int = 0) -> Path:
    """25 trials on a grid of sizes and people, with views that follow neither."""
    size, people = (a.ravel() for a in np.meshgrid(np.geomspace(1e5, 1e9, 5), np.geomspace(16, 4096, 5)))
    views = np.array([1.0, 4.0, 16.0, 64.0, 4.0])[(np.arange(25) + 2 * (np.arange(25) // 5)) % 5]
    columns = {"parameters": size, "samples": people * 300, "identities": people, "views": views}
    draw = np.random.default_rng(3)
    error = law.predict(columns)[0] * np.exp(scatter * draw.standard_normal(25))
    names = [*columns, "flops", "error", *(["subject"] if subjects else [])]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for trial in range(25):
            row = [columns[name][trial] for name in columns]
            row.append(6 * row[0] * row[1])
            for subject in range(max(1, subjects)):
                difficulty = 1 + 0.1 * (subject - (subjects - 1) / 2) if subjects else 1
                writer.writerow([*row, error[trial] * difficulty, *([f"person-{subject}"] if subjects else [])])
    return path


@pytest.fixture
def fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "fit.json"
    arguments = ("--counting", COUNTING, "--metric", "LPIPS", "--resamples", "100", "--out", str(out))
    assert run(capsys, "scaling", "fit", str(write(tmp_path / "trials.csv")), *arguments)[0] == 0
    return out


def test_a_table_of_coefficients_with_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "trials.csv", subjects=4)
    out = tmp_path / "deep" / "fit.json"
    code, said, _ = run(
        capsys, "scaling", "fit", str(path), "--counting", COUNTING, "--resamples", "100", "--out", str(out)
    )
    assert code == 0
    assert "25 trials, 4 held-out subjects" in said
    assert "refits 100/100" in said
    assert "best N grows as compute^a" in said
    assert "back-test: " in said
    assert max(len(line) for line in said.splitlines() if not line.startswith(("  warning", "  written"))) <= 80
    assert out.is_file()


def test_the_json_holds_what_the_fit_is(fitted: Path) -> None:
    found = json.loads(fitted.read_text())
    assert found["counting"] == COUNTING
    assert found["metric"] == "LPIPS"
    assert found["level"] == 0.9
    assert 0 < found["objective"] < 1
    for name in ("E", "A", "B", "alpha", "beta", "a"):
        low, high = (found["coefficients"][name][end] for end in ("low", "high"))
        assert low < found["coefficients"][name]["value"] < high
    assert {"inside"}.isdisjoint(found["back_test"])
    assert [warned["kind"] for warned in found["warnings"]] == ["repeated"]


def test_a_study_comes_back_from_its_json(fitted: Path) -> None:
    study = read_study(fitted)
    place = {"parameters": 3e7, "samples": 1e5}
    assert error_of(study, place).numbers["error"] == pytest.approx(
        float(TRUTH.error(np.array([3e7]), np.array([[1e5]]))[0, 0]), rel=0.02
    )
    assert len(study.draws) == 100
    assert study.tested is not None


def test_coefficients_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "trials.csv"), tmp_path / "fit.json"
    arguments = ("--counting", COUNTING, "--resamples", "60", "--out", str(out), "--json")
    code, said, _ = run(capsys, "scaling", "fit", str(path), *arguments)
    assert code == 0
    assert json.loads(said).keys() == {"objective", "coefficients", "back_test", "warnings"}


def test_what_reaches_an_error(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "scaling", "predict", str(fitted), "--error", "0.3")
    assert code == 0
    lines = said.splitlines()
    assert lines[0].startswith("To reach LPIPS 0.3 at the least size x data: ")
    assert "FLOP" in lines[0]
    assert "With 1 G parameters (the largest tried): " in lines[1]
    assert "With 1.23 M samples (the most tried): " in lines[2]
    assert COUNTING in said
    assert "warned of: repeated" in said


def test_the_answer_is_the_law_s(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said, _ = run(capsys, "scaling", "predict", str(fitted), "--error", "0.3", "--json")
    cheapest, at_size, at_data = map(json.loads, said.splitlines())
    for answer in (cheapest, at_size, at_data):
        place = {
            name: answer[name][0] if isinstance(answer[name], list) else answer[name]
            for name in ("parameters", "samples")
        }
        assert error_of(read_study(fitted), place).numbers["error"] == pytest.approx(0.3)
    low, high = cheapest["parameters"][1:]
    assert low < TRUTH.cheapest(0.3)[0][0] < high


def test_far_answers_say_so(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--parameters", "1e12", "--samples", "1e5")
    code, said, _ = run(capsys, "scaling", "predict", str(fitted), *arguments)
    assert code == 0
    assert "Extrapolated: 1e+03 times the largest parameters tried." in said
    assert "Far from any trial" in said
    inside = run(capsys, "scaling", "predict", str(fitted), "--parameters", "1e7", "--samples", "1e5")[1]
    assert "Extrapolated" not in inside


def test_how_to_spend_compute(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "scaling", "predict", str(fitted), "--flops", "1e13", "--json")
    assert code == 0
    found = json.loads(said)
    assert 6 * found["parameters"][0] * found["samples"][0] == pytest.approx(1e13)


def test_below_the_floor_nothing_reaches_it(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "scaling", "predict", str(fitted), "--error", "0.05")
    assert code == 0
    assert "no size and no data reach it" in said


def test_identities_and_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    law = Law("views", *(np.array([value]) for value in (0.1, 50.0, 3.0, 0.35, 0.45, 0.3)))
    path, out = write(tmp_path / "trials.csv", law), tmp_path / "fit.json"
    arguments = ("--counting", COUNTING, "--form", "views", "--resamples", "60", "--out", str(out))
    code, said, _ = run(capsys, "scaling", "fit", str(path), *arguments)
    assert code == 0
    assert "rho" in said
    _, said, _ = run(capsys, "scaling", "predict", str(out), "--error", "0.5", "--parameters", "1e8", "--views", "16")
    assert "identities of 16 views each" in said
    _, said, _ = run(
        capsys, "scaling", "predict", str(out), "--identities", "500", "--views", "16", "--parameters", "1e8"
    )
    assert "500 identities, 16 views: error " in said


def test_identities_seen_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "trials.csv"), tmp_path / "fit.json"
    arguments = ("--counting", COUNTING, "--form", "repeats", "--resamples", "60", "--out", str(out))
    assert run(capsys, "scaling", "fit", str(path), *arguments)[0] == 0
    _, said, _ = run(capsys, "scaling", "predict", str(out), "--error", "0.5", "--parameters", "1e8", "--json")
    (people, _, _), place = json.loads(said)["identities"], {"parameters": 1e8}
    place |= {"identities": people, "samples": 300 * people}
    assert error_of(read_study(out), place).numbers["error"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "asks nothing"),
        (["--error", "0.3", "--flops", "1e12"], "two questions"),
        (["--error", "-1"], "must be positive"),
        (["--parameters", "1e7"], "also needs --samples"),
        (["--parameters", "nan", "--samples", "3"], "must be a positive number"),
    ],
)
def test_a_question_that_is_none(
    fitted: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, _, err = run(capsys, "scaling", "predict", str(fitted), *arguments)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is not a fit"), ("[1]", "is not a fit"), ("{}", "is not a fit"), ('{"headway_scaling": 9}', "version 9")],
)
def test_a_fit_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str) -> None:
    path = tmp_path / "fit.json"
    path.write_text(content)
    code, _, err = run(capsys, "scaling", "predict", str(path), "--error", "1")
    assert code == 2
    assert message in err


def test_two_trials_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trials.csv"
    path.write_text("parameters,samples,error\n1e6,1e3,0.4\n1e7,1e4,0.2\n")
    code, _, err = run(capsys, "scaling", "fit", str(path), "--counting", COUNTING)
    assert code == 2
    assert "2 different trials for 5 coefficients" in err
    assert not (tmp_path / "fit.json").exists()


def test_the_published_points_by_command(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = shared / "data" / "chinchilla_points.csv"
    if not points.is_file():
        pytest.skip("needs the published points")
    lines = ["parameters,samples,flops,error"]
    for row in csv.DictReader(points.open()):
        size, flops = float(row["Model Size"]), float(row["Training FLOP"])
        lines.append(f"{size!r},{flops / 6 / size!r},{flops!r},{row['loss']}")
    path, out = tmp_path / "points.csv", tmp_path / "fit.json"
    path.write_text("\n".join(lines))
    arguments = ("--counting", "as published", "--drop-highest", "5", "--resamples", "100", "--out", str(out))
    assert run(capsys, "scaling", "fit", str(path), *arguments)[0] == 0
    found = json.loads(out.read_text())
    assert found["objective"] <= 0.00101828
    assert found["dropped_highest"] == 5
    assert found["coefficients"]["a"]["value"] == pytest.approx(0.5139, abs=2e-4)
    _, said, _ = run(capsys, "scaling", "predict", str(out), "--flops", "5.88e23")
    assert "74 G" in said


@pytest.mark.parametrize(("command", "example"), [("fit", "--counting"), ("predict", "--error 0.12")])
def test_help_teaches(capsys: pytest.CaptureFixture[str], command: str, example: str) -> None:
    code, out, _ = run(capsys, "scaling", command, "--help")
    assert code == 0
    assert example in out.split("Example:")[1]
