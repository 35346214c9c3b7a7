"""The form of a training: options of a tree, their values, and errors at the field."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Ge

from geoclip_core.training.options import OptionsError, from_mapping, options_class
from train.recipes import recipe_options
from ui.training import form


@options_class
class Spots:
    count: Annotated[int, Ge(0)] = 0
    """most spots"""
    scales: tuple[float, ...] = (1.5,)
    """scales of the spots"""


@options_class
class Options:
    COMMAND: ClassVar[str] = "fit"

    data: Path | None = None
    """the dataset"""
    learning_rate: float = 2e-4
    """step size"""
    batch_size: Annotated[int, Ge(1)] = 64
    """photos a step"""
    head: Literal["geocells", "regression"] = "geocells"
    """coordinate head"""
    use_context: bool = True
    """join the context"""
    features: tuple[str, ...] = ("climate", "month")
    """context features"""
    spots: Spots = Spots()
    """the spots"""
    limit: int | None = None
    """at most so many photos"""

    def __post_init__(self):
        if self.head == "regression" and not self.use_context:
            sentence = "head regression needs use_context"
            raise OptionsError({"head": sentence, "use_context": sentence})


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("command: [fit]\nfit: {learning-rate: 0.001, spots: {count: 3}}\n")
    return str(path)


def test_every_option_of_the_tree_is_described():
    found = {option.name: option for option in form.options_of(Options)}
    assert list(found) == [
        *("data", "learning_rate", "batch_size", "head", "use_context", "features"),
        *("spots.count", "spots.scales", "limit"),
    ]
    assert found["spots.count"].help == "most spots"
    assert found["spots.count"].flag == "--spots.count"
    assert found["learning_rate"].label == "Learning rate"
    assert (found["limit"].type, found["limit"].optional) == (int, True)
    assert (found["batch_size"].type, found["batch_size"].optional) == (int, False)
    assert found["head"].choices == ("geocells", "regression")
    assert found["spots.scales"].is_list


def test_values_come_from_the_recipe_and_else_from_the_dataclass(recipe):
    assert form.flat(recipe_options(Options, recipe)) == {
        "data": None,
        "learning_rate": 0.001,
        "batch_size": 64,
        "head": "geocells",
        "use_context": True,
        "features": ["climate", "month"],
        "spots.count": 3,
        "spots.scales": [1.5],
        "limit": None,
    }


def test_valid_values_become_the_options():
    checked = form.check(Options, {"data": "somewhere", "spots.scales": ["1", "2"], "limit": None})
    assert checked.options == from_mapping(
        Options, {"data": "somewhere", "spots.scales": [1.0, 2.0]}, "test"
    )
    assert checked.values["spots.scales"] == [1.0, 2.0]
    assert checked.values["batch_size"] == 64
    assert checked.errors == {}


@pytest.mark.parametrize(
    ("given", "where", "words"),
    [
        ({"batch_size": None}, "batch_size", "Batch size must have a value."),
        ({"spots.scales": ["much"]}, "spots.scales", "Scales must be a valid number"),
        ({"batch_size": 1.5}, "batch_size", "Batch size must be a valid integer"),
        ({"batch_size": 0}, "batch_size", "Batch size must be at least 1, not 0."),
        ({"spots.count": -1}, "spots.count", "Count must be at least 0, not -1."),
        ({"head": "regression", "use_context": False}, "use_context", "Head regression needs use"),
        ({"head": "cubes"}, "head", "Head must be 'geocells' or 'regression', not 'cubes'."),
    ],
)
def test_an_error_is_shown_at_its_option(given, where, words):
    checked = form.check(Options, {"data": "somewhere", **given})
    assert checked.options is None
    assert words in checked.errors[where]
    assert set(checked.errors) <= {*given}


def test_an_error_of_two_options_is_shown_at_both():
    checked = form.check(Options, {"head": "regression", "use_context": False})
    assert set(checked.errors) == {"head", "use_context"}
    assert set(checked.errors.values()) == {"Head regression needs use context."}


def test_all_errors_are_shown_at_once():
    checked = form.check(Options, {"batch_size": 0, "limit": "few", "learning_rate": None})
    assert set(checked.errors) == {"batch_size", "limit", "learning_rate"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not set"),
        (True, "on"),
        (2e-4, "0.0002"),
        (0.12345678901, "0.12345678901"),
        ([], "none"),
        (["a", "b"], "a, b"),
        ([0.05, 1e-7], "0.05, 1e-07"),
    ],
)
def test_values_as_text(value, text):
    assert form.shown(value) == text


def test_text_that_is_shown_reads_back_as_the_value():
    scales = [0.12345678901, 1e-7]
    text = form.shown(scales)
    assert form.check(Options, {"spots.scales": text.split(", ")}).values["spots.scales"] == scales


@pytest.mark.parametrize(
    ("values", "left_out", "kept"),
    [
        ({"coordinate_head": "geocells"}, {"bank.folds", "augment"}, {"geocells.cells", "epochs"}),
        (
            {"coordinate_head": "bank"},
            {"geocells.cells", "epochs", "context.weights.city", "train_backbone"},
            {"bank.folds", "context.join_width", "val_fraction"},
        ),
        (
            {"use_context": False},
            {"features", "context.hidden", "bank.context_share"},
            {"use_context", "epochs"},
        ),
        ({"train_backbone": "all"}, {"projection"}, {"augment", "backbone_learning_rate"}),
        ({"depths": [7]}, set(), {"depth_pooling"}),
        ({"backbone": "some/clip"}, {"depth_pooling"}, {"projection"}),
    ],
)
def test_options_without_effect_are_left_out(values, left_out, kept):
    from geoclip_core.training.options import FitOptions

    found = form.unused({**form.flat(FitOptions()), **values})
    assert left_out <= found
    assert not kept & found
