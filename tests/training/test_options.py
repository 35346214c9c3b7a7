"""The options tree: names of earlier versions, errors that name their field, plain values."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from geoclip_core.model.checkpoint import load_checkpoint
from geoclip_core.training.options import (
    BankOptions,
    ContextOptions,
    FeatureWeights,
    FitOptions,
    GeocellOptions,
    OptionsError,
    PretrainOptions,
    from_mapping,
    new_flag,
    to_mapping,
)
from geoclip_core.training.runs import Run
from tests.model import tiny_networks
from tests.training import tiny_photos
from train.__main__ import main

OLD_RUNS = Path(__file__).parent / "old_runs"
"""config.yaml of runs that were started before options were nested, with DATA, BACKBONE and CACHE
in place of paths."""


def _old(name):
    recipe = yaml.safe_load((OLD_RUNS / f"{name}.yaml").read_text())
    return recipe[recipe["command"]]


def test_the_config_of_an_old_fit_is_understood():
    options = from_mapping(FitOptions, _old("fit"), "old")
    assert options.framing == "crop"
    assert options.train_backbone == "last-block"
    assert options.geocells == GeocellOptions(cells=12)
    assert options.bank == BankOptions()
    # a feature that an old run did not list had the weight 1
    weights = FeatureWeights(state=2.0, county=1.0, city=0.3)
    assert options.context == ContextOptions(weights=weights, join_width=8)


def test_the_config_of_an_old_retrieval_model_is_understood():
    options = from_mapping(FitOptions, _old("bank"), "old")
    assert options.coordinate_head == "bank"
    assert options.bank == BankOptions(
        folds=2, repeats=1, gammas=(1.0, 1.5), context_share=0.05, all_rows=True, note="A note."
    )
    assert options.context == ContextOptions()


def test_the_config_of_an_old_pretraining_is_understood():
    options = from_mapping(PretrainOptions, _old("pretrain"), "old")
    assert (options.train_backbone, options.width, options.epochs) == ("none", 16, 2)


@pytest.mark.slow
def test_an_old_run_is_resumed_to_its_end(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    tiny_photos.write(data, train=130, test=20)
    run = Run.create(tmp_path, "old", {}, "fit", tmp_path / "run")
    network = tiny_networks.write("resnet", tmp_path / "resnet", seed=1)
    config = (OLD_RUNS / "fit.yaml").read_text()
    for word, path in (("DATA", data), ("BACKBONE", network), ("CACHE", tmp_path / "cache")):
        config = config.replace(word, str(path))
    (run.folder / "config.yaml").write_text(config)
    run.update(state="stopped")
    assert main(["fit", "--resume", str(run.folder)]) == 0
    assert run.status.state == "finished", run.status.error
    assert load_checkpoint(run.checkpoint).backbone_config.framing == "crop"


@pytest.mark.parametrize(
    "options",
    [
        FitOptions(
            data=Path("photos"),
            views=("260x260", "320x512"),
            depths=(7, 14),
            context=ContextOptions(weights=FeatureWeights(city=0.1)),
        ),
        FitOptions(coordinate_head="bank", bank=BankOptions(ridges=(0.1, 0.2), vote="cosine")),
        PretrainOptions(text="small", cache_dir=Path("cache")),
    ],
)
def test_options_survive_yaml_and_json(options):
    for written in (yaml.safe_dump(to_mapping(options)), json.dumps(to_mapping(options))):
        assert from_mapping(type(options), yaml.safe_load(written), "again") == options


@pytest.mark.parametrize(
    "values",
    [
        {"geocells": {"cells": 9, "offset-rank": 4}},
        {"geocells.cells": 9, "geocells.offset_rank": 4},
        {"cells": 9, "geocells": {"offset_rank": 4}},
    ],
)
def test_groups_are_nested_or_dotted(values):
    wanted = GeocellOptions(cells=9, offset_rank=4)
    assert from_mapping(FitOptions, values, "form").geocells == wanted


def test_lists_may_be_written_as_text():
    values = {"views": "260x260, 320x512", "depths": "7, 14", "features": "climate"}
    options = from_mapping(FitOptions, values, "form")
    assert options.views == ("260x260", "320x512")
    assert options.view_sizes == ((260, 260), (320, 512))
    assert (options.depths, options.features) == ((7, 14), ("climate",))


def test_every_problem_is_reported_with_its_field():
    values = {
        "epochs": 0,
        "learning_rate": "fast",
        "framing": "stretch",
        "features": ["weather"],
        "views": ["wide"],
        "bank": {"folds": 1},
        "context": {"weights": {"town": 1.0}},
        "colour": 1,
    }
    with pytest.raises(OptionsError) as caught:
        from_mapping(FitOptions, values, "own.yaml")
    assert caught.value.problems == {
        "epochs": "epochs must be at least 1, not 0",
        "learning_rate": "learning_rate must be a valid number, not 'fast'",
        "framing": "framing must be 'squash' or 'crop', not 'stretch'",
        "features": "features: there is no 'weather'; known are climate, month, country, state, "
        "county, city",
        "views": "views: 'wide' is not of the form HEIGHTxWIDTH, like 260x260",
        "bank.folds": "bank.folds must be at least 2, not 1",
        "context.weights.town": "there is no option context.weights.town",
        "colour": "there is no option colour",
    }
    assert str(caught.value).startswith("own.yaml: ")


def test_options_that_exclude_each_other_are_reported_at_the_field_to_change():
    for values, field in (
        ({"resume": "run", "epochs": 3}, "epochs"),
        ({"coordinate_head": "bank", "train_backbone": "all"}, "train_backbone"),
        ({"coordinate_head": "regression", "geocells.cells": 5}, "geocells.cells"),
        ({"accumulation": 64, "batch_size": 32}, "accumulation"),
    ):
        with pytest.raises(OptionsError) as caught:
            from_mapping(FitOptions, values, "form")
        assert list(caught.value.problems) == [field]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--cells", "--geocells.cells"),
        ("--no-all-rows", "--bank.no-all-rows"),
        ("--train", "--train-backbone"),
        ("--fit", "--framing"),
        ("--context-hidden", "--context.hidden"),
        ("--no-use-context", None),
        ("--epochs", None),
    ],
)
def test_flags_of_earlier_versions_have_a_new_name(old, new):
    assert new_flag(old) == new


def test_a_command_line_with_an_old_flag_names_the_new_one(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--data", "photos", "--no-all-rows"])
    assert caught.value.code == 2
    assert "--bank.no-all-rows" in capsys.readouterr().err


def test_options_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FitOptions().epochs = 3


@pytest.mark.parametrize(
    ("values", "photos", "head"),
    [
        ({}, 999, "bank"),
        ({}, 1000, "geocells"),
        ({"geocells.cells": 4}, 100, "geocells"),
        ({"bank.folds": 4}, 5000, "bank"),
        ({"train_backbone": "all"}, 100, "geocells"),
        ({"coordinate_head": "regression"}, 100, "regression"),
    ],
)
def test_the_size_of_a_set_proposes_the_head(values, photos, head):
    assert from_mapping(FitOptions, values, "test").head_for(photos) == head
