"""The map of a dataset: hexagons coloured by number of photos, which open into points."""

import functools
import html
from typing import Any

import h3
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.vocabulary import MONTHS
from geoclip_core.earth.climate import climate_classes
from geoclip_core.earth.gazetteer import Gazetteer, country_name
from geoclip_core.earth.sphere import middle_longitude
from geoclip_core.evaluation.map_figures import hexagon_shapes, hexagons, world_figure
from ui.evaluation.maps import county_shapes, state_shapes
from ui.theme import Palette, blend, translucent

MOST_POINTS = 1500
_HEIGHT = 460
_KEY_SHARE = 0.15  # of the height is left to the colour key
_CITY_NAMES = 8  # are written on maps lower than:
_NAMES_BELOW_DEGREES = 3.0
_CELLS_ACROSS = 70  # the map is at most this many hexagon edges wide
_ASPECT = 1.35  # width of the map by its height, about
_FLAT_BELOW_DEGREES = 60.0  # half the width: narrower maps are Mercator, wider ones a world map
_COUNTIES_BELOW_DEGREES = 6.0
_UNITED_STATES = (18.0, 72.0, -170.0, -65.0)  # south, north, west, east


def in_cell(coordinates: np.ndarray, cell: str) -> np.ndarray:
    """Return which coordinates (n, 2) lie in an H3 cell, (n,) bool."""
    found = hexagons(coordinates, h3.get_resolution(cell))
    return np.array(found, dtype=object) == cell


def cell_name(cell: str) -> str:
    """Return the place at the centre of a cell, such as "Abilene, Texas"."""
    place = Gazetteer.load().places(h3.cell_to_latlng(cell))[0]
    return ", ".join(part for part in (place.city, place.state or place.country_name) if part)


def describe(row: pd.Series) -> str:
    """Return one line about a photo, such as "Abilene, Texas · July 2021 · Cfa"."""
    names = [row[place] for place in ("city", "state") if isinstance(row[place], str)]
    if isinstance(row["country"], str) and row["country"] != "US":
        names.append(country_name(row["country"]))
    parts = [", ".join(dict.fromkeys(names)) or f"{row['latitude']:.2f}, {row['longitude']:.2f}"]
    if not pd.isna(row["captured_at"]):
        parts.append(f"{MONTHS[row['captured_at'].month - 1]} {row['captured_at'].year}")
    if row["climate"] >= 0:
        parts.append(climate_classes()[row["climate"]].symbol)
    return " · ".join(parts)


def hexagon_counts(coordinates: np.ndarray) -> pd.DataFrame:
    """Count photos by H3 cell, the smallest cells that can still be clicked.

    Returns:
        Columns ``group`` (the cell) and ``photos``.
    """
    middle = middle_longitude(coordinates[:, 1].tolist())
    around = (coordinates[:, 1] - middle + 180) % 360 - 180
    across = np.cos(np.radians(coordinates[:, 0].mean()))
    degrees = max(np.ptp(around) * across, np.ptp(coordinates[:, 0]) * _ASPECT, 0.01)
    least_km = 111.2 * degrees / _CELLS_ACROSS
    fits = [r for r in range(1, 8) if h3.average_hexagon_edge_length(r, "km") >= least_km]
    counts = pd.Series(hexagons(coordinates, max(fits, default=1))).value_counts()
    return counts.rename_axis("group").rename("photos").reset_index()


def hexagon_figure(counts: pd.DataFrame, colours: Palette, within: str | None = None) -> go.Figure:
    """Draw the cells of `hexagon_counts` coloured by number of photos, on a log scale.

    ``within`` is the opened cell that they are in, or None for the whole dataset.
    """
    centres = np.array([h3.cell_to_latlng(cell) for cell in counts["group"]])
    figure = _ground(centres, colours, 1.5 if within is None else 0.6, key=True)
    top = max(float(counts["photos"].max()), 10.0)
    marks = [mark for mark in (1, 10, 100, 1000, 10_000) if mark <= top]
    figure.add_choropleth(
        geojson=hexagon_shapes(counts["group"].tolist()),
        locations=counts["group"],
        z=np.log10(counts["photos"]),
        zmin=0,
        zmax=np.log10(top),
        colorscale=[
            [0, blend([colours.land, colours.candidate], 0.25)],
            [1, blend([colours.candidate, colours.ink], 0.3)],
        ],
        marker={"line": {"width": 0.4, "color": translucent(colours.paper, 0.7)}, "opacity": 0.82},
        # By default a click fades everything else almost completely.
        unselected={"marker": {"opacity": 0.75}},
        customdata=counts["photos"],
        hovertemplate="<b>%{customdata:,} photos</b><br>click to open<extra></extra>",
        colorbar={
            "title": {"text": "Photos in a hexagon", "side": "top"},
            "tickvals": np.log10(marks).tolist(),
            "ticktext": [f"{mark:,}" for mark in marks],
            "thickness": 10,
            "outlinewidth": 0,
            "orientation": "h",
            "len": 0.5,
            "y": 0,
            "yanchor": "bottom",
        },
    )
    return figure


def points_figure(
    dataset: PhotoDataset, rows: np.ndarray, colours: Palette, picked: int | None = None
) -> go.Figure:
    """Draw single photos, the picked one larger and in another colour.

    The rows (k,) are positions in the table; each point has its own as customdata.
    """
    table = dataset.table.iloc[rows]
    coordinates = dataset.coordinates[rows]
    figure = _ground(coordinates, colours, 0.2)
    cities = table.groupby("city")[["latitude", "longitude"]].agg(["mean", "size"])
    near = np.ptp(coordinates[:, 0]) < _NAMES_BELOW_DEGREES
    cities = cities.sort_values(("latitude", "size"), ascending=False, kind="stable")
    cities = cities.head(_CITY_NAMES if near else 0)
    figure.add_scattergeo(
        lat=cities["latitude", "mean"],
        lon=cities["longitude", "mean"],
        mode="text",
        text=[html.escape(str(name)) for name in cities.index],
        textposition="top center",
        textfont={"color": colours.muted, "size": 13},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scattergeo(
        lat=coordinates[:, 0],
        lon=coordinates[:, 1],
        mode="markers",
        marker={
            "color": [colours.best if row == picked else colours.truth for row in rows],
            "size": [13 if row == picked else 8 for row in rows],
            "line": {"width": 1, "color": colours.paper},
            "opacity": 0.9,
        },
        unselected={"marker": {"opacity": 0.9}},
        customdata=rows,
        text=[html.escape(describe(row)) for _, row in table.iterrows()],
        hovertemplate="%{text}<br>click to show the photo<extra></extra>",
        showlegend=False,
    )
    return figure


def clicked(event: Any) -> Any:
    """Return what a click on the map hit: a cell, the row of a photo, or None."""
    points = event.selection.points if event else []
    if not points:
        return None
    if points[0].get("location"):
        return points[0]["location"]
    value = points[0].get("customdata")
    return value[0] if isinstance(value, list) else value


def _ground(
    coordinates: np.ndarray, colours: Palette, margin: float, *, key: bool = False
) -> go.Figure:
    """Draw land with borders around coordinates (k, 2), with a margin in degrees.

    ``key`` leaves room below for a colour key.
    """
    latitude, longitude = coordinates.T
    south, north, west, east = _UNITED_STATES
    usa = ((latitude > south) & (latitude < north) & (longitude > west) & (longitude < east)).all()
    middle = middle_longitude(longitude.tolist())
    around = (longitude - middle + 180) % 360 - 180
    squeeze = max(float(np.cos(np.radians(latitude.mean()))), 0.3)
    half = min(float(np.abs(around).max()) + margin / squeeze, 180.0)
    low, high = float(latitude.min()) - margin, float(latitude.max()) + margin
    flat = half < _FLAT_BELOW_DEGREES
    if flat:
        # Fill the frame: widen the side that is too narrow for its shape in Mercator.
        tall = (high - low) / 2 / squeeze
        half, tall = max(half, tall * _ASPECT), max(tall, half / _ASPECT)
        centre = float(np.clip((low + high) / 2, -84, 84))
        low, high = max(centre - tall * squeeze, -85.0), min(centre + tall * squeeze, 85.0)
    else:
        low, high = -60.0, 85.0
    # Not scope="usa": plotly fails when it is combined with another projection.
    figure = world_figure(
        colours,
        projection={"type": "mercator" if flat else "natural earth", "rotation": {"lon": middle}},
        lonaxis={"range": [middle - half, middle + half]},
        lataxis={"range": [low, high]},
        domain={"y": [_KEY_SHARE if key else 0, 1]},
    )
    if usa and flat:
        near = half < _COUNTIES_BELOW_DEGREES
        view = (low, high, middle - half, middle + half)
        figure.add_trace(_outlines(near, colours, view))
    figure.update_layout(height=_HEIGHT, margin=dict.fromkeys("lrtb", 0))
    return figure


@functools.lru_cache(maxsize=32)
def _outlines(
    counties: bool, colours: Palette, view: tuple[float, float, float, float]
) -> go.Choropleth:
    """Return outlines of the states or counties in view (south, north, west, east)."""
    south, north, west, east = view
    kept = []
    for shape in (county_shapes() if counties else state_shapes())["features"]:
        geometry = shape["geometry"]
        many = geometry["type"] == "MultiPolygon"
        polygons = [
            polygon
            for polygon in (geometry["coordinates"] if many else [geometry["coordinates"]])
            if any(west < lon < east and south < lat < north for lon, lat in polygon[0])
        ]
        if polygons:
            geometry = {"type": "MultiPolygon", "coordinates": polygons}
            kept.append({"type": "Feature", "id": shape["id"], "geometry": geometry})
    return go.Choropleth(
        geojson={"type": "FeatureCollection", "features": kept},
        locations=[shape["id"] for shape in kept],
        z=[0] * len(kept),
        colorscale=[[0, colours.land], [1, colours.land]],
        showscale=False,
        marker={"line": {"width": 0.8, "color": colours.border}},
        hoverinfo="skip",
    )
