"""From a preset or a file plus `key=value` overrides to a resolved, checked `Config`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import UserError, nearest
from configs.schema import KINDS, Config
from configs.section import kind_schema

PRESETS = Path(__file__).parent / "presets"
Tree = dict[str, Any]
RENAMED = {("trainer", "checkpoint_every"): ("checkpoint", "every")}
"""Keys of earlier versions, which old runs and checkpoints still carry."""


def presets() -> list[str]:
    """Names of the presets that ship with Headway."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Resolve a config.

    Args:
        source: name of a preset or path of a YAML file; `extends: NAME` in it starts from another.
        overrides: `section.key=value`; the value is YAML.

    Raises:
        UserError: naming the key, with the nearest known name.
    """
    tree = _read(source, seen=())
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, where=str(source))


def parse_config(tree: Tree, where: str = "config") -> Config:
    """Validate a nested mapping; errors name the key."""
    tree = _renamed(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, tree, where) from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML, every value spelled out; `load_config` reads it back equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)


def flatten(config: Config) -> dict[str, Any]:
    """`{"section.key": value}`, for diffs and for MLflow."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict) and value:
            return {k: v for key, child in value.items() for k, v in walk(f"{prefix}.{key}", child).items()}
        return {prefix.removeprefix("."): value}

    return walk("", config.model_dump(mode="json"))


def _renamed(tree: Tree) -> Tree:
    for (section, key), (new_section, new_key) in RENAMED.items():
        old = tree.get(section)
        if isinstance(old, dict) and key in old:
            kept = {name: value for name, value in old.items() if name != key}
            tree = {**tree, section: kept, new_section: {new_key: old[key], **(tree.get(new_section) or {})}}
    return tree


def _read(source: str | Path, seen: tuple[str, ...]) -> Tree:
    name = str(source)
    path = PRESETS / f"{name}.yaml" if name in presets() else Path(source)
    if not path.is_file():
        if "/" in name or path.suffix in (".yaml", ".yml"):
            raise UserError("no such config file", where=name, hint=f"presets: {', '.join(presets())}")
        raise UserError(f"no preset or file is called '{name}'", hint=nearest(name, presets()))
    if str(path) in seen:
        raise UserError(f"'extends' goes in a circle: {' -> '.join((*seen, str(path)))}", where=name)
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not readable as YAML: {error}", where=str(path)) from None
    if not isinstance(tree, dict):
        raise UserError("a config is a mapping of sections", where=str(path), hint="run: {...}, model: {...}")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    beside = path.parent / str(parent)
    return _merge(_read(beside if beside.is_file() else parent, (*seen, str(path))), tree)


def _merge(base: Tree, changes: Tree) -> Tree:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _apply(tree: Tree, override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError("an override is key=value", where=override, hint="for example data.batch_size=8")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError("the value is not readable as YAML", where=override) from None
    for part in parts[:-1]:
        child = tree.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"'{part}' is not a section", where=key)
        tree = child
    tree[parts[-1]] = value


def _explain(error: ValidationError, tree: Tree, where: str) -> UserError:
    """The first mistake, with its key and the nearest known one."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UserError(
            f"unknown key '{key}'", where=where, hint=nearest(key.rsplit(".", 1)[-1], _keys(first["loc"], tree))
        )
    cause = first.get("ctx", {}).get("error")
    message = str(cause) if cause is not None else first["msg"]
    got = f" (got {first['input']!r})" if not isinstance(first["input"], dict | BaseModel) else ""
    more = f"\n  and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return UserError(f"{message}{got}{more}", where=f"{where}: {key}" if key else where)


def _keys(location: tuple[int | str, ...], tree: Tree) -> list[str]:
    """Known keys of the section that holds `location`."""
    model: Any = Config
    for part in location[:-1]:
        if model is Config and part in KINDS:
            model = kind_schema(*KINDS[str(part)], tree[part])
            continue
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next((a for a in (annotation, *get_args(annotation)) if _is_model(a)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
