"""Command lines: flags of an options dataclass, recipes as defaults, errors naming the flag."""

import dataclasses
import importlib
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt
from tyro.conf import Positional

from geoclip_core.training.options import FitOptions, PretrainOptions, help_texts, options_class
from tests.data import layout
from tests.ui.conftest import ROOT
from train.__main__ import COMMANDS, main, parse
from train.benchmarks import BENCHMARKS
from train.training import fit, pretrain


@options_class
class Cells:
    count: Annotated[int, Ge(1)] = 10
    """Number of cells."""
    shared: bool = False
    """Share the offsets."""


@options_class
class Example:
    COMMAND: ClassVar[str] = "example"

    source: Positional[Path]
    """Where to read."""
    rate: Annotated[float, Gt(0)] = 0.1
    """Step size, 100 % of it."""
    head: Literal["cells", "regression"] = "cells"
    """Kind of head."""
    use_context: bool = True
    """Join the context."""
    features: tuple[str, ...] = ("climate", "month")
    """Features."""
    limit: int | None = None
    """At most so many rows."""
    cells: Cells = Cells()
    """the cells"""
    recipe: str | None = None
    """A recipe."""

    def __post_init__(self):
        if self.head == "regression" and self.limit == 1:
            raise ValueError("a regression needs more than one row")


def example(options: Example) -> int:
    """Do what the example does.

    And more.
    """
    return 0


def parsed(*argv, command=example):
    return parse(command, argv, program="example")


def test_flags_of_every_type():
    options = parsed(
        *("in", "--rate", "0.5", "--head", "regression", "--no-use-context"),
        *("--features", "city", "state", "--limit", "7", "--cells.count", "3", "--cells.shared"),
    )
    assert options == Example(
        source=Path("in"),
        rate=0.5,
        head="regression",
        use_context=False,
        features=("city", "state"),
        limit=7,
        cells=Cells(count=3, shared=True),
    )
    assert parsed("in", "--features").features == ()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["in", "--rate", "-1"], "--rate must be greater than 0, not -1.0"),
        (["in", "--rate", "fast"], "--rate: 'fast' is not a number"),
        (["in", "--limit", "few"], "--limit: 'few' is not a whole number"),
        (["in", "--limit", "1.5"], "--limit: '1.5' is not a whole number"),
        (["in", "--limit"], "--limit needs a value"),
        (["in", "--head", "cubes"], "--head must be one of cells, regression, not 'cubes'"),
        (["in", "--cells.count", "0"], "--cells.count must be at least 1, not 0"),
        (["in", "--rates", "1"], "there is no option --rates; did you mean --rate?"),
        (["in", "--colour", "1"], "there is no option --colour"),
        (["in", "out"], "'out' is one argument too many"),
        (["in", "--head", "regression", "--limit", "1"], "a regression needs more than one row"),
        ([], "SOURCE must be given"),
        (["--no-use-contxt"], "there is no option --no-use-contxt; did you mean --no-use-context?"),
    ],
)
def test_wrong_command_lines_exit_2_with_one_sentence_that_names_the_option(argv, words, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(*argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"example: error: {words}\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--cells", "5"], "--cells is called --geocells.cells now"),
        (["--vote", "cosine"], "--vote is called --bank.vote now"),
        (["--no-all-rows"], "--no-all-rows is called --bank.no-all-rows now"),
        (["--train", "backbone=none"], "--train is called --train-backbone now"),
        (["--fit", "crop"], "--fit is called --framing now"),
        (["--context-weights", "city=1"], "--context-weights is called --context.weights.NAME now"),
        (["--coordinate-head", "retrieval"], "retrieval is called bank now"),
    ],
)
def test_errors_about_old_flags_name_the_new_flag(argv, words, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("--data", "x", *argv, command=fit)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_views_are_given_one_after_another():
    options = parsed("--data", "x", "--views", "380x380", "320x512", command=fit)
    assert options.view_sizes == ((380, 380), (320, 512))


def test_a_recipe_gives_the_defaults_and_flags_override_it(tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("command: [fit]\nfit:\n  epochs: 7\n  use-context: false\n  dropout: 0.2\n")
    options = parsed("--recipe", str(recipe), "--dropout", "0.4", "--data", "x", command=fit)
    assert isinstance(options, FitOptions)
    assert (options.epochs, options.use_context, options.dropout) == (7, False, 0.4)
    assert options.recipe == str(recipe)
    assert parsed(f"--recipe={recipe}", command=fit).epochs == 7
    assert isinstance(parsed("--recipe", "demo", command=pretrain), PretrainOptions)


def test_a_benchmark_takes_the_recipe_that_it_measures():
    from train.benchmarks.rehearsal import rehearsal

    assert parsed("--recipe", "mini", command=rehearsal).recipe == "mini"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("fit: {rat: 0.7}", "own.yaml: there is no option rat"),
        ("fit: {epochs: many}", "own.yaml: epochs must be a valid integer"),
        ("command: [pretrain]\npretrain: {epochs: 3}", "no section for the command fit"),
        ("- epochs", "must be a mapping"),
        ("fit: {", "cannot be read"),
    ],
)
def test_errors_in_a_recipe_name_the_file(content, words, tmp_path, capsys):
    recipe = tmp_path / "own.yaml"
    recipe.write_text(content)
    with pytest.raises(SystemExit) as stop:
        parsed("--recipe", str(recipe), command=fit)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_the_error_about_an_unknown_recipe_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        parsed("--recipe", "nowhere", command=fit)
    shown = capsys.readouterr().err
    assert "there is no recipe 'nowhere'" in shown
    assert "mini-plain" in shown


def test_help_shows_every_option_with_its_docstring_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for text in (
        *(
            "Do what the example does.",
            "And more.",
            "SOURCE",
            "Step size, 100 % of it.",
            "Number of cells.",
        ),
        *("--no-use-context", "(default: 0.1)", "{cells,regression}", "--cells.count INT"),
    ):
        assert text in shown


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "benchmark"])
def test_every_option_of_every_command_has_a_help_text(name):
    command = getattr(importlib.import_module(COMMANDS[name][0]), name.replace("-", "_"))
    cls = typing.get_type_hints(command)["options"]
    texts = help_texts(cls)
    assert [field.name for field in dataclasses.fields(cls) if not texts.get(field.name)] == []


def test_help_shows_the_defaults_of_the_recipe(capsys):
    with pytest.raises(SystemExit):
        parsed("--recipe", "mini", "--help", command=fit)
    assert "380x380 320x512" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--help"], ["benchmark"], ["benchmark", "--help"]])
def test_commands_are_listed_with_a_line_each(argv, capsys):
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, summary) in (BENCHMARKS if argv[:1] == ["benchmark"] else COMMANDS).items():
        assert f"  {name:<15} {summary}" in lines


@pytest.mark.parametrize("argv", [["nothing"], ["benchmark", "nothing"]])
def test_an_unknown_command_exits_2_with_one_sentence(argv, capsys):
    assert main(argv) == 2
    shown = capsys.readouterr().err
    assert "there is no 'nothing'" in shown
    assert shown.count("\n") == 1


def test_an_error_exits_1_with_one_sentence(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "gone")]) == 1
    shown = capsys.readouterr().err
    assert "python -m train doctor: error: " in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("fit", "--output"),
        ("pretrain", "--output"),
        ("embed", "--cache-dir"),
        ("evaluate", "--output"),
    ],
)
@pytest.mark.parametrize("kind", ["missing", "a file", "empty", "no rows", "broken"])
def test_a_dataset_that_cannot_be_used_is_one_sentence(tmp_path, capsys, command, flag, kind):
    data = tmp_path / "data"
    if kind == "a file":
        data.write_text("x")
    elif kind != "missing":
        data.mkdir()
    header = "id,latitude,longitude,country\n"
    if kind == "no rows":
        (data / "test_mini.csv").write_text(header)
    elif kind == "broken":
        (data / "train_mini.csv").write_text(header + "1,north,20,FR\n")
    arguments = [command, "--data", str(data), flag, str(tmp_path / "out")]
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "error: " in shown
    assert str(data) in shown or "_mini.csv" in shown


@pytest.mark.parametrize("command", ["embed", "evaluate", "fit", "pretrain"])
def test_a_device_that_is_not_there_is_one_sentence(tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    layout.make(tmp_path / "set")
    assert main([command, "--data", str(tmp_path / "set"), "--device", "cuda"]) == 1
    shown = capsys.readouterr().err
    assert "no CUDA GPU that torch can use" in shown
    assert shown.count("\n") == 1


def test_a_depth_that_the_backbone_lacks_is_one_sentence(tmp_path, capsys):
    layout.make(tmp_path / "set")
    assert main(["embed", "--data", str(tmp_path / "set"), "--depths", "99"]) == 1
    shown = capsys.readouterr().err
    assert "efficientnet-lite2 has blocks 0 to 20, not 99" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_photos_of_which_none_can_be_read_are_one_sentence(tmp_path, capsys, command):
    layout.make(tmp_path / "set", photos=False)
    arguments = ["--data", str(tmp_path / "set"), "--cache-dir", str(tmp_path / "cache")]
    arguments += ["--output", str(tmp_path / "out")] if command == "evaluate" else []
    for _ in range(2):  # what the first run kept does not hide it
        assert main([command, *arguments]) == 1
        shown = capsys.readouterr().err
        assert re.search(r"error: none of the \d photos of \w+ can be read", shown)
        assert "Traceback" not in shown


def test_a_file_where_a_folder_should_be_is_named(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("x")
    layout.make(tmp_path / "set")
    data = ["--data", str(tmp_path / "set")]
    assert main(["evaluate", *data, "--output", str(file)]) == 1
    assert f"--output: {file} is a file; choose a folder" in capsys.readouterr().err
    assert main(["fit", *data, "--runs", str(file)]) == 1
    assert f"{file} is a file: choose another folder" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    # benchmarks import torch: their options are beside their work
    commands = [[], *([name, "--help"] for name in COMMANDS)]
    script = (
        "import sys; from train.__main__ import main\n"
        f"for argv in {commands}:\n"
        "    try: main(argv)\n    except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'numpy', 'streamlit', 'PIL'}\n"
        "heavy |= {'pydantic', 'typeguard', 'yaml', 'psutil'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "set()"
    assert done.stdout.count("usage") == len(commands)
