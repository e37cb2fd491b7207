"""A run's folder: where it is, what it holds, and that only one process trains it at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs import Config, UserError, dump_config, flatten, load_config, nearest, parse_config

CONFIG_FILE = "config.yaml"
WARNINGS_FILE = "warnings.log"
RUNS = Path("out/runs")
_PLACES = ("data.train", "data.test", "data.quarantine", "run.start_from", "checkpoint.url")
_WHERE_NOT_WHAT = ("cluster.", "tracking.", "checkpoint.", "run.name", "run.dir")
_FIXED = ("model.", "run.name", "run.dir")


def resolve(config: Config, base: Path | None = None) -> Config:
    """The same config with every local path made absolute, so that it means the same on every worker.

    Args:
        config: as the user wrote it; relative paths count from `base`.
        base: a folder, default the current one.
    """
    base = (base or Path.cwd()).absolute()
    tree = config.model_dump(mode="json")
    for _, section, name in places(tree):
        section[name] = _absolute(section[name], base)
    for section, name in ((tree["run"], "dir"), (tree["checkpoint"], "local")):
        section[name] = _absolute(section[name], base)
    uri = tree["tracking"]["uri"]
    if uri.startswith("sqlite:///"):
        tree["tracking"]["uri"] = "sqlite:///" + str(base / uri.removeprefix("sqlite:///"))
    return parse_config(tree)


def places(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Settings that name files, folders or URLs that every worker must see: dotted key, its section, its name there.

    Args:
        tree: a config as plain values. A setting that is called `path`, in any section, is one of them.
    """
    for key in _PLACES:
        part, name = key.split(".")
        yield key, tree[part], name
    for index, other in enumerate(tree["data"]["mixture"]):
        yield f"data.mixture.{index}.url", other, "url"
    yield from _paths(tree, "")


def _paths(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        elif key == "path":
            yield f"{prefix}{key}", tree, key


def _absolute(value: str | None, base: Path) -> str | None:
    return value if value is None or "://" in value else str(base / Path(value).expanduser())


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """`{"section.key": (old, new)}` for every setting that differs."""
    before, after = flatten(old), flatten(new)
    keys = sorted(before.keys() | after.keys())
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def find_run(run: str) -> Path:
    """The folder of a run that is named by its path or by its name under `out/runs`.

    Raises:
        UserError: there is none, naming the nearest.
    """
    for folder in (Path(run), RUNS / run):
        if (folder / CONFIG_FILE).is_file():
            return folder.absolute()
    known = [path.parent.name for path in RUNS.glob(f"*/{CONFIG_FILE}")]
    hint = nearest(run, known) if known else f"no runs in {RUNS} yet; `headway train PRESET` starts one"
    raise UserError(f"no run is called '{run}'", hint=hint)


def find_checkpoint(place: str) -> str:
    """A checkpoint by its own folder, or the newest of a run by the run's folder or name.

    Raises:
        UserError: neither is there.
    """
    if "://" in place:
        return place
    if Path(place).is_dir() and not (Path(place) / CONFIG_FILE).is_file():
        return place
    from trainer.checkpoint import latest

    run = find_run(place)
    newest = latest(read_run(run).checkpoints)
    if newest is None:
        raise UserError("has no checkpoint yet", where=str(run), hint=f"headway resume {run.name}")
    return newest


def read_run(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of an existing run, placed where the folder lies now, with the changes that a resume allows.

    Raises:
        UserError: an override touches what the checkpoint's weights depend on.
    """
    stored = load_config(folder / CONFIG_FILE)
    changed = load_config(folder / CONFIG_FILE, overrides)
    fixed = [key for key in differences(stored, changed) if key.startswith(_FIXED)]
    if fixed:
        raise UserError(
            f"cannot change when a run goes on: {', '.join(fixed)}",
            where=folder.name,
            hint="start another run: headway train PRESET --name OTHER",
        )
    run = changed.run.model_copy(update={"dir": str(folder.parent), "name": folder.name})
    return resolve(changed.model_copy(update={"run": run}))


def prepare(config: Config, *, resume: bool) -> bool:
    """Make the run's folder and write its config.

    Args:
        config: resolved (see `resolve`).
        resume: whether differences from an existing run of that name are meant.

    Returns:
        Whether the run existed before.

    Raises:
        UserError: another run has the name, or the folder cannot be written.
    """
    folder = config.run.path
    existed = (folder / CONFIG_FILE).is_file()
    if existed and not resume:
        _refuse_another(folder, config)
    partial = folder / f"{CONFIG_FILE}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(dump_config(config))
        partial.replace(folder / CONFIG_FILE)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise unwritable(error, folder) from None
    return existed


def _refuse_another(folder: Path, config: Config) -> None:
    changed = {
        key: pair
        for key, pair in differences(load_config(folder / CONFIG_FILE), config).items()
        if not key.startswith(_WHERE_NOT_WHAT)
    }
    if changed:
        lines = "".join(f"\n    {key}: {old} there, {new} here" for key, (old, new) in changed.items())
        raise UserError(
            f"a run of this name exists with other settings:{lines}",
            where=str(folder),
            hint=f"go on with it: headway resume {folder.name} [key=value]; or take another name: --name OTHER",
        )


def unwritable(error: OSError, where: Path | str) -> UserError:
    """What to tell a user whose disk or folder refuses a write."""
    if error.errno == errno.ENOSPC:
        return UserError("the disk is full", where=str(where), hint="free some space, or set run.dir elsewhere")
    return UserError(f"cannot be written: {error.strerror or error}", where=str(where), hint="set run.dir elsewhere")


@contextlib.contextmanager
def sole_trainer(folder: Path) -> Iterator[None]:
    """Hold the run for this process; the kernel lets go when the process ends, however it ends.

    Raises:
        UserError: another process on this machine trains the run.
    """
    with open(folder / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"is being trained by process {lock.read().strip() or 'unknown'}",
                where=str(folder),
                hint="wait for it, stop it with Ctrl-C, or take another name: --name OTHER",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
