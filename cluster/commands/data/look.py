"""Commands that look at a dataset."""

from __future__ import annotations

from typing import Annotated

import typer


def stats(dataset: Annotated[str, typer.Argument(help="a folder, file://, s3://")]) -> None:
    """Print what a dataset holds: people, captures, views, bytes, fingerprint, licence.

    **Example:** `headway data stats out/data/train`
    """
    from dataclasses import asdict

    from data.dataset import Dataset

    with Dataset.open(dataset) as opened:
        described = asdict(opened.info)
    width = max(map(len, described))
    for name, value in described.items():
        print(f"{name.replace('_', ' '):<{width}}  {value}")
