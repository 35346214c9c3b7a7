"""Köppen–Geiger climate: the classes, and the 1 km raster that ships with the package.

Source: Beck, H. E. et al., "Present and future Köppen-Geiger climate classification maps at 1-km
resolution", Scientific Data 5, 180214 (2018), CC BY 4.0. ``python -m scripts.climate_raster``
builds the file.
"""

import functools
import importlib.resources
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.sphere import normalise

UNKNOWN = -100
"""Label of a row whose climate is not known: the index that torch's losses ignore."""

NO_DATA_CODE = 0
ABSENT_CODE = 20
"""Dsd: on the map of Beck et al., but in no photo of OSV-5M, so models have no class for it."""

RESOURCE = "koppen_geiger_beck2018_rle.npz"

_LOCK = threading.Lock()
_CACHE: dict[str, "ClimateRaster"] = {}

# code: (symbol, name, RGB), from legend.txt of Beck et al. 2018.
_LEGEND: dict[int, tuple[str, str, tuple[int, int, int]]] = {
    1: ("Af", "tropical, rainforest", (0, 0, 255)),
    2: ("Am", "tropical, monsoon", (0, 120, 255)),
    3: ("Aw", "tropical, savannah", (70, 170, 250)),
    4: ("BWh", "arid, desert, hot", (255, 0, 0)),
    5: ("BWk", "arid, desert, cold", (255, 150, 150)),
    6: ("BSh", "arid, steppe, hot", (245, 165, 0)),
    7: ("BSk", "arid, steppe, cold", (255, 220, 100)),
    8: ("Csa", "temperate, dry summer, hot summer", (255, 255, 0)),
    9: ("Csb", "temperate, dry summer, warm summer", (200, 200, 0)),
    10: ("Csc", "temperate, dry summer, cold summer", (150, 150, 0)),
    11: ("Cwa", "temperate, dry winter, hot summer", (150, 255, 150)),
    12: ("Cwb", "temperate, dry winter, warm summer", (100, 200, 100)),
    13: ("Cwc", "temperate, dry winter, cold summer", (50, 150, 50)),
    14: ("Cfa", "temperate, no dry season, hot summer", (200, 255, 80)),
    15: ("Cfb", "temperate, no dry season, warm summer", (100, 255, 80)),
    16: ("Cfc", "temperate, no dry season, cold summer", (50, 200, 0)),
    17: ("Dsa", "cold, dry summer, hot summer", (255, 0, 255)),
    18: ("Dsb", "cold, dry summer, warm summer", (200, 0, 200)),
    19: ("Dsc", "cold, dry summer, cold summer", (150, 50, 150)),
    20: ("Dsd", "cold, dry summer, very cold winter", (150, 100, 150)),
    21: ("Dwa", "cold, dry winter, hot summer", (170, 175, 255)),
    22: ("Dwb", "cold, dry winter, warm summer", (90, 120, 220)),
    23: ("Dwc", "cold, dry winter, cold summer", (75, 80, 180)),
    24: ("Dwd", "cold, dry winter, very cold winter", (50, 0, 135)),
    25: ("Dfa", "cold, no dry season, hot summer", (0, 255, 255)),
    26: ("Dfb", "cold, no dry season, warm summer", (55, 200, 255)),
    27: ("Dfc", "cold, no dry season, cold summer", (0, 125, 125)),
    28: ("Dfd", "cold, no dry season, very cold winter", (0, 70, 95)),
    29: ("ET", "polar, tundra", (178, 178, 178)),
    30: ("EF", "polar, frost", (102, 102, 102)),
}


@dataclass(frozen=True)
class ClimateClass:
    """A Köppen–Geiger class, or "unknown" (water and cells without data)."""

    index: int  # class index in a model, ``UNKNOWN`` for Dsd
    code: int  # on the map
    symbol: str  # for example "Cfa"
    name: str  # the symbol in words
    rgb: tuple[int, int, int]  # colour on the map of Beck et al.

    @property
    def label(self) -> str:
        """Symbol and name: "Cfa, temperate, no dry season, hot summer"."""
        return f"{self.symbol}, {self.name}" if self.index else self.name

    @property
    def hex(self) -> str:
        """The colour as "#c8ff50"."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


@functools.cache
def climate_classes() -> tuple[ClimateClass, ...]:
    """Return the 30 classes of a model in the order of their index; the first is "unknown"."""
    return tuple(c for c in map(climate_of_code, range(len(_LEGEND) + 1)) if c.index >= 0)


def climate_of_code(code: int) -> ClimateClass:
    """Return the class of a raster code, including 0 (no data) and 20 (Dsd).

    Raises:
        ValueError: the code is not in 0-30.
    """
    if code == NO_DATA_CODE:
        return ClimateClass(0, NO_DATA_CODE, "unknown", "unknown (water or no data)", (255,) * 3)
    if code not in _LEGEND:
        raise ValueError(f"{code} is not a climate code; use a whole number from 0 to 30.")
    return ClimateClass(int(index_of_code(code)), int(code), *_LEGEND[code])


def climate_of_symbol(symbol: str) -> ClimateClass:
    """Return the class with a symbol such as "Cfa".

    Raises:
        KeyError: there is no such class.
    """
    for climate in climate_classes():
        if climate.symbol == symbol:
            return climate
    known = ", ".join(climate.symbol for climate in climate_classes())
    raise KeyError(f"No climate class {symbol!r}; the classes are {known}.")


def index_of_code(codes: Any) -> NDArray[np.int64]:
    """Return the class indices of raster codes of any shape: the code below 20, code − 1 above.

    Codes without a class (0, no data; 20, Dsd) and missing values (NaN, None, NA) give ``UNKNOWN``.

    Raises:
        ValueError: a value is not a whole number from 0 to 30; the first one is named.
    """
    values = _numbers(codes)
    values = np.where(np.isnan(values), NO_DATA_CODE, values)
    wrong = (values < 0) | (values > 30) | (values != np.floor(values))
    if wrong.any():
        raise ValueError(
            f"{values[wrong].flat[0]:g} is not a climate code; use a whole number from 0 to 30."
        )
    known = values.astype(np.int64)
    indices = np.where(known > ABSENT_CODE, known - 1, known)
    return np.where((known == NO_DATA_CODE) | (known == ABSENT_CODE), UNKNOWN, indices)


def _numbers(codes: Any) -> NDArray[np.float64]:
    values = np.asarray(codes)
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    # Columns with missing values arrive as objects, nullable integers or text.
    import pandas as pd  # takes a second, which locating a photo need not wait

    flat = [None if pd.isna(value) else value for value in values.ravel()]
    try:
        numbers = pd.to_numeric(pd.Series(flat, dtype=object))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Climate codes must be whole numbers from 0 to 30: {error}.") from error
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan).reshape(values.shape)


class ClimateRaster:
    """The map of Beck et al. 2018, run-length coded: 21,600 rows × 43,200 columns, 30″ cells.

    Row 0 touches the North Pole, column 0 the meridian of −180°.
    """

    def __init__(
        self, gaps: NDArray[np.uint32], codes: NDArray[np.uint8], shape: tuple[int, int]
    ) -> None:
        self.rows, self.columns = shape
        self._codes = codes
        self._starts = np.cumsum(gaps, dtype=np.uint32)

    @classmethod
    def load(cls) -> "ClimateRaster":
        """Return the raster that ships with the package, read once (about 25 MB in memory)."""
        with _LOCK:
            if "raster" not in _CACHE:
                source = importlib.resources.files("geoclip_core.earth") / "resources" / RESOURCE
                with source.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                    rows, columns = (int(n) for n in arrays["shape"])
                    _CACHE["raster"] = cls(arrays["gap"], arrays["val"], (rows, columns))
            return _CACHE["raster"]

    def codes(self, coordinates: Any) -> NDArray[np.uint8]:
        """Return the raster codes (...) 0-30 at coordinates (..., 2).

        Raises:
            ValueError: a coordinate is not finite or beyond a pole.
        """
        points = normalise(np.asarray(coordinates, dtype=np.float64))
        row = ((90 - points[..., 0]) * (self.rows / 180)).astype(np.int64)
        column = ((points[..., 1] + 180) * (self.columns / 360)).astype(np.int64)
        row, column = row.clip(0, self.rows - 1), column.clip(0, self.columns - 1)
        position = (row * self.columns + column).astype(np.uint32)
        run = np.searchsorted(self._starts, position, side="right") - 1
        codes: NDArray[np.uint8] = self._codes[run]
        return codes

    def indices(self, coordinates: Any) -> NDArray[np.int64]:
        """Return class indices (...) 1-29 at coordinates (..., 2); ``UNKNOWN`` on water, in Dsd."""
        return index_of_code(self.codes(coordinates))

    def is_land(self, coordinates: Any) -> NDArray[np.bool_]:
        """Return a mask (...) of the coordinates (..., 2) on land, to 1 km; lakes are water."""
        return np.asarray(self.codes(coordinates) != NO_DATA_CODE)
