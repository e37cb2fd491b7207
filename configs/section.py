"""What all settings have in common: frozen, no unknown keys, kinds found by file name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from pydantic import BaseModel, ConfigDict

from configs.errors import UserError, nearest


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def kinds(package: str) -> list[str]:
    """Names of the schemas in `configs/<package>/`, one module each."""
    path = importlib.import_module(f"configs.{package}").__path__
    return sorted(module.name for module in pkgutil.iter_modules(path))


def kind_schema(package: str, key: str, value: Any) -> type[Section]:
    """The schema that a mapping asks for by its `key`.

    `configs/<package>/<name>.py` holds one subclass of `Section` and nothing has to be registered.
    """
    name = value.get(key) if isinstance(value, dict) else None
    if not isinstance(name, str):
        raise UserError(f"needs '{key}', one of: {', '.join(kinds(package))}")
    if name not in kinds(package):
        raise UserError(f"no {key} is called '{name}'", hint=nearest(name, kinds(package)))
    module = importlib.import_module(f"configs.{package}.{name}")
    return getattr(module, module.SCHEMA)
