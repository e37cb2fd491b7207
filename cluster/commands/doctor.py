"""`headway doctor`."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Say what this machine has, what is missing, and what to do about it; exit code 1 if a run cannot work.

    **Example:** `headway doctor`
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from cluster.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        console = Console(highlight=False)
        table = Table(box=None, pad_edge=False)
        for heading in ("", "part", "found", "what to do"):
            table.add_column(heading, overflow="fold")
        colors = {"ok": "green", "warn": "yellow", "fail": "red"}
        for finding in findings:
            mark = f"[{colors[finding.verdict]}]{finding.verdict}[/]"
            table.add_row(mark, finding.part, finding.found, finding.hint)
        console.print(table)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)
