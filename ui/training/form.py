"""A form made from an options dataclass: one widget an option, with its help and its error."""

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st
import yaml

from geoclip_core.data.features import KNOWN_FEATURES
from geoclip_core.training.options import BankOptions, PhotoOptions
from train.command_line import RECIPES, load_recipe
from train.options import Option, OptionsError, build, convert, describe, to_mapping
from ui.theme import markdown_text

Rows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Layout:
    """The order of a form."""

    rows: Rows
    """Always in view, row by row; the second of two takes two thirds of the width."""
    sections: tuple[tuple[str, tuple[str, ...]], ...]
    """Folded away, under headings."""


_RUN = ("recipe", "data", "output", "runs", "resume")
FIXED = frozenset(_RUN)
"""Options that the page decides."""

_LEARNING = (
    *("accumulation", "backbone_learning_rate", "weight_decay", "warmup", "clip_norm"),
    *("patience", "augment", "val_fraction", "seed"),
)
_MACHINE = ("device", "precision", "workers", "cache_dir", "log_every", "save_seconds")
_PHOTOS = ("views", "framing", "depths", "depth_pooling", "projection")
_CELLS = ("geocells.cells", "geocells.smoothing", "geocells.offset_rank")
_BANK = tuple(f"bank.{field.name}" for field in dataclasses.fields(BankOptions))
_WEIGHTS = tuple(f"context.weights.{feature}" for feature in KNOWN_FEATURES)
_CONTEXT = (*_WEIGHTS, "context.class_balance", "context.hidden", "context.join_width")
_GRADIENT = (
    *("epochs", "batch_size", "learning_rate", "train_backbone", "dropout", "hidden"),
    *(*_WEIGHTS, "context.class_balance", "context.hidden", "coordinate_weight"),
    *(name for name in _LEARNING if name not in ("val_fraction", "seed")),
)
"""What a closed form does not do."""

LAYOUTS = {
    "fit": Layout(
        (
            ("backbone", "train_backbone", "coordinate_head"),
            ("use_context", "features"),
            ("epochs", "batch_size", "learning_rate"),
        ),
        (
            ("What the backbone sees", _PHOTOS),
            ("Coordinate head", ("coordinate_weight", "hidden", "dropout", *_CELLS, *_BANK)),
            ("Context heads", _CONTEXT),
            ("Learning", _LEARNING),
            ("This computer", _MACHINE),
        ),
    ),
    "pretrain": Layout(
        (
            ("backbone", "train_backbone", "text"),
            ("drop_probability", "features"),
            ("epochs", "batch_size", "learning_rate"),
        ),
        (
            ("What the backbone sees", _PHOTOS),
            ("Text tower", ("train_text", "width")),
            ("Learning", _LEARNING),
            ("This computer", _MACHINE),
        ),
    ),
}


def irrelevant(values: Mapping[str, Any]) -> set[str]:
    """Options that do nothing, given the others: the form leaves them out, at their defaults."""
    found: set[str] = set()
    head = values.get("coordinate_head")
    if head is not None and head != "geocells":
        found.update(_CELLS)
    if head is not None and head != "bank":
        found.update(_BANK)
    if head == "bank":
        found.update(_GRADIENT)
    if values.get("use_context") is False:
        found.update(
            (
                "features",
                *_CONTEXT,
                "bank.context_share",
                "bank.context_gammas",
                "bank.context_ridges",
            )
        )
    if values.get("train_backbone") == "none" or head == "bank":
        found.update(("augment", "backbone_learning_rate"))
    if not values.get("depths") and "depths" in values:
        found.add("depth_pooling")
    if str(values.get("backbone", "")).startswith("efficientnet-lite"):
        found.add("projection")
    if "drop_probability" in values:
        found.add("accumulation")  # parts of a step would not see each other's captions
    if values.get("bank.vote") == "cosine":
        found.add("bank.ridges")
    return found


def defaults(cls: type, names: set[str]) -> dict[str, Any]:
    """The plain default of some options."""
    return {option.name: plain(option.default) for option in describe(cls) if option.name in names}


def in_rows(layout: Layout, options: Sequence[Option]) -> list[list[Option]]:
    """The options in view, row by row; those of the layout that do not exist are passed over."""
    by_name = {option.name: option for option in options}
    rows = [[by_name[name] for name in row if name in by_name] for row in layout.rows]
    return [row for row in rows if row]


def in_sections(layout: Layout, options: Sequence[Option]) -> list[tuple[str, list[Option]]]:
    """The folded options under their headings; what the layout does not name comes last."""
    by_name = {option.name: option for option in options}
    for row in layout.rows:
        for name in row:
            by_name.pop(name, None)
    sections = []
    for title, names in layout.sections:
        found = [by_name.pop(name) for name in names if name in by_name]
        if found:
            sections.append((title, found))
    if by_name:
        sections.append(("Other", list(by_name.values())))
    return sections


_LABELS = {
    "bank.note": "note on the numbers",
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
    if issubclass(cls, PhotoOptions):
        return to_mapping(build(cls, given, str(recipe)))
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
        named = [name for name in options if name in error.problems or _names(str(error), name)]
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
        return ", ".join(f"{key}={_values_number(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_values_number(item) for item in value) or "none"
    return _values_number(value)


def label(name: str) -> str:
    """An option's name as people read it: "learning_rate" is "Learning rate"."""
    field = name.removeprefix("geocells.").removeprefix("bank.")
    text = _LABELS.get(name) or field.replace("_", " ").replace(".", " ")
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


def _values_number(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


COLUMNS = 3


@dataclass(frozen=True)
class Filled:
    """What a form holds."""

    checked: Checked
    changed: dict[str, tuple[Any, Any]]
    """Option → (the recipe's value, the form's)."""


def options_form(
    cls: type,
    base: Mapping[str, Any],
    key: str,
    layout: Layout,
    *,
    fixed: Mapping[str, Any],
    suggestions: Mapping[str, Sequence[str]] | None = None,
) -> Filled:
    """Draw the form and check what is in it.

    Args:
        cls: the options dataclass.
        base: the recipe's value of every option; a field that differs from it says so.
        key: prefix of the widgets' keys; another one is another form.
        layout: what is in view and what is folded away.
        fixed: options that the page decides and the form leaves out.
        suggestions: option → values to choose from, besides typing one.
    """
    options = [option for option in describe(cls) if option.name not in fixed]
    held = {option.name: value_in_form(option, base[option.name], key) for option in options}
    hidden = irrelevant(held)
    values = {**held, **defaults(cls, hidden)}
    checked = check(cls, {**values, **fixed})
    options = [option for option in options if option.name not in hidden]
    changed = {k: v for k, v in changes(cls, base, values).items() if k not in {*hidden, *fixed}}

    def draw(option: Option) -> None:
        was = changed.get(option.name)
        note = f"recipe: {_cut(shown(was[0]))}" if was else ""
        _widget(option, base[option.name], key, note, (suggestions or {}).get(option.name, ()))
        if option.name in checked.errors:
            st.markdown(f":red[{markdown_text(checked.errors[option.name])}]")

    for row in in_rows(layout, options):
        _row(row, [1, 2] if len(row) == 2 else COLUMNS, draw)
    sections = in_sections(layout, options)
    folded = [option for _, section in sections for option in section]
    if folded:
        # One title for all times: with another one, the browser would fold it together again.
        with st.expander("More options", icon=":material/tune:", key=f"{key}:more"):
            for title, section in sections:
                st.markdown(f"**{title}**")
                for start in range(0, len(section), COLUMNS):
                    _row(section[start : start + COLUMNS], COLUMNS, draw)
        wrong = [label(option.name) for option in folded if option.name in checked.errors]
        if wrong:
            st.markdown(f":red[In “More options” does not fit: {', '.join(wrong)}.]")
    return Filled(checked, changed)


def _row(options: Sequence[Option], widths: Any, draw: Callable[[Option], None]) -> None:
    columns = st.columns(widths, vertical_alignment="top")
    for column, option in zip(columns, options, strict=False):
        with column:
            draw(option)


def _cut(text: str, length: int = 18) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip(' ,')}…"


def value_in_form(option: Option, base: Any, key: str) -> Any:
    """The plain value that the form now holds for an option."""
    name = widget_key(key, option)
    if name not in st.session_state:
        return base
    value = st.session_state[name]
    if isinstance(value, str):
        value = value.strip()
        if not value and option.optional:
            return None
    # Text that says the same as the base is the base: no rounding, no other type.
    return base if comparable(option, value) == comparable(option, base) else plain(value)


def widget_key(key: str, option: Option) -> str:
    """The session's key of an option's widget."""
    return f"{key}:{option.name}"


def reset(cls: type, key: str) -> None:
    """Put every field back to the recipe's value."""
    for option in describe(cls):
        st.session_state.pop(widget_key(key, option), None)


def _widget(option: Option, base: Any, key: str, note: str, suggestions: Sequence[str]) -> None:
    title = label(option.name)
    if note:
        title += f" :orange-badge[{markdown_text(note)}]"
    common: dict[str, Any] = {
        "label": title,
        "key": widget_key(key, option),
        "help": f"`{option.flag}` {markdown_text(option.help)}",
        "persist_state": "session",
    }
    for kind, draw in _KINDS:
        if kind(option, suggestions):
            draw(option, base, suggestions, common)
            return


def _switch(option: Option, base: Any, known: Sequence[str], common: dict[str, Any]) -> None:
    # A switch stands where the fields beside it stand, below the line of their labels.
    st.space("small")
    _begin_with(bool(base), common)
    st.toggle(**common)


def _choice(option: Option, base: Any, known: Sequence[str], common: dict[str, Any]) -> None:
    choices = [plain(choice) for choice in option.choices or known]
    if option.optional or (base is None and option.required):
        choices = [None, *choices]
    if base not in choices:
        choices.append(base)
    _begin_with(base, common)
    st.selectbox(
        options=choices,
        format_func=lambda value: "not set" if value in (None, "") else str(value),
        accept_new_options=not option.choices,
        **common,
    )


def _whole_number(option: Option, base: Any, known: Sequence[str], common: dict[str, Any]) -> None:
    st.number_input(value=int(base) if base is not None else None, step=1, **_blank(common))


def _number(option: Option, base: Any, known: Sequence[str], common: dict[str, Any]) -> None:
    value = float(base) if base is not None else None
    # A step that moves the leading digit: 0.0001 for a rate of 0.0002.
    step = 10.0 ** math.floor(math.log10(abs(value))) if value else 0.1
    st.number_input(value=value, step=step, format="%g", **_blank(common))


def _blank(common: Mapping[str, Any]) -> dict[str, Any]:
    return {**common, "placeholder": "not set"}


def _several(option: Option, base: Any, known: Sequence[str], common: dict[str, Any]) -> None:
    values = [str(item) for item in known or KNOWN_FEATURES]
    chosen = [str(item) for item in base or ()]
    _begin_with(chosen, common)
    st.multiselect(
        options=[*values, *(item for item in chosen if item not in values)],
        accept_new_options=bool(known),
        wrap=True,
        **common,
    )


def _text(option: Option, base: Any, known: Sequence[str], common: dict[str, Any]) -> None:
    text = "" if base in (None, "", [], {}) else shown(base)
    _begin_with(text, common)
    example = "name=value, name=value" if is_mapping(option) else "not set"
    st.text_input(placeholder=example if not text else None, **common)


def _begin_with(value: Any, common: Mapping[str, Any]) -> None:
    # Not as the widget's default: a value that another page has set would then be a second one.
    st.session_state.setdefault(common["key"], value)


_Draw = Callable[[Option, Any, Sequence[str], dict[str, Any]], None]
_KINDS: tuple[tuple[Callable[[Option, Sequence[str]], bool], _Draw], ...] = (
    (lambda option, _: option.type is bool, _switch),
    (lambda option, known: bool(option.choices) or (bool(known) and not is_list(option)), _choice),
    (lambda option, _: option.type is int, _whole_number),
    (lambda option, _: option.type is float, _number),
    (
        lambda option, known: is_list(option) and (bool(known) or option.name == "features"),
        _several,
    ),
    (lambda option, _: True, _text),
)
