"""The headline of an evaluation: a table of models and baselines, each number with its interval."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.loops import intervals, metrics
from geoclip_core.loops.baselines import baseline_errors
from ui.theme import Palette, translucent

#: Resamples of the page's intervals: their ends move by a few percent of their width.
RESAMPLES = 400
#: From so many photos on, intervals come from standard errors, which then agree with resampling.
LARGE = 10_000
_BASELINES = {
    "constant": "One guess for all",
    "true_country_centroid": "Middle of the true country",
    "true_state_centroid": "Middle of the true state",
    "nearest_photo": "Most similar training photo",
}
_PLACES = {
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


def baseline_name(name: str) -> str:
    """A baseline as people call it."""
    if name in _BASELINES:
        return _BASELINES[name]
    if name.startswith("nearest_"):
        return f"{name.removeprefix('nearest_')} nearest training photos"
    return name.replace("_", " ")


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
        rows.append(_row(frame[known], error_km[known], columns, baseline_name(name), "baseline"))
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
    paths += [f"place_accuracy:{level}" for level in _PLACES]
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
        f"{_style(colours)}<div class='headline'><table><thead><tr><th colspan='2'></th>{head}</tr>"
        f"<tr><th></th><th>Photos</th>{names}</tr></thead><tbody>{body}</tbody></table></div>"
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
        f'<tr class="{row.kind}"><td class="name">{mark}{html.escape(row.name)}</td>'
        f"<td>{row.n:,}</td>{''.join(cells)}</tr>"
    )


def _title(path: str) -> str:
    kind, _, key = path.partition(":")
    if kind == "accuracy_at_km":
        return f"{int(key):,} km"
    if kind == "place_accuracy":
        return _PLACES[key].lower()
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
    .headline table {{ border-collapse: collapse; width: 100%; font-size: 0.9rem; }}
    .headline th {{ font-weight: 500; font-size: 0.78rem; color: {colours.muted};
      padding: 2px 10px; text-align: right; white-space: nowrap; }}
    .headline thead tr:first-child th {{ text-align: left; padding-bottom: 0; }}
    .headline td {{ padding: 7px 10px; text-align: right; border-top: 1px solid {line};
      white-space: nowrap; vertical-align: top; }}
    .headline td.name {{ text-align: left; font-weight: 600; min-width: 11rem;
      white-space: normal; }}
    .headline td.name i {{ display: inline-block; width: 10px; height: 10px; border-radius: 50%;
      margin-right: 8px; }}
    .headline .edge {{ border-left: 1px solid {line}; }}
    .headline small {{ display: block; color: {colours.muted}; font-size: 0.72rem; }}
    .headline tr.baseline td, .headline tr.baseline td.name {{ font-weight: 400;
      color: {colours.muted}; }}
    .headline tr.baseline b {{ font-weight: 500; }}
    .headline td.none {{ color: {colours.muted}; }}
    </style>"""
