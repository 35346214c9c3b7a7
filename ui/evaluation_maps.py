"""Maps of errors: hexagons, states or counties by median error, single photos, and differences.

Areas are made on the server, so that 119,008 rows become a few hundred shapes. Longitudes need no
care at the date line: plotly's geo maps draw on the sphere.
"""

import functools
import html
import json
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h3
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ui.charts import ERROR_COLOR_LIMIT, ERROR_COLORSCALE, error_marker, world_figure
from ui.theme import ERROR_MARKS_KM, Palette, kilometres, translucent

BORDERS = Path(__file__).resolve().parent.parent / "static" / "borders"
MOST_AREAS = 600
MOST_POINTS = 1500
MOST_ARROWS = 300
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
    shapes = json.loads((BORDERS / "us_states.geojson").read_text(encoding="utf-8"))
    for feature in shapes["features"]:
        feature["id"] = f"{feature['properties']['name']}_US"
    return _wound(shapes)


@functools.cache
def county_shapes() -> dict[str, Any]:
    """GeoJSON of the counties of the ten states, with ``unique_sub-region`` as ``id``."""
    shapes = json.loads((BORDERS / "us_counties_ten_states.geojson").read_text(encoding="utf-8"))
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
        table: :func:`hexagon_differences`.
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
            "title": {"text": "GeoScore gained", "side": "right"},
            "tickformat": "+,.0f",
            "thickness": 12,
            "outlinewidth": 0,
        },
    )
    return figure


def hexagon_differences(coordinates: np.ndarray, gain: np.ndarray, resolution: int) -> pd.DataFrame:
    """Mean gain by hexagon of the truth: ``group``, ``gain``, ``photos``."""
    table = pd.DataFrame({"group": hexagons(coordinates, resolution), "gain": gain})
    grouped = table.groupby("group")["gain"].agg(["mean", "size"]).reset_index()
    return grouped.rename(columns={"mean": "gain", "size": "photos"})


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
    if fit:
        figure.update_geos(fitbounds="locations")
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return figure


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
        "title": {"text": title, "side": "right"},
        "tickvals": [math.log10(mark) for mark in ERROR_MARKS_KM],
        "ticktext": [f"{mark:,}" for mark in ERROR_MARKS_KM],
        "thickness": 12,
        "outlinewidth": 0,
    }


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
