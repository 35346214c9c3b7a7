"""What a visitor asks on the Map page: check a claimed place, and say what is already known."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from geoclip_core.data.vocabulary import MONTHS
from geoclip_core.earth.climate import climate_classes
from geoclip_core.earth.gazetteer import Gazetteer, NamedPlace, country_name
from geoclip_core.errors import HintError, PlaceError
from geoclip_core.prediction import Failure, Prediction
from ui.models import Given, ServedModel
from ui.page import choose
from ui.theme import markdown_text

_CLAIM = "claim"
_HINTS = ("country", "state", "climate", "month")
_NOT_KNOWN = "Not known"
_MOST_CHARACTERS = 200


def claim_field() -> NamedPlace | None:
    """Draw the field for a claimed place, with suggestions; return the place, or None."""
    return place_field(
        "Check a claim",
        _CLAIM,
        "Asks whether the photo could have been taken there. Town, county, state or country, "
        "then larger places after commas; or latitude, longitude. Nothing is looked up online.",
    )


def place_field(label: str, key: str, explanation: str) -> NamedPlace | None:
    """Draw a field for a place, with suggestions if several are meant; return the place, or None.

    ``key`` is that of the typed text in the session.
    """
    text = st.text_input(
        label,
        key=key,
        max_chars=_MOST_CHARACTERS,
        placeholder="A place, such as Aleppo, Syria, or 36.2, 37.16",
        persist_state="session",
        help=explanation,
    ).strip()
    if not text:
        return None
    try:
        return Gazetteer.load().find(text)
    except PlaceError as error:
        if not error.suggestions:
            st.caption(f":material/search_off: {markdown_text(sentence(error))}")
            return None
        suggestions = f"suggestions for {text}"
        st.radio(  # pills would cut long names off on phones
            f"Which place is {markdown_text(text)}?",
            error.suggestions,
            index=None,
            key=suggestions,
            format_func=markdown_text,
            on_change=_take_suggestion,
            args=(key, suggestions),
        )
        return None


def _take_suggestion(key: str, suggestions: str) -> None:
    chosen = st.session_state.get(suggestions)
    if chosen:
        st.session_state[key] = chosen


def with_claims(
    rows: Sequence[Prediction | Failure | None], place: NamedPlace | None
) -> list[Prediction | Failure | None]:
    """Return predictions with the claim checked, so that cards, map and downloads have it."""
    if place is None:
        return list(rows)
    return [
        replace(row, claim=row.check(place)) if isinstance(row, Prediction) else row for row in rows
    ]


def hint_fields(model: ServedModel) -> Given:
    """Draw the fields for what is known about all photos; return it for ``ServedModel.locate``."""
    known = {key: st.session_state.get(f"hint {key}") for key in _HINTS}
    count = sum(value is not None for value in known.values())
    title = "Say what you know" + (f" ({count} given)" if count else "")
    with st.expander(title, icon=":material/lightbulb:", expanded=bool(count)):
        st.caption(
            "The model takes it for certain: it replaces what the model reads in the photo, and "
            "places on the map that do not agree with it are left out. It holds for all photos."
        )
        with st.container(horizontal=True):
            country = _choice("country", "Country", _countries())
            _choice("state", "State or region", _states(country) if country else {})
            _choice("climate", "Climate", _climates())
            reads_month = "month" in model.locator.features
            _choice("month", "Month", {name: name for name in MONTHS} if reads_month else {})
        if not reads_month:
            st.caption("This model does not read the month, so a month would change nothing.")
        if count:
            st.button(
                "Forget all of it", icon=":material/undo:", type="tertiary", on_click=_forget_hints
            )
    given = {key: value for key in _HINTS if (value := st.session_state.get(f"hint {key}"))}
    return tuple((key, str(value)) for key, value in given.items())


def _choice(feature: str, label: str, options: dict[str, str]) -> str | None:
    """Draw a select box of value -> name, and "Not known"."""
    values: list[str | None] = [None, *options]
    return choose(
        label,
        values,
        f"hint {feature}",
        format_func=lambda value: _NOT_KNOWN if value is None else options[value],
        disabled=not options,
        placeholder=_NOT_KNOWN,
        width=190,
    )


def _forget_hints() -> None:
    for feature in _HINTS:
        st.session_state[f"hint {feature}"] = None


@st.cache_data(show_spinner=False)
def _countries() -> dict[str, str]:
    codes = Gazetteer.load().units("country").keys
    return dict(sorted(((code, country_name(code)) for code in codes), key=lambda item: item[1]))


@st.cache_data(show_spinner=False)
def _states(country: str) -> dict[str, str]:
    gazetteer = Gazetteer.load()
    names = [
        gazetteer.unit_name("state", index)
        for index, key in enumerate(gazetteer.units("state").keys)
        if key.endswith(f"_{country}")
    ]
    larger = f", {country_name(country)}"
    return {name: name.removesuffix(larger) for name in sorted(names)}


@st.cache_data(show_spinner=False)
def _climates() -> dict[str, str]:
    return {one.symbol: f"{one.symbol} · {one.label}" for one in climate_classes()[1:]}


def usable(model: ServedModel, given: Given) -> Given:
    """Return what is known if the model and the map can use it, else say why not and return ()."""
    try:
        model.locator.check_hints(dict(given) or None)
    except (HintError, PlaceError) as error:
        st.error(markdown_text(sentence(error)), icon=":material/error:")
        return ()
    return given


def sentence(error: ValueError) -> str:
    """Return an error's text as a sentence: with a capital letter and a full stop."""
    text = str(error).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")
