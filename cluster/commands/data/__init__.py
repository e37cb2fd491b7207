"""`headway data`: make, convert and look at datasets."""

from __future__ import annotations

import typer

from cluster.commands.data import bench, ingest, keep, look, plan, synth

app = typer.Typer(no_args_is_help=True, help="Make, convert and look at datasets.", rich_markup_mode="markdown")
app.add_typer(ingest.app, name="ingest")
app.command()(synth.synth)
app.command("check-cameras")(look.check_cameras)
app.command()(look.stats)
app.command()(plan.plan)
app.command()(keep.verify)
app.command()(keep.index)
app.command()(keep.reshard)
app.command()(keep.subset)
app.command()(bench.bench)
