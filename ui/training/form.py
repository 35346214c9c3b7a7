"""A form made from an options dataclass: one widget an option, with its help and its error."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from geoclip_core.data.vocabulary import KNOWN_FEATURES
from train.options import Option, describe
from ui.theme import markdown_text
from ui.training.layout import Layout, defaults, in_rows, in_sections, irrelevant
from ui.training.values import (
    Checked,
    changes,
    check,
    comparable,
    is_list,
    is_mapping,
    label,
    plain,
    shown,
)

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
