"""The panels of the Evaluation page that show numbers and distributions."""

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.loops.baselines import baseline_errors, baseline_title
from ui.charts import show_chart
from ui.evaluation import errors, groups, headline
from ui.evaluation.data import Filters, Source, View, rows, table
from ui.evaluation.layout import download, note_and_downloads, plain_markdown, wrapping_columns
from ui.evaluation.tables import differences_html, headline_html
from ui.theme import palette

_FEW = 30


@st.cache_data(max_entries=64, show_spinner=False)
def _headline(source: Source, main: Source, filters: Filters) -> list[headline.HeadlineRow]:
    frame = rows(source, main, filters)
    kind = "model" if source == main else "other"
    own = headline.model_row(frame, source.model, kind)
    return [own, *headline.baseline_rows(frame)] if source == main else [own]


@st.cache_data(max_entries=64, show_spinner=False)
def _differences(view: View) -> pd.DataFrame:
    """The model minus each source beside it and each of its baselines."""
    frame, names = view.rows(), view.names()
    others = {}
    for source in view.beside:
        other = view.rows(source).set_index("id")["error_km"]
        others[names[source]] = other.reindex(frame["id"]).to_numpy(np.float64)
    for name, error_km in baseline_errors(frame).items():
        others[baseline_title(name).capitalize()] = error_km
    return headline.difference_rows(frame, others)


def headline_panel(view: View) -> None:
    """The headline table, and the paired differences from what stands beside it."""
    names = view.names()
    lines = []
    for source in view.sources:
        found = _headline(source, view.main, view.filters)
        lines.append(found[0].renamed(names[source]))
    lines += _headline(view.main, view.main, view.filters)[1:]
    st.html(headline_html(lines, palette()))
    if lines[0].n < _FEW:
        st.caption(f"Only {lines[0].n} photos: the intervals say how little that tells.")
    differences = _differences(view)
    files = [("Table (CSV)", lambda: headline.headline_frame(lines), "headline.csv")]
    if len(differences):
        files.append(("Differences (CSV)", lambda: differences, "differences.csv"))
    note_and_downloads(
        "Small figures: 95 % intervals. GeoScore is 5000·exp(−d / 1492.7 km), averaged; shares are "
        "percentages. Grey lines are baselines that need no model, made from training photos.",
        *files,
    )
    if differences.empty:
        return
    with st.expander(_difference_words(differences, view)):
        st.html(differences_html(differences, names[view.main], palette()))
        st.caption(
            "Paired differences with 95 % intervals: the same photos are drawn for both, so that "
            "their difficulty cancels out. “Not told apart” means that the interval holds zero."
        )


def _difference_words(differences: pd.DataFrame, view: View) -> str:
    """What the expander says while it is closed: the GeoScore gained over each model beside it."""
    names = view.names()
    scores = differences[differences["measure"] == "geoscore"].set_index("other")
    told = [
        f"{scores.loc[names[source], 'difference']:+,.0f} GeoScore over "
        f"{plain_markdown(names[source])} ({scores.loc[names[source], 'verdict']})"
        for source in view.beside
        if names[source] in scores.index
    ]
    start = f"**{plain_markdown(names[view.main])} against the others, photo by photo**"
    return " · ".join([start, *told])


@st.cache_data(max_entries=64, show_spinner=False)
def _bins(source: Source, main: Source, filters: Filters) -> tuple[pd.DataFrame, pd.DataFrame]:
    error_km = rows(source, main, filters)["error_km"].to_numpy(np.float64)
    return errors.error_bins(error_km), errors.cumulative_curve(error_km)


@st.cache_data(max_entries=64, show_spinner=False)
def _baseline_curves(main: Source, filters: Filters) -> dict[str, pd.DataFrame]:
    found = baseline_errors(rows(main, main, filters))
    return {
        baseline_title(name).capitalize(): errors.cumulative_curve(error_km[np.isfinite(error_km)])
        for name, error_km in found.items()
    }


def errors_panel(view: View) -> None:
    """Histogram and cumulative curve of the errors."""
    names = view.names()
    made = {names[s]: _bins(s, view.main, view.filters) for s in view.sources}
    bins = {name: pair[0] for name, pair in made.items()}
    curves = {name: pair[1] for name, pair in made.items()}
    baselines = _baseline_curves(view.main, view.filters)
    left, right = wrapping_columns(2, "errors", 340)
    with left:
        st.subheader("How large the errors are", anchor=False)
        show_chart(errors.histogram_figure(bins, palette()), "histogram", height=380)
        download("Histogram (CSV)", lambda: stacked(bins), "error_histogram.csv")
    with right:
        st.subheader("Share of photos within a distance", anchor=False)
        show_chart(errors.cumulative_figure(curves, baselines, palette()), "cumulative", height=380)
        download("Curve (CSV)", lambda: stacked(curves | baselines), "error_curve.csv")


@st.cache_data(max_entries=64, show_spinner=False)
def _grouped(source: Source, main: Source, filters: Filters, column: str) -> pd.DataFrame:
    frame = rows(source, main, filters)
    truth = frame
    if column not in frame:  # an imported table knows what the main one knows
        truth = rows(main, main, filters).set_index("id").reindex(frame["id"]).reset_index()
    found = groups.group_errors(frame, groups.group_keys(truth, column))
    if column in ("radius_50_km", "month"):
        found = found.sort_values("group")
    return found.reset_index(drop=True)


def groups_panel(view: View) -> None:
    """Errors by place, climate, month and stated radius."""
    frame = view.rows()
    known = [name for name, column in groups.GROUPS.items() if _has_values(frame, column)]
    if not known:
        st.info("These predictions do not say where or when the photos were taken in words.")
        return
    kind = st.segmented_control(
        "Errors by", known, default=known[0], key="evaluation groups", required=True
    )
    column = groups.GROUPS[kind]
    found = _grouped(view.main, view.main, view.filters, column)
    shown = found.head(groups.MOST_GROUPS)
    if kind in ("Country", "State"):
        shown = shown.sort_values("median")
    names = view.names()
    others = {
        names[source]: _grouped(source, view.main, view.filters, column)
        for source in view.beside
        if column != "radius_50_km"
    }
    swatches = groups.climate_swatches(column, shown["group"])
    labels = [groups.group_name(column, key) for key in shown["group"]]
    show_chart(groups.group_figure(shown, labels, palette(), swatches, others), f"groups {kind}")
    words = (
        "Dots are medians, thick lines the middle half of the photos, thin ones the middle 80 %."
    )
    if others:
        words += " Open diamonds are the medians of the other models."
    if len(found) > len(shown):
        words += f" The {len(shown)} commonest of {len(found)} are shown; the download has all."
    file = f"errors_by_{kind.lower().replace(' ', '_')}.csv"
    note_and_downloads(words, ("Groups (CSV)", partial(_named_groups, found, column), file))


def _named_groups(found: pd.DataFrame, column: str) -> pd.DataFrame:
    return found.assign(group=[groups.group_name(column, key) for key in found["group"]])


def _has_values(frame: pd.DataFrame, column: str) -> bool:
    if column not in frame:
        return False
    values = frame[column]
    if column in ("climate", "month"):
        return bool((values >= 0).any())
    return values.nunique() > (1 if column == "country_key" else 0)


def stacked(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of several models as one, with the model in a column."""
    return pd.concat([t.assign(model=name) for name, t in tables.items()], ignore_index=True)


def count_line(view: View) -> str:
    """How many photos the filters keep, of what, and by whom they were answered."""
    everything, kept = len(table(view.main, view.main)), len(view.rows())
    words = f"**{kept:,}** of {everything:,} photos" if kept < everything else f"{kept:,} photos"
    answered = [
        f"{name} answered {len(view.rows(source)):,}"
        for source, name in view.names().items()
        if source != view.main and len(view.rows(source)) < kept
    ]
    told = [view.main.data, view.main.note] if view.main.note else [view.main.data]
    return " · ".join([words, *answered, *told])
