"""Every recipe that ships can be used with every command that it names."""

import importlib

import pytest
import yaml

from train.command_line import RECIPES, load_recipe, recipes
from train.options import build

USES = [
    (path.stem, command)
    for path in sorted(RECIPES.glob("*.yaml"))
    for command in yaml.safe_load(path.read_text(encoding="utf-8"))["command"]
]


def test_the_recipes_of_the_readme_and_the_train_page_are_there():
    assert set(recipes("fit")) == {
        "mini",
        "mini-plain",
        "demo",
        "clip-b32-context",
        "clip-b32-plain",
        "resnet50-context",
        "efficientnet-b3-context",
    }
    assert set(recipes("pretrain")) == {"demo", "pretrain-clip-b32"}


@pytest.mark.parametrize(("name", "command"), USES)
def test_every_recipe_builds_the_options_of_its_command(name, command, tmp_path):
    options = importlib.import_module(f"train.{command}").Options
    values = load_recipe(options, name)
    built = build(options, {**values, "data": str(tmp_path)}, name)
    assert built.use_context is not name.endswith("plain") if command == "fit" else built.features


@pytest.mark.parametrize(("name", "command"), USES)
def test_every_recipe_says_what_it_is_for(name, command):
    content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert len(content["description"]) > 20
    assert command in content
