"""The panels of the Evaluation page that show tables and charts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.checks import checked
from geoclip_core.errors import FileError
from geoclip_core.evaluation import figures, intervals, metrics, radii
from geoclip_core.evaluation.predictions import head_features
from geoclip_core.evaluation.report import (
    RESAMPLES,
    HeadlineRow,
    ReportTable,
    difference_rows,
    differences_html,
    headline_html,
    headline_rows,
    repeats_note,
    report_html,
)
from geoclip_core.files import read_json, safe_name
from train.benchmarks.measure import FULL_ROWS, ROOT
from train.benchmarks.rehearsal import Rehearsal
from train.evaluation import report_tables
from ui.evaluation.sources import Filters, Source, View, rows, table
from ui.page import STATIC, download, note_and_downloads, show_chart, wrapping_columns
from ui.theme import duration, kilometres, markdown_text, palette

_FEW = 30
"""With fewer photos the page says that the intervals are wide."""
_MOST_CLASSES = 30
"""Classes in a confusion matrix; rarer ones are summed up."""
_MOST_PAIRS = 18

_TRUST_CHARTS = (
    (
        "coverage",
        "Is the truth inside the radius?",
        figures.coverage_figure,
        "Dots: the 50 % radius; rings: the 90 % radius, each for a tenth of the photos. "
        "Calibrated radii stay on the dotted lines, small or large.",
        "Coverage (CSV)",
        "coverage.csv",
    ),
    (
        "scales",
        "How far off are the radii?",
        figures.scales_figure,
        "Thick: the 50 % radius; thin: the 90 % radius. A calibrated radius crosses its dotted "
        "line at 1×; one that crosses to the right of 1× is too small.",
        "Scaled radii (CSV)",
        "scaled_radii.csv",
    ),
    (
        "risk",
        "Are small radii right?",
        figures.risk_figure,
        "The median error if only the photos with the smallest radii are answered. A rising "
        "curve means that a small radius predicts a small error.",
        "Risk (CSV)",
        "risk_coverage.csv",
    ),
)
"""Table of ``_radii``, title, figure, caption, label and file of the download."""
_REHEARSAL = ROOT / "docs" / "measured" / "rehearsal.json"
_OSV_MINI_COMMANDS = """python -m train download osv-mini --output datasets/osv-mini
python -m train fit --recipe osv-mini --data datasets/osv-mini --output runs/osv-mini
python -m train evaluate --model runs/osv-mini --data datasets/osv-mini"""
_STEPS = {
    "doctor": "check",
    "embed": "embed the photos, once",
    "fit": "train",
    "evaluate": "evaluate",
    "report": "write a report",
}
"""Step of the rehearsal -> what it does; drawing the photos is not shown."""


def count_line(view: View) -> str:
    """Return how many photos the filters keep, how many others answered, and the dataset."""
    everything, kept = len(table(view.main, view.main)), len(view.rows())
    parts = [f"**{kept:,}** of {everything:,} photos" if kept < everything else f"{kept:,} photos"]
    parts += [
        f"{markdown_text(name)} answered {len(view.rows(source)):,}"
        for source, name in view.names().items()
        if source != view.main and len(view.rows(source)) < kept
    ]
    parts += [markdown_text(text) for text in (view.main.data, view.main.note) if text]
    return " · ".join(parts)


@st.cache_data(max_entries=64, show_spinner=False)
def _headline(source: Source, main: Source, filters: Filters) -> list[HeadlineRow]:
    frame = rows(source, main, filters)
    if source == main:
        return headline_rows(frame, source.model, "model", source.file)
    return headline_rows(frame, source.model, "other", source.file)[:1]


@st.cache_data(max_entries=64, show_spinner=False)
def _differences(view: View) -> pd.DataFrame:
    """Return the differences of the main source from each compared one and each baseline."""
    frame, names = view.rows(), view.names()
    others = {}
    for source in view.compared:
        other = view.rows(source).set_index("id")["error_km"]
        others[names[source]] = other.reindex(frame["id"]).to_numpy(np.float64)
    return difference_rows(frame, others)


def _headline_frame(lines: Sequence[HeadlineRow]) -> pd.DataFrame:
    """Return the table to download; the interval of a number is in ``_low`` and ``_high``."""
    records = []
    for line in lines:
        record: dict[str, Any] = {"name": line.name, "kind": line.kind, "n": line.measured.n}
        for path, value in line.measured.values.items():
            low, high = line.measured.bounds[path]
            key = path.replace(":", "_")
            record |= {key: value, f"{key}_low": low, f"{key}_high": high}
        records.append(record)
    return pd.DataFrame(records)


def headline_panel(view: View) -> None:
    """Show the headline table, and the paired differences from other models and baselines."""
    names = view.names()
    lines = [
        replace(_headline(source, view.main, view.filters)[0], name=names[source])
        for source in view.sources
    ]
    lines += _headline(view.main, view.main, view.filters)[1:]
    st.html(headline_html(lines, palette()))
    if (n := lines[0].measured.n) < _FEW:
        st.caption(f"Only {n} photos: the intervals are wide.")
    differences = _differences(view)
    files: list[tuple[str, Callable[[], pd.DataFrame], str]] = [
        ("Table (CSV)", lambda: _headline_frame(lines), "headline.csv")
    ]
    if len(differences):
        files.append(("Differences (CSV)", lambda: differences, "differences.csv"))
    note_and_downloads(
        "Small figures: 95 % intervals. GeoScore is 5000·exp(−d / 1492.7 km), averaged; shares are "
        "percentages. Grey lines are baselines: they use the training photos but no model."
        + repeats_note(lines),
        *files,
    )
    if differences.empty:
        return
    with st.expander(_difference_label(differences, view)):
        st.html(differences_html(differences, names[view.main], palette()))
        st.caption(
            "Paired differences with 95 % intervals: both are measured on the same resampled "
            "photos, so their difficulty cancels out. “Within chance”: the interval includes zero."
        )


def report_button(view: View) -> None:
    """Draw a button that writes the report of ``python -m train report``, then its download."""
    key = f"report {[(source.path, source.changed) for source in view.sources]}"
    if st.session_state.get("report", ("", ""))[0] == key:
        st.download_button(
            "Download the report",
            st.session_state["report"][1].encode("utf-8"),
            file_name=f"{safe_name(view.main.model) or 'model'}-report.html",
            mime="text/html",
            icon=":material/download:",
            on_click="ignore",
        )
        return
    if not st.button(
        "Report",
        icon=":material/description:",
        help="One HTML file with the table, charts and maps of all photos, without filters and "
        "without the photos themselves. It opens without the internet.",
    ):
        return
    bar = st.progress(0.0, "Writing the report")

    def show(done: int, parts: int) -> None:
        bar.progress(done / parts, "Writing the report")

    try:
        written = [str(source.file) for source in view.sources if source.file is not None]
        tables = [*report_tables(written), *_imported_tables(view)]
        text = report_html(tables, STATIC, root="", progress=show)
    except ValueError as error:
        bar.empty()
        st.error(markdown_text(str(error)))
        return
    st.session_state["report"] = (key, text)
    st.rerun()


def _imported_tables(view: View) -> list[ReportTable]:
    """Return the tables of the compared CSVs, which have no file."""
    names, tables = view.names(), []
    for source in view.sources:
        if source.file is None:
            frame = table(source, view.main)
            frame = frame[frame["error_km"].notna()].reset_index(drop=True)
            about = {"model": source.model, "dataset": source.dataset, "split": source.split}
            tables.append(ReportTable(names[source], frame, about | {"note": source.note}))
    return tables


def _difference_label(differences: pd.DataFrame, view: View) -> str:
    """Return the label of the expander: the difference in GeoScore from each compared model."""
    names = view.names()
    scores = differences[differences["measure"] == "geoscore"]
    parts = [f"**{markdown_text(names[view.main])} against the others, photo by photo**"]
    compared = {names[source] for source in view.compared}
    for name, gain, verdict in scores[["other", "difference", "verdict"]].to_numpy(object):
        if name in compared:
            way = "higher" if gain > 0 else "lower"
            parts.append(f"{abs(gain):,.0f} GeoScore {way} than {markdown_text(name)} ({verdict})")
    return " · ".join(parts)


@st.cache_data(max_entries=64, show_spinner=False)
def _bins(source: Source, main: Source, filters: Filters) -> tuple[pd.DataFrame, pd.DataFrame]:
    error_km = rows(source, main, filters)["error_km"].to_numpy(np.float64)
    return metrics.error_bins(error_km), metrics.cumulative_curve(error_km)


@st.cache_data(max_entries=64, show_spinner=False)
def _baseline_curves(main: Source, filters: Filters) -> dict[str, pd.DataFrame]:
    return metrics.baseline_curves(rows(main, main, filters))


def errors_panel(view: View) -> None:
    """Show a histogram and the cumulative curve of the errors."""
    names = view.names()
    binned = {names[s]: _bins(s, view.main, view.filters) for s in view.sources}
    bins = {name: pair[0] for name, pair in binned.items()}
    curves = {name: pair[1] for name, pair in binned.items()}
    baselines = _baseline_curves(view.main, view.filters)
    left, right = wrapping_columns(2, "errors", 340)
    with left:
        st.subheader("How large the errors are", anchor=False)
        show_chart(figures.histogram_figure(bins, palette()), "histogram", height=380)
        download("Histogram (CSV)", lambda: _stacked(bins), "error_histogram.csv")
    with right:
        st.subheader("Share of photos within a distance", anchor=False)
        show_chart(
            figures.cumulative_figure(curves, baselines, palette()), "cumulative", height=380
        )
        download("Curve (CSV)", lambda: _stacked(curves | baselines), "error_curve.csv")


@st.cache_data(max_entries=64, show_spinner=False)
def _grouped(source: Source, main: Source, filters: Filters, column: str) -> pd.DataFrame:
    frame = rows(source, main, filters)
    truth = frame
    if column not in frame:  # an imported table has no truths of its own
        truth = rows(main, main, filters).set_index("id").reindex(frame["id"]).reset_index()
    return metrics.errors_by(frame, column, truth)


def groups_panel(view: View) -> None:
    """Show errors by place, climate, month and stated radius."""
    frame = view.rows()
    known = [name for name, column in metrics.GROUPS.items() if _has_values(frame, column)]
    if not known:
        st.info("These predictions do not name the places, climates or months of the photos.")
        return
    kind = st.segmented_control(
        "Errors by", known, default=known[0], key="evaluation groups", required=True
    )
    column = metrics.GROUPS[kind]
    found = _grouped(view.main, view.main, view.filters, column)
    shown = found.head(figures.MOST_GROUPS)
    if kind in ("Country", "State"):
        shown = shown.sort_values("median")
    names = view.names()
    others = {
        names[source]: _grouped(source, view.main, view.filters, column)
        for source in view.compared
        if column != "radius_50_km"
    }
    show_chart(figures.group_figure(shown, column, palette(), others), f"groups {kind}")
    note = "Dots are medians, thick lines the middle half of the photos, thin ones the middle 80 %."
    if others:
        note += " Open diamonds are the medians of the other models."
    if len(found) > len(shown):
        note += f" The {len(shown)} largest of {len(found)} are shown; the download has all."
    file = f"errors_by_{kind.lower().replace(' ', '_')}.csv"
    note_and_downloads(note, ("Groups (CSV)", partial(_named_groups, found, column), file))


def _named_groups(found: pd.DataFrame, column: str) -> pd.DataFrame:
    return found.assign(group=[metrics.group_name(column, key) for key in found["group"]])


def _has_values(frame: pd.DataFrame, column: str) -> bool:
    if column not in frame:
        return False
    values = frame[column]
    if column in ("climate", "month"):
        return bool((values >= 0).any())
    return values.nunique() > (1 if column == "country_key" else 0)


@st.cache_data(max_entries=64, show_spinner=False)
def _heads(source: Source, main: Source, filters: Filters) -> pd.DataFrame:
    """Return ``metrics.head_metrics`` of each head and the interval of its top-1 accuracy."""
    frame = rows(source, main, filters)
    features = head_features(frame)
    if not features:
        return pd.DataFrame()
    bounds = intervals.mean_intervals(
        np.stack([metrics.rank_hits(frame, feature)["top1"] for feature in features], axis=1),
        shares=[True] * len(features),
        resamples=RESAMPLES,
        groups=metrics.sequences(frame),
    )
    return pd.DataFrame(
        {
            "head": feature,
            **metrics.head_metrics(frame, feature),
            "top1_low": low,
            "top1_high": high,
        }
        for feature, (low, high) in zip(features, bounds, strict=True)
    )


@st.cache_data(max_entries=64, show_spinner=False)
def _confusion(
    source: Source, main: Source, filters: Filters, feature: str
) -> tuple[pd.DataFrame, int, pd.DataFrame]:
    frame = rows(source, main, filters)
    counts, dropped = metrics.confusion_counts(frame, feature, _MOST_CLASSES)
    return counts, dropped, metrics.confused_pairs(frame, feature, 200)


@st.cache_data(max_entries=64, show_spinner=False)
def _head_curve(source: Source, main: Source, filters: Filters, feature: str) -> pd.DataFrame:
    return metrics.head_reliability(rows(source, main, filters), feature)


def heads_panel(view: View) -> None:
    """Show accuracy, confusions and reliability of the context heads."""
    numbers = _heads(view.main, view.main, view.filters)
    if numbers.empty:
        st.info(
            f"{markdown_text(view.main.model)} was evaluated without context heads, so it has no "
            "answers to compare with the true climate, month or place. Train with `--use-context` "
            "to get them."
        )
        return
    st.dataframe(
        _shown_heads(numbers),
        hide_index=True,
        column_config={
            column: st.column_config.NumberColumn(format="percent")
            for column in ("Top-1", "Top-3", "Top-5", "Most frequent class", "Calibration error")
        },
    )
    note_and_downloads(
        "Photos without a known truth are left out. “Unseen”: photos whose class does not occur in "
        "training, so that no answer can be right. Most frequent class: the accuracy of always "
        "giving that answer. Calibration error: mean gap between stated probability and accuracy.",
        ("Heads (CSV)", lambda: numbers, "context_heads.csv"),
    )
    known: list[str] = numbers.loc[numbers["n"] > 0, "head"].tolist()
    if not known:
        st.info("No photo of this selection has a known truth for any head.")
        return
    feature = st.segmented_control(
        "Head",
        known,
        default=known[0],
        format_func=lambda head: markdown_text(str(head).capitalize()),
        key="evaluation head",
        required=True,
    )
    counts, dropped, pairs = _confusion(view.main, view.main, view.filters, feature)
    matrix, curve = wrapping_columns([3, 2], "head", 340)
    with matrix:
        if dropped > len(counts):
            st.subheader("Most confused pairs", anchor=False)
            _show_pairs(pairs, feature)
        else:
            st.subheader("Truth against guess", anchor=False)
            figure = figures.confusion_figure(counts, feature, palette())
            show_chart(figure, f"confusion {feature}")
            if dropped:
                st.caption(f"“other” sums up the {dropped} rarest classes.")
    with curve:
        st.subheader("Stated probability and accuracy", anchor=False)
        names = view.names()
        curves = {
            names[source]: _head_curve(source, view.main, view.filters, feature)
            for source in view.sources
            if feature in head_features(view.rows(source))
        }
        show_chart(
            figures.reliability_figure(curves, palette()), f"reliability {feature}", height=380
        )
        download("Reliability (CSV)", lambda: _stacked(curves), f"reliability_{feature}.csv")
        if dropped <= len(counts) and not pairs.empty:
            st.subheader("Most confused pairs", anchor=False)
            _show_pairs(pairs.head(8), feature)
    download("Confusions (CSV)", lambda: pairs, f"confusions_{feature}.csv")


def _show_pairs(pairs: pd.DataFrame, feature: str) -> None:
    if pairs.empty:
        st.caption("There are no mistakes on these photos.")
        return
    figure = figures.pairs_figure(pairs.head(_MOST_PAIRS), feature, palette())
    show_chart(figure, f"pairs {feature}")


def _shown_heads(numbers: pd.DataFrame) -> pd.DataFrame:
    interval = [
        "" if pd.isna(low) else f"{low * 100:.1f}–{high * 100:.1f} %"
        for low, high in zip(numbers["top1_low"], numbers["top1_high"], strict=True)
    ]
    return pd.DataFrame(
        {
            "Head": numbers["head"].str.capitalize(),
            "Photos": numbers["n"],
            "Unseen": numbers["unseen"],
            "Top-1": numbers["top1"],
            "95 % interval": interval,
            "Top-3": numbers["top3"],
            "Top-5": numbers["top5"],
            "Most frequent class": numbers["majority"],
            "Macro-F1": numbers["macro_f1"],
            "Log loss": numbers["log_loss"],
            "Calibration error": numbers["expected_calibration_error"],
        }
    )


@st.cache_data(max_entries=64, show_spinner=False)
def _radii(source: Source, main: Source, filters: Filters) -> dict[str, pd.DataFrame]:
    frame = rows(source, main, filters)
    return {
        "coverage": radii.coverage_curve(frame),
        "scales": radii.coverage_at_scales(frame),
        "risk": radii.risk_coverage(frame),
    }


def trust_panel(view: View) -> None:
    """Show the coverage of the stated radii, and the error if only the surest are answered."""
    names = view.names()
    tables = {names[s]: _radii(s, view.main, view.filters) for s in view.sources}
    tables = {name: found for name, found in tables.items() if len(found["risk"])}
    if not tables:
        st.info("These predictions state no radius, so there is nothing to check.")
        return
    columns = wrapping_columns(3, "certainty", 290)
    for column, (kind, title, draw, caption, label, file) in zip(
        columns, _TRUST_CHARTS, strict=True
    ):
        curves = {name: found[kind] for name, found in tables.items()}
        with column:
            st.subheader(title, anchor=False)
            show_chart(draw(curves, palette()), kind, height=380)
            st.caption(caption)
            download(label, partial(_stacked, curves), file)


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of several models as one, with the model in a column."""
    return pd.concat([t.assign(model=name) for name, t in tables.items()], ignore_index=True)


def osv_mini() -> None:
    """Show the three commands, and the time and result of the rehearsal."""
    st.markdown("Download, train, evaluate; each command continues after an interruption:")
    st.code(_OSV_MINI_COMMANDS, language="bash", wrap_lines=True)
    try:
        done = checked(Rehearsal, read_json(_REHEARSAL), _REHEARSAL)
    except FileError:
        return
    st.markdown(f"**What you will see**\n\n{markdown_text(rehearsal_summary(done))}")


def rehearsal_summary(done: Rehearsal) -> str:
    """Return what a rehearsal took and gave, as a sentence or two for each."""
    whole = done.rows >= FULL_ROWS
    steps = [
        f"{_STEPS[step.name]} {duration(step.cpu_seconds)}"
        for step in done.steps
        if step.name in _STEPS
    ]
    most = max(step.peak_mb for step in done.steps)
    size = "as many as in OSV-Mini-129k" if whole else f"of {FULL_ROWS:,} in OSV-Mini-129k"
    result = done.result
    return (
        f"A rehearsal with {done.rows:,} drawn photos ({size}) took this much time of a "
        f"processor, which its cores ({done.cores} there) share: {', '.join(steps)}; and at most "
        f"{most / 1000:.1f} GB of memory. "
        f"On its {result['photos']:,.0f} test photos the median error is "
        f"{kilometres(result['median_km'])}, {result['within_200_km']:.0%} are within 200 km, and "
        f"the 90 % radius holds {result['inside_90']:.0%} of the true places. Drawn photos say "
        "nothing about the accuracy on real ones."
    )
