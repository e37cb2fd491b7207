"""What all settings have in common: frozen, no unknown keys, kinds found by file name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from configs.errors import UserError, nearest


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


SomeSection = TypeVar("SomeSection", bound=Section)


def kinds(package: str) -> list[str]:
    """Names of the schemas in `configs/<package>/`, one module each."""
    path = importlib.import_module(f"configs.{package}").__path__
    return sorted(module.name for module in pkgutil.iter_modules(path))


def parse_kind(value: Any, package: str, key: str, base: type[SomeSection]) -> SomeSection:
    """Validate a mapping with the schema that its `key` names.

    `configs/<package>/<name>.py` holds one subclass of `base` and nothing has to be registered.
    """
    if isinstance(value, base):
        return value
    if not isinstance(value, dict) or not isinstance(value.get(key), str):
        raise ValueError(f"needs '{key}': {', '.join(kinds(package))}")
    name = value[key]
    if name not in kinds(package):
        raise UserError(f"no {key} is called '{name}'", hint=nearest(name, kinds(package)))
    module = importlib.import_module(f"configs.{package}.{name}")
    schemas = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, base) and item.__module__ == module.__name__
    ]
    return schemas[0].model_validate(value)
