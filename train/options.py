"""One dataclass per command: its flags, YAML keys, help texts, validation and form.

A command's options are a dataclass whose fields each carry a docstring on the line below. From that
one source come ``--help``, the keys of a recipe (``train/recipes/*.yaml``), the defaults and the
form of the train page. ``__post_init__`` of the dataclass refuses impossible combinations.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from geoclip_core.training import options as tree
from geoclip_core.training.options import OptionsError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of an options dataclass, described for a command line or a form."""

    name: str
    type: Any
    default: Any
    required: bool
    help: str
    choices: tuple[Any, ...] | None
    optional: bool

    @property
    def flag(self) -> str:
        """The command-line flag, for example ``--batch-size``."""
        return "--" + self.name.replace("_", "-")


@functools.cache
def describe(cls: type) -> tuple[Option, ...]:
    """Describe every field of an options dataclass, in the order of its definition.

    Raises:
        TypeError: a field has no docstring below it, or a type that no flag can carry.
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _field_docstrings(base)
    hints = typing.get_type_hints(cls)
    described = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if field.name not in docs:
            raise TypeError(f"{cls.__name__}.{field.name} has no docstring below it")
        kind, optional = _without_none(hints[field.name])
        if dataclasses.is_dataclass(kind):
            for option in describe(typing.cast(type, kind)):
                described.append(dataclasses.replace(option, name=f"{field.name}.{option.name}"))
            continue
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else None
        required = field.default is dataclasses.MISSING and (
            field.default_factory is dataclasses.MISSING
        )
        default = None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        elif not required:
            default = field.default
        described.append(
            Option(field.name, kind, default, required, docs[field.name], choices, optional)
        )
    return tuple(described)


def build(cls: type[T], values: Mapping[str, Any], source: str = "options") -> T:
    """Make the dataclass from a mapping of plain values (YAML, a form, parsed flags).

    Args:
        cls: The options dataclass.
        values: Field name to value; strings are converted, hyphens in names are accepted.
        source: What to call the mapping in an error, usually a file name.

    Raises:
        OptionsError: an unknown key, a value of the wrong type, a required one that is missing,
            or a combination that ``__post_init__`` refuses.
    """
    if _is_tree(cls):
        return tree.from_mapping(cls, values, source)
    options = {option.name: option for option in describe(cls)}
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    unknown = sorted(set(given) - set(options))
    if unknown:
        raise OptionsError(
            {name: f"unknown option {name}; known are {', '.join(options)}" for name in unknown},
            source,
        )
    missing = [o.flag for o in options.values() if o.required and o.name not in given]
    if missing:
        raise OptionsError({name: f"{name} must be given" for name in missing}, source)
    converted = {name: convert(options[name], value, source) for name, value in given.items()}
    try:
        return cls(**converted)
    except OptionsError:
        raise
    except ValueError as error:
        raise OptionsError({"": str(error)}, source) from error


def convert(option: Option, value: Any, source: str = "options") -> Any:
    """Convert one plain value to the field's type.

    Raises:
        OptionsError: the value cannot be of that type, or is not among the choices.
    """
    if value is None or (option.optional and value in ("", "none", "None")):
        if option.optional:
            return None
        raise OptionsError({option.name: f"{option.name} must have a value"}, source)
    try:
        return _convert(option.type, value)
    except (TypeError, ValueError) as error:
        problem = {option.name: f"{option.name} = {value!r}: {error}"}
        raise OptionsError(problem, source) from error


def to_mapping(options: Any) -> dict[str, Any]:
    """The plain values of an options dataclass by the names that `describe` gives."""
    if _is_tree(type(options)):
        return _flat(tree.to_mapping(options))
    return {
        option.name: _plain(getattr(options, option.name)) for option in describe(type(options))
    }


def _is_tree(cls: type) -> bool:
    return issubclass(cls, tree.PhotoOptions)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _convert(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = typing.get_args(kind)
        for choice in choices:
            if value == choice or str(value) == str(choice):
                return choice
        raise ValueError(f"must be one of {', '.join(map(str, choices))}")
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_convert(inner, item) for item in _items(value))
    if origin is dict:
        inner = typing.get_args(kind)[1]
        pairs = value.items() if isinstance(value, Mapping) else _pairs(_items(value))
        return {str(key): _convert(inner, item) for key, item in pairs}
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "1", "on"):
            return True
        if str(value).lower() in ("false", "no", "0", "off"):
            return False
        raise ValueError("must be true or false")
    if isinstance(value, bool | list | dict):
        raise TypeError(f"must be of type {kind.__name__}")
    if kind is int:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError("must be a whole number")
        return int(value)
    if kind in (float, str, Path):
        return kind(value)
    raise TypeError(f"no flag can carry the type {kind}")


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = [value]
    items: list[Any] = []
    for item in value:
        if isinstance(item, str):
            items += [part.strip() for part in item.split(",") if part.strip()]
        else:
            items.append(item)
    return items


def _pairs(items: list[Any]) -> list[tuple[str, str]]:
    pairs = []
    for item in items:
        key, equals, value = str(item).partition("=")
        if not equals:
            raise ValueError(f"{item!r} is not of the form NAME=VALUE")
        pairs.append((key.strip(), value.strip()))
    return pairs


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _without_none(kind: Any) -> tuple[Any, bool]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        if len(inner) == 1:
            return inner[0], True
    return kind, False


def _field_docstrings(cls: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    docs = {}
    body = typing.cast(ast.ClassDef, tree).body
    for statement, below in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            docs[statement.target.id] = " ".join(below.value.value.split())
    return docs
