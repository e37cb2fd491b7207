"""Figures as people write them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`1:23`, `2:03:04`, `3 d 04:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """`512 B`, `1.5 MB`, `24.0 GB`; powers of 1000."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("not reached")


def count(number: float) -> str:
    """`512`, `1.5 K`, `58.9 M`, `8.02 G`, `5.34 T`: three digits, powers of 1000."""
    for unit in ("", "K", "M", "G", "T", "P"):
        if abs(number) < 999.5 or unit == "P":
            return f"{number:.3g} {unit}" if unit else f"{number:.0f}"
        number /= 1000
    raise AssertionError("not reached")
