"""The command `headway`: one file per group of commands in `cluster/commands/`, registered here."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from cluster.commands import (
    animate,
    config,
    data,
    demo,
    doctor,
    jobs,
    latents,
    ledger,
    manifest,
    model,
    sample,
    scaling,
    submit,
    track,
    train,
    use,
)
from configs import UserError

app = typer.Typer(
    name="headway",
    help="Train feed-forward 3D Gaussian head models on one machine or many, and use them.\n\n"
    "A first run, in a few minutes: headway doctor; headway demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("resume")(train.resume)
app.command("demo")(demo.demo)
app.command("submit")(submit.submit)
app.add_typer(jobs.app, name="jobs")
app.add_typer(manifest.app, name="cluster")
app.add_typer(track.app, name="track")
app.command("reconstruct")(use.reconstruct)
app.command("evaluate")(use.evaluate)
app.command("ledger")(ledger.ledger)
app.command("latents")(latents.latents)
app.command("animate")(animate.animate)
app.command("sample")(sample.sample)
app.command("vocabulary")(sample.vocabulary)
app.add_typer(scaling.app, name="scaling")
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
app.add_typer(model.app, name="model")
app.command("doctor")(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 our fault (with a traceback), 2 a mistake of the user, 130 Ctrl-C."""
    try:
        app(list(arguments) if arguments is not None else None, prog_name="headway")
    except UserError as error:
        print(f"headway: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe is gone; without this Python would complain again when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
