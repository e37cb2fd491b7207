"""Scaling laws: fit error over size and data, say how sure that is, and answer questions with it."""

from trainer.scaling.fit import DELTA, Fitted, fit
from trainer.scaling.law import COLUMNS, EXTRA, FORMULAS, Form, Law
from trainer.scaling.table import Table, check, read_table

__all__ = ["COLUMNS", "DELTA", "EXTRA", "FORMULAS", "Fitted", "Form", "Law", "Table", "check", "fit", "read_table"]
