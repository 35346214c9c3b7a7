"""What the Evaluation page shows: the choices in its sidebar and the filters above its panels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.data.vocabulary import MONTHS
from geoclip_core.earth.climate import climate_names
from geoclip_core.earth.gazetteer import country_name
from geoclip_core.loops.predictions import PredictionsError
from ui.evaluation.data import (
    Filters,
    Source,
    import_csv,
    place_name,
    source_names,
    table,
)
from ui.evaluation.layout import wrapping_columns
from ui.session import choose, kept
from ui.theme import ERROR_LIMIT_KM, kilometres

MOST_BESIDE = 3
_STEPS_KM = (0, 1, 5, 25, 50, 100, 200, 400, 750, 1000, 1500, 2500, 5000, 10_000, ERROR_LIMIT_KM)
_MULTI = ("countries", "states", "climates", "months")
_RANGES = ("error", "radius")


def choose_sources(sources: Sequence[Source]) -> tuple[Source, list[Source]]:
    """Dataset, model, and what stands beside it, in the sidebar."""
    data = choose("Dataset", list(dict.fromkeys(s.data for s in sources)), "evaluation dataset")
    on_data = [source for source in sources if source.data == data]
    names = source_names(on_data)
    main = choose("Model", on_data, "evaluation model", format_func=names.get)
    others = [source for source in on_data if source != main]
    imported: list[Source] = kept("imported predictions", list)
    others += [source for source in imported if source.data == data]
    names |= source_names(others)
    if "evaluation beside" not in st.session_state and main.use_context:
        # What context is worth is the first thing to ask of a model that uses it.
        plain = [source for source in others if source.use_context is False]
        st.session_state["evaluation beside"] = plain[:1]
    beside = _multiselect(
        "Beside it",
        others,
        "evaluation beside",
        format_func=lambda source: names.get(source, source.model),
        max_selections=MOST_BESIDE,
        placeholder="Other models on these photos" if others else "No other model yet",
        help="Measured on the photos that both have answered, so that differences are paired.",
    )
    with st.expander("Predictions of another system"):
        file = st.file_uploader(
            "A CSV with the columns id, latitude and longitude", type="csv", key="evaluation csv"
        )
        if file is not None:
            _take(file.name, file.getvalue(), main, imported)
    return main, [source for source in beside if _usable(source, main)]


def _take(name: str, content: bytes, main: Source, imported: list[Source]) -> None:
    try:
        source = import_csv(name, content, main)
        rows = table(source, main)
    except PredictionsError as error:
        st.error(str(error))
        return
    answered = int(rows["error_km"].notna().sum())
    if source not in imported:
        imported.append(source)
        chosen = st.session_state.get("evaluation beside", [])
        if len(chosen) < MOST_BESIDE:
            st.session_state["evaluation beside next"] = [*chosen, source]
        st.rerun()
    st.caption(f"{source.model}: {answered:,} of {len(rows):,} photos answered.")


def _usable(source: Source, main: Source) -> bool:
    try:
        table(source, main)
    except PredictionsError as error:
        st.sidebar.error(f"{source.model}: {error}")
        return False
    return True


def choose_filters(frame: pd.DataFrame) -> Filters:
    """Filters of the rows, above the panels that they all change."""
    columns = wrapping_columns([3, 2, 2, 3, 3], "filters", 130)
    with columns[0]:
        countries = frame["country_key"].nunique() if "country_key" in frame else 0
        if countries > 1:
            place = _multiselect(
                "Country",
                _values(frame, "country_key"),
                "filter countries",
                format_func=lambda key: country_name(str(key)),
                placeholder="All countries",
            )
        else:
            place = _multiselect(
                "State",
                _values(frame, "state_key"),
                "filter states",
                format_func=lambda key: place_name(key).removesuffix(", US"),
                placeholder="All states",
            )
    with columns[1]:
        climates = _multiselect(
            "Climate",
            [int(i) for i in _values(frame, "climate") if i >= 0],
            "filter climates",
            format_func=lambda index: climate_names()[index].symbol,
            placeholder="All climates",
        )
    with columns[2]:
        months = _multiselect(
            "Month",
            sorted(int(i) for i in _values(frame, "month") if i >= 0),
            "filter months",
            format_func=lambda index: MONTHS[index],
            placeholder="All months",
            empty="No capture dates",
        )
    with columns[3]:
        error = _range("Error", "filter error")
    with columns[4]:
        stated = bool(frame["radius_50_km"].notna().any())
        radius = _range(
            "Confidence: 50 % radius",
            "filter radius",
            disabled=not stated,
            help="The radius that the model says holds the truth half of the time.",
        )
    return Filters(
        countries=tuple(place) if countries > 1 else (),
        states=tuple(place) if countries <= 1 else (),
        climates=tuple(climates),
        months=tuple(months),
        error_km=error,
        radius_km=radius if stated else (0.0, np.inf),
    )


def clear_filters() -> None:
    """Forget every filter; a callback."""
    for name in (*_MULTI, *_RANGES):
        st.session_state.pop(f"filter {name}", None)


def _values(frame: pd.DataFrame, column: str) -> list[Any]:
    """The values of a column, the commonest first."""
    return frame[column].dropna().value_counts().index.tolist() if column in frame else []


def _range(label: str, key: str, **options: Any) -> tuple[float, float]:
    low, high = st.select_slider(
        label,
        _STEPS_KM,
        value=st.session_state.get(key, (_STEPS_KM[0], _STEPS_KM[-1])),
        format_func=lambda km: "any" if km == ERROR_LIMIT_KM else kilometres(km) if km else "0",
        key=key,
        persist_state="session",
        **options,
    )
    return float(low), float(high) if high < ERROR_LIMIT_KM else np.inf


def _multiselect(
    label: str, values: Sequence[Any], key: str, empty: str | None = None, **options: Any
) -> list[Any]:
    """A multiselect that lasts, and forgets what is no longer offered."""
    if f"{key} next" in st.session_state:
        st.session_state[key] = st.session_state.pop(f"{key} next")
    if key in st.session_state:
        st.session_state[key] = [value for value in st.session_state[key] if value in values]
    if not values:
        options["placeholder"] = empty or options.get("placeholder", "Nothing to choose from")
    return st.multiselect(
        label, values, key=key, disabled=not values, persist_state="session", **options
    )
