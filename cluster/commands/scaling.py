"""`headway scaling`: what twice the people, or twice the size, would buy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from trainer.scaling import Answer, Study

app = typer.Typer(
    help="Fit scaling laws to trials, and ask them (docs/scaling.md).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command()
def fit(
    csv: Annotated[
        Path,
        typer.Argument(
            help="a CSV with parameters,samples,error and, where known, identities,views,flops,seed,subject"
        ),
    ],
    counting: Annotated[str, typer.Option(help="how parameters are counted, in words: exponents depend on it")],
    out: Annotated[Path, typer.Option(help="where the fit goes, as JSON")] = Path("fit.json"),
    form: Annotated[
        Literal["samples", "identities", "views", "repeats"],
        typer.Option(
            help="what counts as data: the samples, the identities, identities with views as correlated repeats, "
            "or identities seen again until that wears out"
        ),
    ] = "samples",
    metric: Annotated[str, typer.Option(help="what the error is: LPIPS, 1 - SSIM, MSE, loss")] = "error",
    drop_highest: Annotated[int, typer.Option(help="trials of highest error to leave out; the fit says so")] = 0,
    resamples: Annotated[int, typer.Option(min=50, max=100_000, help="refits for the intervals")] = 1000,
    seed: Annotated[int, typer.Option(help="of the resamples")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print coefficients and warnings as one JSON object")] = False,
) -> None:
    """Fit error = E + A / N^alpha + B / D^beta, with 90 % intervals, a back-test on the largest trials, and warnings.

    The error must fall to zero at best: 1 - SSIM, LPIPS, MSE or a loss, not PSNR. Rows that differ only in `subject`
    are one trial on several held-out people, who are then resampled too.

    **Example:** `headway scaling fit trials.csv --counting "all, without critics" --metric LPIPS --out fit.json`
    """
    from cluster.display import counter
    from trainer.scaling import analyse, read_table, write_study

    table = read_table(csv, counting)
    if as_json:
        study = analyse(table, form, metric, resamples, seed, drop_highest)
    else:
        with counter("refits") as told:
            study = analyse(table, form, metric, resamples, seed, drop_highest, told)
    write_study(study, out)
    if as_json:
        record = json.loads(out.read_text())
        print(json.dumps({name: record[name] for name in ("objective", "coefficients", "back_test", "warnings")}))
        return
    _show(study)
    print(f"  written: {out}")


@app.command()
def predict(
    path: Annotated[Path, typer.Argument(metavar="FIT", help="what `headway scaling fit` wrote")],
    error: Annotated[float | None, typer.Option(help="what reaches this error?")] = None,
    flops: Annotated[float | None, typer.Option(help="what is this much compute best spent on?")] = None,
    parameters: Annotated[float | None, typer.Option(help="size of the model, counted as the fit counts")] = None,
    samples: Annotated[float | None, typer.Option(help="samples seen in training")] = None,
    identities: Annotated[float | None, typer.Option(help="people in the training set")] = None,
    views: Annotated[float | None, typer.Option(help="views of each of them")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per answer")] = False,
) -> None:
    """Ask a fit: the error of a size on some data, what reaches an error, or how to spend an amount of compute.

    Every number comes with its 90 % interval, and with a word where it lies outside of what was tried.

    **Example:** `headway scaling predict fit.json --error 0.12`

    **Example:** `headway scaling predict fit.json --parameters 3e7 --samples 1e6`
    """
    from configs import UserError
    from trainer.scaling import error_of, optimum, reaching, read_study

    study = read_study(path)
    given = {"parameters": parameters, "samples": samples, "identities": identities, "views": views}
    asked = {name: value for name, value in given.items() if value is not None}
    for name, value in asked.items():
        if not 0 < value < float("inf"):
            raise UserError("must be a positive number", where=f"--{name}")
    if error is not None and flops is not None:
        raise UserError("asks two questions at once", where="--error and --flops", hint="ask one after the other")
    if error is not None:
        answers = reaching(study, error, asked)
    elif flops is not None:
        answers = [optimum(study, flops)]
    elif asked:
        answers = [error_of(study, asked)]
    else:
        raise UserError("asks nothing", hint="--error X, --flops C, or --parameters N with the data")
    _tell(study, answers, as_json)


def _tell(study: Study, answers: list[Answer], as_json: bool) -> None:
    for answer in answers:
        print(json.dumps(answer.numbers) if as_json else answer.text)
    if not as_json:
        print(f"Parameters counted as: {study.counting}. In brackets: 90 % intervals over {len(study.draws)} refits.")
        if study.warned:
            kinds = ", ".join(dict.fromkeys(warned.kind.replace("_", " ") for warned in study.warned))
            print(f"The fit warned of: {kinds}. Read them before you trust this.")


def _show(study: Study) -> None:
    from trainer.scaling import FORMULAS

    people = f", {study.subjects} held-out subjects" if study.subjects else ""
    dropped = f", {study.dropped} highest dropped" if study.dropped else ""
    print(f"{FORMULAS[study.law.form]}")
    print(f"  {study.trials} trials{people}{dropped}; error: {study.metric}")
    print(f"  parameters: {study.counting}")
    print(f"  {'':<8} {'value':>10}   90 % interval")
    for name, (value, low, high) in study.coefficients().items():
        note = "  best N grows as compute^a" if name == "a" else ""
        print(f"  {name:<8} {value:>10.5g}   {low:.4g} to {high:.4g}{note}")
    reached = f"from {study.agreeing} of {study.starts} starts"
    print(f"  objective {study.objective:.8g} (sum of Huber on logs), {reached}")
    if study.tested:
        count = len(study.tested.error)
        print(f"  back-test: {study.tested.inside} of the {count} largest trials inside the others' 90 % intervals")
    for warned in study.warned:
        print(f"  warning ({warned.kind.replace('_', ' ')}): {warned.text}")
