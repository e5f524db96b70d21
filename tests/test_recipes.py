"""The recipes: whole params.yaml files that differ from the shipped one in how a model is made and trained."""

from pathlib import Path

import numpy as np
import pytest

from charlm.config import MODELS, ParamsError, load_params, parse_params
from charlm.models import trainable_class
from charlm.training.optimizer import Optimizer

PROJECT = Path(__file__).resolve().parent.parent
SHIPPED = load_params(PROJECT / "params.yaml")
RECIPES = sorted((PROJECT / "recipes").glob("*.yaml"))


def test_every_model_has_a_recipe() -> None:
    assert {path.stem for path in RECIPES} == {*MODELS, "notebook"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_its_model_on_the_shipped_book(path: Path) -> None:
    params = load_params(path)
    assert params.model.name == path.stem.replace("notebook", "bigram")
    assert (params.data, params.sample) == (SHIPPED.data, SHIPPED.sample)
    rng, given = np.random.default_rng(0), params.model.settings.model_dump()
    model = trainable_class(params.model.name).initial(80, params.train.block_size, rng, **given)
    Optimizer(list(model.parameters()), model.hidden_matrices(), params.train)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_comments_are_those_of_the_shipped_file(path: Path) -> None:
    """What a key means is written in params.yaml; a recipe repeats it word for word."""
    shipped = (PROJECT / "params.yaml").read_text().splitlines()
    comments = [line for line in path.read_text().splitlines() if line.startswith("  #")]
    assert [line for line in comments if line not in shipped] == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_head": 3}, "n_embd: found 128, expected a multiple of 6: an even size for each of n_head=3"),
        ({"n_head": 0}, "n_head: found 0, expected greater than or equal to 1"),
        ({"dropout": 1.0}, "dropout: found 1.0, expected less than 1"),
        ({"n_windows": 4}, "n_windows: unknown key; did you mean n_window?"),
    ],
)
def test_mistake_in_the_settings_of_a_model_is_reported_by_its_key(changes: dict[str, object], problem: str) -> None:
    params = load_params(PROJECT / "recipes" / "gpt.yaml").model_dump()
    params["model"] = {"name": "gpt", "gpt": params["model"]["gpt"] | {"n_embd": 128} | changes}
    with pytest.raises(ParamsError) as err:
        parse_params(params, "params.yaml")
    assert str(err.value) == f"params.yaml has 1 problem:\n  model.gpt.{problem}\nFix the file, then run again."
