"""Shapes as a flat map shows them: circles, great circles and images on a web-Mercator world.

A map has a *middle* longitude. Every longitude is drawn at its copy nearest to the middle, and what
has an extent is drawn in three copies, 360° apart, as the borders are. So neither the date line nor
a pole needs a special case on the page.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoclip_core.earth.sphere import EARTH_RADIUS_KM, bearing, destination, haversine_km

MERCATOR_LIMIT = 85.0511287798
"""Latitude at which a web-Mercator map of the world is square."""

Coordinate = tuple[float, float]
"""(latitude, longitude) in degrees."""

Ring = list[Coordinate]
"""Points (latitude, longitude) in degrees; longitudes may lie outside [−180, 180)."""

COPIES = (-360, 0, 360)
"""Shifts in degrees at which everything that has an extent is drawn."""


def longitude_near(longitude: float, middle: float) -> float:
    """The copy of ``longitude`` within 180° of ``middle``."""
    return middle + (longitude - middle + 180) % 360 - 180


def middle_longitude(longitudes: Sequence[float]) -> float:
    """The longitude to centre a map on: opposite to the widest gap between ``longitudes``.

    0, as on the usual map, if there are none or they lie all around; equal gaps are decided for the
    map that is closest to the usual one.
    """
    if not longitudes:
        return 0.0
    ordered = sorted({(value + 180) % 360 - 180 for value in longitudes})
    gaps = [
        (after - before, before + (after - before) / 2)
        for before, after in zip(ordered, [*ordered[1:], ordered[0] + 360], strict=True)
    ]
    width = max(gap for gap, _ in gaps)
    if width < 160:
        return 0.0
    middles = [longitude_near(at + 180, 0) for gap, at in gaps if gap > width - 1e-9]
    return min(middles, key=abs)


def circle(
    centre: Coordinate, radius_km: float, middle: float = 0.0, points: int = 180
) -> list[list[Ring]]:
    """The points within ``radius_km`` of ``centre`` on the sphere, as polygons on the map.

    Returns:
        Polygons, each a list of rings: the outline first, then holes. A circle that holds a pole
        reaches the edge of the map there; one that holds both leaves a hole around its antipode.
    """
    latitude, longitude = float(centre[0]), longitude_near(float(centre[1]), middle)
    angle = math.degrees(radius_km / EARTH_RADIUS_KM)
    if angle >= 180:
        return [[_world(middle)]]
    holds_north, holds_south = 90 - latitude < angle, 90 + latitude < angle
    if holds_north and holds_south:
        antipode = (-latitude, longitude + 180)
        opposite = circle(antipode, math.pi * EARTH_RADIUS_KM - radius_km, middle, points)
        return [[_world(middle), *(rings[0] for rings in opposite)]]
    outline = destination((latitude, longitude), np.linspace(0, 360, points, False), radius_km)
    if not (holds_north or holds_south):
        # Such a circle is less than 180° wide: near its centre is where its longitudes belong.
        ring = [(float(lat), longitude_near(float(lon), longitude)) for lat, lon in outline]
        return [[[(lat, lon + shift) for lat, lon in ring]] for shift in COPIES]
    # The outline goes round the pole once: in order of longitude it is the edge of a cap.
    edge = sorted((longitude_near(float(lon), middle), float(lat)) for lat, lon in outline)
    ring = [(lat, lon + shift) for shift in COPIES for lon, lat in edge]
    pole = 90.0 if holds_north else -90.0
    return [[[*ring, (pole, ring[-1][1]), (pole, ring[0][1])]]]


def edge(ring: Ring) -> Ring:
    """The line to draw round a ring of ``circle``: without the ends of the map, which are no edge.

    Empty for the outline of the whole world.
    """
    inner = [point for point in ring if abs(point[0]) < 90]
    return [*ring, ring[0]] if len(inner) == len(ring) else inner


def around(centre: Coordinate, radius_km: float) -> list[Coordinate]:
    """Eight coordinates on a circle: what must be in view for the circle to be."""
    ends = destination(centre, np.arange(0, 360, 45), min(radius_km, 9_000))
    return [(float(latitude), float(longitude)) for latitude, longitude in ends]


def great_circle(start: Coordinate, end: Coordinate, middle: float = 0.0, points: int = 64) -> Ring:
    """The shortest way from ``start`` to ``end``, unbroken at the date line."""
    way = np.linspace(0, float(haversine_km(start, end)), points)
    steps = destination(start, float(bearing(start, end)), way)
    longitudes = np.unwrap(steps[:, 1], period=360)
    longitudes += longitude_near(float(longitudes[0]), middle) - longitudes[0]
    return [(float(lat), float(lon)) for lat, lon in zip(steps[:, 0], longitudes, strict=True)]


def bounds_of(points: Sequence[Coordinate], middle: float = 0.0) -> list[list[float]]:
    """South-west and north-east corner of ``points``, inside what web-Mercator can show."""
    latitudes = [min(max(point[0], -80.0), 82.0) for point in points]
    longitudes = [min(max(point[1], middle - 180), middle + 180) for point in points]
    return [[min(latitudes), min(longitudes)], [max(latitudes), max(longitudes)]]


@dataclass(frozen=True)
class Window:
    """A part of the map, in degrees; longitudes may lie outside [−180, 180)."""

    west: float
    east: float
    south: float = -MERCATOR_LIMIT
    north: float = MERCATOR_LIMIT

    @property
    def is_world(self) -> bool:
        """Whether it goes all the way round."""
        return self.east - self.west >= 360

    def lattice(self, width: int) -> NDArray[np.float64]:
        """Coordinates (height, width, 2) of the pixels of an image of this part of the map.

        Pixels are square on the map; the first row is the northernmost, the first column the
        westernmost. Longitudes are wrapped to [−180, 180).
        """
        top, bottom = _mercator(self.north), _mercator(self.south)
        span = math.radians(self.east - self.west)
        height = max(1, round(width * (top - bottom) / span))
        y = top - (np.arange(height) + 0.5) * (top - bottom) / height
        latitude = np.degrees(2 * np.arctan(np.exp(y)) - math.pi / 2)
        longitude = self.west + (np.arange(width) + 0.5) * (self.east - self.west) / width
        longitude = (longitude + 180) % 360 - 180
        return np.stack(np.meshgrid(latitude, longitude, indexing="ij"), axis=-1)


def window_around(points: Sequence[Coordinate], middle: float) -> Window:
    """Return the part of the map that holds ``points``, and once their extent on every side.

    The whole world, centred on ``middle``, if there are no points or they are far apart.
    """
    if points:
        (south, west), (north, east) = bounds_of(points, middle)
        reach = max(east - west, north - south, 0.5)
        if east - west + 2 * reach < 180:
            south, north = max(south - reach, -MERCATOR_LIMIT), min(north + reach, MERCATOR_LIMIT)
            return Window(west - reach, east + reach, south, north)
    return Window(middle - 180, middle + 180)


def sample_lattice(
    lattice: NDArray[np.float64], values: Callable[[NDArray[np.float64]], NDArray[Any]]
) -> NDArray[Any]:
    """Return ``values`` at every pixel of a lattice (height, width, 2), computed by blocks.

    Args:
        lattice: coordinates in degrees.
        values: maps coordinates (n, 2) to (n,) values.
    """
    rows = max(1, 20_000 // lattice.shape[1])
    blocks = (lattice[at : at + rows] for at in range(0, len(lattice), rows))
    return np.concatenate([values(b.reshape(-1, 2)).reshape(b.shape[:2]) for b in blocks])


def png(rgba: NDArray[np.uint8]) -> bytes:
    """An image (height, width, 4) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _mercator(latitude: float) -> float:
    return math.asinh(math.tan(math.radians(latitude)))


def _world(middle: float) -> Ring:
    west, east = middle - 540, middle + 540
    return [(-90.0, west), (90.0, west), (90.0, east), (-90.0, east)]
