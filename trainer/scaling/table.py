"""Trials as a table: read from CSV, checked, one row per trial and one error per subject."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs import UserError
from configs.errors import nearest
from trainer.scaling.law import COLUMNS, EXTRA, Array, Form

NEEDED = ("parameters", "samples", "error")
KNOWN = (*NEEDED, "identities", "views", "flops", "seed", "subject", "counting")
SIZES = ("parameters", "samples", "identities", "views", "flops")


@dataclass(frozen=True)
class Table:
    """Trials of one sweep.

    Attributes:
        counting: how parameters are counted, in words.
        columns: `parameters`, `samples` and what else is known (`identities`, `views`, `flops`), positive, `[trial]`.
        errors: error of each trial on each held-out subject, positive, `[trial, subject]`; one column where the table
            names no subjects.
        subjects: their names; none where the table names none.
        seeds: each trial's seed as text, or none.
        warnings: what reading noticed.
    """

    counting: str
    columns: dict[str, Array]
    errors: Array
    subjects: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def error(self) -> Array:
        """Mean over subjects, `[trial]`."""
        return self.errors.mean(axis=1)

    @property
    def flops_per_product(self) -> float | None:
        """FLOP per parameter and sample: the median over trials; None where the table has no flops."""
        if "flops" not in self.columns:
            return None
        return float(np.median(self.columns["flops"] / (self.columns["parameters"] * self.columns["samples"])))

    def of(self, rows: np.ndarray) -> Table:
        """Some of the trials."""
        seeds = tuple(np.asarray(self.seeds)[rows]) if self.seeds else ()
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Table(self.counting, columns, self.errors[rows], self.subjects, seeds)

    def without_highest(self, count: int) -> Table:
        """Without the trials of highest error (early or failed ones that no power law describes)."""
        if not 0 <= count < len(self):
            raise UserError(f"cannot drop {count} of {len(self)} trials", where="--drop-highest")
        kept = np.sort(np.argsort(self.error, kind="stable")[: len(self) - count])
        return self.of(kept)


def read_table(path: Path, counting: str) -> Table:
    """Read trials from a CSV with the columns `parameters,samples,error` and, where known, `identities`, `views`,
    `flops`, `seed`, `subject` (several rows per trial, one per held-out person) and `counting` (to be checked).

    Args:
        path: the file.
        counting: how parameters are counted ("all, without critics"); fits under different conventions do not compare.

    Raises:
        UserError: no counting convention or more than one, a column is missing or unknown, a number is missing, NaN,
            infinite or not positive, two rows say different things of one trial, or subjects differ between trials.
    """
    counting = counting.strip()
    if not counting:
        raise UserError(
            "how are parameters counted?",
            where="--counting",
            hint='for example --counting "all parameters of the model, without critics"; exponents depend on it',
        )
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    try:
        names, lines, rows = _rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError("is not a CSV", where=str(path), hint=str(error)) from error
    if not rows:
        raise UserError("holds no trials", where=str(path))
    _check_counting(path, rows, counting)
    numbers = {
        name: np.array([_number(path, line, name, row) for line, row in zip(lines, rows, strict=True)])
        for name in (*SIZES, "error")
        if name in names
    }
    return _grouped(path, counting, rows, numbers)


def check(table: Table, form: Form) -> None:
    """Raise `UserError` where a form cannot be fitted to a table at all: too few trials, or nothing varies."""
    missing = [name for name in COLUMNS[form] if name not in table.columns]
    if missing:
        raise UserError(f"the form '{form}' needs the column {' and '.join(missing)}", where="--form")
    unknowns = 5 + (EXTRA[form] is not None)
    used = ("parameters", *COLUMNS[form])
    places = np.unique(np.stack([table.columns[name] for name in used], 1), axis=0)
    if len(places) <= unknowns:
        raise UserError(
            f"{len(places)} different trials for {unknowns} coefficients",
            hint=f"at least {unknowns + 1} are needed; 12 or more, over a factor of 30 in size and data, to trust it",
        )
    if np.ptp(np.log(table.error)) < 1e-9:
        raise UserError("the error is the same in every trial", hint="is it the right column?")
    for name in used:
        if len(np.unique(table.columns[name])) < 2:
            other = "; --form identities takes the identities as data" if name == "samples" else ""
            raise UserError(f"{name} is the same in every trial", hint=f"its exponent cannot be found{other}")


def _rows(path: Path) -> tuple[list[str], list[int], list[dict[str, str]]]:
    """Column names, and of every row its line and its cells; empty lines are passed over."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        names = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = names
        _check_header(path, names)
        lines, rows = [], []
        for row in reader:
            if None in row:
                raise UserError("has more cells than the header", where=f"{path}, line {reader.line_num}")
            lines.append(reader.line_num)
            rows.append(row)
    return names, lines, rows


def _check_header(path: Path, names: list[str]) -> None:
    for name in NEEDED:
        if name not in names:
            raise UserError(f"has no column '{name}'", where=str(path), hint=f"columns: {', '.join(names) or 'none'}")
    for name in names:
        if name not in KNOWN:
            raise UserError(f"unknown column '{name}'", where=str(path), hint=nearest(name, KNOWN))
    if len(set(names)) < len(names):
        raise UserError("names a column twice", where=str(path))


def _check_counting(path: Path, rows: list[dict[str, str]], counting: str) -> None:
    found = {(row["counting"] or "").strip() for row in rows} if "counting" in rows[0] else set()
    if len(found) > 1:
        raise UserError(
            f"mixes counting conventions: {', '.join(repr(name) for name in sorted(found))}",
            where=str(path),
            hint="one law has one convention: split the file or count again",
        )
    if found and found != {counting}:
        raise UserError(f"counts by {found.pop()!r}, but --counting says {counting!r}", where=str(path))


def _number(path: Path, line: int, name: str, row: dict[str, str]) -> float:
    text = (row[name] or "").strip()
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number) and number > 0:
        return number
    hint = "errors are fitted as logarithms and must be positive: 1 - SSIM, LPIPS, MSE or a loss, not PSNR"
    diverged = (
        "leave the trial out if it diverged, and say so; " if name == "error" and not math.isfinite(number) else ""
    )
    raise UserError(
        f"{name} is {text or 'empty'!r}, not a positive number", where=f"{path}, line {line}", hint=diverged + hint
    )


def _grouped(path: Path, counting: str, rows: list[dict[str, str]], numbers: dict[str, Array]) -> Table:
    """One row per trial; a trial is its sizes and its seed, or, where there are none, a row of its own."""
    sizes = [name for name in SIZES if name in numbers]
    has_seed, has_subject = "seed" in rows[0], "subject" in rows[0]
    trials: dict[tuple[object, ...], dict[str, list[float]]] = {}
    for line, row in enumerate(rows):
        key = (*(float(numbers[name][line]) for name in sizes), (row["seed"] or "").strip() if has_seed else "")
        subject = (row["subject"] or "").strip() if has_subject else ""
        trials.setdefault(key, {}).setdefault(subject, []).append(float(numbers["error"][line]))
    keys, errors, dropped = [], [], 0
    subjects = sorted({name for found in trials.values() for name in found})
    for key, found in trials.items():
        if sorted(found) != subjects:
            absent = sorted(set(subjects) - set(found))
            raise UserError(
                f"the trial of {key[0]:.6g} parameters and {key[1]:.6g} samples lacks subject {absent[0]!r}",
                where=str(path),
                hint="measure every trial on the same held-out people: their difficulty would pass for a trend",
            )
        distinct = {name: list(dict.fromkeys(values)) for name, values in found.items()}
        dropped += sum(len(values) for values in found.values()) - sum(len(values) for values in distinct.values())
        if max(map(len, distinct.values())) > 1 and (has_seed or has_subject):
            raise UserError(
                f"two errors for one trial: {key[0]:.6g} parameters, {key[1]:.6g} samples"
                + (f", seed {key[-1]}" if has_seed else ""),
                where=str(path),
                hint="give repeats a seed of their own, or remove the stale rows",
            )
        for repeat in range(max(map(len, distinct.values()))):
            keys.append(key)
            errors.append([distinct[name][repeat] for name in subjects])
    warnings = [f"{dropped} duplicated rows were counted once"] if dropped else []
    columns = {name: np.array([key[place] for key in keys], float) for place, name in enumerate(sizes)}
    seeds = tuple(str(key[-1]) for key in keys) if has_seed else ()
    return Table(counting, columns, np.array(errors), tuple(subjects) if has_subject else (), seeds, tuple(warnings))
