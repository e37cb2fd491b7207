"""Scaling laws: fit error over size and data, say how sure that is, and answer questions with it."""

from trainer.scaling.answers import Answer, error_of, optimum, reaching
from trainer.scaling.bootstrap import LEVEL, bootstrap, interval
from trainer.scaling.diagnose import BackTest, Warned, back_test
from trainer.scaling.fit import DELTA, Fitted, fit
from trainer.scaling.law import COLUMNS, EXTRA, FORMULAS, Form, Law
from trainer.scaling.study import Study, analyse, read_study, write_study
from trainer.scaling.table import Table, check, read_table

__all__ = [
    "COLUMNS",
    "DELTA",
    "EXTRA",
    "FORMULAS",
    "LEVEL",
    "Answer",
    "BackTest",
    "Fitted",
    "Form",
    "Law",
    "Study",
    "Table",
    "Warned",
    "analyse",
    "back_test",
    "bootstrap",
    "check",
    "error_of",
    "fit",
    "interval",
    "optimum",
    "reaching",
    "read_study",
    "read_table",
    "write_study",
]
