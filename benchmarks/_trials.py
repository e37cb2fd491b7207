"""Small trainings side by side: each is named by what it trains, done once, in a process of its own.

`python benchmarks/_trials.py TRIAL.json` is such a process: it trains, measures people whom the model never saw, and
writes `RESULT` beside its trial.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs import Config, load_config
from configs.systems.headsup import HeadsUpConfig
from data.dataset import Dataset
from data.order import digest
from data.viewpoints import draw_views
from data.views import Views
from models.system import System, composite, predict
from models.template import face_regions, load_template
from trainer.inference import load_system
from trainer.objectives.regions import region_boxes

SOURCES, TARGETS = 8, 4
"""Of every unseen capture: the most source views, of which fewer are the first, and the views that are measured."""
RESULT = "result.json"


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        overrides: `key=value` settings over `headsup-nano`.
        seed: of weights and sample order.
        data: folder with `train` and `unseen`.
        views: numbers of source views to measure with.
    """

    overrides: tuple[str, ...]
    seed: int
    data: str
    views: tuple[int, ...] = (1, 2, 4, 8)

    @property
    def name(self) -> str:
        """Of its folder: the same settings, the same name."""
        return hashlib.sha256(json.dumps([sorted(self.overrides), self.seed, self.views]).encode()).hexdigest()[:12]


def run_trials(trials: Iterable[Trial], out: Path, jobs: int) -> dict[Trial, dict[str, Any]]:
    """Results of all trials; those that are there already are read, the others trained, `jobs` at once."""
    wanted = list(dict.fromkeys(trials))
    missing = [trial for trial in wanted if not (out / trial.name / RESULT).exists()]
    print(f"{len(wanted)} trials, {len(missing)} to train", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        for done, trial in enumerate(pool.map(lambda trial: _start(trial, out / trial.name), missing), 1):
            print(f"{done}/{len(missing)} seed {trial.seed} {' '.join(trial.overrides)}", flush=True)
    return {trial: json.loads((out / trial.name / RESULT).read_text()) for trial in wanted}


def _start(trial: Trial, folder: Path) -> Trial:
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted one left
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(dataclasses.asdict(trial)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, __file__, str(folder / "trial.json")]
        ended = subprocess.run(command, check=False, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(trial.overrides)}: {(folder / 'log.txt').read_text().strip().splitlines()[-1]}")
    shutil.rmtree(folder / "run", ignore_errors=True)
    return trial


def main() -> None:
    """Train and measure the trial whose file is named."""
    from trainer.loop import train

    path = Path(sys.argv[1])
    fields = json.loads(path.read_text())
    trial = Trial(tuple(fields["overrides"]), fields["seed"], fields["data"], tuple(fields["views"]))
    config = settings(trial, path.parent)
    began = time.process_time()
    summary = train(config)
    seconds = (time.process_time() - began) / config.trainer.steps
    system, _ = load_system(summary.checkpoint)
    with Dataset.open(str(Path(trial.data) / "unseen")) as unseen:
        result = measure(system, unseen, config, trial.views)
    result |= {"cpu_seconds_per_step": seconds, "steps": config.trainer.steps}
    (path.parent / RESULT).write_text(json.dumps(result))


def settings(trial: Trial, folder: Path) -> Config:
    """`headsup-nano` in one process with one thread, nothing evaluated on the way."""
    return load_config(
        "headsup-nano",
        [
            f"run.dir={folder}",
            "run.name=run",
            f"run.seed={trial.seed}",
            f"tracking.uri=sqlite:///{folder}/run/mlflow.db",
            "tracking.system_metrics=false",
            f"data.train={trial.data}/train",
            "cluster.workers=1",
            "engine.zero_stage=0",
            "trainer.images_every=0",
            *trial.overrides,
        ],
    )


@torch.no_grad()
def measure(system: System, unseen: Dataset, config: Config, views: Sequence[int]) -> dict[str, Any]:
    """PSNR of every capture's four views that no source shows, by number of source views; the same views each time.

    Returns:
        `psnr`: views -> capture -> dB; `regions`: the same inside the boxes around eyes and mouth; `decoder_seconds`
        and `seconds`: views -> median processor time of the decoder and of a whole head; `gaussians`: views -> count.
    """
    assert isinstance(config.model, HeadsUpConfig)
    template = load_template(config.model.template.name, config.model.template.path)
    regions = list(face_regions(template.mesh).values())
    psnr: dict[int, dict[str, float]] = {count: {} for count in views}
    inside: dict[int, dict[str, float]] = {count: {} for count in views}
    times: dict[int, list[tuple[float, float]]] = {count: [] for count in views}
    counts: dict[int, int] = {}
    clock = _Clock(system)
    for name in (name for subject in unseen.subjects for name in unseen.captures_of(subject)):
        source, target = _views(unseen, name, config.data.image_size)
        boxes = region_boxes(regions, target.cameras, 0.2)
        for count in views:
            began = time.process_time()
            prediction = predict(system, _first(source, count))
            times[count].append((time.process_time() - began, clock.seconds))
            counts[count] = prediction.foreground.means.shape[1]
            images = composite(prediction, target.cameras).images.clamp(0, 1)
            squared = (images - target.images).square().mean(dim=2)
            psnr[count][name] = _decibels(squared.mean(dim=(2, 3))).mean().item()
            found = [_decibels(part.mean()).item() for part in _parts(squared, boxes.corners, boxes.seen)]
            if found:
                inside[count][name] = sum(found) / len(found)
    return {
        "psnr": psnr,
        "regions": inside,
        "seconds": {count: sorted(all_ for all_, _ in spent)[len(spent) // 2] for count, spent in times.items()},
        "decoder_seconds": {count: sorted(d for _, d in spent)[len(spent) // 2] for count, spent in times.items()},
        "gaussians": counts,
    }


class _Clock:
    """Processor time of the decoder's last call."""

    def __init__(self, system: System) -> None:
        self.seconds = self._began = 0.0
        system.get_submodule("decoder").register_forward_pre_hook(self._start)
        system.get_submodule("decoder").register_forward_hook(self._stop)

    def _start(self, *_: object) -> None:
        self._began = time.process_time()

    def _stop(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began


def _views(unseen: Dataset, name: str, size: tuple[int, int]) -> tuple[Views, Views]:
    """Sources in an order whose beginnings are spread too, and targets; the same for every trial."""
    cameras = unseen.cameras(name)
    drawn = draw_views(unseen.centers(name), SOURCES, TARGETS, method="spread", key=digest("ablations", name))
    source, target = ([cameras[view] for view in part] for part in drawn)
    return unseen.views(name, source, size), unseen.views(name, target, size)


def _first(views: Views, count: int) -> Views:
    few = slice(None), slice(count)
    return dataclasses.replace(views, images=views.images[few], masks=views.masks[few], cameras=views.cameras[few])


def _parts(squared: Tensor, corners: Tensor, seen: Tensor) -> Iterable[Tensor]:
    """The pixels of every box that is seen, of errors `[1, v, h, w]`."""
    for view, region in seen[0].nonzero().tolist():
        left, top, right, bottom = corners[0, view, region].round().int().clamp(min=0).tolist()
        yield squared[0, view, top : bottom + 1, left : right + 1]


def _decibels(squared: Tensor) -> Tensor:
    return -10 * squared.clamp(min=1e-10).log10()


if __name__ == "__main__":
    main()
