"""Read recipes: YAML files with the options of a command.

A recipe is a mapping with ``command`` (a name or a list), ``description`` and, under the name of
each command, its options. A run's config.yaml is a recipe too, and a file with only options works
for any command.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from geoclip_core.training.options import OptionsError, from_mapping

RECIPES = Path(__file__).parent / "recipes"
T = TypeVar("T")


def recipe_names(command: str) -> list[str]:
    """Return the names of the bundled recipes for a command, sorted."""
    return [
        path.stem for path in sorted(RECIPES.glob("*.yaml")) if command in _read(path)["command"]
    ]


def recipe_description(name: str) -> str:
    """Return the description of a bundled recipe."""
    return str(_read(RECIPES / f"{name}.yaml")["description"])


def recipe_options(cls: type[T], name: str, changes: Mapping[str, Any] | None = None) -> T:
    """Return the options of a recipe, with some changed.

    Args:
        cls: options dataclass of a command; its COMMAND is the name of the recipe's section.
        name: name of a bundled recipe, or path of a YAML file.
        changes: option ("epochs", "bank.folds") -> value that replaces that of the recipe.

    Raises:
        OptionsError: the recipe does not exist, has no section for the command, or has invalid
            values.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(path.stem for path in sorted(RECIPES.glob("*.yaml")))
        raise OptionsError(
            {"recipe": f"there is no recipe {name!r}; choose {known}, or a YAML file"}
        )
    content = _read(path)
    command = getattr(cls, "COMMAND", "")
    values = content.get(command)
    if not isinstance(values, Mapping):
        if "command" in content:
            raise OptionsError({"recipe": f"{path.name} has no section for the command {command}"})
        values = content
    return from_mapping(cls, {**values, **(changes or {})}, path.name)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionsError({"recipe": f"{path.name} cannot be read: {error}"}) from error
    if not isinstance(content, dict):
        raise OptionsError({"recipe": f"{path.name} must be a mapping of option names to values"})
    return content
