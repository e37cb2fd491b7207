"""Where the wall time of a run went: every second of every rank, and of the job.

Ranks write with `trainer.ledger.recorder`, which needs torch; what is here reads, and does not.
"""

from trainer.ledger.settling import settle, summarise
from trainer.ledger.summary import Ledger, RankLedger, Span
from trainer.ledger.windows import CATEGORIES, LEDGER, Window, attempts
from trainer.ledger.writing import PICTURE, draw, publish, session

__all__ = [
    "CATEGORIES",
    "LEDGER",
    "PICTURE",
    "Ledger",
    "RankLedger",
    "Span",
    "Window",
    "attempts",
    "draw",
    "publish",
    "session",
    "settle",
    "summarise",
]
