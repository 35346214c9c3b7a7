"""World maps of the report, the Evaluation page and the Dataset page, in plotly."""

import html
import math
from collections.abc import Sequence
from typing import Any

import h3
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from geoclip_core.earth.sphere import middle_longitude
from geoclip_core.evaluation.figures import ERROR_COLOR_LIMIT, spread_texts
from geoclip_core.evaluation.style import (
    ERROR_MARKS_KM,
    ERROR_SCALE,
    Palette,
    kilometres,
    translucent,
)

MOST_AREAS = 900
MOST_POINTS = 1500
MOST_ARROWS = 300
"""Most of each that a map shows clearly."""

ERROR_COLORSCALE = [
    [place / (len(ERROR_SCALE) - 1), colour] for place, colour in enumerate(ERROR_SCALE)
]
"""For traces whose colour is log10 of the error in km, from 0 to ``ERROR_COLOR_LIMIT``."""

_UNITED_STATES = (18.0, 72.0, -170.0, -65.0)  # south, north, west, east
_BAR: dict[str, Any] = {  # below the map: beside it, the bar would squeeze the map on a phone
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
    """Draw the areas of ``metrics.group_errors``, coloured by median error.

    The ids in the GeoJSON ``shapes`` are the groups; shapes without a group are not drawn.
    ``names`` are those of the groups. With ``usa``, the map shows the USA, not the world.
    """
    wanted = set(table["group"])
    kept = [feature for feature in shapes["features"] if feature["id"] in wanted]
    hover = [
        f"{text}<br>{n:,} photos"
        for text, n in zip(spread_texts(names, table), table["photos"], strict=True)
    ]
    figure = _map(colours, usa)
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
    """Draw hexagons coloured by the mean GeoScore that the first model gains over the second.

    The table has ``group`` (H3 cells), ``gain`` and ``photos``. With ``usa``, the map shows the
    USA, not the world.
    """
    limit = max(float(table["gain"].abs().quantile(0.95)), 1.0) if len(table) else 1.0
    hover = [
        f"GeoScore {gain:+,.0f}<br>{n:,} photos"
        for gain, n in zip(table["gain"], table["photos"], strict=True)
    ]
    figure = _map(colours, usa)
    figure.add_choropleth(
        geojson=hexagon_shapes(table["group"].tolist()),
        locations=table["group"],
        z=table["gain"],
        zmid=0,
        zmin=-limit,
        zmax=limit,
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


def points_figure(frame: pd.DataFrame, colours: Palette, usa: bool, arrows: bool) -> go.Figure:
    """Draw photos where they were taken, coloured by error or with a line to the guess.

    There should be at most ``MOST_POINTS`` predictions, or ``MOST_ARROWS`` with ``arrows``. The map
    shows the USA or the part of the world with the points.
    """
    figure = _map(colours, usa)
    rim = {"width": 1, "color": colours.paper}
    if arrows:
        ends = np.full((len(frame), 3, 2), np.nan)
        ends[:, 0] = frame[["latitude", "longitude"]]
        ends[:, 1] = frame[["predicted_latitude", "predicted_longitude"]]
        figure.add_scattergeo(
            lat=ends[..., 0].ravel(),
            lon=ends[..., 1].ravel(),
            mode="lines",
            line={"color": translucent(colours.muted, 0.55), "width": 1},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scattergeo(
            lat=frame["predicted_latitude"],
            lon=frame["predicted_longitude"],
            mode="markers",
            marker={"color": colours.best, "size": 8, "symbol": "diamond", "line": rim},
            customdata=_point_texts(frame, "Guess"),
            hovertemplate="%{customdata}<extra></extra>",
            name="Best guess",
        )
        marker: dict[str, Any] = {"color": colours.truth, "size": 8, "line": rim}
    else:
        marker = {
            "color": np.log10(np.maximum(frame["error_km"], 1.0)),
            "colorscale": ERROR_COLORSCALE,
            "cmin": 0,
            "cmax": ERROR_COLOR_LIMIT,
            "showscale": True,
            "colorbar": _error_bar("Error (km)"),
            "size": 6,
            "line": rim | {"width": 0.4},
        }
    figure.add_scattergeo(
        lat=frame["latitude"],
        lon=frame["longitude"],
        mode="markers",
        marker=marker,
        customdata=_point_texts(frame, "Truth"),
        hovertemplate="%{customdata}<extra></extra>",
        name="Where it was taken",
        showlegend=arrows,
    )
    if not usa:
        _fit(figure, frame, arrows)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return figure


def hexagon_resolution(coordinates: NDArray[np.float64]) -> int:
    """Return the finest H3 resolution (1 to 5) with at most ``MOST_AREAS`` cells for points (n, 2).

    Its cells hold at least eight points on average, because cells with few photos show noise.
    """
    sample = coordinates[:: max(1, len(coordinates) // 20_000)]
    for resolution in (5, 4, 3, 2):
        cells = len(set(hexagons(sample, resolution)))
        if cells <= MOST_AREAS and len(sample) >= 8 * cells:
            return resolution
    return 1


def hexagons(coordinates: NDArray[np.float64], resolution: int) -> list[str]:
    """Return the H3 cell of each of the coordinates (n, 2)."""
    cell = h3.latlng_to_cell
    return [cell(latitude, longitude, resolution) for latitude, longitude in coordinates]


def hexagon_shapes(cells: Sequence[str]) -> dict[str, Any]:
    """Return GeoJSON of H3 cells, with the cells as ``id``."""
    features = []
    for cell in cells:
        ring = [[round(lon, 3), round(lat, 3)] for lat, lon in h3.cell_to_boundary(cell)]
        geometry = {"type": "Polygon", "coordinates": [clockwise([*ring, ring[0]])]}
        features.append({"type": "Feature", "id": cell, "properties": {}, "geometry": geometry})
    return {"type": "FeatureCollection", "features": features}


def clockwise(ring: list[list[float]]) -> list[list[float]]:
    """Return a closed ring (longitude, latitude) in clockwise order, seen with north up.

    Plotly fills the rest of the Earth if an outer ring runs the other way.
    """
    longitude = np.unwrap([point[0] for point in ring], period=360)
    latitude = np.array([point[1] for point in ring])
    doubled = np.sum(longitude[:-1] * latitude[1:] - longitude[1:] * latitude[:-1])
    return ring[::-1] if doubled > 0 else ring


def in_united_states(frame: pd.DataFrame) -> bool:
    """Return whether over 98 % of the photos were taken in the USA."""
    if "country_key" in frame and frame["country_key"].notna().any():
        inside = frame["country_key"] == "US"
    else:
        south, north, west, east = _UNITED_STATES
        inside = frame["latitude"].between(south, north) & frame["longitude"].between(west, east)
    return bool(inside.mean() > 0.98)


def world_figure(colours: Palette, **geo: Any) -> go.Figure:
    """Return an empty map with coastlines and countries.

    ``geo`` holds more settings of ``layout.geo``, such as ``scope="usa"``.
    """
    settings: dict[str, Any] = {
        "projection": {"type": "natural earth"},
        "bgcolor": "rgba(0,0,0,0)",
        "showland": True,
        "landcolor": colours.land,
        "showocean": True,
        "oceancolor": colours.sea,
        "showlakes": False,
        "showcountries": True,
        "countrycolor": colours.border,
        "countrywidth": 0.5,
        "subunitcolor": colours.subdivision,
        "coastlinecolor": colours.border,
        "coastlinewidth": 0.7,
        "showframe": False,
        "lataxis": {"range": [-60, 85]},
    }
    if geo.get("scope", "world") != "world":
        del settings["projection"], settings["lataxis"]
    return go.Figure(layout={"geo": {**settings, **geo}, "margin": dict.fromkeys("lrtb", 0)})


def _map(colours: Palette, usa: bool) -> go.Figure:
    figure = world_figure(colours, **({"scope": "usa"} if usa else {}))
    figure.update_layout(height=470, margin={"l": 0, "r": 0, "t": 26, "b": 0})
    return figure


def _fit(figure: go.Figure, frame: pd.DataFrame, guesses: bool) -> None:
    """Show only the part of the world with the points, across the date line if needed."""
    pairs = [("latitude", "longitude")]
    pairs += [("predicted_latitude", "predicted_longitude")] if guesses else []
    latitude, longitude = (
        np.concatenate([frame[pair[at]].to_numpy(np.float64) for pair in pairs]) for at in (0, 1)
    )
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


def _point_texts(frame: pd.DataFrame, what: str) -> list[str]:
    return [
        f"{what} of {html.escape(str(photo))}<br>error {kilometres(error)}"
        for photo, error in zip(frame["id"], frame["error_km"], strict=True)
    ]


def _error_bar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "top"},
        "tickvals": [math.log10(mark) for mark in ERROR_MARKS_KM],
        "ticktext": [f"{mark:,}" for mark in ERROR_MARKS_KM],
        **_BAR,
    }
