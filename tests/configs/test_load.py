"""Configs: presets resolve to reviewed text, mistakes are named with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError, dump_config, flatten, load_config, parse_config, presets
from configs.objectives.reconstruction import ReconstructionConfig
from configs.systems.headsup import HeadsUpConfig

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", presets())
def test_presets_resolve_to_the_reviewed_text(name: str) -> None:
    """After a deliberate change: `for p in headsup-*; do headway config show $p > tests/configs/golden/$p.yaml`."""
    assert dump_config(load_config(name)) == (GOLDEN / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", presets())
def test_resolved_text_reads_back_equal(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "resolved.yaml") == config


def test_base_is_the_paper() -> None:
    base, stage2 = load_config("headsup-base"), load_config("headsup-base-stage2")
    assert isinstance(base.model, HeadsUpConfig)
    assert (base.model.latent_size, base.model.width, base.model.uv_size**2) == (64, 512, 65_536)
    assert base.data.image_size == (500, 375)
    assert stage2.data.image_size == (1000, 750)
    assert (base.data.source_views, stage2.data.source_views) == ((1, 10), (1, 16)), "the paper's are the most"
    assert (base.trainer.steps, stage2.trainer.steps) == (900_000, 200_000)


@pytest.mark.parametrize("name", ["headsup-base", "headsup-nano"])
def test_stage_two_is_another_run_of_the_same_network(name: str) -> None:
    """Only what has no weights may differ, so that stage 1's checkpoint fits."""
    one, two = load_config(name), load_config(f"{name}-stage2")
    assert one.run.name != two.run.name
    assert two.data.image_size == (2 * one.data.image_size[0], 2 * one.data.image_size[1])
    assert two.model.model_copy(update={"token_pool": 1}) == one.model
    first, second = one.objective, two.objective
    assert isinstance(first, ReconstructionConfig)
    assert isinstance(second, ReconstructionConfig)
    assert (first.regions.eyes, first.regions.mouth) == (0, 0)
    assert min(second.regions.eyes, second.regions.mouth) > 0
    assert second.position == 0


@given(st.integers(1, 64))
def test_one_dial_sets_width_depth_and_heads(capacity: int) -> None:
    model = HeadsUpConfig.model_validate({"system": "headsup", "capacity": capacity})
    assert (model.width, model.blocks, model.heads) == (64 * capacity, capacity, capacity)
    assert model.encoder_channels[-1] == model.decoder_channels[0] == model.width


def test_anything_derived_can_be_set_by_hand() -> None:
    model = load_config("headsup-base", ["model.blocks=3", "model.heads=4"]).model
    assert isinstance(model, HeadsUpConfig)
    assert (model.blocks, model.heads, model.width) == (3, 4, 512)


def test_a_config_from_before_there_were_anchors_and_frames_means_the_same() -> None:
    config = load_config("headsup-nano")
    plain = yaml.safe_load(dump_config(config))
    assert (plain["model"].pop("anchor"), plain["evaluation"].pop("frames")) == ("neutral", "first")
    assert parse_config(plain) == config


def test_configs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config("headsup-nano").data.batch_size = 3  # type: ignore[misc]


def test_hash_names_what_is_trained_and_not_where() -> None:
    base = load_config("headsup-nano")
    for same in ("run.name=other", "run.dir=elsewhere", "cluster.workers=1", "tracking.experiment=x"):
        assert load_config("headsup-nano", [same]).hash == base.hash
    for other in ("run.seed=1", "model.capacity=3", "data.subjects=7", "optimizer.learning_rate=0.1"):
        assert load_config("headsup-nano", [other]).hash != base.hash


def test_flatten_names_every_leaf() -> None:
    flat = flatten(load_config("headsup-nano"))
    assert flat["model.background.height"] == 16
    assert flat["run.seed"] == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batchsize=3", r"unknown key 'data.batchsize'\n  did you mean 'batch_size'"),
        ("model.capacty=3", r"unknown key 'model.capacty'\n  did you mean 'capacity'"),
        ("model.template.nam=x", r"unknown key 'model.template.nam'\n  did you mean 'name'"),
        ("objective.lpips.wight=1", r"did you mean 'weight'"),
        ("dta.batch_size=3", r"unknown key 'dta'\n  did you mean 'data'"),
        ("model.system=headup", r"no system is called 'headup'\n  did you mean 'headsup'"),
        ("objective.objective=gan", r"no objective is called 'gan'"),
        ("model=3", r"needs 'system', one of: .*headsup"),
        ("data.batch_size=3", r"3 captures cannot be shared by"),
        ("data.batch_size=none", r"data.batch_size: .*integer.*got 'none'"),
        ("optimizer.learning_rate=-1", r"greater than 0 \(got -1\)"),
        ("optimizer.learning_rate=.nan", r"finite"),
        ("engine.zero_stage=4", r"engine.zero_stage: Input should be 0, 1, 2 or 3"),
        ("data.source_views=[4, 2]", r"the fewest views come first"),
        ("model.uv_size=65", r"3 decoder levels turn latent_size 16 into 64, not 65"),
        ("model.heads=3", r"width 128 is not a multiple of 3 heads"),
        ("run.name=../x", r"run.name"),
        ("data.batch_size", r"an override is key=value"),
        ("=3", r"an override is key=value"),
        ("data.batch_size.x=3", r"'batch_size' is not a section"),
        ("data.batch_size=[1", r"not readable as YAML"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("headsup-nano", [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b", "a config is a mapping"),
        ("a: [", "not readable as YAML"),
        ("extends: nonsuch", "no preset or file is called 'nonsuch'"),
        ("run: {}", "model"),
        ("model: {system: headsup}\nobjective: {objective: reconstruction}\nengine: null", "engine"),
    ],
)
def test_bad_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_extends_in_a_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(UserError, match="circle"):
        load_config(tmp_path / "a.yaml")


def test_files_extend_presets_and_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: headsup-nano\ndata: {batch_size: 8}")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nrun: {seed: 3}")
    config = load_config(tmp_path / "b.yaml")
    assert (config.data.batch_size, config.run.seed, config.data.target_views) == (8, 3, 6)


@pytest.mark.parametrize("name", ["headsup-nan", "nano.yaml", "configs/none.yml"])
def test_a_missing_preset_or_file_is_named(name: str) -> None:
    with pytest.raises(UserError, match=r"preset"):
        load_config(name)


@settings(deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)))
def test_no_input_makes_a_traceback(tree: object) -> None:
    base = yaml.safe_load(dump_config(load_config("headsup-nano")))
    for section in base:
        try:
            config = parse_config(base | {section: tree})
        except UserError:
            continue  # anything but this one message fails the test
        assert config.hash == parse_config(yaml.safe_load(dump_config(config))).hash


def test_errors_survive_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(UserError("what", where="here", hint="so")))
    assert (error.what, error.where, error.hint) == ("what", "here", "so")


def test_keys_of_earlier_versions_are_understood() -> None:
    tree = load_config("headsup-nano").model_dump(mode="json")
    del tree["checkpoint"]
    tree["trainer"]["checkpoint_every"] = 7
    assert parse_config(tree).checkpoint.every == 7
    tree["checkpoint"] = {"every": 9}
    assert parse_config(tree).checkpoint.every == 9
