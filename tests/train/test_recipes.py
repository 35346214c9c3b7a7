"""The bundled recipes."""

import pytest
import yaml

from geoclip_core.training.options import FitOptions, PretrainOptions
from train.recipes import RECIPES, recipe_description, recipe_names, recipe_options

CLASSES = {"fit": FitOptions, "pretrain": PretrainOptions}
USES = [
    (path.stem, command)
    for path in sorted(RECIPES.glob("*.yaml"))
    for command in yaml.safe_load(path.read_text(encoding="utf-8"))["command"]
]


def test_the_recipes_of_readme_and_train_page_exist():
    assert set(recipe_names("fit")) == {
        "small",
        "mini",
        "mini-plain",
        "demo",
        "osv-mini",
        "osv-mini-clip",
        "clip-b32-context",
        "clip-b32-plain",
        "resnet50-context",
        "efficientnet-b3-context",
    }
    assert set(recipe_names("pretrain")) == {"demo", "pretrain-clip-b32"}


@pytest.mark.parametrize(("name", "command"), USES)
def test_every_recipe_builds_the_options_of_its_command(name, command, tmp_path):
    built = recipe_options(CLASSES[command], name, {"data": str(tmp_path)})
    assert built.use_context is not name.endswith("plain") if command == "fit" else built.features
    assert built.dataset_folder() == tmp_path


@pytest.mark.parametrize(("name", "command"), USES)
def test_every_recipe_has_a_description(name, command):
    content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert len(recipe_description(name)) > 20
    assert command in content


def test_changes_override_a_recipe_group_by_group():
    options = recipe_options(FitOptions, "mini", {"bank.folds": 4, "seed": 3})
    assert (options.bank.folds, options.seed) == (4, 3)
    assert options.bank.vote == "kernel-ridge"
