"""``python -m train COMMAND``: datasets, trainings and evaluations from the command line.

A command is a function of one options class (`geoclip_core.training.options.options_class`). tyro
makes flags of its fields and help of the docstrings under them; pydantic checks the values.
"""

import dataclasses
import difflib
import importlib
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar, Union, cast

import tyro

# private modules of tyro, whose version is pinned: they alone tell which flag is wrong
from tyro import _errors as parse_errors
from tyro._arguments import ArgumentDefinition
from tyro._calling import InstantiationError
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from geoclip_core.__main__ import use_utf8
from geoclip_core.errors import is_plain, sentence
from geoclip_core.training.options import OptionsError, help_texts, new_flag, upgraded
from train.benchmarks import BENCHMARKS

COMMANDS = {
    "demo-data": ("train.datasets", "Draw a synthetic OSV-Mini to try everything on."),
    "import-photos": ("train.datasets", "Make a dataset from your own geotagged photos."),
    "download": ("train.datasets", "Download OSV-Mini-129k from Kaggle."),
    "doctor": ("train.datasets", "Check a dataset and write a cleaned copy."),
    "embed": ("train.training", "Compute and keep the embeddings of a dataset."),
    "pretrain": ("train.training", "Align photos with captions (contrastive pretraining)."),
    "fit": ("train.training", "Train context heads and a coordinate head."),
    "calibrate": ("train.evaluation", "Fit temperature and radius on validation photos."),
    "evaluate": ("train.evaluation", "Predict a dataset and measure the errors."),
    "report": ("train.evaluation", "Write an evaluation as one HTML file."),
    "runs": ("train.training", "List the training runs."),
    "benchmark": ("train.benchmarks", "Run a measured comparison: python -m train benchmark NAME."),
}
"""Name -> module of the function of that name, and what it does. Modules are imported when they are
needed: some load torch."""
REGISTRY = ConstructorRegistry()
T = TypeVar("T")


@REGISTRY.struct_rule
def _fields(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Describe an options class with its help texts.

    Otherwise tyro parses the source file again for every group of options, which is slow.
    """
    cls, given = info.type, info.default
    if not dataclasses.is_dataclass(cls):
        return None
    hints, texts = typing.get_type_hints(cls, include_extras=True), help_texts(cls)
    specs = []
    for field in dataclasses.fields(cls):
        name = field.name
        default = tyro.MISSING if field.default is dataclasses.MISSING else field.default
        if isinstance(given, cls):
            default = getattr(given, name)
        specs.append(StructFieldSpec(name, _light(hints[name]), default, texts[name]))
    return StructConstructorSpec(cls, tuple(specs))


def _light(kind: Any) -> Any:
    """Return a type that tyro reads without typeguard, whose import takes 0.1 s.

    Lists are read as text; the options class converts their values.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return Annotated[_light(parts[0]), *parts[1:]]
    if origin is types.UnionType:
        return Union[parts]  # noqa: UP007  a union of | is checked by typeguard
    if origin is tuple:
        (word, *_) = typing.get_args(parts[0]) or parts  # of tuple[Annotated[int, ...], ...]
        word = word.__name__.upper()
        read = PrimitiveConstructorSpec(
            nargs="*",
            metavar=f"[{word} [{word} ...]]",
            instance_from_str=tuple,
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [str(part) for part in value],
        )
        return Annotated[object, read]  # of a tuple, tyro would look at the parts
    return kind


class CommandLineError(Exception):
    """A command line that cannot be accepted; the message names the flag."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Raises:
        SystemExit: after ``--help``, and with status 2 for a wrong option.
    """
    use_utf8()
    arguments = list(sys.argv[1:] if argv is None else argv)
    program, commands = "python -m train", COMMANDS
    if arguments[:1] == ["benchmark"]:
        program, commands = "python -m train benchmark", BENCHMARKS
        del arguments[0]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND [options]\n\ncommands:")
        for name, (_, summary) in commands.items():
            print(f"  {name:<15} {summary}")
        print(f"\n{program} COMMAND --help shows the options of a command.")
        return 0
    name = arguments.pop(0)
    if name not in commands:
        known = ", ".join(commands)
        print(f"{program}: error: there is no {name!r}; choose from {known}", file=sys.stderr)
        return 2
    command = getattr(importlib.import_module(commands[name][0]), name.replace("-", "_"))
    options = parse(command, arguments, program=f"{program} {name}")
    try:
        return command(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not (is_plain(error) or isinstance(error, ValueError)):
            raise
        print(f"{program} {name}: error: {sentence(error)}", file=sys.stderr)
        return 1


def parse(command: Callable[[T], int], arguments: Sequence[str], *, program: str) -> T:
    """Return the options of a command: a recipe if one is named, and flags on top of it.

    Args:
        command: a function of one options dataclass.
        arguments: what was typed after the command's name.
        program: what was typed up to it, for messages.

    Raises:
        SystemExit: after ``--help``, and with status 2 and one sentence for a wrong option.
    """
    cls: type[T] = typing.get_type_hints(command)["options"]
    hints = typing.get_type_hints(cls)

    def refuse(event: parse_errors.ParseErrorEvent) -> None:
        raise CommandLineError(_sentence(event, arguments, list(_flags(cls))))

    try:
        default: T | Any = tyro.MISSING_NONPROP
        # benchmarks have an option of this name, for the training that they measure
        if (recipe := _recipe_in(arguments)) and hints.get("recipe") is not str:
            from train.recipes import recipe_options  # here, since --help needs no yaml

            default = recipe_options(cls, recipe)
        with parse_errors.on_parse_error(refuse):
            return tyro.cli(
                cls,
                args=arguments,
                prog=program,
                description=inspect.getdoc(command),
                default=default,
                registry=REGISTRY,
                config=(tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName),
            )
    except (CommandLineError, OptionsError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _recipe_in(arguments: Sequence[str]) -> str | None:
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        if argument == "--recipe":
            return following
        if argument.startswith("--recipe="):
            return argument.removeprefix("--recipe=")
    return None


def _sentence(
    event: parse_errors.ParseErrorEvent, arguments: Sequence[str], flags: Sequence[str]
) -> str:
    """Say what is wrong with a command line, and with which flag."""
    match event:
        case parse_errors.InvalidChoice(argument=argument, value=value, choices=choices):
            now = upgraded({argument.field.intern_name: value}).get(argument.field.intern_name)
            renamed = "" if now in (None, value) else f"; {value} is called {now} now"
            return f"{_name(argument)} must be one of {', '.join(choices)}, not {value!r}{renamed}"
        case parse_errors.InstantiationFailure(argument=argument, message=message):
            return _unreadable(_name(argument), message) if argument else _invalid(message)
    for flag in (argument.partition("=")[0] for argument in arguments):
        if flag.startswith("--") and flag.replace("_", "-") not in flags:
            return _unknown(flag, flags)
    match event:
        case parse_errors.UnrecognizedArgs(tokens=tokens):
            return f"{tokens[0]!r} is one argument too many"
        case parse_errors.BadValue(argument=argument):
            return f"{_name(argument)} needs a value"
        case parse_errors.MissingArgs(missing_arguments=missing):
            return f"{', '.join(_name(entry.arg) for entry in missing)} must be given"
    return type(event).__name__


def _name(argument: ArgumentDefinition) -> str:
    if argument.is_positional():
        return str(argument.lowered.metavar)
    return argument.lowered.name_or_flags[0]


def _unreadable(name: str, message: str) -> str:
    value = message.rpartition(": ")[2]
    if "invalid literal for int" in message:
        return f"{name}: {value} is not a whole number"
    if "could not convert string to float" in message:
        return f"{name}: {value} is not a number"
    return f"{name}: {message}"


def _unknown(flag: str, flags: Sequence[str]) -> str:
    if new := new_flag(flag):
        return f"{flag} is called {new if new in flags else f'{new}.NAME'} now"
    close = difflib.get_close_matches(flag, flags, n=1, cutoff=0.75)
    return f"there is no option {flag}" + (f"; did you mean {close[0]}?" if close else "")


def _flags(cls: type, prefix: str = "--") -> Iterator[str]:
    """Yield the flags of an options dataclass and of its groups."""
    for name, kind in typing.get_type_hints(cls).items():
        words = name.replace("_", "-")
        if dataclasses.is_dataclass(kind):
            yield from _flags(cast(type, kind), f"{prefix}{words}.")
        else:
            yield f"{prefix}{words}"
            if kind is bool:
                yield f"{prefix}no-{words}"


def _invalid(message: str) -> str:
    """Describe the values that an options class refused, each with its flag."""
    error, group = sys.exception(), ""
    if isinstance(error, InstantiationError):  # of a group of options, whose name tyro knows
        group = f"{error.arg}."
        error = error.__context__
    if not isinstance(error, OptionsError):
        return message
    sentences = []
    for field, problem in error.problems.items():
        if not field:
            sentences.append(problem)
            continue
        flag = "--" + f"{group}{field}".replace("_", "-")
        named = problem.removeprefix(field)
        sentences.append(flag + (f": {problem}" if named == problem else named))
    return "; ".join(sentences)


if __name__ == "__main__":
    raise SystemExit(main())
