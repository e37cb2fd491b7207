"""Nonsense in: one readable message each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs import UserError
from trainer.scaling import Table, check, read_table

COUNTING = "all parameters"


def written(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "trials.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def grid(**changed: float) -> Table:
    """16 trials on a grid, whose error falls."""
    size, data = (a.ravel() for a in np.meshgrid([1e5, 1e6, 1e7, 1e8], [1e3, 1e4, 1e5, 1e6]))
    columns = {"parameters": size, "samples": data}
    columns |= {name: np.full(16, value) for name, value in changed.items()}
    return Table(COUNTING, columns, (0.1 + size**-0.3 + data**-0.3)[:, None])


def test_reads_columns_in_any_order(tmp_path: Path) -> None:
    path = written(tmp_path, "error, parameters,samples,flops", "0.5,1e6,1e3,6e9", "0.4,2e6,1e3,1.2e10")
    table = read_table(path, COUNTING)
    assert table.columns["parameters"].tolist() == [1e6, 2e6]
    assert table.error.tolist() == [0.5, 0.4]
    assert table.flops_per_product == pytest.approx(6)
    assert table.warnings == ()


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("parameters,samples", ["1,2"], "no column 'error'"),
        ("parameters,samples,error,identites", ["1,2,3,4"], "did you mean 'identities'"),
        ("parameters,samples,error,error", ["1,2,3,3"], "twice"),
        ("parameters,samples,error", [], "no trials"),
        ("parameters,samples,error", ["1e6,1e3,nan"], "line 2: error is 'nan'"),
        ("parameters,samples,error", ["1e6,1e3,0.5", "1e6,1e3,inf"], "line 3: error is 'inf'"),
        ("parameters,samples,error", ["1e6,1e3,"], "error is 'empty'"),
        ("parameters,samples,error", ["", "1e6,1e3,0.5,7"], "line 3: has more cells"),
        ("parameters,samples,error", ["1e6,1e3"], "error is 'empty'"),
        ("parameters,samples,error", ["1e6,1e3,-0.1"], "must be positive"),
        ("parameters,samples,error", ["0,1e3,0.1"], "parameters is '0'"),
        ("parameters,samples,error", ["1e6,many,0.1"], "samples is 'many'"),
        ("parameters,samples,error,counting", ["1,2,3,all parameters", "1,3,2,active"], "mixes counting conventions"),
        ("parameters,samples,error,counting", ["1,2,3,active"], "but --counting says 'all parameters'"),
        ("parameters,samples,error,seed", ["1,2,0.3,0", "1,2,0.4,0"], "two errors for one trial"),
        ("parameters,samples,error,subject", ["1,2,0.3,anna", "1,2,0.4,ben", "2,2,0.3,anna"], "lacks subject 'ben'"),
    ],
)
def test_one_message_each(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(written(tmp_path, header, *rows), COUNTING)


def test_the_counting_convention_is_required(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="how are parameters counted"):
        read_table(written(tmp_path, "parameters,samples,error", "1,2,3"), "  ")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "none.csv", COUNTING)


def test_something_else_than_a_table(tmp_path: Path) -> None:
    path = tmp_path / "picture.csv"
    path.write_bytes(b"\x89PNG\xf8\x00")
    with pytest.raises(UserError, match="is not a CSV"):
        read_table(path, COUNTING)


def test_duplicated_rows_count_once_and_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, "parameters,samples,error,seed", "1,2,0.3,0", "1,2,0.3,0", "1,2,0.3,1")
    table = read_table(path, COUNTING)
    assert len(table) == 2
    assert table.warnings == ("1 duplicated rows were counted once",)


def test_repeats_without_a_seed_are_trials_of_their_own(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "parameters,samples,error", "1,2,0.3", "1,2,0.31"), COUNTING)
    assert len(table) == 2


def test_subjects_are_columns_of_a_trial(tmp_path: Path) -> None:
    rows = ["1e6,10,0.4,ben", "1e6,10,0.2,anna", "1e7,10,0.1,anna", "1e7,10,0.3,ben"]
    table = read_table(written(tmp_path, "parameters,samples,error,subject", *rows), COUNTING)
    assert table.subjects == ("anna", "ben")
    np.testing.assert_allclose(table.errors, [[0.2, 0.4], [0.1, 0.3]])
    np.testing.assert_allclose(table.error, [0.3, 0.2])


def test_the_highest_are_dropped_in_place() -> None:
    table = grid()
    rest = table.without_highest(3)
    assert len(rest) == 13
    assert rest.error.max() <= np.sort(table.error)[-4]
    assert rest.columns["samples"].tolist() == sorted(rest.columns["samples"].tolist())
    with pytest.raises(UserError, match="cannot drop 16 of 16"):
        table.without_highest(16)


def test_what_cannot_be_fitted_at_all() -> None:
    check(grid(), "samples")
    with pytest.raises(UserError, match="2 different trials for 5 coefficients"):
        check(grid().of(np.array([0, 5])), "samples")
    with pytest.raises(UserError, match="5 different trials"):
        check(grid().of(np.array([0, 1, 2, 3, 4, 4, 4, 4])), "samples")
    with pytest.raises(UserError, match="the error is the same"):
        check(Table(COUNTING, grid().columns, np.full((16, 1), 0.3)), "samples")
    with pytest.raises(UserError, match="needs the column identities and views"):
        check(grid(), "views")


def test_what_does_not_vary_is_named() -> None:
    size = np.geomspace(1e5, 1e8, 8)
    flat = Table(COUNTING, {"parameters": size, "samples": np.full(8, 1e3)}, (1 + size**-0.3)[:, None])
    with pytest.raises(UserError, match="samples is the same in every trial") as told:
        check(flat, "samples")
    assert "--form identities" in str(told.value)
