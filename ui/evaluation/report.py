"""An evaluation as one HTML file: the page's figures, drawn without a server or the internet.

The page itself, and what makes it stand alone, is :mod:`ui.evaluation.report`.
"""

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from geoclip_core.data.vocabulary import class_name, place_name
from geoclip_core.evaluation import figures, metrics
from geoclip_core.evaluation.baselines import baseline_errors, baseline_title
from geoclip_core.evaluation.predictions import head_features
from ui.evaluation import maps, panels
from ui.evaluation.panels import differences_html, headline_html
from ui.evaluation.photos import small_map, thumbnail
from ui.page import STATIC
from ui.theme import LIGHT, kilometres

_COLOURS = LIGHT

Section = tuple[str, str]
"""Title (text) and content (HTML)."""


def report_page(
    title: str, told: Sequence[str], sections: Sequence[Section], warning: str = ""
) -> str:
    """The whole page.

    Args:
        title: the heading, as text.
        told: what the report is of, as texts; empty ones are left out.
        sections: the parts, in order; each is linked to from the top.
        warning: a sentence, as text, that stands above everything else.
    """
    names = [html.escape(name) for name, _ in sections]
    links = "".join(f'<a href="#part-{at}">{name}</a>' for at, name in enumerate(names))
    body = "".join(
        f'<section id="part-{at}"><h2>{names[at]}</h2>{content}</section>'
        for at, (_, content) in enumerate(sections)
    )
    banner = f'<p class="warning">{html.escape(warning)}.</p>' if warning else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}: evaluation</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script><script>{_outlines()}</script></head><body><main>"
        f"<h1>{html.escape(title)}</h1>"
        f"<p class='told'>{html.escape(' · '.join(t for t in told if t))}</p>{banner}"
        f"<nav>{links}</nav>{body}</main></body></html>"
    )


def image(content: bytes, kind: str, alt: str) -> str:
    """An image that is carried in the page; ``kind`` is its MIME type."""
    return f"<img alt='{alt}' src='data:{kind};base64,{base64.b64encode(content).decode()}'>"


def chart(figure: go.Figure, height: int | None = None) -> str:
    """A figure as a piece of the page."""
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "color": _COLOURS.ink, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    if height:
        figure.update_layout(height=height)
    return plotly.io.to_html(
        figure,
        include_plotlyjs=False,
        full_html=False,
        default_width="100%",
        default_height=f"{height or figure.layout.height or 420}px",
        config={"displaylogo": False, "responsive": True},
    )


def _outlines() -> str:
    """What plotly's maps would otherwise fetch, put where they look first."""
    drawn = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((STATIC / "topojson").glob("*.json"))
    }
    return f"window.PlotlyGeoAssets = {{topojson: {json.dumps(drawn, separators=(',', ':'))}}};"


def side_by_side(*contents: str) -> str:
    """Pieces beside each other where there is room, below each other where not."""
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


_SHOWN = 6


@dataclass(frozen=True)
class ReportTable:
    """A predictions table and what it is of."""

    name: str
    frame: pd.DataFrame
    about: dict[str, Any]


def report_html(tables: Sequence[ReportTable], photos: bool = False) -> str:
    """The report of an evaluation.

    Args:
        tables: the model first, then those beside it, on the same photos.
        photos: embed thumbnails of the best and worst photos, where they are on this computer.
    """
    main, about = tables[0], tables[0].about
    data = ", ".join(str(about[k]) for k in ("dataset", "split") if about.get(k))
    told = [f"{len(main.frame):,} photos", data, str(about.get("note") or "")]
    sections = [*_headline(tables), *_errors(tables), *_maps(main), *_groups(main)]
    sections += [*_heads(main), *_certainty(tables), *_photos(main, photos)]
    return report_page(main.name, told, sections, str(about.get("warning") or ""))


def _headline(tables: Sequence[ReportTable]) -> Iterator[Section]:
    main = tables[0]
    rows = [
        panels.model_row(table.frame, table.name, "other" if at else "model")
        for at, table in enumerate(tables)
    ]
    rows += panels.baseline_rows(main.frame)
    note = (
        "<p class='note'>Small figures: 95 % intervals. GeoScore is 5000·exp(−d / 1492.7 km), "
        "averaged; shares are percentages. Grey lines are baselines that need no model.</p>"
    )
    yield "Headline", headline_html(rows, _COLOURS) + note
    others = {}
    for table in tables[1:]:
        aligned = table.frame.set_index("id")["error_km"].reindex(main.frame["id"])
        others[table.name] = aligned.to_numpy(np.float64)
    for name, error_km in baseline_errors(main.frame).items():
        others[baseline_title(name).capitalize()] = error_km
    differences = panels.difference_rows(main.frame, others)
    if len(differences):
        yield "Photo by photo", differences_html(differences, main.name, _COLOURS)


def _errors(tables: Sequence[ReportTable]) -> Iterator[Section]:
    found = {t.name: t.frame["error_km"].to_numpy(np.float64) for t in tables}
    bins = {name: figures.error_bins(error) for name, error in found.items()}
    curves = {name: figures.cumulative_curve(error) for name, error in found.items()}
    baselines = {
        baseline_title(name).capitalize(): figures.cumulative_curve(error[np.isfinite(error)])
        for name, error in baseline_errors(tables[0].frame).items()
    }
    yield (
        "Errors",
        side_by_side(
            chart(figures.histogram_figure(bins, _COLOURS), 400),
            chart(figures.cumulative_figure(curves, baselines, _COLOURS), 400),
        ),
    )


def _maps(main: ReportTable) -> Iterator[Section]:
    frame = main.frame
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    if not len(frame):
        return
    usa, size = maps.in_united_states(frame), maps.hexagon_resolution(coordinates)
    areas = figures.group_errors(frame, pd.Series(maps.hexagons(coordinates, size)))
    names = ["hexagon"] * len(areas)
    figure = maps.area_figure(areas, maps.hexagon_shapes(areas["group"]), names, _COLOURS, usa)
    sample = frame if len(frame) <= 200 else frame.sample(200, random_state=0)
    arrows = maps.points_figure(sample, _COLOURS, usa=False, arrows=True)
    yield "Errors on the map", chart(figure, 520)
    yield f"From truth to guess, {len(sample)} photos", chart(arrows, 520)


def _groups(main: ReportTable) -> Iterator[Section]:
    for title, column in figures.GROUPS.items():
        if column not in main.frame:
            continue
        found = figures.group_errors(main.frame, figures.group_keys(main.frame, column))
        if column in ("radius_50_km", "month"):
            found = found.sort_values("group")
        elif column.endswith("_key"):
            found = found.head(figures.MOST_GROUPS).sort_values("median")
        if len(found) > 1:
            names = [figures.group_name(column, key) for key in found["group"]]
            swatches = figures.climate_swatches(column, found["group"])
            figure = figures.group_figure(found, names, _COLOURS, swatches)
            yield f"Errors by {title.lower()}", chart(figure)


def _heads(main: ReportTable) -> Iterator[Section]:
    frame = main.frame
    for feature in head_features(frame):
        numbers = metrics.head_metrics(frame, feature)
        if not numbers["n"]:
            continue
        words = (
            f"<p>{numbers['n']:,} photos with a known truth, {numbers['unseen']:,} more with one "
            f"that no training photo has. Top-1 {numbers['top1']:.1%}, top-3 "
            f"{numbers['top3']:.1%}, top-5 {numbers['top5']:.1%}; always the commonest class "
            f"{numbers['majority']:.1%}. Macro-F1 {numbers['macro_f1']:.2f}, log loss "
            f"{numbers['log_loss']:.2f}, calibration error "
            f"{numbers['expected_calibration_error']:.1%}.</p>"
        )
        counts, dropped = metrics.confusion_counts(frame, feature)
        if dropped > len(counts):
            pairs = metrics.confused_pairs(frame, feature, 18)
            names = [
                f"{class_name(feature, a)} → {class_name(feature, b)}"
                for a, b in zip(pairs["truth"], pairs["guess"], strict=True)
            ]
            left = figures.pairs_figure(pairs, names, _COLOURS)
        else:
            names = [k if k == "other" else class_name(feature, k) for k in counts.index]
            left = figures.confusion_figure(counts, names, _COLOURS)
        known = frame[f"{feature}_truth"].notna().to_numpy()
        curve = metrics.reliability_curve(
            frame[f"{feature}_probability"].to_numpy(np.float64)[known],
            metrics.rank_hits(frame, feature)["top1"][known],
        )
        right = figures.reliability_figure({main.name: curve}, _COLOURS)
        yield f"Context head: {feature}", words + side_by_side(chart(left), chart(right, 400))


def _certainty(tables: Sequence[ReportTable]) -> Iterator[Section]:
    stated = [t for t in tables if t.frame["radius_50_km"].notna().any()]
    if not stated:
        return
    coverage = {t.name: metrics.coverage_curve(t.frame) for t in stated}
    scales = {t.name: metrics.coverage_at_scales(t.frame) for t in stated}
    risk = {t.name: metrics.risk_coverage(t.frame) for t in stated}
    words = (
        "<p>Left: honest radii keep the truth inside as often as they say, small or large (dots "
        "50 %, rings 90 %). Middle: they cross their dotted line at 1× (thick 50 %, thin 90 %). "
        "Right: error if only the surest photos are answered.</p>"
    )
    made = (
        figures.coverage_figure(coverage, _COLOURS),
        figures.scales_figure(scales, _COLOURS),
        figures.risk_figure(risk, _COLOURS),
    )
    yield "Certainty", words + side_by_side(*(chart(figure, 380) for figure in made))


def _photos(main: ReportTable, embed: bool) -> Iterator[Section]:
    ordered = main.frame.sort_values("error_km", kind="stable")
    for title, part in (("Best", ordered.head(_SHOWN)), ("Worst", ordered.tail(_SHOWN)[::-1])):
        cards = "".join(_card(row, main.about, embed) for _, row in part.iterrows())
        yield f"{title} photos", f"<div class='cards'>{cards}</div>"


def _card(row: pd.Series, about: dict[str, Any], embed: bool) -> str:
    truth = (float(row["latitude"]), float(row["longitude"]))
    guess = (float(row["predicted_latitude"]), float(row["predicted_longitude"]))
    picture = ""
    small = thumbnail(str(about.get("root") or ""), row.get("path")) if embed else None
    if small is not None:
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=82)
        picture = image(stream.getvalue(), "image/jpeg", "The photo")
    drawn = image(small_map(truth, guess, _COLOURS).encode(), "image/svg+xml", "Truth and guess")
    keys = ("city_key", "county_key", "state_key", "country_key")
    where = next((place_name(row[k]) for k in keys if k in row and pd.notna(row[k])), "")
    return (
        f"<figure>{picture}{drawn}<figcaption><b>{kilometres(row['error_km'])}</b> off<br>"
        f"{html.escape(where)}<br><small>{html.escape(str(row['id']))}</small></figcaption></figure>"
    )
