"""Attributes and prompts: what is said is what is encoded, and what is not known is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError, load_config
from configs.systems.generator import AttributeConfig, GeneratorConfig
from data.latents.captions import caption
from data.synth.subject import draw_subject
from models.conditions.describe import Describer
from models.conditions.prompt import parse_prompt
from models.conditions.text import TextEncoder
from models.conditions.vocabulary import Vocabulary, learn_vocabulary


def nano() -> GeneratorConfig:
    model = load_config("headsup-nano-generation").model
    assert isinstance(model, GeneratorConfig)
    return model


PRESET = nano()
KNOWN = Vocabulary(PRESET.attributes)
NOSE = AttributeConfig(name="nose_width", range=(-2.0, 2.0))


@pytest.mark.parametrize(
    ("prompt", "meaning"),
    [
        ("", {}),
        ("long red hair, dark skin", {"hair": "long", "hair_colour": "copper", "skin": "dark"}),
        ("a person with short dark brown hair and blue eyes",
         {"hair": "short", "hair_colour": "dark brown", "eyes": "blue"}),
        ("Bald, with a full beard, wearing a striped hoodie",
         {"hair": "bald", "beard": "full", "clothes_pattern": "stripes", "clothes": "hoodie"}),
        ("no hat; no beard", {"hat": "none", "beard": "none"}),
        ("skin=fair, hair_colour=red", {"skin": "fair", "hair_colour": "copper"}),
        ("brown eyes, brown skin, brown hair", {"eyes": "brown", "skin": "brown", "hair_colour": "brown"}),
    ],
)  # fmt: skip
def test_a_prompt_says_what_it_says(prompt: str, meaning: dict[str, str]) -> None:
    assert parse_prompt(prompt, KNOWN) == meaning


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("glasses", "does not know the word 'glasses'"),
        ("glasses", "hat: none, beanie, cap"),
        ("purple hair", "does not know the word 'purple'"),
        ("purple hair", r"\.\.\. hair: none, black"),
        ("brown", "does not know the word 'brown' here"),
        ("hair", "does not say which"),
        ("long hair, short hair", "both 'long' and 'short'"),
        ("long short hair", "both 'long' and 'short'"),
        ("none", "may be hat or beard"),
        ("haircolour=red", "did you mean 'hair_colour'"),
        ("hat=fez", "does not know the word 'fez'"),
    ],
)
def test_a_prompt_that_is_not_understood_is_named(prompt: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        parse_prompt(prompt, KNOWN)


def test_numbers_are_given_by_name() -> None:
    known = Vocabulary([*PRESET.attributes, NOSE])
    assert parse_prompt("nose_width=1.5, bald", known) == {"nose_width": 1.5, "hair": "bald"}
    with pytest.raises(UserError, match="is a number, not 'wide'"):
        parse_prompt("nose_width=wide", known)
    features = known.encode({"shape": {"nose_width": 1.0}})
    assert features[known.blocks["nose_width"]].tolist() == [0.5, 1.0]
    assert features.count_nonzero() == 2


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_every_synthetic_person_can_be_encoded(number: int) -> None:
    attributes = draw_subject(0, number).attributes
    features = KNOWN.encode(attributes)
    assert features.sum() == len(PRESET.attributes)
    for name, block in KNOWN.blocks.items():
        assert KNOWN.attributes[name].values[int(features[block].argmax())] == attributes[name]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(KNOWN.attributes)), st.integers(0, 100)))
def test_saying_it_in_assignments_is_saying_it(wanted: dict[str, int]) -> None:
    values = {name: KNOWN.attributes[name].values for name in wanted}
    meaning = {name: values[name][place % len(values[name])] for name, place in wanted.items()}
    assert parse_prompt(", ".join(f"{name}={value}" for name, value in meaning.items()), KNOWN) == meaning


def test_an_unknown_value_is_named_with_whom_it_concerns() -> None:
    with pytest.raises(UserError, match=r"s7.*'shrt' is no hair.*\n.*did you mean 'short'"):
        KNOWN.encode({"hair": "shrt"}, where="s7")


def test_a_vocabulary_is_learned_from_people() -> None:
    people = [draw_subject(0, number).attributes for number in range(300)]
    learned = {attribute.name: attribute for attribute in learn_vocabulary(people, numbers=True)}
    for attribute in PRESET.attributes:
        assert set(learned.pop(attribute.name).values) == set(attribute.values)
    assert {"nose_width", "head_size"} <= learned.keys()
    low, high = learned["nose_width"].range or (0, 0)
    assert -2.5 < low < -1 < 1 < high < 2.5
    words = learn_vocabulary([{"a": "x", "b": "x", "c": True}, {"a": "y", "b": "x", "c": False}], numbers=True)
    assert [attribute.name for attribute in words] == ["a"], "what never differs, or is no word, says nothing"


@pytest.mark.parametrize(
    ("attribute", "complaint"),
    [
        ({"name": "a"}, "give either"),
        ({"name": "a", "values": ["x"], "range": [0, 1]}, "give either"),
        ({"name": "a", "range": [1, 0]}, "least number comes first"),
        ({"name": "a", "values": ["x", "x"]}, "named twice"),
        ({"name": "a", "values": ["x"], "words": {"z": "y"}}, "none of its values"),
    ],
)
def test_a_bad_attribute_is_refused(attribute: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AttributeConfig.model_validate(attribute)


def test_dropping_forgets_whole_people_or_single_attributes() -> None:
    describer = Describer(PRESET, torch.device("cpu"))
    people = [draw_subject(0, number).attributes for number in range(3)]
    (features,) = condition = describer.people(people, [""] * 3, ["a", "b", "c"])
    keep = torch.zeros(3, len(PRESET.attributes), dtype=torch.bool)
    keep[:, 0] = True
    dropped, partial = torch.tensor([True, False, False]), torch.tensor([True, True, False])
    (found,) = describer.drop(condition, dropped, partial, keep)
    assert found[0].count_nonzero() == 0
    assert found[1].count_nonzero() == 1
    assert found[1, KNOWN.blocks["skin"]].sum() == 1
    assert torch.equal(found[2], features[2])


def test_the_empty_prompt_is_the_null_condition() -> None:
    (features,) = Describer(PRESET, torch.device("cpu")).prompt("", 2)
    assert features.shape == (2, KNOWN.size)
    assert features.count_nonzero() == 0


def test_a_generator_without_condition_takes_no_prompt() -> None:
    describer = Describer(PRESET.model_copy(update={"condition": "none"}), torch.device("cpu"))
    assert describer.prompt(" ", 3) == ()
    with pytest.raises(UserError, match="without a condition"):
        describer.prompt("bald", 3)


def test_without_transformers_a_text_encoder_says_what_to_install() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install"):
            Describer(PRESET.model_copy(update={"condition": "text"}), torch.device("cpu"))


@pytest.mark.parametrize("encoder", ["clip", "t5"])
def test_a_tiny_random_text_encoder_is_loaded_from_a_folder(encoder: str, tmp_path: Path) -> None:
    """The real loading path; the weights are random and tiny, so that the tokens mean nothing."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "</s>", "<unk>", "long", "hair", "dark", "skin"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path)
    if encoder == "clip":
        config = transformers.CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
        transformers.CLIPTextModel(config).save_pretrained(tmp_path)
    else:
        config = transformers.T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    settings = PRESET.text.model_copy(update={"encoder": encoder, "path": str(tmp_path), "width": 16, "tokens": 6})
    tokens, mask = TextEncoder(settings, torch.device("cpu"))(["long hair", "dark skin", ""])
    assert tokens.shape == (3, 6, 16)
    assert mask.sum(1).tolist() == [2, 2, 0]
    assert tokens[2].count_nonzero() == 0
    with pytest.raises(UserError, match="16 channels"):
        TextEncoder(settings.model_copy(update={"width": 8}), torch.device("cpu"))
    with pytest.raises(UserError, match="no such folder"):
        TextEncoder(settings.model_copy(update={"path": str(tmp_path / "none")}), torch.device("cpu"))


def test_captions_of_synthetic_people_are_prompts() -> None:
    """The sentence that a text encoder would read is understood by the parser too, but for what it leaves unsaid."""
    for number in range(40):
        attributes = draw_subject(0, number).attributes
        said = parse_prompt(caption(attributes).rstrip("."), KNOWN)
        assert said.items() <= attributes.items()
        assert said["skin"] == attributes["skin"]
