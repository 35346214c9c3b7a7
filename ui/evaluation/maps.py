"""Maps of errors: hexagons, states or counties by median error, single photos, and differences.

The server computes the areas, so that a browser gets a few hundred shapes for 119,008 rows.
"""

import functools
import json
import unicodedata
from typing import Any

import h3
import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.data.vocabulary import place_name
from geoclip_core.earth.sphere import geoscore
from geoclip_core.evaluation import map_figures, metrics
from ui.evaluation.sources import Filters, Source, View, rows, table
from ui.page import STATIC, choose, download, show_chart, wrapping_columns
from ui.theme import kilometres, markdown_text, palette

_UNITS = {"States": "state_key", "Counties": "county_key"}
_SEED = 0


@functools.cache
def state_shapes() -> dict[str, Any]:
    """Return GeoJSON of the states of the USA, with the dataset's ``unique_region`` as ``id``."""
    shapes = _shapes("us_states")
    for feature in shapes["features"]:
        feature["id"] = f"{feature['properties']['name']}_US"
    return shapes


@functools.cache
def county_shapes() -> dict[str, Any]:
    """Return GeoJSON of the counties of the ten states, with ``unique_sub-region`` as ``id``."""
    shapes = _shapes("us_counties_ten_states")
    for feature in shapes["features"]:
        name, state = feature["properties"]["county"], feature["properties"]["state"]
        # Carson City is a county of its own and has no "County" in its name.
        suffix = "" if name.endswith("City") else " County"
        # GeoNames writes "Dona Ana" where the census writes "Doña Ana".
        key = unicodedata.normalize("NFKD", f"{name}{suffix}_{state}_US")
        feature["id"] = key.encode("ascii", "ignore").decode()
    return shapes


def _shapes(name: str) -> dict[str, Any]:
    """Return the GeoJSON of a border file, with outer rings clockwise as plotly needs them."""
    shapes: dict[str, Any] = json.loads(
        (STATIC / "borders" / f"{name}.geojson").read_text(encoding="utf-8")
    )
    for feature in shapes["features"]:
        geometry = feature["geometry"]
        many = geometry["type"] == "MultiPolygon"
        polygons = [
            [map_figures.clockwise(outer), *(map_figures.clockwise(hole)[::-1] for hole in holes)]
            for outer, *holes in (geometry["coordinates"] if many else [geometry["coordinates"]])
        ]
        geometry["coordinates"] = polygons if many else polygons[0]
    return shapes


@st.cache_data(max_entries=8, show_spinner=False)
def _resolution(main: Source) -> tuple[int, bool]:
    """Return the H3 resolution and whether to show the USA only; filters do not change them."""
    frame = table(main, main)
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    return map_figures.hexagon_resolution(coordinates), map_figures.in_united_states(frame)


@st.cache_resource(max_entries=8, show_spinner=False)
def _cells(main: Source, resolution: int) -> pd.Series:
    """Return the hexagon of every photo, indexed by photo id."""
    frame = table(main, main)
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    return pd.Series(map_figures.hexagons(coordinates, resolution), index=frame["id"].to_numpy())


def _keys(view: View, unit: str) -> pd.Series:
    """Return the area of every filtered photo."""
    frame = view.rows()
    if unit == "Hexagons":
        cells = _cells(view.main, _resolution(view.main)[0])
        return cells.reindex(frame["id"]).reset_index(drop=True)
    return frame[_UNITS[unit]]


@st.cache_data(max_entries=64, show_spinner=False)
def _areas(view: View, unit: str) -> pd.DataFrame:
    return metrics.group_errors(view.rows(), _keys(view, unit))


def map_panel(view: View) -> None:
    """Show errors on the map, and below it the photos of the chosen area."""
    frame = view.rows()
    usa = _resolution(view.main)[1]
    units = ["Hexagons", *(_UNITS if usa else ()), "Photos"]
    left, right = wrapping_columns([3, 2], "map choices", 260)
    with left:
        unit = st.segmented_control(
            "Coloured by median error", units, default="Hexagons", key="map unit", required=True
        )
    if unit == "Photos":
        shown = _sample(frame, map_figures.MOST_POINTS)
        show_chart(map_figures.points_figure(shown, palette(), usa, arrows=False), "map photos")
        st.caption(_sampled(shown, frame, "each where it was taken, coloured by its error"))
        download("Photos (CSV)", lambda: frame, "map_photos.csv")
        return
    areas = _areas(view, unit)
    names = _names(areas["group"], unit)
    if unit == "Hexagons":
        shapes = map_figures.hexagon_shapes(areas["group"].tolist())
    else:
        shapes = state_shapes() if unit == "States" else county_shapes()
    figure = map_figures.area_figure(areas, shapes, names, palette(), usa)
    chosen = show_chart(
        figure, f"map {unit}", on_select="rerun", selection_mode="points"
    ).selection.points
    picked = str(chosen[0]["location"]) if chosen and "location" in chosen[0] else None
    with right:
        picked = _pick(areas, names, picked, unit)
    download(f"{unit} (CSV)", lambda: areas.assign(name=names), f"errors_by_{unit.lower()}.csv")
    _arrows(view, unit, picked)


def _pick(areas: pd.DataFrame, names: list[str], clicked: str | None, unit: str) -> str | None:
    """Return the area to open: the last one clicked on the map or chosen from the list."""
    name_of = dict(zip(areas["group"], names, strict=True))
    key, seen = f"map area {unit}", f"map clicked {unit}"
    if clicked != st.session_state.get(seen):
        st.session_state[seen] = clicked
        st.session_state[key] = clicked
    if st.session_state.get(key) not in name_of:
        st.session_state[key] = None
    ordered = areas.sort_values("median", ascending=False)
    facts = {
        area: f"{name_of[area]} · {photos:,} photos, median {kilometres(float(median))}"
        for area, photos, median in ordered[["group", "photos", "median"]].to_numpy(object)
    }
    return st.selectbox(
        f"Open one of {len(areas):,} {unit.lower()} (or click it on the map)",
        [None, *ordered["group"]],
        format_func=lambda area: facts.get(area, "None"),
        key=key,
        help="The largest median error first. Type the name of a place to search.",
    )


def _arrows(view: View, unit: str, picked: str | None) -> None:
    """Show arrows from truth to guess for an area, or for a sample of all photos."""
    frame = view.rows()
    inside = frame if picked is None else frame[(_keys(view, unit) == picked).to_numpy()]
    shown = _sample(inside, map_figures.MOST_ARROWS)
    where = "the selection" if picked is None else _names(pd.Series([picked]), unit)[0]
    st.subheader(f"From truth to guess: {markdown_text(where)}", anchor=False)
    if inside.empty:
        st.info("No photo of the selection was taken there.")
        return
    guesses = shown[["predicted_latitude", "predicted_longitude"]]
    guesses = guesses.rename(columns=lambda name: name.removeprefix("predicted_"))
    usa = _resolution(view.main)[1] and map_figures.in_united_states(guesses)
    show_chart(map_figures.points_figure(shown, palette(), usa, arrows=True), "map arrows")
    median = f"median error {kilometres(float(inside['error_km'].median()))}"
    st.caption(_sampled(shown, inside, median))
    download("These photos (CSV)", lambda: inside, "map_selection.csv")


@st.cache_data(max_entries=32, show_spinner=False)
def _gains(main: Source, other: Source, filters: Filters) -> pd.DataFrame:
    first, second = rows(main, main, filters), rows(other, main, filters)
    both = first.merge(second[["id", "error_km"]], on="id", suffixes=("", "_other"))
    gain = geoscore(both["error_km"].to_numpy()) - geoscore(both["error_km_other"].to_numpy())
    cells = _cells(main, _resolution(main)[0]).reindex(both["id"])
    grouped = pd.DataFrame({"group": cells.to_numpy(), "gain": gain}).groupby("group")["gain"]
    found = grouped.agg(["mean", "size"]).reset_index()
    return found.rename(columns={"mean": "gain", "size": "photos"})


def difference_panel(view: View) -> None:
    """Show where the selected model is better than another one."""
    names = view.names()
    if not view.compared:
        st.info(
            "This map shows what one model gains over another, for example with over without "
            "context. Choose a second model under **Compare with** in the sidebar. To make one: "
            "`python -m train fit --no-use-context …`, then `python -m train evaluate` on the same "
            "photos."
        )
        return
    without = [s for s in view.compared if s.use_context is False]
    other = choose(
        f"{markdown_text(names[view.main])} minus …",
        list(view.compared),
        "evaluation minus",
        default=without[0] if view.main.use_context and without else None,
        format_func=names.__getitem__,
    )
    other = other or view.compared[0]
    found = _gains(view.main, other, view.filters)
    usa = _resolution(view.main)[1]
    show_chart(map_figures.difference_figure(found, palette(), usa), "map difference")
    is_context_pair = view.main.use_context and other.use_context is False
    pair = (
        "With context minus without"
        if is_context_pair
        else f"{names[view.main]} minus {names[other]}"
    )
    better = int((found["gain"] > 0).sum())
    st.caption(
        f"{markdown_text(pair)}: mean GeoScore gained per hexagon. Blue is better, orange worse; "
        f"better in {better} of {len(found)} hexagons. Hexagons with few photos vary by chance."
    )
    download("Differences (CSV)", lambda: found, "difference_map.csv")


def _names(keys: pd.Series, unit: str) -> list[str]:
    if unit == "Hexagons":
        middles = [h3.cell_to_latlng(cell) for cell in keys]
        return [f"around {_degrees(lat, 'NS')} {_degrees(lon, 'EW')}" for lat, lon in middles]
    return [place_name(key) for key in keys]


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):.1f}°{letters[value < 0]}"


def _sample(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    return frame if len(frame) <= most else frame.sample(most, random_state=_SEED)


def _sampled(shown: pd.DataFrame, frame: pd.DataFrame, facts: str) -> str:
    part = f"A sample of {len(shown):,} of " if len(shown) < len(frame) else ""
    return f"{part}{len(frame):,} photos, {facts}."
