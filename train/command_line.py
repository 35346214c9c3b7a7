"""A command line from an options dataclass: recipe first, flags on top of it."""

import argparse
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from geoclip_core.training.options import PhotoOptions, new_flag
from train.options import Option, OptionsError, build, describe

RECIPES = Path(__file__).parent / "recipes"
T = TypeVar("T")


def parse(cls: type[T], argv: Sequence[str], *, prog: str, description: str | None = None) -> T:
    """Parse a command line: recipe first, flags on top of it.

    ``--recipe NAME|FILE`` reads a YAML file of the same keys. Exits with status 2 and a message on
    a wrong command line, as argparse does.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    takes_recipe = any(option.name == "recipe" for option in describe(cls))
    positional = getattr(cls, "POSITIONAL", ())
    for option in describe(cls):
        _add_argument(parser, option, positional=option.name in positional)
    for argument in argv:
        flag = argument.partition("=")[0]
        if takes_recipe and (new := new_flag(flag)):
            parser.exit(2, f"{prog}: error: {flag} is called {new} now\n")
    given = {name: v for name, v in vars(parser.parse_args(argv)).items() if v is not _UNSET}
    try:
        values: dict[str, Any] = {}
        if takes_recipe and given.get("recipe"):
            values |= load_recipe(cls, given["recipe"])
        return build(cls, values | given, source=prog)
    except OptionsError as error:
        parser.exit(2, f"{prog}: error: {str(error).removeprefix(prog + ': ')}\n")


def recipes(command: str) -> list[str]:
    """Names of the recipes that ship for a command, sorted."""
    found = []
    for path in sorted(RECIPES.glob("*.yaml")):
        if command in _read_yaml(path).get("command", ()):
            found.append(path.stem)
    return found


def load_recipe(cls: type, name: str) -> dict[str, Any]:
    """Read a recipe by its name or file and return the part for this dataclass.

    A recipe is a mapping with ``command`` (one name or a list), ``description`` and, under each
    command's name, the options.

    Raises:
        OptionsError: no such recipe, not a mapping, or nothing in it for this command.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(p.stem for p in sorted(RECIPES.glob("*.yaml")))
        raise OptionsError(
            {"recipe": f"no recipe {name!r}; there are {known}, or the path of a YAML file"}
        )
    content = _read_yaml(path)
    command = getattr(cls, "COMMAND", None)
    if command in content and isinstance(content[command], Mapping):
        values = dict(content[command])
    elif "command" in content:
        raise OptionsError({"recipe": f"no section for the command {command!r}"}, path.name)
    else:
        values = dict(content)
    if issubclass(cls, PhotoOptions):
        return values
    options = {option.name: option for option in describe(cls)}
    for key in values:
        if str(key).replace("-", "_") not in options:
            raise OptionsError({key: f"unknown option {key}"}, path.name)
    return {str(key).replace("-", "_"): value for key, value in values.items()}


class _Unset:
    """Default of every flag, so that a flag that was not given does not hide the recipe's value."""


_UNSET = _Unset()


def _add_argument(parser: argparse.ArgumentParser, option: Option, *, positional: bool) -> None:
    text = option.help.replace("%", "%%")
    if not option.required and option.default not in (None, "", (), {}):
        text += f" (default: {_shown(option.default)})"
    if option.type is bool and "." in option.name:
        group, _, name = option.flag.rpartition(".")
        add, off = parser.add_argument, f"{group}.no-{name}"
        add(option.flag, dest=option.name, action="store_true", default=_UNSET, help=text)
        add(off, dest=option.name, action="store_false", default=_UNSET, help="not so")
        return
    if option.type is bool:
        parser.add_argument(
            option.flag, action=argparse.BooleanOptionalAction, default=_UNSET, help=text
        )
        return
    metavar = "{" + ",".join(map(str, option.choices)) + "}" if option.choices else None
    if positional:
        nargs = None if option.required else "?"
        parser.add_argument(option.name, default=_UNSET, help=text, metavar=metavar, nargs=nargs)
        return
    many = typing.get_origin(option.type) in (tuple, dict)
    parser.add_argument(
        option.flag, default=_UNSET, help=text, metavar=metavar, nargs="+" if many else None
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionsError({"recipe": f"not valid YAML: {error}"}, path.name) from error
    if not isinstance(content, dict):
        raise OptionsError({"recipe": "must be a mapping of options to values"}, path.name)
    return content
