"""`headway sample` and `headway vocabulary`: people who do not exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from trainer.sample import SampleReport


def sample(
    checkpoint: Annotated[
        str, typer.Argument(help="a generator's checkpoint folder, or its run (the newest checkpoint is taken)")
    ],
    out: Annotated[Path, typer.Option(help="folder for the PLYs, the pictures and report.json")],
    prompt: Annotated[
        str, typer.Option(help="who is wanted: 'long red hair, dark skin, no hat'; empty for anybody")
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="how many people")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="another seed, other people")] = 0,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="weight of the prompt; 1 is none beyond it; default: as trained")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps of the sampler")] = 40,
    method: Annotated[Literal["heun", "euler"], typer.Option(help="of the sampler; heun takes twice as long")] = "heun",
    latents: Annotated[str | None, typer.Option(help="the latents it learned, if they have moved")] = None,
    base: Annotated[str | None, typer.Option(help="checkpoint or run that made the latents, if it has moved")] = None,
) -> None:
    """Make up people as a generator has learned them, and say how new each one is.

    Writes a 3DGS PLY of each, a sheet that shows everybody beside the nearest person the generator has learned, a
    turntable of the first, and a histogram: how far made people are from learned ones, and real ones from each other.

    **Example:** `headway sample headsup-nano-generation --prompt "long blond hair, fair skin" --count 8 --out out/new`
    """
    from cluster.display import counter
    from cluster.runs import find_checkpoint
    from trainer.people import Wish
    from trainer.sample import sample_people

    wish = Wish(prompt, count, seed, guidance, steps, method)
    place = find_checkpoint(base) if base else None
    _show(sample_people(find_checkpoint(checkpoint), wish, out, latents=latents, base=place, counter=counter))


def vocabulary(
    latents: Annotated[str, typer.Argument(help="latents of people with attributes: a folder, file:// or s3://")],
    numbers: Annotated[bool, typer.Option(help="take numbers (`nose_width`) beside words")] = False,
) -> None:
    """Learn which attributes a set of latents has, as settings that a generator can be trained with.

    Every attribute that differs between people is taken, with the words it may be. Add nouns and further words of
    prompts by hand where you like.

    **Example:** `headway vocabulary out/latents/train > people.yaml`
    """
    import yaml

    from data.latents import LatentSet
    from models.conditions.vocabulary import learn_vocabulary

    with LatentSet.open(latents) as people:
        known = (people.index.attributes(row) for row in dict.fromkeys(people.index.neutral_rows.tolist()))
        learned = learn_vocabulary(known, numbers)
        model = {"latent": list(people.shape), "condition": "attributes" if learned else "none"}
    attributes = [attribute.model_dump(mode="json", exclude_defaults=True) for attribute in learned]
    tree = {
        "extends": "headsup-nano-generation",
        "data": {"train": latents},
        "model": model | {"attributes": attributes},
    }
    print(yaml.safe_dump(tree, sort_keys=False, width=120), end="")


def _show(report: SampleReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if report.understood:
        print("understood: " + ", ".join(f"{name}={value}" for name, value in report.understood.items()))
    table = Table("head", "nearest by latent", "distance", "nearest by portrait", "distance", box=None)
    for person in report.people:
        near = [(person[way]["nearest"], f"{person[way]['distance']:.3f}") for way in ("latents", "portraits")]
        table.add_row(Path(person["ply"]).name, *near[0], *near[1])
    console.print(table)
    for way, found in report.distances.items():
        made, real = found["made_to_nearest_learned"], found["real_to_nearest_other"]
        print(f"{way} ({found['unit']}), nearest of {report.learned} learned people:")
        print(f"  made: median {made['median']:.3f}, least {made['least']:.3f}")
        print(f"  real, to the nearest other: median {real['median']:.3f}, least {real['least']:.3f}")
        print(f"  nearer to a learned person than any two of those are to each other: {len(found['copies'])}")
    for name in ("sheet", "turntable", "histogram"):
        print(f"  {name}: {getattr(report, name)}")
