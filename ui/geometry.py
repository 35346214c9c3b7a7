"""Circles, great circles and images on a web-Mercator map.

A map has a *middle* longitude. Points are drawn at the copy of their longitude nearest to the
middle; areas are drawn in three copies, 360° apart, as the borders are. This way the pages need no
special case for the date line or the poles.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoclip_core.earth.sphere import (
    EARTH_RADIUS_KM,
    bearing,
    destination,
    haversine_km,
    longitude_near,
)

MERCATOR_LIMIT = 85.0511287798
"""Latitude at which a web-Mercator map of the world is square."""

_CIRCLE_POINTS = 180

Coordinate = tuple[float, float]
"""(latitude, longitude) in degrees."""

Ring = list[Coordinate]
"""Points (latitude, longitude) in degrees; longitudes may lie outside [−180, 180)."""

COPIES = (-360, 0, 360)
"""Shifts in degrees of longitude at which areas are drawn."""


def circle(centre: Coordinate, radius_km: float, middle: float) -> list[list[Ring]]:
    """Return the area within ``radius_km`` of ``centre`` on the sphere as polygons on the map.

    Returns:
        Polygons, each a list of rings: the outline first, then holes. A circle that contains a
        pole reaches the edge of the map there; one that contains both has a hole around the
        antipode of its centre.
    """
    latitude, longitude = float(centre[0]), longitude_near(float(centre[1]), middle)
    angle = math.degrees(radius_km / EARTH_RADIUS_KM)
    if angle >= 180:
        return [[_world(middle)]]
    holds_north, holds_south = 90 - latitude < angle, 90 + latitude < angle
    if holds_north and holds_south:
        antipode = (-latitude, longitude + 180)
        opposite = circle(antipode, math.pi * EARTH_RADIUS_KM - radius_km, middle)
        return [[_world(middle), *(rings[0] for rings in opposite)]]
    outline = destination(
        (latitude, longitude), np.linspace(0, 360, _CIRCLE_POINTS, False), radius_km
    )
    if not (holds_north or holds_south):
        # Such a circle is less than 180° wide, so its longitudes are near that of its centre.
        ring = [(float(lat), longitude_near(float(lon), longitude)) for lat, lon in outline]
        return [[[(lat, lon + shift) for lat, lon in ring]] for shift in COPIES]
    # The outline goes round the pole once; sorted by longitude it is the edge of a cap.
    edge = sorted((longitude_near(float(lon), middle), float(lat)) for lat, lon in outline)
    ring = [(lat, lon + shift) for shift in COPIES for lon, lat in edge]
    pole = 90.0 if holds_north else -90.0
    return [[[*ring, (pole, ring[-1][1]), (pole, ring[0][1])]]]


def edge(ring: Ring) -> Ring:
    """Return the outline of a ring of ``circle`` without the parts along the ends of the map.

    It is empty for the whole world.
    """
    inner = [point for point in ring if abs(point[0]) < 90]
    return [*ring, ring[0]] if len(inner) == len(ring) else inner


def around(centre: Coordinate, radius_km: float) -> list[Coordinate]:
    """Return eight coordinates on a circle (of at most 9,000 km), to bring it into view."""
    ends = destination(centre, np.arange(0, 360, 45), min(radius_km, 9_000))
    return [(float(latitude), float(longitude)) for latitude, longitude in ends]


def great_circle(start: Coordinate, end: Coordinate, middle: float) -> Ring:
    """Return points along the great circle from ``start`` to ``end``, unbroken at the date line."""
    way = np.linspace(0, float(haversine_km(start, end)), 64)
    steps = destination(start, float(bearing(start, end)), way)
    longitudes = np.unwrap(steps[:, 1], period=360)
    longitudes += longitude_near(float(longitudes[0]), middle) - longitudes[0]
    return [(float(lat), float(lon)) for lat, lon in zip(steps[:, 0], longitudes, strict=True)]


def bounds_of(points: Sequence[Coordinate], middle: float) -> list[list[float]]:
    """Return the south-west and north-east corner of ``points``, clipped before the poles."""
    latitudes = [min(max(point[0], -80.0), 82.0) for point in points]
    longitudes = [min(max(point[1], middle - 180), middle + 180) for point in points]
    return [[min(latitudes), min(longitudes)], [max(latitudes), max(longitudes)]]


@dataclass(frozen=True)
class Window:
    """A part of the map in degrees; longitudes may lie outside [−180, 180)."""

    west: float
    east: float
    south: float = -MERCATOR_LIMIT
    north: float = MERCATOR_LIMIT

    @property
    def is_world(self) -> bool:
        """Whether it spans all longitudes."""
        return self.east - self.west >= 360

    def lattice(self, width: int) -> NDArray[np.float64]:
        """Return the coordinates (height, width, 2) of the pixels of an image of this window.

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
    """Return the part of the map with ``points``, extended by their extent on every side.

    It is the whole world, centred on ``middle``, if there are no points or they are far apart.
    """
    if points:
        (south, west), (north, east) = bounds_of(points, middle)
        reach = max(east - west, north - south, 0.5)
        if east - west + 2 * reach < 180:
            south, north = max(south - reach, -MERCATOR_LIMIT), min(north + reach, MERCATOR_LIMIT)
            return Window(west - reach, east + reach, south, north)
    return Window(middle - 180, middle + 180)


def png(rgba: NDArray[np.uint8]) -> bytes:
    """Return an image (height, width, 4) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _mercator(latitude: float) -> float:
    return math.asinh(math.tan(math.radians(latitude)))


def _world(middle: float) -> Ring:
    west, east = middle - 540, middle + 540
    return [(-90.0, west), (90.0, west), (90.0, east), (-90.0, east)]
