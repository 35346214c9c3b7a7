"""Maps of errors: hexagons, states or counties by median error, single photos, and differences.

Areas are made on the server, so that 119,008 rows become a few hundred shapes.
"""

import functools
import html
import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import h3
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from geoclip_core.data.vocabulary import place_name
from geoclip_core.earth.sphere import geoscore
from geoclip_core.evaluation.figures import group_errors
from ui.charts import ERROR_COLOR_LIMIT, ERROR_COLORSCALE, error_marker, show_chart, world_figure
from ui.evaluation.sources import Filters, Source, View, rows, table
from ui.geometry import middle_longitude
from ui.page import STATIC, choose, download, wrapping_columns
from ui.theme import ERROR_MARKS_KM, Palette, kilometres, palette, translucent

MOST_AREAS = 900
_UNITED_STATES = (18.0, 72.0, -170.0, -65.0)  # south, north, west, east


def hexagon_resolution(coordinates: np.ndarray) -> int:
    """The finest H3 resolution (1 to 5) at which the points fill at most ``MOST_AREAS`` cells."""
    sample = coordinates[:: max(1, len(coordinates) // 20_000)]
    for resolution in (5, 4, 3, 2):
        cells = len(set(hexagons(sample, resolution)))
        # Cells with a photo or two show noise: prefer larger ones.
        if cells <= MOST_AREAS and len(sample) >= 8 * cells:
            return resolution
    return 1


def hexagons(coordinates: np.ndarray, resolution: int) -> list[str]:
    """The H3 cell of each of the coordinates (n, 2)."""
    cell = h3.latlng_to_cell
    return [cell(latitude, longitude, resolution) for latitude, longitude in coordinates]


def hexagon_shapes(cells: Sequence[str]) -> dict[str, Any]:
    """GeoJSON of H3 cells, with the cell as ``id``."""
    features = []
    for cell in cells:
        ring = [[round(lon, 3), round(lat, 3)] for lat, lon in h3.cell_to_boundary(cell)]
        geometry = {"type": "Polygon", "coordinates": [_clockwise([*ring, ring[0]])]}
        features.append({"type": "Feature", "id": cell, "properties": {}, "geometry": geometry})
    return {"type": "FeatureCollection", "features": features}


@functools.cache
def state_shapes() -> dict[str, Any]:
    """GeoJSON of the states of the USA, with the dataset's ``unique_region`` as ``id``."""
    shapes = json.loads((STATIC / "borders" / "us_states.geojson").read_text(encoding="utf-8"))
    for feature in shapes["features"]:
        feature["id"] = f"{feature['properties']['name']}_US"
    return _wound(shapes)


@functools.cache
def county_shapes() -> dict[str, Any]:
    """GeoJSON of the counties of the ten states, with ``unique_sub-region`` as ``id``."""
    shapes = json.loads(
        (STATIC / "borders" / "us_counties_ten_states.geojson").read_text(encoding="utf-8")
    )
    for feature in shapes["features"]:
        name, state = feature["properties"]["county"], feature["properties"]["state"]
        # Carson City is a county of its own and has no "County" in its name.
        suffix = "" if name.endswith("City") else " County"
        feature["id"] = _unaccented(f"{name}{suffix}_{state}_US")
    return _wound(shapes)


def in_united_states(frame: pd.DataFrame) -> bool:
    """Whether nearly all photos were taken in the USA, so that its map is the one to draw."""
    if "country_key" in frame and frame["country_key"].notna().any():
        return bool((frame["country_key"] == "US").mean() > 0.98)
    south, north, west, east = _UNITED_STATES
    return bool(
        (frame["latitude"].between(south, north) & frame["longitude"].between(west, east)).mean()
        > 0.98
    )


def _unaccented(text: str) -> str:
    """GeoNames writes "Dona Ana" where the census writes "Doña Ana"."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _wound(shapes: dict[str, Any]) -> dict[str, Any]:
    """The same shapes with outer rings clockwise, as plotly's sphere wants them."""
    for feature in shapes["features"]:
        geometry = feature["geometry"]
        many = geometry["type"] == "MultiPolygon"
        polygons = geometry["coordinates"] if many else [geometry["coordinates"]]
        polygons = [
            [_clockwise(ring) if at == 0 else _clockwise(ring)[::-1] for at, ring in enumerate(p)]
            for p in polygons
        ]
        geometry["coordinates"] = polygons if many else polygons[0]
    return shapes


def _clockwise(ring: list[list[float]]) -> list[list[float]]:
    """A closed ring (longitude, latitude) in clockwise order, seen with north up."""
    longitude = np.unwrap([point[0] for point in ring], period=360)
    latitude = np.array([point[1] for point in ring])
    doubled = np.sum(longitude[:-1] * latitude[1:] - longitude[1:] * latitude[:-1])
    return ring[::-1] if doubled > 0 else ring


MOST_POINTS = 1500
MOST_ARROWS = 300
_BAR: dict[str, Any] = {  # below the map, which a bar at its side would squeeze on a phone
    "orientation": "h",
    "x": 0.5,
    "y": 0,
    "yanchor": "top",
    "len": 0.6,
    "thickness": 10,
    "outlinewidth": 0,
}


def area_figure(
    table: pd.DataFrame, shapes: dict[str, Any], names: Sequence[str], colours: Palette, usa: bool
) -> go.Figure:
    """Areas coloured by median error.

    Args:
        table: ``evaluation_errors.group_errors`` with the shapes' ids as ``group``.
        shapes: GeoJSON; shapes without a group are not drawn.
        names: what to call each group.
        colours: the palette.
        usa: draw the map of the USA instead of the world.
    """
    wanted = set(table["group"])
    kept = [feature for feature in shapes["features"] if feature["id"] in wanted]
    hover = [
        f"<b>{html.escape(name)}</b><br>median {kilometres(row.median)}"
        f"<br>half between {kilometres(row.p25)} and {kilometres(row.p75)}"
        f"<br>{row.photos:,} photos"
        for name, row in zip(names, table.itertuples(index=False), strict=True)
    ]
    figure = _geo(colours, usa)
    figure.add_choropleth(
        geojson={"type": "FeatureCollection", "features": kept},
        locations=table["group"],
        z=np.log10(np.maximum(table["median"], 1.0)),
        zmin=0,
        zmax=ERROR_COLOR_LIMIT,
        colorscale=ERROR_COLORSCALE,
        marker={"line": {"width": 0.5, "color": translucent(colours.paper, 0.6)}, "opacity": 0.92},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        colorbar=_error_bar("Median error (km)"),
    )
    return figure


def difference_figure(table: pd.DataFrame, colours: Palette, usa: bool) -> go.Figure:
    """Hexagons coloured by the mean GeoScore that the first model gains over the second.

    Args:
        table: ``group`` (H3 cells), ``gain`` and ``photos``.
        colours: the palette.
        usa: draw the map of the USA instead of the world.
    """
    limit = float(np.quantile(table["gain"].abs(), 0.95)) if len(table) else 1.0
    hover = [
        f"GeoScore {row.gain:+,.0f}<br>{row.photos:,} photos"
        for row in table.itertuples(index=False)
    ]
    figure = _geo(colours, usa)
    figure.add_choropleth(
        geojson=hexagon_shapes(table["group"]),
        locations=table["group"],
        z=table["gain"],
        zmid=0,
        zmin=-max(limit, 1.0),
        zmax=max(limit, 1.0),
        colorscale=[[0, colours.best], [0.5, colours.paper], [1, colours.candidate]],
        marker={"line": {"width": 0.5, "color": translucent(colours.muted, 0.5)}, "opacity": 0.95},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={
            "title": {"text": "GeoScore gained", "side": "top"},
            "tickformat": "+,.0f",
            **_BAR,
        },
    )
    return figure


def points_figure(
    frame: pd.DataFrame, colours: Palette, usa: bool, arrows: bool, fit: bool = True
) -> go.Figure:
    """Photos where they were taken, coloured by error; with arrows, from truth to guess.

    Args:
        frame: predictions; at most ``MOST_POINTS`` (``MOST_ARROWS`` with arrows) should be given.
        colours: the palette.
        usa: draw the map of the USA instead of the world.
        arrows: also draw the guesses and the way to them.
        fit: show only where the points are.
    """
    figure = _geo(colours, usa)
    if arrows:
        n = len(frame)
        latitude, longitude = np.full(3 * n, np.nan), np.full(3 * n, np.nan)
        latitude[0::3], longitude[0::3] = frame["latitude"], frame["longitude"]
        latitude[1::3] = frame["predicted_latitude"]
        longitude[1::3] = frame["predicted_longitude"]
        figure.add_scattergeo(
            lat=latitude,
            lon=longitude,
            mode="lines",
            line={"color": translucent(colours.muted, 0.55), "width": 1},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scattergeo(
            lat=frame["predicted_latitude"],
            lon=frame["predicted_longitude"],
            mode="markers",
            marker={
                "color": colours.best,
                "size": 8,
                "symbol": "diamond",
                "line": {"width": 1, "color": colours.paper},
            },
            customdata=_hover(frame, "Guess"),
            hovertemplate="%{customdata}<extra></extra>",
            name="Best guess",
        )
    marker = (
        {"color": colours.truth, "size": 8, "line": {"width": 1, "color": colours.paper}}
        if arrows
        else error_marker(
            frame["error_km"].tolist(), size=6, line={"width": 0.4, "color": colours.paper}
        )
        | {"colorbar": _error_bar("Error (km)")}
    )
    figure.add_scattergeo(
        lat=frame["latitude"],
        lon=frame["longitude"],
        mode="markers",
        marker=marker,
        customdata=_hover(frame, "Truth"),
        hovertemplate="%{customdata}<extra></extra>",
        name="Where it was taken",
        showlegend=arrows,
    )
    if fit and not usa:
        _frame(figure, frame, arrows)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return figure


def _frame(figure: go.Figure, frame: pd.DataFrame, arrows: bool) -> None:
    """Show only the part of the world with the points in it, across the date line if they are."""
    columns = [("latitude", "longitude")]
    columns += [("predicted_latitude", "predicted_longitude")] if arrows else []
    latitude = np.concatenate([frame[a].to_numpy(np.float64) for a, _ in columns])
    longitude = np.concatenate([frame[b].to_numpy(np.float64) for _, b in columns])
    if not len(latitude):
        return
    middle = middle_longitude(longitude.tolist())
    around = (longitude - middle + 180) % 360 - 180
    half = max(np.abs(around).max() * 1.08, 3.0)
    low, high = latitude.min(), latitude.max()
    # The frame is about twice as wide as high: widen the narrower side.
    squeeze = max(float(np.cos(np.radians((low + high) / 2))), 0.4)
    tall = min(max((high - low) * 1.16, 3.0, half * squeeze * 0.9), 178.0)
    half = min(max(half, tall * 0.85 / squeeze), 180.0)
    centre = float(np.clip((low + high) / 2, -89 + tall / 2, 89 - tall / 2))
    figure.update_geos(
        projection_rotation_lon=middle,
        lonaxis_range=[middle - half, middle + half],
        lataxis_range=[centre - tall / 2, centre + tall / 2],
    )


def _hover(frame: pd.DataFrame, what: str) -> list[str]:
    return [
        f"{what} of {html.escape(str(photo))}<br>error {kilometres(error)}"
        for photo, error in zip(frame["id"], frame["error_km"], strict=True)
    ]


def _geo(colours: Palette, usa: bool) -> go.Figure:
    figure = world_figure(colours, **({"scope": "usa"} if usa else {}))
    figure.update_layout(height=470, margin={"l": 0, "r": 0, "t": 26, "b": 0})
    return figure


def _error_bar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "top"},
        "tickvals": [math.log10(mark) for mark in ERROR_MARKS_KM],
        "ticktext": [f"{mark:,}" for mark in ERROR_MARKS_KM],
        **_BAR,
    }


_UNITS = {"States": "state_key", "Counties": "county_key"}
_SEED = 0


@st.cache_data(max_entries=8, show_spinner=False)
def _resolution(main: Source) -> tuple[int, bool]:
    """Size of the hexagons, and whether the map is that of the USA, for all filters alike."""
    frame = table(main, main)
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    return hexagon_resolution(coordinates), in_united_states(frame)


@st.cache_resource(max_entries=8, show_spinner=False)
def _cells(main: Source, resolution: int) -> pd.Series:
    """The hexagon of every photo, by its id."""
    frame = table(main, main)
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    return pd.Series(hexagons(coordinates, resolution), index=frame["id"].to_numpy())


def _keys(view: View, unit: str) -> pd.Series:
    """The area of every filtered photo."""
    frame = view.rows()
    if unit == "Hexagons":
        cells = _cells(view.main, _resolution(view.main)[0])
        return cells.reindex(frame["id"]).reset_index(drop=True)
    return frame[_UNITS[unit]]


@st.cache_data(max_entries=64, show_spinner=False)
def _areas(view: View, unit: str) -> pd.DataFrame:
    return group_errors(view.rows(), _keys(view, unit))


def map_panel(view: View) -> None:
    """Errors on the map; an area that is clicked opens into its photos."""
    frame = view.rows()
    usa = _resolution(view.main)[1]
    units = ["Hexagons", *(_UNITS if usa else ()), "Photos"]
    left, right = wrapping_columns([3, 2], "map choices", 260)
    with left:
        unit = st.segmented_control(
            "Coloured by median error", units, default="Hexagons", key="map unit", required=True
        )
    if unit == "Photos":
        shown = _sample(frame, MOST_POINTS)
        show_chart(points_figure(shown, palette(), usa, arrows=False), "map photos")
        st.caption(_sampled(shown, frame, "each where it was taken, coloured by its error"))
        download("Photos (CSV)", lambda: frame, "map_photos.csv")
        return
    areas = _areas(view, unit)
    names = _names(areas["group"], unit)
    made = {
        "Hexagons": lambda: hexagon_shapes(areas["group"]),
        "States": state_shapes,
        "Counties": county_shapes,
    }
    figure = area_figure(areas, made[unit](), names, palette(), usa)
    chosen = show_chart(
        figure, f"map {unit}", on_select="rerun", selection_mode="points"
    ).selection.points
    picked = str(chosen[0]["location"]) if chosen and "location" in chosen[0] else None
    with right:
        picked = _pick(areas, names, picked, unit)
    download(f"{unit} (CSV)", lambda: areas.assign(name=names), f"errors_by_{unit.lower()}.csv")
    _open(view, unit, picked)


def _pick(areas: pd.DataFrame, names: list[str], clicked: str | None, unit: str) -> str | None:
    """The area to open: the last one that was clicked on the map or chosen from the list."""
    called = dict(zip(areas["group"], names, strict=True))
    key, seen = f"map area {unit}", f"map clicked {unit}"
    if clicked != st.session_state.get(seen):
        st.session_state[seen] = clicked
        st.session_state[key] = clicked
    if st.session_state.get(key) not in called:
        st.session_state[key] = None
    return st.selectbox(
        "Open an area (or click it on the map)",
        [None, *areas.sort_values("median", ascending=False)["group"]],
        format_func=lambda area: called.get(area, "None"),
        key=key,
    )


def _open(view: View, unit: str, picked: str | None) -> None:
    """True → predicted arrows of an area, or of a sample of everything."""
    frame = view.rows()
    inside = frame if picked is None else frame[(_keys(view, unit) == picked).to_numpy()]
    shown = _sample(inside, MOST_ARROWS)
    where = "the selection" if picked is None else _names(pd.Series([picked]), unit)[0]
    st.subheader(f"From truth to guess: {where}", anchor=False)
    if inside.empty:
        st.info("No photo of the selection was taken there.")
        return
    usa = _resolution(view.main)[1] and in_united_states(
        shown.assign(
            latitude=shown["predicted_latitude"], longitude=shown["predicted_longitude"]
        ).drop(columns="country_key", errors="ignore")
    )
    show_chart(points_figure(shown, palette(), usa, arrows=True), "map arrows")
    words = f"median error {kilometres(float(inside['error_km'].median()))}"
    st.caption(_sampled(shown, inside, words))
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
    """Where one model is better than another: with context minus without, or any two."""
    names = view.names()
    if not view.beside:
        st.info(
            "This map shows what one model gains over another, such as the same model with and "
            "without context. Choose a second model under **Beside it** in the sidebar. To make "
            "one: `python -m train fit --no-use-context …`, then `python -m train evaluate` on the "
            "same photos."
        )
        return
    without = [s for s in view.beside if s.use_context is False]
    other = choose(
        f"{names[view.main]} minus …",
        list(view.beside),
        "evaluation minus",
        default=without[0] if view.main.use_context and without else None,
        format_func=names.get,
    )
    found = _gains(view.main, other, view.filters)
    usa = _resolution(view.main)[1]
    show_chart(difference_figure(found, palette(), usa), "map difference")
    ours = view.main.use_context and other.use_context is False
    title = "With context minus without" if ours else f"{names[view.main]} minus {names[other]}"
    better, all_of = int((found["gain"] > 0).sum()), len(found)
    st.caption(
        f"{title}: mean GeoScore gained per hexagon. Blue is better, orange worse; better in "
        f"{better} of {all_of} hexagons. Hexagons with few photos vary by chance."
    )
    download("Differences (CSV)", lambda: found, "difference_map.csv")


def _names(keys: pd.Series, unit: str) -> list[str]:
    if unit == "Hexagons":
        import h3

        middles = [h3.cell_to_latlng(cell) for cell in keys]
        return [f"around {_degrees(lat, 'NS')} {_degrees(lon, 'EW')}" for lat, lon in middles]
    return [place_name(key) for key in keys]


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):.1f}°{letters[value < 0]}"


def _sample(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    return frame if len(frame) <= most else frame.sample(most, random_state=_SEED)


def _sampled(shown: pd.DataFrame, frame: pd.DataFrame, words: str) -> str:
    part = f"A sample of {len(shown):,} of " if len(shown) < len(frame) else ""
    return f"{part}{len(frame):,} photos, {words}."
