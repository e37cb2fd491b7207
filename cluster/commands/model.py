"""`headway model`: what a model is and costs before anything is trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.train import Overrides
from cluster.text import count, size
from configs import load_config

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from trainer.describe import Arithmetic, Description, Memory, NetworkDescription

app = typer.Typer(no_args_is_help=True, help="Look at a model before it is trained.", rich_markup_mode="markdown")

COLUMNS = ("weights", "gradients", "masters", "moments", "average", "passing")


@app.callback()
def group() -> None:
    """Look at a model before it is trained."""


@app.command()
def describe(
    config: Annotated[str, typer.Argument(help="a preset (`headway config show`) or a YAML file")],
    overrides: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON object; bytes and operations as numbers")
    ] = False,
) -> None:
    """Print parameters, arithmetic per sample and memory per rank for every ZeRO stage; nothing is allocated.

    Weights and optimiser state are exact up to padding, the model's arithmetic is counted by torch; the renderer's
    arithmetic and the activations are estimates (docs/capacity.md says of what).

    **Example:** `headway model describe headsup-base model.capacity=48 cluster.workers=64`
    """
    from trainer.describe import describe as describe_config

    found = describe_config(load_config(config, overrides or []))
    if as_json:
        print(json.dumps(found.plain()))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for name, network in found.networks.items():
        _print_parameters(console, name, network)
    if found.arithmetic is not None:
        _print_arithmetic(console, found, found.arithmetic)
    for name, network in found.networks.items():
        _print_memory(console, name, network, found)
    console.print(
        "* this config   cpu: optimiser offloaded   passing: gradients on their way, weights that are gathered"
    )


def _print_parameters(console: Console, name: str, network: NetworkDescription) -> None:
    table = _table("part", "parameters", "share")
    for part, parameters in sorted(network.parameters.items(), key=lambda item: -item[1]):
        table.add_row(part, f"{parameters:,}", f"{parameters / network.total:.1%}")
    console.print(f"[bold]{name}: {count(network.total)} parameters[/bold]", table)
    if len(network.learning_rates) > 1:
        groups = ", ".join(f"{count(n)} x {factor:.3g}" for factor, n in network.learning_rates.items())
        console.print(f"learning rate carried over from the base capacity: {groups}\n")


def _print_arithmetic(console: Console, found: Description, costs: Arithmetic) -> None:
    views = "1 source view" if found.views == 1 else f"{found.views} source views"
    table = _table("", "forward", "training")
    table.add_row("model", *(f"{count(n)}FLOP" for n in (costs.model, costs.training_model)))
    table.add_row("render (estimate)", *(f"{count(n)}FLOP" for n in (costs.render, costs.training_render)))
    console.print(f"[bold]arithmetic per sample, {views}[/bold]", table)
    layers = ", ".join(f"{n:,} {layer}" for layer, n in costs.gaussians.items())
    samples = "1 sample" if found.micro_batch == 1 else f"{found.micro_batch} samples"
    half = ", about half in bf16" if found.precision == "bf16" else ""
    console.print(f"Gaussians: {layers}")
    console.print(f"activations of one pass over {samples} (estimate): {size(costs.activations)} in fp32{half},")
    console.print("  without rendering and losses\n")


def _print_memory(console: Console, name: str, network: NetworkDescription, found: Description) -> None:
    rows = [*network.memory.values(), *network.offloaded.values()]
    unit, divisor = ("GB", 1e9) if max(memory.total for memory in rows) >= 1e9 else ("MB", 1e6)
    table = _table("ZeRO", *COLUMNS, "device", "host")

    def add(label: str, memory: Memory, style: str | None) -> None:
        values = [getattr(memory, column) for column in (*COLUMNS, "device", "host")]
        table.add_row(label, *(f"{value / divisor:.2f}" if value else "-" for value in values), style=style)

    for stage, memory in network.memory.items():
        chosen = stage == network.stage
        add(f"{stage} *" if chosen else f"{stage}", memory, "bold" if chosen else None)
    for stage, memory in network.offloaded.items():
        if memory != network.memory[stage]:
            add(f"{stage} cpu", memory, "dim")
    ranks = "one rank" if found.workers == 1 else f"each of {found.workers} ranks"
    console.print(f"[bold]{name}: {unit} on {ranks} beside activations, {network.precision}[/bold]", table)


def _table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True, min_width=7)
    return table
