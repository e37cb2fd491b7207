"""Means, rates and FLOPs that the tracker gets."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from trainer.distributed import initialise
from trainer.meter import Meter
from trainer.timing import CountedForward, Stopwatch


@pytest.fixture(autouse=True)
def alone() -> None:
    initialise()


def test_a_window_is_the_mean_of_its_steps() -> None:
    meter = Meter(world_size=1)
    for loss in (1.0, 2.0, 6.0):
        meter.add({"loss": torch.tensor(loss), "psnr": torch.tensor(10 * loss)}, samples=4, stop=False)
    window = meter.read()
    assert (window["loss"], window["psnr"]) == (3.0, 30.0)
    assert window["samples_per_second"] > 0
    meter.add({"loss": torch.tensor(5.0)}, samples=4, stop=False)
    assert meter.read()["loss"] == 5.0


@pytest.mark.parametrize("stop", [True, False])
def test_a_wish_to_stop_reaches_everybody(stop: bool) -> None:
    means, stopping = Meter(world_size=1).add({"loss": torch.tensor(1.0)}, samples=1, stop=stop)
    assert stopping is stop
    assert means == {"loss": 1.0}


def test_a_stopwatch_adds_up_by_name_and_starts_afresh() -> None:
    clock = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with clock("sleep"):
            time.sleep(0.01)
    assert clock.read()["sleep"] >= 0.02
    assert clock.read() == {}


def test_flops_are_counted_once_for_every_shape_and_averaged() -> None:
    layer = nn.Linear(8, 4)
    counted = CountedForward(lambda x: {"y": layer(x)})  # type: ignore[arg-type,misc]
    for rows in (5, 5, 2, 5, 2, 2):
        assert counted(torch.ones(rows, 8))["y"].shape == (rows, 4)
        assert counted.flops == 2 * rows * 8 * 4
    assert counted.training_flops() == 3 * 2 * (21 / 6) * 8 * 4
    assert counted.training_flops() == 0, "a new window"
