"""`headway sample` and `headway vocabulary`: what a user reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cli import app
from configs import UserError
from configs.load import load_config
from tests.data.latent_sets import write_set

RUN = CliRunner()


def test_vocabulary_writes_a_config_that_trains_on_these_people(tmp_path: Path) -> None:
    from data.latents import commit_latents, write_latents
    from tests.data.latent_sets import BASE, ORIGIN, latent_of

    url = str(tmp_path / "latents")
    people = [latent_of(number, 1) for number in range(6)]
    for number, person in enumerate(people):
        person.attributes["hair"] = ("long", "short", "bald")[number % 3]
    write_latents(url, 0, people)
    commit_latents(url, BASE, ORIGIN)
    found = RUN.invoke(app, ["vocabulary", url, "--numbers"], catch_exceptions=False)
    (tmp_path / "people.yaml").write_text(found.stdout)
    model = load_config(tmp_path / "people.yaml").model.model_dump()
    assert model["latent"] == (3, 4, 4)
    known = {attribute["name"]: attribute for attribute in model["attributes"]}
    assert known["hair"]["values"] == ("bald", "long", "short")
    assert known["number"]["range"] == (0.25, 4.75)
    assert known.keys() == {"hair", "number"}, "skin is tan in everybody"


def test_people_who_are_all_alike_give_no_condition(tmp_path: Path) -> None:
    write_set(str(tmp_path), 2, 1)
    found = RUN.invoke(app, ["vocabulary", str(tmp_path)], catch_exceptions=False)
    assert yaml.safe_load(found.stdout)["model"]["condition"] == "none"


def test_no_generator_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is called 'nobody'"):
        RUN.invoke(app, ["sample", "nobody", "--out", str(tmp_path)], catch_exceptions=False)


def test_help_teaches() -> None:
    text = RUN.invoke(app, ["sample", "--help"], env={"COLUMNS": "200"}).stdout
    assert "--prompt" in text
    assert "long blond hair" in text
