"""What a training form holds: a recipe's values, what was changed from them, whether they fit.

Nothing here draws. Everything is derived from a command's options dataclass, so that the form, the
command line and the recipes cannot disagree.
"""

import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from train.command_line import RECIPES, load_recipe
from train.options import Option, OptionsError, build, convert, describe, to_mapping

_LABELS = {
    "train": "what learns of the backbone",
    "fit": "photo into view",
    "text": "text tower",
}
"""Names that need their flag to be understood."""


@dataclass(frozen=True)
class Checked:
    """A form's values, looked at."""

    values: dict[str, Any]
    """All options as plain values, if they fit; else those of the form."""
    options: Any = None
    """The options dataclass; None if something does not fit."""
    errors: dict[str, str] = field(default_factory=dict)
    """Option → what is wrong with it, as a sentence."""
    problem: str = ""
    """What is wrong with the options together, as a sentence."""

    @property
    def fits(self) -> bool:
        """Whether a training can be started with these values."""
        return self.options is not None


def recipe_values(cls: type, recipe: str | None) -> dict[str, Any]:
    """Every option's plain value before anything is changed: the recipe's, else the default.

    Args:
        cls: the options dataclass.
        recipe: name or YAML file of a recipe (a run's config.yaml is one too); None for defaults.

    Raises:
        OptionsError: there is no such recipe, or a value in it is of the wrong type.
    """
    given = load_recipe(cls, recipe) if recipe else {}
    values = {}
    for option in describe(cls):
        value = option.default
        if option.name in given:
            value = convert(option, given[option.name], str(recipe))
        values[option.name] = plain(value)
    return values


def recipe_description(name: str) -> str:
    """What a shipped recipe says about itself."""
    try:
        content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ""
    text = content.get("description", "") if isinstance(content, dict) else ""
    return " ".join(str(text).split())


def recipe_options(cls: type, name: str) -> set[str]:
    """Names of the options that a recipe sets.

    Raises:
        OptionsError: there is no such recipe.
    """
    return set(load_recipe(cls, name))


def check(cls: type, values: Mapping[str, Any]) -> Checked:
    """Build the options, or say in words what is wrong and where."""
    options = {option.name: option for option in describe(cls)}
    errors = {}
    for name, value in values.items():
        if name not in options or (value is None and options[name].required):
            continue
        try:
            convert(options[name], value)
        except OptionsError as error:
            errors[name] = _sentence(str(error), options, name)
    given = {k: v for k, v in values.items() if k not in errors and v is not None}
    given |= {k: None for k, v in values.items() if v is None and _may_lack(options.get(k))}
    try:
        built = build(cls, given)
    except OptionsError as error:
        text = _sentence(str(error), options)
        named = [name for name in options if _names(str(error), name)]
        return Checked(dict(values), None, {**dict.fromkeys(named, text), **errors}, text)
    if errors:
        return Checked(dict(values), None, errors, "")
    return Checked(to_mapping(built), built)


def changes(
    cls: type, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Option → (value before, value now) where the two differ, in the dataclass's order."""
    found = {}
    for option in describe(cls):
        old, new = plain(before.get(option.name)), plain(after.get(option.name))
        if comparable(option, old) != comparable(option, new):
            found[option.name] = (old, new)
    return found


def comparable(option: Option, value: Any) -> Any:
    """A value in the one form in which equal ones compare equal: 1 and 1.0, "a, b" and ["a", "b"].

    A value that does not fit its option stays as it is.
    """
    try:
        return plain(convert(option, value)) if value is not None else None
    except OptionsError:
        return value


def shown(value: Any) -> str:
    """A value as it is written in a form: "0.0002", "climate, month", "city=0.3"."""
    if value is None or value == "":
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_number(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_number(item) for item in value) or "none"
    return _number(value)


def label(name: str) -> str:
    """An option's name as people read it: "learning_rate" is "Learning rate"."""
    text = _LABELS.get(name) or name.replace("_", " ")
    return text[:1].upper() + text[1:]


def is_list(option: Option) -> bool:
    """Whether an option takes several values."""
    return typing.get_origin(option.type) is tuple


def is_mapping(option: Option) -> bool:
    """Whether an option takes NAME=VALUE pairs."""
    return typing.get_origin(option.type) is dict


def plain(value: Any) -> Any:
    """A value in types that YAML and a form know."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _may_lack(option: Option | None) -> bool:
    return option is None or option.optional


def _names(text: str, name: str) -> bool:
    """Whether an error speaks of an option. Names that are common words ("fit", "train") count
    only where the error can mean nothing else.
    """
    text = text.removeprefix("options: ")
    flag = "--" + name.replace("_", "-")
    word = rf"(?<!\w){re.escape(name)}(?!\w)"
    if re.search(rf"{re.escape(flag)}(?![\w-])", text):
        return True
    if "_" in name:
        return re.search(word, text) is not None
    return re.search(rf"^{word}|{word}(?= must\b)", text) is not None


def _sentence(text: str, options: Iterable[str], name: str = "") -> str:
    """An error of the command line as a sentence of the form: "--batch-size" is "batch size"."""
    text = text.removeprefix("options: ").removeprefix(f"{name} = ").removeprefix(f"{name} ")
    for option in options:
        words = option.replace("_", " ")
        text = text.replace("--" + option.replace("_", "-"), words)
        if "_" in option:
            text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", words, text)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _number(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)
