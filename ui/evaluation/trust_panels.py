"""The panels of the Evaluation page on context heads and on stated certainty."""

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.loops import context_metrics, intervals, reliability
from geoclip_core.loops.predictions import head_features
from ui.charts import show_chart
from ui.evaluation import trust
from ui.evaluation.data import Filters, Source, View, class_name, rows
from ui.evaluation.headline import LARGE, RESAMPLES
from ui.evaluation.layout import download, note_and_downloads, wrapping_columns
from ui.evaluation.panels import stacked
from ui.theme import palette

_MATRIX = 30
_PAIRS = 18


@st.cache_data(max_entries=64, show_spinner=False)
def _heads(source: Source, main: Source, filters: Filters) -> pd.DataFrame:
    """One row a head: photos, accuracies with intervals, macro-F1, log loss, calibration error."""
    frame = rows(source, main, filters)
    groups = frame["sequence"].to_numpy() if "sequence" in frame else None
    records = []
    for feature in head_features(frame):
        numbers = context_metrics.head_metrics(frame, feature)
        hits = context_metrics.rank_hits(frame, feature)["top1"][:, None]
        if len(frame) > LARGE:
            bounds = intervals.large_sample_mean_intervals(hits, groups=groups, shares=[True])
        else:
            bounds = intervals.mean_intervals(
                hits, resamples=RESAMPLES, groups=groups, shares=[True]
            )
        records.append(
            {"head": feature} | numbers | {"top1_low": bounds[0][0], "top1_high": bounds[0][1]}
        )
    return pd.DataFrame(records)


@st.cache_data(max_entries=64, show_spinner=False)
def _confusion(
    source: Source, main: Source, filters: Filters, feature: str
) -> tuple[pd.DataFrame, int, pd.DataFrame]:
    frame = rows(source, main, filters)
    counts, dropped = context_metrics.confusion_counts(frame, feature, _MATRIX)
    return counts, dropped, context_metrics.confused_pairs(frame, feature, 200)


@st.cache_data(max_entries=64, show_spinner=False)
def _head_curve(source: Source, main: Source, filters: Filters, feature: str) -> pd.DataFrame:
    frame = rows(source, main, filters)
    known = frame[f"{feature}_truth"].notna().to_numpy()
    hit = context_metrics.rank_hits(frame, feature)["top1"][known]
    return context_metrics.reliability_curve(
        frame[f"{feature}_probability"].to_numpy(np.float64)[known], hit
    )


def heads_panel(view: View) -> None:
    """Accuracy, confusions and reliability of the context heads."""
    numbers = _heads(view.main, view.main, view.filters)
    if numbers.empty:
        st.info(
            f"{view.main.model} answers without context heads, so there is nothing to compare "
            "with the true climate, month or place. Train with `--use-context` to have them."
        )
        return
    st.dataframe(
        _shown_heads(numbers),
        hide_index=True,
        column_config={
            column: st.column_config.NumberColumn(format="percent")
            for column in ("Top-1", "Top-3", "Top-5", "Commonest class", "Calibration error")
        },
    )
    note_and_downloads(
        "Photos without a known truth are left out; “Unseen” truths exist, but no training photo "
        "has them, so no answer could be right. Commonest class: what always saying it would give. "
        "Calibration error: mean gap between stated and reached accuracy.",
        ("Heads (CSV)", lambda: numbers, "context_heads.csv"),
    )
    known = [row.head for row in numbers.itertuples() if row.n]
    if not known:
        st.info("No photo of this selection has a known truth for any head.")
        return
    feature = st.segmented_control(
        "Head",
        known,
        default=known[0],
        format_func=str.capitalize,
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
            names = [_short(feature, key) for key in counts.index]
            show_chart(trust.confusion_figure(counts, names, palette()), f"confusion {feature}")
            if dropped:
                st.caption(f"“other” sums up the {dropped} rarest classes.")
    with curve:
        st.subheader("Stated and reached accuracy", anchor=False)
        names = view.names()
        curves = {
            names[source]: _head_curve(source, view.main, view.filters, feature)
            for source in view.sources
            if feature in head_features(view.rows(source))
        }
        show_chart(
            trust.reliability_figure(curves, palette()), f"reliability {feature}", height=380
        )
        download("Reliability (CSV)", lambda: stacked(curves), f"reliability_{feature}.csv")
        if dropped <= len(counts) and not pairs.empty:
            st.subheader("Most confused pairs", anchor=False)
            _show_pairs(pairs.head(8), feature)
    download("Confusions (CSV)", lambda: pairs, f"confusions_{feature}.csv")


def _show_pairs(pairs: pd.DataFrame, feature: str) -> None:
    if pairs.empty:
        st.caption("No mistake among these photos.")
        return
    shown = pairs.head(_PAIRS)
    names = [
        f"{_short(feature, row.truth)} → {_short(feature, row.guess)}"
        for row in shown.itertuples(index=False)
    ]
    show_chart(trust.pairs_figure(shown, names, palette()), f"pairs {feature}")


def _short(feature: str, key: str) -> str:
    """As short a name as does: "Ada County, Idaho" without its country where it is the USA."""
    return class_name(feature, key).removesuffix(", US") if key != "other" else "other"


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
            "Commonest class": numbers["majority"],
            "Macro-F1": numbers["macro_f1"],
            "Log loss": numbers["log_loss"],
            "Calibration error": numbers["expected_calibration_error"],
        }
    )


@st.cache_data(max_entries=64, show_spinner=False)
def _radii(source: Source, main: Source, filters: Filters) -> dict[str, pd.DataFrame]:
    frame = rows(source, main, filters)
    return {
        "coverage": reliability.coverage_curve(frame),
        "scales": reliability.coverage_at_scales(frame),
        "risk": reliability.risk_coverage(frame),
    }


def trust_panel(view: View) -> None:
    """Coverage of the stated radii, and error against the share that is answered."""
    names = view.names()
    made = {names[s]: _radii(s, view.main, view.filters) for s in view.sources}
    made = {name: tables for name, tables in made.items() if len(tables["risk"])}
    if not made:
        st.info("These predictions state no radius, so there is no certainty to check.")
        return
    curves = {
        kind: {name: tables[kind] for name, tables in made.items()}
        for kind in ("coverage", "scales", "risk")
    }
    left, middle, right = wrapping_columns(3, "certainty", 290)
    with left:
        st.subheader("Is the truth inside the radius?", anchor=False)
        show_chart(trust.coverage_figure(curves["coverage"], palette()), "coverage", height=380)
        st.caption(
            "Dots: the 50 % radius; rings: the 90 % one, each for a tenth of the photos. Honest "
            "radii stay on the dotted lines, small or large."
        )
        download("Coverage (CSV)", lambda: stacked(curves["coverage"]), "coverage.csv")
    with middle:
        st.subheader("By how much are radii off?", anchor=False)
        show_chart(trust.scales_figure(curves["scales"], palette()), "scales", height=380)
        st.caption(
            "Thick: the 50 % radius; thin: the 90 % one. An honest one crosses its dotted line at "
            "1×; to the right of it, it is too small."
        )
        download("Scaled radii (CSV)", lambda: stacked(curves["scales"]), "scaled_radii.csv")
    with right:
        st.subheader("Are the sure ones right?", anchor=False)
        show_chart(trust.risk_figure(curves["risk"], palette()), "risk", height=380)
        st.caption(
            "If only the photos with the smallest radius are answered. A curve that rises says "
            "that the model knows when it is sure."
        )
        download("Risk (CSV)", lambda: stacked(curves["risk"]), "risk_coverage.csv")
