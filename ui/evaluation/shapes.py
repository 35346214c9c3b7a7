"""Areas of a map: hexagons, states and counties, as GeoJSON for plotly.

Longitudes need no care at the date line: plotly's geo maps draw on the sphere. What they do need is
outer rings in clockwise order.
"""

import functools
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h3
import numpy as np
import pandas as pd

BORDERS = Path(__file__).resolve().parents[2] / "static" / "borders"
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
