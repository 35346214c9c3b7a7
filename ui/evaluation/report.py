"""An evaluation as one HTML file: the page's figures, drawn without a server or the internet.

The page itself, and what makes it stand alone, is :mod:`ui.report_page`.
"""

import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.loops import context_metrics, reliability
from geoclip_core.loops.baselines import baseline_errors, baseline_title
from geoclip_core.loops.predictions import head_features
from ui.evaluation import errors, groups, headline, maps, shapes, trust
from ui.evaluation.data import class_name, place_name
from ui.evaluation.photos import small_map, thumbnail
from ui.evaluation.tables import differences_html, headline_html
from ui.report_page import Section, chart, image, report_page, side_by_side
from ui.theme import LIGHT, kilometres

_COLOURS = LIGHT
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
        headline.model_row(table.frame, table.name, "other" if at else "model")
        for at, table in enumerate(tables)
    ]
    rows += headline.baseline_rows(main.frame)
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
    differences = headline.difference_rows(main.frame, others)
    if len(differences):
        yield "Photo by photo", differences_html(differences, main.name, _COLOURS)


def _errors(tables: Sequence[ReportTable]) -> Iterator[Section]:
    found = {t.name: t.frame["error_km"].to_numpy(np.float64) for t in tables}
    bins = {name: errors.error_bins(error) for name, error in found.items()}
    curves = {name: errors.cumulative_curve(error) for name, error in found.items()}
    baselines = {
        baseline_title(name).capitalize(): errors.cumulative_curve(error[np.isfinite(error)])
        for name, error in baseline_errors(tables[0].frame).items()
    }
    yield (
        "Errors",
        side_by_side(
            chart(errors.histogram_figure(bins, _COLOURS), 400),
            chart(errors.cumulative_figure(curves, baselines, _COLOURS), 400),
        ),
    )


def _maps(main: ReportTable) -> Iterator[Section]:
    frame = main.frame
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    if not len(frame):
        return
    usa, size = shapes.in_united_states(frame), shapes.hexagon_resolution(coordinates)
    areas = groups.group_errors(frame, pd.Series(shapes.hexagons(coordinates, size)))
    names = ["hexagon"] * len(areas)
    figure = maps.area_figure(areas, shapes.hexagon_shapes(areas["group"]), names, _COLOURS, usa)
    sample = frame if len(frame) <= 200 else frame.sample(200, random_state=0)
    arrows = maps.points_figure(sample, _COLOURS, usa=False, arrows=True)
    yield "Errors on the map", chart(figure, 520)
    yield f"From truth to guess, {len(sample)} photos", chart(arrows, 520)


def _groups(main: ReportTable) -> Iterator[Section]:
    for title, column in groups.GROUPS.items():
        if column not in main.frame:
            continue
        found = groups.group_errors(main.frame, groups.group_keys(main.frame, column))
        if column in ("radius_50_km", "month"):
            found = found.sort_values("group")
        elif column.endswith("_key"):
            found = found.head(groups.MOST_GROUPS).sort_values("median")
        if len(found) > 1:
            names = [groups.group_name(column, key) for key in found["group"]]
            swatches = groups.climate_swatches(column, found["group"])
            figure = groups.group_figure(found, names, _COLOURS, swatches)
            yield f"Errors by {title.lower()}", chart(figure)


def _heads(main: ReportTable) -> Iterator[Section]:
    frame = main.frame
    for feature in head_features(frame):
        numbers = context_metrics.head_metrics(frame, feature)
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
        counts, dropped = context_metrics.confusion_counts(frame, feature)
        if dropped > len(counts):
            pairs = context_metrics.confused_pairs(frame, feature, 18)
            names = [
                f"{class_name(feature, a)} → {class_name(feature, b)}"
                for a, b in zip(pairs["truth"], pairs["guess"], strict=True)
            ]
            left = trust.pairs_figure(pairs, names, _COLOURS)
        else:
            names = [k if k == "other" else class_name(feature, k) for k in counts.index]
            left = trust.confusion_figure(counts, names, _COLOURS)
        known = frame[f"{feature}_truth"].notna().to_numpy()
        curve = context_metrics.reliability_curve(
            frame[f"{feature}_probability"].to_numpy(np.float64)[known],
            context_metrics.rank_hits(frame, feature)["top1"][known],
        )
        right = trust.reliability_figure({main.name: curve}, _COLOURS)
        yield f"Context head: {feature}", words + side_by_side(chart(left), chart(right, 400))


def _certainty(tables: Sequence[ReportTable]) -> Iterator[Section]:
    stated = [t for t in tables if t.frame["radius_50_km"].notna().any()]
    if not stated:
        return
    coverage = {t.name: reliability.coverage_curve(t.frame) for t in stated}
    scales = {t.name: reliability.coverage_at_scales(t.frame) for t in stated}
    risk = {t.name: reliability.risk_coverage(t.frame) for t in stated}
    words = (
        "<p>Left: honest radii keep the truth inside as often as they say, small or large (dots "
        "50 %, rings 90 %). Middle: they cross their dotted line at 1× (thick 50 %, thin 90 %). "
        "Right: error if only the surest photos are answered.</p>"
    )
    made = (
        trust.coverage_figure(coverage, _COLOURS),
        trust.scales_figure(scales, _COLOURS),
        trust.risk_figure(risk, _COLOURS),
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
