"""The panels of the Evaluation page that show numbers and distributions."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.data.vocabulary import class_name
from geoclip_core.earth.sphere import geoscore
from geoclip_core.evaluation import figures, intervals, metrics
from geoclip_core.evaluation.baselines import baseline_errors, baseline_title
from geoclip_core.evaluation.predictions import head_features
from ui.charts import show_chart
from ui.evaluation.sources import Filters, Source, View, rows, table
from ui.page import download, note_and_downloads, wrapping_columns
from ui.theme import Palette, markdown_text, palette, translucent

#: Resamples of the page's intervals: their ends move by a few percent of their width.
RESAMPLES = 400
#: From so many photos on, intervals come from standard errors, which then agree with resampling.
LARGE = 10_000
#: Measures of a difference, and whether more (1) or less (-1) of it is better.
MEASURES = {"geoscore": 1, "mean_km": -1, "within_200_km": 1}
PLACES = {
    "country": "Country",
    "region": "State",
    "sub-region": "County",
    "city": "City",
}


@dataclass(frozen=True)
class HeadlineRow:
    """One line of the table: numbers by path (``accuracy_at_km:25``), with their intervals."""

    name: str
    kind: str
    """"model", "other" (a second model) or "baseline"."""
    n: int
    values: dict[str, float]
    bounds: dict[str, tuple[float, float]]

    def renamed(self, name: str) -> "HeadlineRow":
        """The same numbers under another name."""
        return replace(self, name=name)


def model_row(frame: pd.DataFrame, name: str, kind: str) -> HeadlineRow:
    """Numbers of a predictions table."""
    columns = metrics.share_hits(frame)
    columns = columns[[c for c in columns if not c.startswith("context:")]]
    return _row(frame, frame["error_km"].to_numpy(np.float64), columns, name, kind)


def baseline_rows(frame: pd.DataFrame) -> list[HeadlineRow]:
    """Numbers of the baselines that a predictions table holds, best GeoScore first."""
    rows = []
    for name, error_km in baseline_errors(frame).items():
        known = np.isfinite(error_km)
        guessed = pd.DataFrame({"error_km": error_km[known]})
        guessed["radius_50_km"] = guessed["radius_90_km"] = np.nan
        columns = metrics.share_hits(guessed)
        title = baseline_title(name).capitalize()
        rows.append(_row(frame[known], error_km[known], columns, title, "baseline"))
    return sorted(rows, key=lambda row: -row.values.get("geoscore", 0.0))


def _row(
    frame: pd.DataFrame, error_km: np.ndarray, columns: pd.DataFrame, name: str, kind: str
) -> HeadlineRow:
    if not len(error_km):
        return HeadlineRow(name, kind, 0, {}, {})
    groups = frame["sequence"].to_numpy() if "sequence" in frame else None
    shares = [":" in path for path in columns]
    if len(error_km) > LARGE:
        found = intervals.large_sample_mean_intervals(
            columns.to_numpy(), shares=shares, groups=groups
        )
        median = intervals.large_sample_quantile_interval(error_km, 0.5, groups=groups)
    else:
        draw: dict[str, Any] = {"resamples": RESAMPLES, "seed": 0, "groups": groups}
        found = intervals.mean_intervals(columns.to_numpy(), shares=shares, **draw)
        samples = intervals.quantile_samples(error_km, (0.5,), **draw)
        median = intervals.percentile_interval(samples[:, 0])
    bounds = dict(zip(columns, found, strict=True)) | {"median_km": median}
    values = {path: float(np.nanmean(v)) for path, v in columns.items() if v.notna().any()}
    values["median_km"] = float(np.median(error_km))
    return HeadlineRow(name, kind, len(error_km), values, bounds)


def difference_rows(frame: pd.DataFrame, others: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What a model gains over others on the same photos, with paired 95 % intervals.

    Args:
        frame: predictions of the model.
        others: (n,) errors in km of others on the same rows, NaN where one has no answer.

    Returns:
        One row per other and measure (``geoscore``, ``mean_km``, ``within_200_km``): ``other``,
        ``measure``, ``n``, ``difference``, ``low``, ``high``, ``verdict``.
    """
    error_km = frame["error_km"].to_numpy(np.float64)
    groups = frame["sequence"].to_numpy() if "sequence" in frame else None
    records = []
    for name, other_km in others.items():
        both = np.isfinite(other_km)
        if not both.any():
            continue
        mine, theirs = error_km[both], other_km[both]
        gains = np.stack(
            [
                geoscore(mine) - geoscore(theirs),
                mine - theirs,
                (mine < 200).astype(float) - (theirs < 200),
            ],
            axis=1,
        )
        drawn = None if groups is None else groups[both]
        if len(mine) > LARGE:
            bounds = intervals.large_sample_mean_intervals(gains, groups=drawn)
        else:
            bounds = intervals.mean_intervals(gains, resamples=RESAMPLES, groups=drawn)
        for at, (measure, sign) in enumerate(MEASURES.items()):
            low, high = bounds[at]
            records.append(
                {
                    "other": name,
                    "measure": measure,
                    "n": int(both.sum()),
                    "difference": float(gains[:, at].mean()),
                    "low": low,
                    "high": high,
                    "verdict": _verdict(low * sign, high * sign),
                }
            )
    columns = ["other", "measure", "n", "difference", "low", "high", "verdict"]
    return pd.DataFrame(records, columns=columns)


def _verdict(low: float, high: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)) or min(low, high) <= 0 <= max(low, high):
        return "not told apart"
    return "better" if low > 0 else "worse"


def headline_frame(rows: Sequence[HeadlineRow]) -> pd.DataFrame:
    """The table as data, for a download: each number with ``_low`` and ``_high`` beside it."""
    records = []
    for row in rows:
        record: dict[str, Any] = {"name": row.name, "kind": row.kind, "n": row.n}
        for path, value in row.values.items():
            low, high = row.bounds.get(path, (np.nan, np.nan))
            key = path.replace(":", "_")
            record |= {key: value, f"{key}_low": low, f"{key}_high": high}
        records.append(record)
    return pd.DataFrame(records)


def headline_html(rows: Sequence[HeadlineRow], colours: Palette) -> str:
    """The table: models in the colours of the charts, baselines below them."""
    paths = ["geoscore", "median_km", "mean_km"]
    paths += [f"accuracy_at_km:{t}" for t in metrics.THRESHOLDS_KM]
    paths += [f"place_accuracy:{level}" for level in PLACES]
    paths += ["coverage:50", "coverage:90"]
    shown = [path for path in paths if any(path in row.values for row in rows)]
    groups = [
        ("", [p for p in shown if ":" not in p]),
        ("Share of photos within", [p for p in shown if p.startswith("accuracy")]),
        ("In the true", [p for p in shown if p.startswith("place")]),
        ("Truth inside the radius", [p for p in shown if p.startswith("coverage")]),
    ]
    groups = [(title, paths) for title, paths in groups if paths]
    head = "".join(
        f'<th colspan="{len(paths)}" class="{"edge" if title else ""}">{title}</th>'
        for title, paths in groups
    )
    firsts = {paths[0] for title, paths in groups if title}
    names = "".join(
        f'<th class="{"edge" if path in firsts else ""}">{_title(path)}</th>' for path in shown
    )
    body = "".join(_html_row(row, shown, firsts, colours) for row in rows)
    return (
        f"{_style(colours)}<div class='headline'><table><thead><tr><th></th>{head}</tr>"
        f"<tr><th></th>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def differences_html(table: pd.DataFrame, name: str, colours: Palette) -> str:
    """The differences as a table: one line per other, one column per measure."""
    titles = {"geoscore": "GeoScore", "mean_km": "Mean error, km", "within_200_km": "Within 200 km"}
    tone = {"better": (colours.truth, "▲ "), "worse": (colours.ink, "▼ ")}
    body = ""
    for other, part in table.groupby("other", sort=False):
        cells = ""
        for row in part.itertuples(index=False):
            share = row.measure == "within_200_km"
            scale, digits, unit = (100, 1, " %") if share else (1, 0, "")
            ends = f"{row.low * scale:+,.{digits}f} to {row.high * scale:+,.{digits}f}"
            bound = f"<small>{ends}</small>" if np.isfinite([row.low, row.high]).all() else ""
            colour, sign = tone.get(row.verdict, (colours.muted, ""))
            value = f"{row.difference * scale:+,.{digits}f}{unit}"
            cells += (
                f"<td class='edge'><b>{value}</b>{bound}</td>"
                f"<td style='color:{colour};text-align:left'>{sign}{row.verdict}</td>"
            )
        body += (
            f"<tr><td class='name'>{html.escape(str(other))}"
            f"<small>{part['n'].iloc[0]:,} photos</small></td>{cells}</tr>"
        )
    head = "".join(f"<th colspan='2' class='edge'>{titles[m]}</th>" for m in MEASURES)
    return (
        f"{_style(colours)}<div class='headline differences'><table><thead><tr>"
        f"<th>{html.escape(name)} minus …</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _html_row(row: HeadlineRow, shown: Sequence[str], firsts: set[str], colours: Palette) -> str:
    dot = {"model": colours.best, "other": colours.other}.get(row.kind)
    mark = f'<i style="background:{dot}"></i>' if dot else ""
    cells = []
    for path in shown:
        edge = "edge" if path in firsts else ""
        if path not in row.values:
            cells.append(f'<td class="{edge} none">–</td>')
            continue
        low, high = row.bounds.get(path, (np.nan, np.nan))
        known = np.isfinite(low) and np.isfinite(high)
        bound = f"<small>{_number(path, low)}–{_number(path, high)}</small>" if known else ""
        value = _number(path, row.values[path])
        cells.append(f'<td class="{edge}"><b>{value}</b>{bound}</td>')
    return (
        f'<tr class="{row.kind}"><td class="name">{mark}{html.escape(row.name)}'
        f"<small>{row.n:,} photos</small></td>{''.join(cells)}</tr>"
    )


def _title(path: str) -> str:
    kind, _, key = path.partition(":")
    if kind == "accuracy_at_km":
        return f"{int(key):,} km"
    if kind == "place_accuracy":
        return PLACES[key].lower()
    if kind == "coverage":
        return f"{key} %"
    return {"geoscore": "GeoScore", "median_km": "Median km", "mean_km": "Mean km"}[kind]


def _number(path: str, value: float) -> str:
    if ":" in path:
        return f"{value * 100:.1f}"
    if path == "geoscore" or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}"


def _style(colours: Palette) -> str:
    line = translucent(colours.muted, 0.25)
    return f"""<style>
    .headline {{ overflow-x: auto; font-variant-numeric: tabular-nums; }}
    .headline table {{ border-collapse: collapse; width: 100%; font-size: 0.88rem; }}
    .headline th {{ font-weight: 500; font-size: 0.78rem; color: {colours.muted};
      padding: 2px 7px; text-align: right; white-space: nowrap; }}
    .headline thead tr:first-child th {{ text-align: left; padding-bottom: 0; }}
    .headline td {{ padding: 6px 7px; text-align: right; border-top: 1px solid {line};
      white-space: nowrap; vertical-align: top; }}
    .headline td.name {{ text-align: left; font-weight: 600; min-width: 9.5rem;
      white-space: normal; }}
    .headline td.name i {{ display: inline-block; width: 10px; height: 10px; border-radius: 50%;
      margin-right: 8px; }}
    .headline .edge {{ border-left: 1px solid {line}; }}
    .headline small {{ display: block; color: {colours.muted}; font-size: 0.68rem;
      font-weight: 400; }}
    .headline tr.baseline td, .headline tr.baseline td.name {{ font-weight: 400;
      color: {colours.muted}; }}
    .headline tr.baseline b {{ font-weight: 500; }}
    .headline td.none {{ color: {colours.muted}; }}
    </style>"""


_MATRIX = 30
_PAIRS = 18


@st.cache_data(max_entries=64, show_spinner=False)
def _heads(source: Source, main: Source, filters: Filters) -> pd.DataFrame:
    """One row a head: photos, accuracies with intervals, macro-F1, log loss, calibration error."""
    frame = rows(source, main, filters)
    groups = frame["sequence"].to_numpy() if "sequence" in frame else None
    records = []
    for feature in head_features(frame):
        numbers = metrics.head_metrics(frame, feature)
        hits = metrics.rank_hits(frame, feature)["top1"][:, None]
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
    counts, dropped = metrics.confusion_counts(frame, feature, _MATRIX)
    return counts, dropped, metrics.confused_pairs(frame, feature, 200)


@st.cache_data(max_entries=64, show_spinner=False)
def _head_curve(source: Source, main: Source, filters: Filters, feature: str) -> pd.DataFrame:
    frame = rows(source, main, filters)
    known = frame[f"{feature}_truth"].notna().to_numpy()
    hit = metrics.rank_hits(frame, feature)["top1"][known]
    return metrics.reliability_curve(
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
            names = [class_name(feature, key) for key in counts.index]
            show_chart(figures.confusion_figure(counts, names, palette()), f"confusion {feature}")
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
            figures.reliability_figure(curves, palette()), f"reliability {feature}", height=380
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
        f"{class_name(feature, row.truth)} → {class_name(feature, row.guess)}"
        for row in shown.itertuples(index=False)
    ]
    show_chart(figures.pairs_figure(shown, names, palette()), f"pairs {feature}")


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
        "coverage": metrics.coverage_curve(frame),
        "scales": metrics.coverage_at_scales(frame),
        "risk": metrics.risk_coverage(frame),
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
        show_chart(figures.coverage_figure(curves["coverage"], palette()), "coverage", height=380)
        st.caption(
            "Dots: the 50 % radius; rings: the 90 % one, each for a tenth of the photos. Honest "
            "radii stay on the dotted lines, small or large."
        )
        download("Coverage (CSV)", lambda: stacked(curves["coverage"]), "coverage.csv")
    with middle:
        st.subheader("By how much are radii off?", anchor=False)
        show_chart(figures.scales_figure(curves["scales"], palette()), "scales", height=380)
        st.caption(
            "Thick: the 50 % radius; thin: the 90 % one. An honest one crosses its dotted line at "
            "1×; to the right of it, it is too small."
        )
        download("Scaled radii (CSV)", lambda: stacked(curves["scales"]), "scaled_radii.csv")
    with right:
        st.subheader("Are the sure ones right?", anchor=False)
        show_chart(figures.risk_figure(curves["risk"], palette()), "risk", height=380)
        st.caption(
            "If only the photos with the smallest radius are answered. A curve that rises says "
            "that the model knows when it is sure."
        )
        download("Risk (CSV)", lambda: stacked(curves["risk"]), "risk_coverage.csv")


_FEW = 30


@st.cache_data(max_entries=64, show_spinner=False)
def _headline(source: Source, main: Source, filters: Filters) -> list[HeadlineRow]:
    frame = rows(source, main, filters)
    kind = "model" if source == main else "other"
    own = model_row(frame, source.model, kind)
    return [own, *baseline_rows(frame)] if source == main else [own]


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
    return difference_rows(frame, others)


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
    files = [("Table (CSV)", lambda: headline_frame(lines), "headline.csv")]
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
        f"{markdown_text(names[source])} ({scores.loc[names[source], 'verdict']})"
        for source in view.beside
        if names[source] in scores.index
    ]
    start = f"**{markdown_text(names[view.main])} against the others, photo by photo**"
    return " · ".join([start, *told])


@st.cache_data(max_entries=64, show_spinner=False)
def _bins(source: Source, main: Source, filters: Filters) -> tuple[pd.DataFrame, pd.DataFrame]:
    error_km = rows(source, main, filters)["error_km"].to_numpy(np.float64)
    return figures.error_bins(error_km), figures.cumulative_curve(error_km)


@st.cache_data(max_entries=64, show_spinner=False)
def _baseline_curves(main: Source, filters: Filters) -> dict[str, pd.DataFrame]:
    found = baseline_errors(rows(main, main, filters))
    return {
        baseline_title(name).capitalize(): figures.cumulative_curve(error_km[np.isfinite(error_km)])
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
        show_chart(figures.histogram_figure(bins, palette()), "histogram", height=380)
        download("Histogram (CSV)", lambda: stacked(bins), "error_histogram.csv")
    with right:
        st.subheader("Share of photos within a distance", anchor=False)
        show_chart(
            figures.cumulative_figure(curves, baselines, palette()), "cumulative", height=380
        )
        download("Curve (CSV)", lambda: stacked(curves | baselines), "error_curve.csv")


@st.cache_data(max_entries=64, show_spinner=False)
def _grouped(source: Source, main: Source, filters: Filters, column: str) -> pd.DataFrame:
    frame = rows(source, main, filters)
    truth = frame
    if column not in frame:  # an imported table knows what the main one knows
        truth = rows(main, main, filters).set_index("id").reindex(frame["id"]).reset_index()
    found = figures.group_errors(frame, figures.group_keys(truth, column))
    if column in ("radius_50_km", "month"):
        found = found.sort_values("group")
    return found.reset_index(drop=True)


def groups_panel(view: View) -> None:
    """Errors by place, climate, month and stated radius."""
    frame = view.rows()
    known = [name for name, column in figures.GROUPS.items() if _has_values(frame, column)]
    if not known:
        st.info("These predictions do not say where or when the photos were taken in words.")
        return
    kind = st.segmented_control(
        "Errors by", known, default=known[0], key="evaluation groups", required=True
    )
    column = figures.GROUPS[kind]
    found = _grouped(view.main, view.main, view.filters, column)
    shown = found.head(figures.MOST_GROUPS)
    if kind in ("Country", "State"):
        shown = shown.sort_values("median")
    names = view.names()
    others = {
        names[source]: _grouped(source, view.main, view.filters, column)
        for source in view.beside
        if column != "radius_50_km"
    }
    swatches = figures.climate_swatches(column, shown["group"])
    labels = [figures.group_name(column, key) for key in shown["group"]]
    show_chart(figures.group_figure(shown, labels, palette(), swatches, others), f"groups {kind}")
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
    return found.assign(group=[figures.group_name(column, key) for key in found["group"]])


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
