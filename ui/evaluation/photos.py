"""One photo of an evaluation: its thumbnail, and a small map of truth and guess.

The small map is an SVG made here: a page may show a dozen of them, and a report must carry them
along. It is centred between truth and guess in the azimuthal equidistant projection, so that the
way between the two is straight and true to scale, across the date line and the poles too.
"""

import functools
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from geoclip_core.data.photos import open_photo
from geoclip_core.data.vocabulary import class_name, place_name
from geoclip_core.earth.climate import climate_names
from geoclip_core.earth.sphere import (
    EARTH_RADIUS_KM,
    bearing,
    destination,
    haversine_km,
    spherical_mean,
)
from geoclip_core.errors import PhotoError
from geoclip_core.evaluation.predictions import head_features, read_candidates
from ui.evaluation.sources import View
from ui.page import STATIC, choose, download, wrapping_columns
from ui.theme import Palette, error_colour, kilometres, markdown_text, palette, percent

THUMBNAIL = 420
_WIDTH, _HEIGHT = 360, 220
_LEAST_REACH_KM = 120.0
_FINE_BELOW_KM = 1200.0
Point = tuple[float, float]


def thumbnail(root: str, path: object) -> Image.Image | None:
    """The photo of a row, small; None if it is not there, not readable, or outside ``root``."""
    if not root or not isinstance(path, str) or not path:
        return None
    folder = Path(root).resolve()
    file = (folder / path).resolve()
    if not file.is_relative_to(folder) or not file.is_file():
        return None
    try:
        image = open_photo(file, draft_size=THUMBNAIL).image
    except PhotoError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def small_map(
    truth: Point,
    guess: Point,
    colours: Palette,
    candidates: Sequence[tuple[float, float, float]] = (),
) -> str:
    """Truth (green), best guess (orange) and candidates (blue) on a piece of the Earth, as SVG.

    Args:
        truth: (latitude, longitude) in degrees.
        guess: the same.
        colours: the palette.
        candidates: (latitude, longitude, probability).
    """
    distance = float(haversine_km(truth, guess))
    centre = truth
    if distance > 1e-3:
        middle = destination(truth, float(bearing(truth, guess)), distance / 2)
        centre = (float(middle[0]), float(middle[1]))
    reach = max(distance * 0.72, _LEAST_REACH_KM)
    scale = _HEIGHT / 2 / reach
    land = _paths("countries50" if reach < _FINE_BELOW_KM else "countries110", centre, scale)
    states = _paths("us_states", centre, scale) if reach < 2500 else ""
    ends = _project(np.array([truth, guess]), centre, scale)
    (x0, y0), (x1, y1) = ends
    dots = ""
    if len(candidates):
        places = _project(np.array([c[:2] for c in candidates]), centre, scale)
        for (x, y), candidate in zip(places, candidates, strict=True):
            radius = 2.5 + 9 * float(candidate[2]) ** 0.5
            dots += _dot(x, y, radius, colours.candidate, colours.paper, 0.75)
    bar = _round_distance(reach * 0.6)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="Truth and guess, {kilometres(distance)} apart">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="{colours.sea}"/>'
        f'<path d="{land}" fill="{colours.land}" stroke="{colours.border}" stroke-width="0.7" '
        'fill-rule="evenodd"/>'
        f'<path d="{states}" fill="none" stroke="{colours.subdivision}" stroke-width="0.6"/>'
        f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{colours.ink}" '
        f'stroke-width="1.6" stroke-dasharray="3 4"/>{dots}'
        + _dot(x1, y1, 6.5, colours.best, colours.paper)
        + _dot(x0, y0, 6.5, colours.truth, colours.paper)
        + f'<path d="M12 {_HEIGHT - 12}v4h{bar * scale:.1f}v-4" fill="none" stroke="{colours.ink}" '
        f'stroke-width="1.2"/><text x="12" y="{_HEIGHT - 16}" font-size="11" '
        f'font-family="system-ui, sans-serif" fill="{colours.ink}">{kilometres(bar)}</text></svg>'
    )


def _dot(x: float, y: float, radius: float, fill: str, rim: str, opacity: float = 1.0) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" stroke="{rim}" '
        f'stroke-width="1.6" fill-opacity="{opacity:g}"/>'
    )


def _project(points: np.ndarray, centre: Point, scale: float) -> np.ndarray:
    """(n, 2) pixels of coordinates (n, 2)."""
    away = haversine_km(np.broadcast_to(centre, points.shape), points) * scale
    heading = np.radians(bearing(np.broadcast_to(centre, points.shape), points))
    x = _WIDTH / 2 + away * np.sin(heading)
    return np.stack([x, _HEIGHT / 2 - away * np.cos(heading)], axis=1)


def _paths(name: str, centre: Point, scale: float) -> str:
    """The rings of a border file that can be seen, as SVG path data."""
    rings, middles, reaches = _rings(name)
    view = np.hypot(_WIDTH, _HEIGHT) / 2 / scale
    seen = haversine_km(middles, np.array(centre)) - reaches < view
    return "".join(_path(rings[index], centre, scale) for index in np.flatnonzero(seen))


def _path(ring: np.ndarray, centre: Point, scale: float) -> str:
    offset = _project(ring, centre, scale) - (_WIDTH / 2, _HEIGHT / 2)
    if not _encloses(ring, centre):
        turned = np.unwrap(np.arctan2(offset[:, 1], offset[:, 0]))
        # Winding about a centre that it does not enclose, a ring encloses the antipode.
        if abs(turned[-1] - turned[0]) > np.pi:
            return ""
    # What lies far outside the frame is drawn no farther than needed to close the shape.
    away = np.maximum(np.hypot(*offset.T), 1e-9)
    pixels = (_WIDTH / 2, _HEIGHT / 2) + offset * np.minimum(1, 2.5 * _WIDTH / away)[:, None]
    rounded = np.round(pixels).astype(int)
    points = rounded[np.r_[True, np.any(np.diff(rounded, axis=0) != 0, axis=1)]]
    if len(points) < 3:
        return ""
    return "M" + "L".join(f"{x} {y}" for x, y in points) + "Z"


def _encloses(ring: np.ndarray, point: Point) -> bool:
    """Whether a ring (latitude, longitude), longitudes unwrapped, holds a point (even-odd)."""
    latitude, longitude = ring[:, 0], ring[:, 1]
    inside = False
    for x in (point[1] - 360, point[1], point[1] + 360):
        crosses = (latitude[:-1] > point[0]) != (latitude[1:] > point[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = longitude[:-1] + (point[0] - latitude[:-1]) / np.diff(latitude) * np.diff(
                longitude
            )
        inside ^= bool(np.count_nonzero(crosses & (x < at)) % 2)
    return inside


@functools.cache
def _rings(name: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Outer rings of a border file, and the circle (centre, km) that each lies in.

    A ring is (n, 2) latitude and longitude, unwrapped; one that goes round a pole is closed there.
    """
    shapes = json.loads((STATIC / "borders" / f"{name}.geojson").read_text(encoding="utf-8"))
    rings, middles, reaches = [], [], []
    for feature in shapes["features"]:
        geometry = feature["geometry"]
        many = geometry["type"] == "MultiPolygon"
        for polygon in geometry["coordinates"] if many else [geometry["coordinates"]]:
            ring = np.array(polygon[0], dtype=np.float64)[:, ::-1].copy()
            ring[:, 1] = np.unwrap(ring[:, 1], period=360)
            if abs(ring[-1, 1] - ring[0, 1]) > 180:
                pole = np.copysign(90.0, ring[0, 0])
                ring = np.vstack([ring, (pole, ring[-1, 1]), (pole, ring[0, 1]), ring[0]])
            rings.append(ring)
            middles.append(spherical_mean(ring))
            reaches.append(haversine_km(middles[-1], ring).max())
    return rings, np.array(middles), np.array(reaches)


def _round_distance(limit_km: float) -> float:
    """The largest of 1, 2, 5 × 10ⁿ km below a limit, for a scale bar."""
    power = 10 ** np.floor(np.log10(min(limit_km, np.pi * EARTH_RADIUS_KM)))
    return float(next(power * step for step in (5, 2, 1) if power * step <= limit_km))


_SHOWN = 4
_PAGE = 100
_SORTS = {
    "Largest error first": ("error_km", False),
    "Smallest error first": ("error_km", True),
    "Surest first": ("radius_50_km", True),
    "Least sure first": ("radius_50_km", False),
    "Sure and wrong first": ("surprise", False),
    "By id": ("id", True),
}


def best_and_worst_panel(view: View) -> None:
    """The photos with the smallest and the largest error, each with truth and guess on a map."""
    frame = view.rows()
    ordered = frame.sort_values("error_km", kind="stable")
    for title, part in (("Best", ordered.head(_SHOWN)), ("Worst", ordered.tail(_SHOWN)[::-1])):
        st.subheader(title, anchor=False)
        columns = wrapping_columns(_SHOWN, title, 210)
        for column, (_, row) in zip(columns, part.iterrows(), strict=False):
            with column:
                _card(view, row)
    _legend(view)
    download(
        "Best and worst 100 (CSV)",
        lambda: pd.concat([ordered.head(100), ordered.tail(100)]).drop_duplicates("id"),
        "best_and_worst.csv",
    )


def _card(view: View, row: pd.Series) -> None:
    image = thumbnail(view.main.root, row.get("path"))
    if image is not None:
        st.image(image, width="stretch")
    st.image(small_map(_truth(row), _guess(row), palette()), width="stretch")
    st.html(
        f"<div style='line-height:1.45;font-size:0.9rem'>{_dot(error_colour(row['error_km']))}"
        f"<b>{kilometres(row['error_km'])}</b> off{_stated(row)}"
        f"<br><span style='color:{palette().muted}'>{_where(row)}</span></div>"
    )


def _legend(view: View) -> None:
    colours = palette()
    st.html(
        f"<div style='font-size:0.85rem;color:{colours.muted}'>{_dot(colours.truth)}where it was "
        f"taken &nbsp; {_dot(colours.best)}best guess &nbsp; {_dot(colours.candidate)}candidates"
        "</div>"
    )
    if not view.main.root:
        st.caption(
            "The photos themselves are not here: only the predictions of this evaluation are. "
            "Evaluate on a dataset of your own to see its photos."
        )


def rows_panel(view: View) -> None:
    """A table of rows; the one that is chosen opens below with its photo."""
    frame = view.rows()
    left, middle = wrapping_columns([3, 1], "order", 150)
    with left:
        order = choose("Order", list(_SORTS), "evaluation order")
    pages = max(1, -(-len(frame) // _PAGE))
    with middle:
        page = st.number_input(f"Page of {pages:,}", 1, pages, 1, key=f"page {view.filters}")
    column, ascending = _SORTS[order]
    keys = (
        frame["error_km"] / frame["radius_50_km"].clip(lower=1e-6)
        if column == "surprise"
        else frame[column]
    )
    chosen = keys.sort_values(ascending=ascending, kind="stable").index
    part = frame.loc[chosen[(page - 1) * _PAGE : page * _PAGE]]
    event = st.dataframe(
        _shown(part),
        hide_index=True,
        height=390,
        on_select="rerun",
        selection_mode="single-row-required",
        selection_default={"selection": {"rows": [0], "columns": [], "cells": []}},
        key=f"rows {order} {page} {hash(view.filters)}",
        column_config={
            "Error": st.column_config.NumberColumn(format="%.1f km"),
            "50 % radius": st.column_config.NumberColumn(format="%.0f km"),
            "90 % radius": st.column_config.NumberColumn(format="%.0f km"),
        },
    )
    download("All rows (CSV)", lambda: frame, "predictions.csv")
    picked = event.selection.rows
    if picked and picked[0] < len(part):
        _detail(view, part.iloc[picked[0]])


def _shown(part: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, Any] = {"Photo": part["id"].to_numpy(), "Error": part["error_km"].to_numpy()}
    for name, column in (("50 % radius", "radius_50_km"), ("90 % radius", "radius_90_km")):
        columns[name] = part[column].to_numpy()
    columns["Taken in"] = [_where(row, escape=False) for _, row in part.iterrows()]
    columns["Guessed"] = [_guessed_place(row) for _, row in part.iterrows()]
    if "climate" in part:
        names = climate_names()
        columns["Climate"] = [names[i].symbol if i >= 0 else "" for i in part["climate"]]
    if "month" in part and (part["month"] >= 0).any():
        columns["Month"] = [class_name("month", i) if i >= 0 else "" for i in part["month"]]
    return pd.DataFrame(columns)


def _detail(view: View, row: pd.Series) -> None:
    """A single photo: picture, map with candidates, and what each head said."""
    st.subheader(f"Photo {row['id']}", anchor=False)
    picture, world, facts = wrapping_columns(3, "photo", 240)
    image = thumbnail(view.main.root, row.get("path"))
    with picture:
        if image is not None:
            st.image(image, width="stretch")
        elif view.main.root:
            st.info(f"{row.get('path')} is not in the dataset's folder any more.")
        else:
            st.info("The photo itself is not part of these predictions.")
    candidates = read_candidates(view.main.path, str(row["id"]))
    with world:
        st.image(small_map(_truth(row), _guess(row), palette(), candidates), width="stretch")
    with facts:
        st.markdown(
            f"**{kilometres(row['error_km'])}** from the truth{_stated(row)} (50 % radius)  \n"
            f"Taken in {markdown_text(_where(row, escape=False))}  \n"
            f"Guessed {markdown_text(_guessed_place(row)) or 'a place without a name'}"
        )
    heads = _head_rows(view, row)
    if len(heads):
        st.dataframe(heads, hide_index=True)


def _head_rows(view: View, row: pd.Series) -> pd.DataFrame:
    records = []
    for feature in head_features(view.rows()):
        truth, rank = row[f"{feature}_truth"], row[f"{feature}_rank"]
        records.append(
            {
                "Head": feature.capitalize(),
                "Said": class_name(feature, row[f"{feature}_top1"]),
                "Sure": percent(float(row[f"{feature}_probability"])),
                "Truth": "unknown" if pd.isna(truth) else class_name(feature, truth),
                "Rank": "" if pd.isna(rank) else f"{int(rank):,}",
            }
        )
    return pd.DataFrame(records)


def _truth(row: pd.Series) -> tuple[float, float]:
    return float(row["latitude"]), float(row["longitude"])


def _guess(row: pd.Series) -> tuple[float, float]:
    return float(row["predicted_latitude"]), float(row["predicted_longitude"])


def _where(row: pd.Series, escape: bool = True) -> str:
    """The most exact true place that the dataset names, else the coordinates."""
    for column in ("city_key", "county_key", "state_key", "country_key"):
        if column in row and pd.notna(row[column]):
            name = place_name(row[column])
            return html.escape(name) if escape else name
    return f"{row['latitude']:.2f}, {row['longitude']:.2f}"


def _guessed_place(row: pd.Series) -> str:
    for column in ("predicted_city_key", "predicted_state_key", "predicted_country_key"):
        if column in row and pd.notna(row[column]):
            return place_name(row[column])
    return f"{row['predicted_latitude']:.2f}, {row['predicted_longitude']:.2f}"


def _stated(row: pd.Series) -> str:
    if pd.isna(row["radius_50_km"]):
        return ""
    return f", stated radius {kilometres(row['radius_50_km'])}"


def _photo_panels_dot(colour: str) -> str:
    return (
        f"<i style='display:inline-block;width:10px;height:10px;border-radius:50%;"
        f"background:{colour};margin-right:6px'></i>"
    )
