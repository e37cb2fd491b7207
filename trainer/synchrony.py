"""Whether all ranks hold the same weights: what a broken link, a bad memory or a bug would tear apart in silence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.distributed import broadcast_object, gather_objects
from trainer.engine import Engine

_CHUNK = 2**22  # elements that are eight bytes long for a moment


class Desynchronised(RuntimeError):
    """Ranks hold different weights; names the first parameter and the ranks that differ from most."""


def check_synchrony(engines: Mapping[str, Engine]) -> None:
    """Compare digests of all replicated parameters. Collective.

    At ZeRO 3 no rank holds what another does, so only its buffers and step counts are compared.

    Raises:
        Desynchronised: on every rank.
    """
    mine = {f"{name}/{key}": value for name, engine in engines.items() for key, value in _digests(engine).items()}
    everybody = gather_objects(mine)
    complaint = broadcast_object(_compare(everybody) if everybody else None)
    if complaint is not None:
        raise Desynchronised(complaint)


def _digests(engine: Engine) -> dict[str, float]:
    found = {"steps": float(engine.steps)}
    for name, parameter in engine.module.named_parameters():
        if not hasattr(parameter, "ds_shape"):
            found[name] = digest(parameter)
    return found


def digest(tensor: Tensor) -> float:
    """A number that any changed element changes: a sum of all bits as whole numbers, weighted by their place.

    Sums wrap around in 64 bits, so their order does not matter; weights are odd, so that no change is multiplied away.
    """
    flat = tensor.detach().contiguous().view(-1)
    bits = flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])
    total = 0
    for start in range(0, bits.numel(), _CHUNK):
        part = bits[start : start + _CHUNK].to(torch.int64)
        places = torch.arange(start, start + part.numel(), device=part.device)
        total += int((part * (2 * places + 1)).sum())
    return float(total % 2**53)


def _compare(everybody: list[dict[str, float]]) -> str | None:
    for name in everybody[0]:
        values = [digests[name] for digests in everybody]
        most = max(values, key=values.count)
        odd = [rank for rank, value in enumerate(values) if value != most]
        if odd:
            ranks = f"rank {odd[0]}" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))}"
            return f"{name} differs on {ranks} from the other ranks"
    return None
