"""The Köppen–Geiger climate classes: symbols, names, colours, and their two numberings.

Class names and colours: Beck, H. E. et al., "Present and future Köppen-Geiger climate
classification maps at 1-km resolution", Scientific Data 5, 180214 (2018), CC BY 4.0.

Two numberings, never to be mixed. A *code* (0-30) is what the raster and the ``climate`` column of
OSV-5M hold: 0 is no data or water, 1-30 are Af ... EF. An *index* (0-29) is what a model learns:
code 20 (Dsd) occurs in no photo of the dataset, so later codes move down by one; index 0 is unknown
and takes no part in a loss. For both, 0 and 20, :func:`index_of_code` answers ``UNKNOWN``. On the
map, Dsd covers 0.06 % of the land (Yakutia), where :func:`climate_of_code` can still name it.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

UNKNOWN = -100
"""Label of a row whose climate is not known: the index that torch's losses leave out."""

NO_DATA_CODE = 0
ABSENT_CODE = 20
"""Dsd: on the map of Beck et al., but in no photo of OSV-5M, and so no class of a model."""

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
    """A class: ``index`` for a model (``UNKNOWN`` for Dsd), ``code`` on the map, how to show it."""

    index: int
    code: int
    symbol: str
    name: str
    rgb: tuple[int, int, int]

    @property
    def label(self) -> str:
        """The symbol first: "Cfa, temperate, no dry season, hot summer"."""
        return f"{self.symbol}, {self.name}" if self.index else self.name

    @property
    def hex(self) -> str:
        """The colour as "#c8ff50"."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


@functools.cache
def climate_names() -> tuple[ClimateClass, ...]:
    """The 30 classes in the order of their index; the first is "unknown"."""
    return tuple(c for c in map(climate_of_code, range(len(_LEGEND) + 1)) if c.index >= 0)


def climate_of_code(code: int) -> ClimateClass:
    """What the map says where it holds this code, 20 (Dsd) included.

    Raises:
        ValueError: if the code is not in 0-30.
    """
    if code == NO_DATA_CODE:
        return ClimateClass(0, NO_DATA_CODE, "unknown", "unknown (water or no data)", (255,) * 3)
    if code not in _LEGEND:
        raise ValueError(f"{code} is no climate code: they run from 0 to 30.")
    return ClimateClass(int(index_of_code(code)), int(code), *_LEGEND[code])


def climate_of_symbol(symbol: str) -> ClimateClass:
    """The class written "Cfa".

    Raises:
        KeyError: if there is no such class.
    """
    for climate in climate_names():
        if climate.symbol == symbol:
            return climate
    known = ", ".join(climate.symbol for climate in climate_names())
    raise KeyError(f"No climate class {symbol!r}; the classes are {known}.")


def index_of_code(codes: Any) -> NDArray[np.int64]:
    """Class indices of raster codes of any shape: code if code < 20, else code − 1.

    Codes without a class of their own (0, no data; 20, Dsd) and missing values (NaN, None, NA) give
    ``UNKNOWN``.

    Raises:
        ValueError: naming the first value that is not a whole number from 0 to 30.
    """
    values = _numbers(codes)
    values = np.where(np.isnan(values), NO_DATA_CODE, values)
    wrong = (values < 0) | (values > 30) | (values != np.floor(values))
    if wrong.any():
        raise ValueError(
            f"{values[wrong].flat[0]:g} is no climate code: they are whole numbers from 0 to 30."
        )
    known = values.astype(np.int64)
    indices = np.where(known > ABSENT_CODE, known - 1, known)
    return np.where((known == NO_DATA_CODE) | (known == ABSENT_CODE), UNKNOWN, indices)


def code_of_index(indices: Any) -> NDArray[np.int64]:
    """Raster codes of class indices of any shape; index 0 and ``UNKNOWN`` give code 0.

    Raises:
        ValueError: naming the first value that is neither ``UNKNOWN`` nor in 0-29.
    """
    values = np.asarray(indices)
    wrong = ((values < 0) | (values > 29)) & (values != UNKNOWN)
    if wrong.any():
        raise ValueError(f"{values[wrong].flat[0]} is no climate index: they run from 0 to 29.")
    values = np.where(values == UNKNOWN, 0, values).astype(np.int64)
    return np.where(values >= ABSENT_CODE, values + 1, values)


def _numbers(codes: Any) -> NDArray[np.float64]:
    values = np.asarray(codes)
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    # Columns with missing values arrive as objects, nullable integers or text.
    flat = [None if pd.isna(value) else value for value in values.ravel()]
    try:
        numbers = pd.to_numeric(pd.Series(flat, dtype=object))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Climate codes are whole numbers from 0 to 30: {error}.") from error
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan).reshape(values.shape)
