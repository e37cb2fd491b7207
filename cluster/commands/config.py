"""`headway config`: look at what would run before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.commands.train import Overrides
from cluster.runs import differences
from configs import dump_config, load_config, presets

app = typer.Typer(no_args_is_help=True, help="Show, check and compare configs.", rich_markup_mode="markdown")

Source = Annotated[str, typer.Argument(help="a preset or a YAML file")]


@app.command()
def show(
    config: Annotated[str | None, typer.Argument(help="a preset or a YAML file; none lists the presets")] = None,
    overrides: Overrides = None,
    hash: Annotated[bool, typer.Option("--hash", help="only the hash that names what is trained")] = False,
) -> None:
    """Print a config with every value spelled out, as YAML that can be saved, changed and trained.

    **Example:** `headway config show headsup-nano model.capacity=4 > mine.yaml`
    """
    if config is None:
        print("\n".join(presets()))
        return
    resolved = load_config(config, overrides or [])
    print(resolved.hash if hash else dump_config(resolved), end="\n" if hash else "")


@app.command()
def check(config: Source, overrides: Overrides = None) -> None:
    """Say whether a config is valid, and if not, which key is wrong and what would be right.

    **Example:** `headway config check mine.yaml data.batch_size=8`
    """
    resolved = load_config(config, overrides or [])
    print(f"{config}: valid, {resolved.hash}")


@app.command()
def diff(
    left: Annotated[str, typer.Argument(help="a preset or a YAML file")],
    right: Annotated[str, typer.Argument(help="another")],
) -> None:
    """Print every setting in which two configs differ; exit code 1 if there is one.

    **Example:** `headway config diff headsup-small headsup-base`
    """
    changed = differences(load_config(left), load_config(right))
    width = max(map(len, changed), default=0)
    for key, (old, new) in changed.items():
        print(f"{key:<{width}}  {old} -> {new}")
    if changed:
        raise typer.Exit(1)
