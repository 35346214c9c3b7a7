"""The form of a training, made from its options: a widget per option, with help and errors."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import streamlit as st

from geoclip_core.data import KNOWN_FEATURES
from geoclip_core.training.options import (
    OptionsError,
    TrainingOptions,
    from_mapping,
    help_texts,
    to_mapping,
)
from ui.theme import markdown_text
from ui.training.runs import OPTIONS

Values = dict[str, Any]
"""Option ("epochs", "bank.folds") -> plain value."""

FIXED = ("recipe", "data", "output", "runs", "resume", "extend")
"""Options that the page decides."""

_PHOTOS = ("views", "framing", "depths", "depth_pooling", "projection")
_LEARNING = (
    *("accumulation", "backbone_learning_rate", "weight_decay", "warmup", "clip_norm"),
    *("patience", "augment", "val_fraction", "seed"),
)
_MACHINE = ("device", "precision", "workers", "cache_dir", "log_every", "save_seconds")
_NO_GRADIENT = (
    *("epochs", "batch_size", "learning_rate", "train_backbone", "dropout", "hidden"),
    *("coordinate_weight", "context.weights.", "context.class_balance", "context.hidden"),
    *(name for name in _LEARNING if name not in ("val_fraction", "seed")),
)
"""Options of training by gradient, which the closed form of a bank does not use."""


@dataclass(frozen=True)
class Layout:
    """The order of a form."""

    rows: tuple[tuple[str, ...], ...]
    """Options that are always in view, row by row; the second of two takes two thirds of a row."""
    sections: tuple[tuple[str, tuple[str, ...]], ...]
    """Titles and options under "More options"; a name that ends in "." is a group of options."""


LAYOUTS = {
    "fit": Layout(
        (
            ("backbone", "train_backbone", "coordinate_head"),
            ("use_context", "features"),
            ("epochs", "batch_size", "learning_rate"),
        ),
        (
            ("What the backbone sees", _PHOTOS),
            ("Coordinate head", ("coordinate_weight", "hidden", "dropout", "geocells.", "bank.")),
            ("Context heads", ("context.class_balance", "context.hidden", "context.join_width")),
            ("Weights of the context losses", ("context.weights.",)),
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


_LABELS = {
    "text": "text tower",
    "hidden": "hidden layer",
    "context.hidden": "shared hidden layer",
}
"""Labels of options whose name alone is not understood."""


@dataclass(frozen=True)
class Option:
    """One option of the tree, described for a widget."""

    name: str
    """"epochs" or "bank.folds"."""
    type: Any
    """Without None."""
    optional: bool
    """Whether it can be None."""
    help: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values to choose from; none if any value of the type will do."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is typing.Literal else ()

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return typing.get_origin(self.type) is tuple

    @property
    def label(self) -> str:
        """The name as people read it."""
        return label(self.name)

    @property
    def flag(self) -> str:
        """The command-line flag, such as ``--bank.folds``."""
        return "--" + self.name.replace("_", "-")


def label(name: str) -> str:
    """Return a name as people read it: "bank.all_rows" is "All rows"."""
    text = _LABELS.get(name) or name.rpartition(".")[2].replace("_", " ")
    return text[:1].upper() + text[1:]


def options_of(cls: type, group: str = "") -> tuple[Option, ...]:
    """Return every option of an options dataclass and of its groups, in the order of definition."""
    found: list[Option] = []
    types = typing.get_type_hints(cls)
    for name, text in help_texts(cls).items():
        parts = typing.get_args(types[name])
        optional = type(None) in parts
        kind = parts[0] if optional else types[name]
        if dataclasses.is_dataclass(kind):
            found += options_of(cast(type, kind), f"{group}{name}.")
        else:
            found.append(Option(f"{group}{name}", kind, optional, text))
    return tuple(found)


def flat(options: object) -> Values:
    """Return the plain values of an options object by their dotted names."""

    def leaves(values: Mapping[str, Any], group: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from leaves(value, f"{group}{name}.")
            else:
                yield group + name, value

    return dict(leaves(to_mapping(options), ""))


def run_values(task: str, config: Mapping[str, Any]) -> Values:
    """Return the options in a run's config.yaml by their present names; as they are if invalid."""
    try:
        return flat(from_mapping(OPTIONS[task], config, ""))
    except (KeyError, OptionsError):
        return dict(config)


def unused(values: Mapping[str, Any]) -> set[str]:
    """Return the options that have no effect given the others; the form leaves them out."""
    names: list[str] = []
    head = values.get("coordinate_head")
    frozen = values["train_backbone"] == "none"
    if head is not None:
        names += [f"{other}." for other in ("geocells", "bank") if other != head]
    if head == "bank":
        names += _NO_GRADIENT
    if values.get("use_context") is False:
        names += ["features", "context.", "bank.context_"]
    if frozen or head == "bank":
        names += ["augment", "backbone_learning_rate"]
    if not values.get("depths"):
        names.append("depth_pooling")
    if str(values.get("backbone", "")).startswith("efficientnet-lite"):
        names.append("projection")
    if "drop_probability" in values:
        names.append("accumulation")  # parts of a step would not see each other's captions
    if values.get("bank.vote") == "cosine":
        names.append("bank.ridges")
    groups = tuple(name for name in names if name.endswith((".", "_")))
    return {name for name in values if name in names or name.startswith(groups)}


@dataclass(frozen=True)
class Checked:
    """The values of a form after validation."""

    values: Values
    """All options as plain values if they are valid, else those of the form."""
    options: TrainingOptions | None
    """None if something is not valid."""
    errors: dict[str, str] = field(default_factory=dict)
    """Option -> what is wrong with it, as a sentence."""


def check(cls: type[TrainingOptions], values: Mapping[str, Any]) -> Checked:
    """Make the options of a form's values, or say what is wrong with which of them."""
    options = {option.name: option for option in options_of(cls)}
    errors = {
        name: f"{options[name].label} must have a value."
        for name, value in values.items()
        if value is None and not options[name].optional
    }
    try:
        built = from_mapping(cls, {k: v for k, v in values.items() if k not in errors}, "")
    except OptionsError as error:
        errors |= {name: _sentence(text, options) for name, text in error.problems.items()}
    if errors:
        return Checked(dict(values), None, errors)
    return Checked(flat(built), built)


def _sentence(text: str, options: Mapping[str, Option]) -> str:
    """Write an error with the labels of the form: "batch_size" is "batch size"."""
    for name, option in options.items():
        if "_" in name or "." in name:
            text = text.replace(name, option.label.lower())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def shown(value: Any) -> str:
    """Return a value as it is written in a form: "0.0002", "climate, month", "not set"."""
    if value is None or value == "":
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


@dataclass(frozen=True)
class Filled:
    """What a form holds."""

    checked: Checked
    changed: dict[str, tuple[Any, Any]]
    """Option -> (the recipe's value, the form's) where they differ."""
    elsewhere: str
    """What is wrong with options that have no widget, as sentences."""


COLUMNS = 3


def options_form(
    cls: type[TrainingOptions],
    base: Mapping[str, Any],
    key: str,
    layout: Layout,
    *,
    fixed: Mapping[str, Any],
    suggestions: Mapping[str, Sequence[str]],
) -> Filled:
    """Draw the form and validate its values.

    `base` has the recipe's value of every option; an option that differs from it says so. A form of
    another `key` starts from `base` again. The form leaves out the `fixed` options, which the page
    decides. `suggestions` are values to choose from, besides typing one.
    """
    options = [option for option in options_of(cls) if option.name not in fixed]
    held = {option.name: _held(option, base[option.name], key) for option in options}
    left_out = unused(held)
    defaults = flat(cls())
    values = {**held, **{name: defaults[name] for name in left_out}}
    checked = check(cls, {**values, **fixed})
    drawn = {option.name: option for option in options if option.name not in left_out}
    changed = {
        name: (base[name], checked.values[name])
        for name in drawn
        if checked.values[name] != base[name]
    }

    def draw(option: Option) -> None:
        note = f"recipe: {_cut(shown(base[option.name]))}" if option.name in changed else ""
        _widget(option, base[option.name], key, note, suggestions.get(option.name, ()))
        if option.name in checked.errors:
            st.markdown(f":red[{markdown_text(checked.errors[option.name])}]")

    rest = dict(drawn)
    for names in layout.rows:
        row = [rest.pop(name) for name in names if name in rest]
        if row:
            _row(row, [1, 2] if len(row) == 2 else COLUMNS, draw)
    wrong = [option.label for name, option in rest.items() if name in checked.errors]
    if rest:
        # The title never changes: with another one, the browser would close the expander.
        with st.expander("More options", icon=":material/tune:", key=f"{key}:more"):
            for title, section in _sections(layout, rest):
                st.markdown(f"**{title}**")
                for start in range(0, len(section), COLUMNS):
                    _row(section[start : start + COLUMNS], COLUMNS, draw)
        if wrong:
            st.markdown(f":red[Not valid under “More options”: {', '.join(wrong)}.]")
    elsewhere = " ".join(text for name, text in checked.errors.items() if name not in drawn)
    return Filled(checked, changed, elsewhere)


def _sections(layout: Layout, options: dict[str, Option]) -> Iterator[tuple[str, list[Option]]]:
    """Yield titles and options; what the layout does not name comes last."""
    rest = dict(options)
    for title, names in (*layout.sections, ("Other", ("",))):
        groups = tuple(name for name in names if name.endswith(".") or not name)
        section = [o for n, o in rest.items() if n in names or (groups and n.startswith(groups))]
        for option in section:
            del rest[option.name]
        if section:
            yield title, section


def _row(options: Sequence[Option], widths: Any, draw: Callable[[Option], None]) -> None:
    columns = st.columns(widths, vertical_alignment="top")
    for column, option in zip(columns, options, strict=False):
        with column:
            draw(option)


def _cut(text: str, length: int = 18) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip(' ,')}…"


def _held(option: Option, base: Any, key: str) -> Any:
    """Return the plain value that the form now holds for an option."""
    value = st.session_state.get(widget_key(key, option.name), base)
    if not isinstance(value, str):
        return value
    value = value.strip()
    if value == (shown(base) if base else ""):
        return base
    if option.is_list:
        return [part.strip() for part in value.split(",") if part.strip()]
    return None if option.optional and not value else value


def widget_key(key: str, name: str) -> str:
    """Return the session's key of an option's widget."""
    return f"{key}:{name}"


def _widget(option: Option, base: Any, key: str, note: str, known: Sequence[str]) -> None:
    common: dict[str, Any] = {
        "label": option.label + (f" :orange-badge[{markdown_text(note)}]" if note else ""),
        "key": widget_key(key, option.name),
        "help": f"`{option.flag}` {markdown_text(option.help)}",
        "persist_state": "session",
    }
    if option.type is bool:
        # A switch is drawn where the fields beside it are, below the line of their labels.
        st.space("small")
        _begin_with(bool(base), common)
        st.toggle(**common)
    elif option.choices or (known and not option.is_list):
        choices = list(option.choices or known)
        choices += [base] if base not in choices else []
        _begin_with(base, common)
        st.selectbox(options=choices, accept_new_options=not option.choices, **common)
    elif option.type is int:
        st.number_input(value=base, step=1, placeholder="not set", **common)
    elif option.type is float:
        # A step moves the leading digit: 0.0001 for a rate of 0.0002.
        step = 10.0 ** math.floor(math.log10(abs(base))) if base else 0.1
        st.number_input(value=base, step=step, format="%g", placeholder="not set", **common)
    elif option.name == "features":
        _begin_with(base, common)
        st.multiselect(options=KNOWN_FEATURES, wrap=True, **common)
    else:
        text = shown(base) if base else ""
        _begin_with(text, common)
        st.text_input(placeholder=None if text else "not set", **common)


def _begin_with(value: Any, common: Mapping[str, Any]) -> None:
    # Not as the widget's default: a value that another page has set would then be a second one.
    st.session_state.setdefault(common["key"], value)
