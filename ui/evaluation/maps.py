"""Maps of errors: hexagons, states or counties by median error, single photos, and differences.

Areas are made on the server, so that 119,008 rows become a few hundred shapes.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ui.charts import ERROR_COLOR_LIMIT, ERROR_COLORSCALE, error_marker, world_figure
from ui.evaluation.shapes import hexagon_shapes
from ui.map_shapes import middle_longitude
from ui.theme import ERROR_MARKS_KM, Palette, kilometres, translucent

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
