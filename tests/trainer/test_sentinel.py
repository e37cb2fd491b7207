"""Losses that must not be learned from, runs that go back and past them, and ranks that drift apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import make_engine, run_ranks, train_steps

from configs import Config, dump_config, load_config
from configs.schema import GuardConfig
from trainer import sentinel as sentinel_module
from trainer.engine import MODEL
from trainer.loop import train
from trainer.observer import Diverged
from trainer.sentinel import Refused, Sentinel
from trainer.synchrony import Desynchronised, check_synchrony, digest

MakeConfig = Callable[..., Config]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel_module, "all_reduce_sum", lambda values: values)


def reason(sentinel: Sentinel, loss: float, engine: str = MODEL) -> str | None:
    try:
        sentinel.examine(engine, torch.tensor(loss, dtype=torch.float64), clean=True)
    except Refused as refusal:
        return refusal.reason
    return None


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_from_the_first_step_on(loss: float) -> None:
    sentinel = Sentinel(GuardConfig(), 1)
    assert str(loss) in (reason(sentinel, loss) or "")
    assert str(loss) in (reason(sentinel, loss, "critic") or "")


@pytest.mark.usefixtures("alone")
def test_six_deviations_are_too_much_once_there_is_something_to_compare_with() -> None:
    sentinel = Sentinel(GuardConfig(after=10, window=20), 1)
    assert reason(sentinel, 1000.0) is None
    for step in range(30):
        assert reason(sentinel, 1.0 + 0.1 * (-1) ** step) is None
    assert reason(sentinel, 1.55) is None
    assert "standard deviations above" in (reason(sentinel, 5.0) or "")
    assert reason(sentinel, 5.0, "critic") is None
    assert reason(sentinel, 0.0) is None  # better than expected is no harm
    assert reason(sentinel, 1.0) is None  # what was refused has not moved the mean


@pytest.mark.usefixtures("alone")
def test_a_flat_loss_may_vary_a_little() -> None:
    sentinel = Sentinel(GuardConfig(after=5), 1)
    for _ in range(50):
        assert reason(sentinel, 1.0) is None
    assert reason(sentinel, 1.05) is None
    assert reason(sentinel, 1.3) is not None
    assert reason(Sentinel(GuardConfig(after=5, sigmas=0), 1), 1e9) is None


@pytest.mark.usefixtures("alone")
@given(st.lists(st.floats(0.1, 2), max_size=60), st.lists(st.floats(0.1, 50), min_size=1, max_size=20))
def test_a_sentinel_goes_on_where_it_stood(before: list[float], after: list[float]) -> None:
    one, two = (Sentinel(GuardConfig(after=10, window=30), 1) for _ in range(2))
    for loss in before:
        reason(one, loss)
    two.restore(json.loads(json.dumps(one.state())))
    assert [reason(one, loss) for loss in after] == [reason(two, loss) for loss in after]


def test_skips_in_a_row_and_rollbacks_have_an_end() -> None:
    sentinel = Sentinel(GuardConfig(skips=2, rollbacks=1), 1)
    bad = Refused("bad", clean=True)
    assert [sentinel.may_skip(bad) for _ in range(3)] == [True, True, False]
    assert sentinel.may_roll_back()
    assert sentinel.may_skip(bad)
    sentinel.accept()
    assert [sentinel.may_skip(bad) for _ in range(3)] == [True, True, False]
    assert not sentinel.may_roll_back()
    assert (sentinel.skipped, sentinel.rollbacks) == (5, 2)
    assert not Sentinel(GuardConfig(), 1).may_skip(Refused("half done", clean=False))


# --- whole runs -------------------------------------------------------------------------------------------------------


def spoil(monkeypatch: pytest.MonkeyPatch, spoilt: dict[int, Callable[[torch.Tensor], torch.Tensor]]) -> list[int]:
    """Change the SSIM term of the forwards of these numbers; the list counts forwards."""
    import trainer.objectives.reconstruction as reconstruction

    real, forwards = reconstruction.dissimilarity, [0]

    def changed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        number, forwards[0] = forwards[0], forwards[0] + 1
        return spoilt.get(number, lambda loss: loss)(real(a, b))

    monkeypatch.setattr(reconstruction, "dissimilarity", changed)
    return forwards


def no_number(loss: torch.Tensor) -> torch.Tensor:
    return loss * float("nan")


def bad_gradient(loss: torch.Tensor) -> torch.Tensor:
    return loss + ((loss - loss) * 1e-30).sqrt()  # 0 forwards, 0 times infinity backwards


def lines(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.run.path / "refused.jsonl").read_text().splitlines()]


def test_a_bad_step_is_left_out_and_its_samples_are_named(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("trainer.steps=4", "data.test=null")
    forwards = spoil(monkeypatch, {1: no_number})
    summary = train(config)
    assert summary.finished
    assert forwards == [5]
    assert summary.loss == summary.loss
    (line,) = lines(config)
    assert line["step"] == 1
    assert line["consumed"] == 2 * config.data.batch_size
    assert line["done"] == "left out"
    assert len(line["samples"].split(", ")) == config.data.batch_size


def test_spoilt_weights_send_the_run_back(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("trainer.steps=5", "data.test=null", "checkpoint.every=2")
    forwards = spoil(monkeypatch, {3: bad_gradient})
    summary = train(config)
    assert summary.finished
    assert forwards == [7]  # steps 1, 2, 3, the bad one that took step 4, and 3, 4, 5 from the checkpoint of step 2
    (line,) = lines(config)
    assert line["reason"] in ("the gradient of model is nan", "the gradient of model is inf")
    assert line["done"] == "rolled back"


def test_many_bad_steps_send_the_run_back_and_in_the_end_it_is_given_up(
    tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("trainer.steps=9", "data.test=null", "checkpoint.every=2", "guard.skips=1", "guard.rollbacks=1")
    spoil(monkeypatch, dict.fromkeys(range(3, 100), no_number))
    with pytest.raises(Diverged, match=r"the loss of model is nan at step 2; samples: s\d+"):
        train(config)
    assert [line["done"] for line in lines(config)] == ["left out", "rolled back", "left out", "rolled back"]


def skip_on_one_rank(text: str) -> tuple[bool, int, list[str]]:
    import yaml

    import trainer.objectives.reconstruction as reconstruction
    from configs import parse_config

    real, forwards = reconstruction.dissimilarity, [0]

    def changed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        forwards[0] += 1
        bad = forwards[0] == 2 and torch.distributed.get_rank() == 1
        return real(a, b) * (float("nan") if bad else 1.0)

    reconstruction.dissimilarity = changed
    config = parse_config(yaml.safe_load(text))
    summary = train(config)
    return summary.finished, forwards[0], [line["done"] for line in lines(config)]


@pytest.mark.parametrize("stage", [2, 3])
def test_ranks_leave_the_same_step_out(stage: int, tiny: MakeConfig) -> None:
    config = tiny("trainer.steps=3", "data.test=null", "cluster.workers=2", f"engine.zero_stage={stage}")
    assert run_ranks(2, skip_on_one_rank, dump_config(config)) == [(True, 4, ["left out"])] * 2


def test_a_run_that_diverges_says_what_its_settings_are() -> None:
    guard = load_config("headsup-nano").guard
    assert (guard.sigmas, guard.skips, guard.rollbacks) == (6.0, 3, 3)


# --- ranks that drift apart -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50), st.data())
def test_any_changed_bit_changes_the_digest(values: list[int], data: st.DataObject) -> None:
    bits = torch.tensor(values, dtype=torch.int64).to(torch.int32)
    place, bit = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 31))
    changed = bits.clone()
    changed[place] ^= torch.tensor(1 << bit, dtype=torch.int64).to(torch.int32)
    assert digest(bits.view(torch.float32)) != digest(changed.view(torch.float32))
    assert digest(bits.view(torch.float32)) == digest(bits.clone().view(torch.float32))


def drift(stage: int) -> str:
    engine = make_engine(engine={"zero_stage": stage})
    train_steps(engine, 2)
    check_synchrony({MODEL: engine})
    if torch.distributed.get_rank() == 1:
        with torch.no_grad():
            engine.module.norm.bias[3] += 1e-6
    try:
        check_synchrony({MODEL: engine})
    except Desynchronised as error:
        return str(error)
    return "the same"


@pytest.mark.parametrize("stage", [0, 2])
def test_weights_that_drift_apart_are_found(stage: int) -> None:
    assert run_ranks(3, drift, stage) == ["model/norm.bias differs on rank 1 from the other ranks"] * 3
