"""Write an evaluation as one HTML file that needs neither a server nor the internet.

The Evaluation page shows the same headline tables.
"""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.data.vocabulary import place_name
from geoclip_core.errors import FileError
from geoclip_core.evaluation import figures, map_figures, metrics, radii
from geoclip_core.evaluation.baselines import baseline_errors, baseline_title
from geoclip_core.evaluation.predictions import head_features
from geoclip_core.evaluation.small_map import small_map, thumbnail
from geoclip_core.evaluation.style import LIGHT, Palette, kilometres, translucent
from geoclip_core.processes import Progress
from geoclip_core.results import read_results

RESAMPLES = 400
"""Bootstrap resamples: the ends of an interval are right to a few percent of its width."""

MEASURES = {"geoscore": 1, "mean_km": -1, "within_200_km": 1}
"""Measures of a difference -> whether more (1) or less (-1) is better."""

DIFFERENCE_COLUMNS = ("other", "measure", "n", "difference", "low", "high", "verdict")
PLACES = {"country": "Country", "region": "State", "sub-region": "County", "city": "City"}

Section = tuple[str, str]
"""Title (text) and content (HTML)."""

_COLOURS = LIGHT
_PHOTOS = 6


@dataclass(frozen=True)
class ReportTable:
    """A predictions table, the name of its model, and the result of ``evaluate.describe``."""

    name: str
    frame: pd.DataFrame
    about: dict[str, Any]
    path: Path | None = None
    """File of the table, beside which metrics.json lies."""


@dataclass(frozen=True)
class HeadlineRow:
    """A row of the headline table."""

    name: str
    kind: str
    """"model", "other" (a second model) or "baseline"."""
    measured: metrics.Measures
    repeats: int = 1
    """Number of repeats of a cross-validation; the numbers are their mean."""


def headline_rows(
    frame: pd.DataFrame, name: str, kind: str, path: Path | None
) -> list[HeadlineRow]:
    """Return the headline rows of a predictions table and of the baselines in it.

    The table of a cross-validation that was repeated holds the first repeat. While it is whole, its
    rows are the means of all repeats, from the metrics.json beside its file ``path``, so that a
    model has one accuracy everywhere.
    """
    saved = _of_all_repeats(path, name, kind) if path is not None else []
    if saved and saved[0].measured.n == len(frame):
        return saved
    return [model_row(frame, name, kind), *baseline_rows(frame)]


def _of_all_repeats(path: Path, name: str, kind: str) -> list[HeadlineRow]:
    """Return the headline rows in the metrics.json of a repeated cross-validation, else none."""
    try:
        results = read_results(path.with_name("metrics.json"))
    except FileError:
        return []
    scores = _part(results, "cross_validation").get("geoscore_of_repeats")
    if not isinstance(scores, list) or len(scores) < 2:
        return []
    n, repeats = results.get("n") or 0, len(scores)
    own = _saved_measures(n, results, _part(results, "intervals"))
    rows = []
    for key, numbers in _part(results, "baselines").items():
        title, measured = baseline_title(key).capitalize(), _saved_measures(n, numbers, {})
        rows.append(HeadlineRow(title, "baseline", measured, repeats))
    rows.sort(key=lambda row: -row.measured.values.get("geoscore", 0.0))
    return [HeadlineRow(name, kind, own, repeats), *rows]


def _saved_measures(
    n: int, numbers: Mapping[str, Any], bounds: Mapping[str, Any]
) -> metrics.Measures:
    """Return the numbers of a metrics.json by their paths; an interval that it lacks is NaN."""
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    parts = [("", numbers, bounds)]
    for key in ("accuracy_at_km", "place_accuracy", "coverage"):
        parts.append((f"{key}:", _part(numbers, key), _part(bounds, key)))
    for prefix, found, limits in parts:
        for key in found if prefix else ("geoscore", "median_km", "mean_km"):
            value, limit = found.get(key), limits.get(key)
            if isinstance(value, int | float):
                low, high = limit if isinstance(limit, list) and len(limit) == 2 else (None, None)
                values[prefix + key] = float(value)
                intervals[prefix + key] = (_or_nan(low), _or_nan(high))
    return metrics.Measures(n, values, intervals)


def _part(numbers: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a part of a metrics.json; an empty one if it is missing or has another type."""
    found = numbers.get(key)
    return found if isinstance(found, Mapping) else {}


def _or_nan(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def model_row(frame: pd.DataFrame, name: str, kind: str) -> HeadlineRow:
    """Return the headline row of a predictions table."""
    hits = metrics.share_hits(frame, context=False)
    groups = metrics.sequences(frame)
    return HeadlineRow(name, kind, metrics.measure(hits, resamples=RESAMPLES, groups=groups))


def baseline_rows(frame: pd.DataFrame) -> list[HeadlineRow]:
    """Return the headline rows of the baselines in a predictions table, best GeoScore first."""
    rows = []
    for name, error_km in baseline_errors(frame).items():
        known = np.isfinite(error_km)
        measured = metrics.measure(
            metrics.distance_hits(error_km[known]),
            resamples=RESAMPLES,
            groups=metrics.sequences(frame[known]),
        )
        rows.append(HeadlineRow(baseline_title(name).capitalize(), "baseline", measured))
    return sorted(rows, key=lambda row: -row.measured.values.get("geoscore", 0.0))


def difference_rows(frame: pd.DataFrame, others: Mapping[str, metrics.Floats]) -> pd.DataFrame:
    """Return what a model gains over others on the same photos, with paired 95 % intervals.

    Args:
        frame: predictions of the model, which is also compared with the baselines in the table.
        others: name -> (n,) errors in km of another model on the same rows, NaN if unanswered.

    Returns:
        One row per other and measure, with :data:`DIFFERENCE_COLUMNS`. The verdict is "better",
        "worse", or "within chance" if the interval holds zero.
    """
    baselines = {baseline_title(k).capitalize(): v for k, v in baseline_errors(frame).items()}
    records = []
    for name, other_km in {**others, **baselines}.items():
        both = np.isfinite(other_km)
        if not both.any():
            continue
        gains = metrics.paired_difference(
            frame["error_km"].to_numpy(np.float64)[both],
            other_km[both],
            measures=tuple(MEASURES),
            resamples=RESAMPLES,
            groups=metrics.sequences(frame[both]),
        )
        for measure, gain in gains.items():
            low, high = gain["low"], gain["high"]
            verdict = "within chance"
            if low is not None and high is not None and low * high > 0:
                verdict = "better" if low * MEASURES[measure] > 0 else "worse"
            record = {"other": name, "measure": measure, "n": int(both.sum()), "verdict": verdict}
            records.append(record | gain)
    return pd.DataFrame(records, columns=list(DIFFERENCE_COLUMNS))


def headline_html(rows: Sequence[HeadlineRow], colours: Palette) -> str:
    """Return the headline table as HTML, with models in the colours of the charts."""
    # What must be in sight on a phone comes first.
    columns = [
        ("", [("geoscore", "GeoScore"), ("median_km", "Median km")]),
        ("Truth inside the radius", [(f"coverage:{mass}", f"{mass} %") for mass in ("50", "90")]),
        (
            "Share of photos within",
            [(f"accuracy_at_km:{t}", f"{t:,} km") for t in metrics.THRESHOLDS_KM],
        ),
        ("In the true", [(f"place_accuracy:{k}", v.lower()) for k, v in PLACES.items()]),
        ("Error", [("mean_km", "Mean km")]),
    ]
    titles, names, paths = "", "", {}
    for title, group in columns:
        shown = [item for item in group if any(item[0] in row.measured.values for row in rows)]
        if not shown:
            continue
        edge = "edge" if title else ""
        titles += f'<th colspan="{len(shown)}" class="{edge}">{title}</th>'
        for path, name in shown:
            paths[path] = edge if path == shown[0][0] else ""
            names += f'<th class="{paths[path]}">{name}</th>'
    body = "".join(_headline_row(row, paths, colours) for row in rows)
    return (
        f"{_table_style(colours)}<div class='headline'><table><thead><tr><th></th>{titles}</tr>"
        f"<tr><th></th>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _headline_row(row: HeadlineRow, paths: Mapping[str, str], colours: Palette) -> str:
    """Return a row of the table; ``paths`` maps its columns to CSS classes."""
    dot = {"model": colours.best, "other": colours.other}.get(row.kind)
    mark = f'<i style="background:{dot}"></i>' if dot else ""
    repeated = f", mean of {row.repeats} repeats" if row.repeats > 1 and dot else ""
    cells = ""
    for path, edge in paths.items():
        if path not in row.measured.values:
            cells += f'<td class="{edge} none">–</td>'
            continue
        low, high = row.measured.bounds[path]
        known = np.isfinite(low) and np.isfinite(high)
        bound = f"<small>{_number(path, low)}–{_number(path, high)}</small>" if known else ""
        cells += f'<td class="{edge}"><b>{_number(path, row.measured.values[path])}</b>{bound}</td>'
    return (
        f'<tr class="{row.kind}"><td class="name">{mark}{html.escape(row.name)}'
        f"<small>{row.measured.n:,} photos{repeated}</small></td>{cells}</tr>"
    )


def repeats_note(rows: Sequence[HeadlineRow]) -> str:
    """Return a sentence about the repeats whose mean the rows are; "" if there are none."""
    if all(row.repeats < 2 for row in rows):
        return ""
    return (
        " The table is the mean over the repeats of the cross-validation; charts, filters and "
        "differences use the first repeat."
    )


def differences_html(table: pd.DataFrame, name: str, colours: Palette) -> str:
    """Return :func:`difference_rows` as an HTML table: a row per model, a column per measure."""
    titles = {"geoscore": "GeoScore", "mean_km": "Mean error, km", "within_200_km": "Within 200 km"}
    tone = {"better": (colours.truth, "▲ "), "worse": (colours.ink, "▼ ")}
    body = ""
    for other, part in table.groupby("other", sort=False):
        cells = ""
        for measure, verdict, *numbers in part[
            ["measure", "verdict", "difference", "low", "high"]
        ].to_numpy(object):
            share = measure == "within_200_km"
            scale, digits, unit = (100, 1, " %") if share else (1, 0, "")
            # of a single photo, a difference has no interval
            texts = [
                "" if pd.isna(number) else f"{float(number) * scale:+,.{digits}f}"
                for number in numbers
            ]
            bound = f"<small>{texts[1]} to {texts[2]}</small>" if pd.notna(numbers[1]) else ""
            colour, sign = tone.get(verdict, (colours.muted, ""))
            cells += (
                f"<td class='edge'><b>{texts[0]}{unit}</b>{bound}</td>"
                f"<td style='color:{colour};text-align:left'>{sign}{verdict}</td>"
            )
        body += (
            f"<tr><td class='name'>{html.escape(str(other))}"
            f"<small>{part['n'].iloc[0]:,} photos</small></td>{cells}</tr>"
        )
    head = "".join(f"<th colspan='2' class='edge'>{titles[m]}</th>" for m in MEASURES)
    return (
        f"{_table_style(colours)}<div class='headline differences'><table><thead><tr>"
        f"<th>{html.escape(name)} minus …</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _number(path: str, value: float) -> str:
    if ":" in path:
        return f"{value * 100:.1f}"
    if path == "geoscore" or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}"


def _table_style(colours: Palette) -> str:
    line, shade = translucent(colours.muted, 0.25), translucent(colours.ink, 0.28)
    # Where the table is cut off, a shadow and a scroll bar show that there is more.
    return f"""<style>
    .headline {{ overflow-x: auto; font-variant-numeric: tabular-nums; background:
      linear-gradient(to left, {colours.paper}, {translucent(colours.paper, 0)}) 100% 0 / 40px 100%
      no-repeat local, linear-gradient(to left, {shade}, {translucent(colours.ink, 0)}) 100% 0 /
      14px 100% no-repeat scroll; }}
    .headline::-webkit-scrollbar {{ height: 10px; }}
    .headline::-webkit-scrollbar-track {{ background: {line}; border-radius: 5px; }}
    .headline::-webkit-scrollbar-thumb {{ background: {colours.muted}; border-radius: 5px; }}
    .headline table {{ border-collapse: collapse; width: 100%; font-size: 0.84rem; }}
    .headline th {{ font-weight: 500; font-size: 0.74rem; color: {colours.muted};
      padding: 2px 4px; text-align: right; white-space: nowrap; }}
    .headline thead tr:first-child th {{ text-align: left; padding-bottom: 0; }}
    .headline td {{ padding: 6px 4px; text-align: right; border-top: 1px solid {line};
      white-space: nowrap; vertical-align: top; }}
    .headline td.name {{ text-align: left; font-weight: 600; min-width: 6.2rem;
      white-space: normal; }}
    .headline td.name i {{ display: inline-block; width: 10px; height: 10px; border-radius: 50%;
      margin-right: 6px; }}
    .headline .edge {{ border-left: 1px solid {line}; }}
    .headline small {{ display: block; color: {colours.muted}; font-size: 0.65rem;
      font-weight: 400; }}
    .headline tr.baseline td, .headline tr.baseline td.name {{ font-weight: 400;
      color: {colours.muted}; }}
    .headline tr.baseline b {{ font-weight: 500; }}
    .headline td.none {{ color: {colours.muted}; }}
    </style>"""


def report_html(
    tables: Sequence[ReportTable],
    static: Path,
    root: str,
    progress: Progress,
) -> str:
    """Return the report of an evaluation as an HTML page.

    Args:
        tables: the model first, then up to four others, on the same photos.
        static: the app's static folder, with ``borders`` and ``topojson``.
        root: folder of the photos, of which thumbnails of the best and worst are embedded; "" for
            none. Do not take it from a table that a stranger may have written.
        progress: called with (parts done, all parts).
    """
    main, about = tables[0], tables[0].about
    data = ", ".join(str(about[k]) for k in ("dataset", "split") if about.get(k))
    told = [f"{len(main.frame):,} photos", data, str(about.get("note") or "")]
    parts = (
        *(_headline(tables), _errors(tables), _maps(main), _groups(main), _heads(main)),
        *(_certainty(tables), _photos(main, static / "borders", root)),
    )
    sections: list[Section] = []
    for done, part in enumerate(parts, start=1):
        sections += part
        progress(done, len(parts))
    names = [html.escape(name) for name, _ in sections]
    links = "".join(f'<a href="#part-{at}">{name}</a>' for at, name in enumerate(names))
    body = "".join(
        f'<section id="part-{at}"><h2>{names[at]}</h2>{content}</section>'
        for at, (_, content) in enumerate(sections)
    )
    warning = html.escape(str(about.get("warning") or ""))
    banner = f'<p class="warning">{warning}.</p>' if warning else ""
    title = html.escape(main.name)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}: evaluation</title><style>{_STYLE}</style>"
        f"{figures.figure_scripts(static / 'topojson')}</head><body><main><h1>{title}</h1>"
        f"<p class='told'>{html.escape(' · '.join(t for t in told if t))}</p>{banner}"
        f"<nav>{links}</nav>{body}</main></body></html>"
    )


def _headline(tables: Sequence[ReportTable]) -> Iterator[Section]:
    main = tables[0]
    own, *baselines = headline_rows(main.frame, main.name, "model", main.path)
    others = [headline_rows(t.frame, t.name, "other", t.path)[0] for t in tables[1:]]
    rows = [own, *others, *baselines]
    note = (
        "<p class='note'>Small figures: 95 % intervals. GeoScore is 5000·exp(−d / 1492.7 km), "
        "averaged; shares are percentages. Grey lines are baselines that need no model."
        f"{repeats_note(rows)}</p>"
    )
    yield "Headline", headline_html(rows, _COLOURS) + note
    errors = {}
    for table in tables[1:]:
        aligned = table.frame.set_index("id")["error_km"].reindex(main.frame["id"])
        errors[table.name] = aligned.to_numpy(np.float64)
    differences = difference_rows(main.frame, errors)
    if len(differences):
        yield "Photo by photo", differences_html(differences, main.name, _COLOURS)


def _errors(tables: Sequence[ReportTable]) -> Iterator[Section]:
    found = {t.name: t.frame["error_km"].to_numpy(np.float64) for t in tables}
    bins = {name: metrics.error_bins(error) for name, error in found.items()}
    curves = {name: metrics.cumulative_curve(error) for name, error in found.items()}
    baselines = metrics.baseline_curves(tables[0].frame)
    histogram = figures.histogram_figure(bins, _COLOURS)
    cumulative = figures.cumulative_figure(curves, baselines, _COLOURS)
    yield "Errors", _side_by_side(_chart(histogram, 400), _chart(cumulative, 400))


def _maps(main: ReportTable) -> Iterator[Section]:
    frame = main.frame
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    usa, size = map_figures.in_united_states(frame), map_figures.hexagon_resolution(coordinates)
    areas = metrics.group_errors(frame, pd.Series(map_figures.hexagons(coordinates, size)))
    names = ["hexagon"] * len(areas)
    shapes = map_figures.hexagon_shapes(areas["group"].tolist())
    sample = frame if len(frame) <= 200 else frame.sample(200, random_state=0)
    arrows = map_figures.points_figure(sample, _COLOURS, usa=False, arrows=True)
    hexagons = map_figures.area_figure(areas, shapes, names, _COLOURS, usa)
    yield "Errors on the map", _chart(hexagons, 520)
    yield f"From truth to guess, {len(sample)} photos", _chart(arrows, 520)


def _groups(main: ReportTable) -> Iterator[Section]:
    for title, column in metrics.GROUPS.items():
        if column not in main.frame:
            continue
        found = metrics.errors_by(main.frame, column)
        if column.endswith("_key"):
            found = found.head(figures.MOST_GROUPS).sort_values("median")
        if len(found) > 1:
            figure = figures.group_figure(found, column, _COLOURS)
            yield f"Errors by {title.lower()}", _chart(figure)


def _heads(main: ReportTable) -> Iterator[Section]:
    frame = main.frame
    for feature in head_features(frame):
        numbers = metrics.head_metrics(frame, feature)
        if not numbers["n"]:
            continue
        words = (
            f"<p>{numbers['n']:,} photos with a known truth, {numbers['unseen']:,} more with one "
            f"that the model has not learned. Top-1 {numbers['top1']:.1%}, top-3 "
            f"{numbers['top3']:.1%}, top-5 {numbers['top5']:.1%}; always the most frequent class "
            f"{numbers['majority']:.1%}. Macro-F1 {numbers['macro_f1']:.2f}, log loss "
            f"{numbers['log_loss']:.2f}, calibration error "
            f"{numbers['expected_calibration_error']:.1%}.</p>"
        )
        counts, dropped = metrics.confusion_counts(frame, feature)
        if dropped > len(counts):
            pairs = metrics.confused_pairs(frame, feature, 18)
            left = figures.pairs_figure(pairs, feature, _COLOURS)
        else:
            left = figures.confusion_figure(counts, feature, _COLOURS)
        curve = metrics.head_reliability(frame, feature)
        right = figures.reliability_figure({main.name: curve}, _COLOURS)
        yield f"Context head: {feature}", words + _side_by_side(_chart(left), _chart(right, 400))


def _certainty(tables: Sequence[ReportTable]) -> Iterator[Section]:
    stated = [t for t in tables if t.frame["radius_50_km"].notna().any()]
    if not stated:
        return
    words = (
        "<p>Left: calibrated radii contain the truth as often as they state, small or large (dots "
        "50 %, rings 90 %). Middle: they cross their dotted line at 1× (thick 50 %, thin 90 %). "
        "Right: the error if only photos with small radii are answered.</p>"
    )
    coverage = {t.name: radii.coverage_curve(t.frame) for t in stated}
    scales = {t.name: radii.coverage_at_scales(t.frame) for t in stated}
    made = (
        figures.coverage_figure(coverage, _COLOURS),
        figures.scales_figure(scales, _COLOURS),
        figures.risk_figure({t.name: radii.risk_coverage(t.frame) for t in stated}, _COLOURS),
    )
    yield "Certainty", words + _side_by_side(*(_chart(figure, 380) for figure in made))


def _photos(main: ReportTable, borders: Path, root: str) -> Iterator[Section]:
    ordered = main.frame.sort_values("error_km", kind="stable")
    for title, part in (("Best", ordered.head(_PHOTOS)), ("Worst", ordered.tail(_PHOTOS)[::-1])):
        cards = "".join(_card(row, borders, root) for _, row in part.iterrows())
        yield f"{title} photos", f"<div class='cards'>{cards}</div>"


def _card(row: pd.Series, borders: Path, root: str) -> str:
    truth = (float(row["latitude"]), float(row["longitude"]))
    guess = (float(row["predicted_latitude"]), float(row["predicted_longitude"]))
    picture = ""
    small = thumbnail(root, row.get("path"))
    if small is not None:
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=82)
        picture = _image(stream.getvalue(), "image/jpeg", "The photo")
    where = html.escape(place_of(row) or "")
    svg = small_map(truth, guess, _COLOURS, borders)
    drawn = _image(svg.encode(), "image/svg+xml", "Truth and guess")
    return (
        f"<figure>{picture}{drawn}<figcaption><b>{kilometres(float(row['error_km']))}</b> off<br>"
        f"{where}<br><small>{html.escape(str(row['id']))}</small></figcaption></figure>"
    )


def place_of(row: pd.Series, prefix: str = "") -> str | None:
    """Return the most specific place name of a row; with ``predicted_``, that of the guess."""
    for level in ("city", "county", "state", "country"):
        key = row.get(f"{prefix}{level}_key")
        if pd.notna(key):
            return place_name(str(key))
    return None


def _image(content: bytes, kind: str, alt: str) -> str:
    """Return an embedded image; ``kind`` is its MIME type."""
    return f"<img alt='{alt}' src='data:{kind};base64,{base64.b64encode(content).decode()}'>"


def _chart(figure: figures.Figure, height: int | None = None) -> str:
    return figures.figure_html(figure, _COLOURS, height)


def _side_by_side(*contents: str) -> str:
    """Return pieces of HTML side by side, or stacked on narrow screens."""
    return f"<div class='pair'>{''.join(f'<div>{content}</div>' for content in contents)}</div>"


_STYLE = f"""
body {{ margin: 0; font: 16px/1.5 system-ui, sans-serif; color: {_COLOURS.ink};
  background: {_COLOURS.paper}; }}
main {{ max-width: 1180px; margin: 0 auto; padding: 32px 24px 80px; }}
h1 {{ margin: 0; font-size: 2rem; }} h2 {{ margin: 44px 0 8px; font-size: 1.25rem; }}
.told, .note, figcaption small {{ color: {_COLOURS.muted}; }} .told {{ margin: 4px 0 0; }}
.note {{ font-size: 0.85rem; }}
.warning {{ border-left: 4px solid {_COLOURS.best}; background: #fff4e8; padding: 10px 14px; }}
nav {{ display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 18px 0; font-size: 0.9rem; }}
nav a {{ color: {_COLOURS.candidate}; text-decoration: none; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr));
  gap: 16px; }} .pair > div {{ min-width: 0; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 18px; }}
figure {{ margin: 0; }} figure img {{ width: 100%; border-radius: 8px; display: block;
  margin-bottom: 6px; }}
@media print {{ section {{ break-inside: avoid; }} nav {{ display: none; }} }}
"""
