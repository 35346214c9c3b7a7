from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from train import command_line, options


@dataclass(frozen=True)
class Example:
    COMMAND: ClassVar[str] = "example"
    POSITIONAL: ClassVar[tuple[str, ...]] = ("source",)

    source: Path
    """Where to read."""
    rate: float = 0.1
    """Step size."""
    head: Literal["cells", "regression"] = "cells"
    """Kind of head."""
    use_context: bool = True
    """Join the context."""
    features: tuple[str, ...] = ("climate", "month")
    """Features."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights of the losses."""
    limit: int | None = None
    """At most so many rows, 100 % by default."""
    recipe: str | None = None
    """A recipe."""

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError("rate must be positive")


def parse(*argv):
    return command_line.parse(Example, argv, prog="example")


def test_flags_of_every_type():
    parsed = parse(
        "in", "--rate", "0.5", "--head", "regression", "--no-use-context",
        "--features", "city", "state", "--weights", "city=0.3", "state=1", "--limit", "7",
    )  # fmt: skip
    assert parsed == Example(
        Path("in"), 0.5, "regression", False, ("city", "state"), {"city": 0.3, "state": 1.0}, 7
    )
    assert parse("in", "--limit", "none").limit is None


def test_recipe_gives_defaults_and_flags_win(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("command: [example]\nexample:\n  rate: 0.7\n  use-context: false\n")
    parsed = parse("in", "--recipe", str(recipe), "--rate", "0.9")
    assert (parsed.rate, parsed.use_context) == (0.9, False)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["in", "--rate", "-1"], "rate must be positive"),
        (["in", "--rate", "fast"], "rate"),
        (["in", "--head", "cubes"], "cells, regression"),
        (["in", "--weights", "city"], "NAME=VALUE"),
        ([], "required: source"),
        (["in", "--recipe", "nowhere"], "no recipe 'nowhere'"),
    ],
)
def test_wrong_command_lines_exit_2_and_name_the_option(argv, words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": "x", "colour": 1}, "unknown option colour"),
        ({"source": "x", "limit": 1.5}, "whole number"),
        ({"source": "x", "rate": [1]}, "rate"),
        ({"source": "x", "use_context": "maybe"}, "true or false"),
        ({"rate": 1}, "must be given"),
    ],
)
def test_mappings_are_checked(values, words):
    with pytest.raises(options.OptionsError, match=words):
        options.build(Example, values, "form")


def test_unknown_key_in_a_recipe_is_refused(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("rat: 0.7\n")
    with pytest.raises(options.OptionsError, match="unknown option rat"):
        command_line.load_recipe(Example, str(recipe))


def test_mapping_round_trip():
    example = Example(Path("a"), weights={"city": 0.5})
    assert options.build(Example, options.to_mapping(example)) == example


def test_help_shows_every_field(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    for text in ("Step size", "--no-use-context", "default: 0.1", "{cells,regression}", "100 %"):
        assert text in shown


def test_field_without_docstring_is_a_mistake_of_the_programmer():
    @dataclass
    class Bare:
        a: int = 0

    with pytest.raises(TypeError, match=r"Bare\.a"):
        options.describe(Bare)
