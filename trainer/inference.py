"""A checkpoint's model without an engine: for evaluation, reconstruction, export."""

from __future__ import annotations

import yaml
from torch import nn

from configs import Config, UserError, parse_config
from models.system import System, build
from trainer import checkpoint


def load_system(location: str) -> tuple[System, Config]:
    """The system of a checkpoint, ready to make heads from views, and the config it was trained with.

    Raises:
        UserError: as `load_model`, or a model of another kind: an animator, a generator.
    """
    model, config = load_model(location)
    if not isinstance(model, System):
        what = f"is a checkpoint of {config.model.system}, which makes no head from views"
        raise UserError(what, where=location, hint="headway animate and headway sample take those")
    return model, config


def load_model(location: str) -> tuple[nn.Module, Config]:
    """Any model of a checkpoint, ready to predict, and the config it was trained with.

    The weights are the moving average where the run kept one.

    Raises:
        UserError: not a checkpoint, a damaged one, or one of another architecture than this version builds.
    """
    config = parse_config(yaml.safe_load(checkpoint.describe(location).config), where=location)
    model: nn.Module = build(config.model)
    try:
        model.load_state_dict(checkpoint.load_weights(location))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"is a checkpoint of another architecture: {first}", where=location) from None
    return model.eval(), config
