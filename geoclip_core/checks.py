"""Check the values of a file against types with limits, and name the field that is wrong.

A file may come from a stranger: a number may be NaN, a text, or so large that what is built from it
does not fit the memory. The types of a dataclass, or of the arguments of a class, are its schema:
write limits as `Annotated[int, Interval(ge=1, le=100)]`, and pydantic checks them.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Interval, Len
from pydantic import AllowInfNan, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic_core import ErrorDetails

from geoclip_core.errors import FileError

T = TypeVar("T")

Finite = Annotated[float, AllowInfNan(False)]
Positive = Annotated[float, Interval(gt=0, le=1e9)]
NotNegative = Annotated[float, Interval(ge=0, le=1e9)]
Share = Annotated[float, Interval(ge=0, le=1)]
Width = Annotated[int, Interval(ge=1, le=2**16)]
"""Number of units of a layer."""
Name = Annotated[str, Len(1, 500)]
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}
_ARGUMENTS: dict[tuple[Callable[..., object], tuple[str, ...]], type[Any]] = {}
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""`__pydantic_config__` of a dataclass whose unknown fields are errors."""


def checked(kind: type[T], value: object, path: str | Path, field: str = "") -> T:
    """Return `value` as an object of a type: a dataclass, a pydantic model, `dict[str, int]`.

    Args:
        kind: the type. Unknown fields are ignored unless its config is `STRICT`.
        value: from `read_json` or `read_yaml`.
        path: of the file, for the error.
        field: of the file that `value` is the content of, for the error.

    Raises:
        FileError: naming the field that is wrong.
    """
    try:
        result: T = _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise FileError(path, f"cannot be used: {problem(error, field)}") from error
    return result


def checked_arguments(
    build: Callable[..., object],
    values: object,
    path: str | Path,
    field: str,
    given: Collection[str],
) -> dict[str, Any]:
    """Return keyword arguments from a file, checked by the annotations of a class's constructor.

    Args:
        build: a class that takes the arguments.
        values: from `read_json`.
        path: of the file, for the error.
        field: of the file that holds the arguments, for the error.
        given: arguments that the caller passes itself.

    Raises:
        FileError: naming the argument that is wrong, unknown or missing.
    """
    if not isinstance(values, Mapping):
        raise FileError(path, f"cannot be used: {field} must be an object, not {shown(values)}")
    arguments = checked(_arguments_of(build, tuple(given)), dict(values), path, field)
    known = {name: getattr(arguments, name) for name in values}
    return known


def problem(error: ValidationError, field: str = "") -> str:
    """Return the first thing that pydantic found wrong, in words that begin with the field."""
    detail = error.errors()[0]
    where = ".".join(str(part) for part in (field, *detail["loc"]) if part != "")
    return f"{where} {rule(detail)}".strip()


def rule(detail: ErrorDetails) -> str:
    """Return what pydantic found wrong with a value, as the rest of a sentence about its field."""
    cause = detail.get("ctx", {}).get("error")
    if cause is not None:
        return str(cause)
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return "is not known to this version"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return "is missing"
    if detail["type"] in ("dataclass_type", "model_type", "dict_type"):
        return f"must be a JSON object, not {shown(detail['input'])}"
    text = detail["msg"].partition(", unable")[0].replace("Input should be", "must be")
    text = text.replace("greater than or equal to", "at least")
    text = text.replace("less than or equal to", "at most")
    return f"{text}, not {shown(detail['input'])}"


def shown(value: object) -> str:
    """Return a value as text of at most 60 characters, for a message."""
    if isinstance(value, list | dict | tuple | set) and len(value) > 10:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _arguments_of(build: Callable[..., object], given: tuple[str, ...]) -> type[Any]:
    if (build, given) in _ARGUMENTS:
        return _ARGUMENTS[build, given]
    hints = get_type_hints(inspect.getattr_static(build, "__init__"), include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in list(inspect.signature(build).parameters.items())
        if name not in given
    }
    _ARGUMENTS[build, given] = create_model("Arguments", __config__=STRICT, **fields)
    return _ARGUMENTS[build, given]
