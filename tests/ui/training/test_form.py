"""Tests."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from train.options import OptionsError, describe
from ui.training import form


@dataclass(frozen=True)
class Options:
    COMMAND: ClassVar[str] = "fit"

    data: Path
    """the dataset"""
    learning_rate: float = 2e-4
    """step size"""
    batch_size: int = 64
    """photos a step"""
    head: Literal["geocells", "regression"] = "geocells"
    """coordinate head"""
    use_context: bool = True
    """join the context"""
    features: tuple[str, ...] = ("climate", "month")
    """context features"""
    weights: dict[str, float] = field(default_factory=dict)
    """weights of the losses"""
    limit: int | None = None
    """at most so many photos"""

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self.head == "regression" and not self.use_context:
            raise ValueError("head regression needs --use-context")


DATA = {"data": "somewhere"}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("command: [fit]\nfit: {learning-rate: 0.001, weights: {city: 0.3}}\n")
    return str(path)


def test_values_come_from_the_recipe_and_else_from_the_dataclass(recipe):
    assert form.recipe_values(Options, recipe) == {
        "data": None,
        "learning_rate": 0.001,
        "batch_size": 64,
        "head": "geocells",
        "use_context": True,
        "features": ["climate", "month"],
        "weights": {"city": 0.3},
        "limit": None,
    }
    assert form.recipe_values(Options, None)["learning_rate"] == 2e-4
    assert form.recipe_options(Options, recipe) == {"learning_rate", "weights"}


def test_an_unknown_recipe_is_named():
    with pytest.raises(OptionsError, match="no recipe 'nothing'"):
        form.recipe_values(Options, "nothing")


def test_values_that_fit_become_the_options():
    checked = form.check(Options, {**DATA, "weights": "city=0.3, state=1", "limit": None})
    assert checked.fits
    assert checked.options.data == Path("somewhere")
    assert checked.values["weights"] == {"city": 0.3, "state": 1.0}
    assert checked.values["batch_size"] == 64


@pytest.mark.parametrize(
    ("given", "where", "words"),
    [
        ({"batch_size": None}, "batch_size", "Must have a value."),
        ({"weights": "city"}, "weights", "not of the form NAME=VALUE"),
        ({"weights": "city=much"}, "weights", "could not convert"),
        ({"batch_size": 1.5}, "batch_size", "must be a whole number"),
        ({"batch_size": 0}, "batch_size", "Batch size must be at least 1."),
        ({"head": "regression", "use_context": False}, "use_context", "Head regression needs use"),
        ({"data": None}, "data", "Data must be given."),
    ],
)
def test_what_is_wrong_is_said_where_it_is(given, where, words):
    checked = form.check(Options, {**DATA, **given})
    assert not checked.fits
    assert words in checked.errors[where]


def test_every_option_that_a_sentence_names_shows_it():
    checked = form.check(Options, {**DATA, "head": "regression", "use_context": False})
    assert set(checked.errors) == {"head", "use_context"}
    assert checked.problem == "Head regression needs use context."


def test_changes_from_the_recipe(recipe):
    base = form.recipe_values(Options, recipe)
    same = {**base, "learning_rate": 1e-3, "weights": "city=0.30", "features": "climate, month"}
    assert form.changes(Options, base, same) == {}
    other = {**base, "limit": 5, "features": ["climate"]}
    assert form.changes(Options, base, other) == {
        "features": (["climate", "month"], ["climate"]),
        "limit": (None, 5),
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not set"),
        (True, "on"),
        (2e-4, "0.0002"),
        (0.12345678901, "0.12345678901"),
        ({"city": 0.3}, "city=0.3"),
        ([], "none"),
        (["a", "b"], "a, b"),
    ],
)
def test_values_as_text(value, text):
    assert form.shown(value) == text


def test_text_that_is_shown_reads_back_as_the_value():
    weights = {"city": 0.12345678901, "state": 1e-7}
    option = {o.name: o for o in describe(Options)}["weights"]
    assert form.comparable(option, form.shown(weights)) == weights
