"""`headway latents`: what animation and identity generation train on."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.commands.use import Checkpoint


def latents(
    checkpoint: Checkpoint,
    dataset: Annotated[str, typer.Argument(metavar="DATA", help="captures: a folder, file:// or s3://")],
    out: Annotated[str, typer.Option(help="set of latents to write: a folder, file:// or s3://")],
    views: Annotated[int | None, typer.Option(min=1, help="source views of each capture; default: as trained")] = None,
) -> None:
    """Encode every capture with a frozen model, once, for models of latents to train on.

    The checkpoint must make heads from its latents alone (preset headsup-nano-latent, or model.color_skip=false).
    What whitens the latents lies in the set. Interrupted, the same command goes on; done, it changes nothing.

    **Example:** `headway latents first out/data/train --out out/latents/train`
    """
    from cluster.display import counter
    from cluster.runs import find_checkpoint
    from trainer.latents import encode_dataset

    with counter("captures") as progress:
        info = encode_dataset(find_checkpoint(checkpoint), dataset, out, views=views, progress=progress)
    channels, height, width = info.shape
    print(f"{info.url}: latents of {channels} x {height} x {width} from {info.origin.views} views each")
    print(f"  train on them with data.train={info.url}")
