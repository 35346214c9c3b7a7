"""Köppen–Geiger climate by place: the 1 km raster that ships with the package.

Raster: Beck, H. E. et al., "Present and future Köppen-Geiger climate classification maps at 1-km
resolution", Scientific Data 5, 180214 (2018), CC BY 4.0; ``python -m train climate-raster`` builds
the file. The classes themselves are in :mod:`geoclip_core.earth.climate_classes` and are handed on
from here, so that one import serves both.
"""

import importlib.resources
import threading
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.climate_classes import (
    ABSENT_CODE,
    NO_DATA_CODE,
    UNKNOWN,
    ClimateClass,
    climate_names,
    climate_of_code,
    climate_of_symbol,
    code_of_index,
    index_of_code,
)
from geoclip_core.earth.sphere import normalise

__all__ = [
    "ABSENT_CODE",
    "NO_DATA_CODE",
    "UNKNOWN",
    "ClimateClass",
    "ClimateMask",
    "ClimateRaster",
    "climate_names",
    "climate_of_code",
    "climate_of_symbol",
    "code_of_index",
    "index_of_code",
]

RESOURCE = "koppen_geiger_beck2018_rle.npz"

WHOLE_EARTH = ((-90.0, -180.0), (90.0, 180.0))


@dataclass(frozen=True)
class ClimateMask:
    """Where a class is, coarsely: ``cells`` (rows, columns), row 0 in the north, column 0 west.

    Cells are equal steps of latitude and longitude between the corners of ``bounds``.
    """

    climate: ClimateClass
    cells: NDArray[np.bool_]
    bounds: tuple[tuple[float, float], tuple[float, float]]
    """South-west and north-east corner (latitude, longitude), as a map's image overlay asks."""

    def rgba(self, alpha: float = 0.6) -> NDArray[np.uint8]:
        """The belt as an image (rows, columns, 4) in the class's colour, clear elsewhere."""
        image = np.zeros((*self.cells.shape, 4), dtype=np.uint8)
        image[self.cells] = (*self.climate.rgb, round(255 * alpha))
        return image


class ClimateRaster:
    """The map of Beck et al. 2018, run-length coded: 43,200 × 21,600 cells of 30 arc seconds."""

    def __init__(
        self, gaps: NDArray[np.uint32], codes: NDArray[np.uint8], shape: tuple[int, int]
    ) -> None:
        self.rows, self.columns = shape
        self._codes = codes
        self._starts = np.cumsum(gaps, dtype=np.uint32)

    @classmethod
    def load(cls) -> Self:
        """The raster that ships with the package, read once (about 25 MB in memory)."""
        with _LOCK:
            if "raster" not in _CACHE:
                source = importlib.resources.files("geoclip_core.earth") / "resources" / RESOURCE
                with source.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                    rows, columns = (int(n) for n in arrays["shape"])
                    _CACHE["raster"] = cls(arrays["gap"], arrays["val"], (rows, columns))
            return _CACHE["raster"]

    def codes(self, coordinates: Any) -> NDArray[np.uint8]:
        """Raster codes (...) 0-30 at coordinates (..., 2).

        Raises:
            ValueError: if a coordinate is not finite or beyond a pole.
        """
        points = normalise(coordinates)
        return self._at(*self._cells(points[..., 0], points[..., 1]))

    def indices(self, coordinates: Any) -> NDArray[np.int64]:
        """Class indices (...) 1-29 at coordinates (..., 2); ``UNKNOWN`` on water and in Dsd."""
        return index_of_code(self.codes(coordinates))

    def is_land(self, coordinates: Any) -> NDArray[np.bool_]:
        """Whether coordinates (..., 2) lie on land (1 km cells; lakes and the sea are not)."""
        return self.codes(coordinates) != NO_DATA_CODE

    def grid(
        self,
        step_degrees: float = 0.25,
        bounds: tuple[tuple[float, float], tuple[float, float]] = WHOLE_EARTH,
    ) -> NDArray[np.uint8]:
        """Codes (rows, columns) at the centres of a coarse grid, row 0 in the north.

        Args:
            step_degrees: about how large a cell is; it is stretched to fill the bounds.
            bounds: south-west and north-east corner, (latitude, longitude) each.
        """
        (south, west), (north, east) = bounds
        if not (-90 <= south < north <= 90 and -180 <= west < east <= 180 and step_degrees > 0):
            raise ValueError(f"No grid of {step_degrees}° cells fits the bounds {bounds}.")
        rows = max(1, round((north - south) / step_degrees))
        columns = max(1, round((east - west) / step_degrees))
        latitude = north - (np.arange(rows) + 0.5) * (north - south) / rows
        longitude = west + (np.arange(columns) + 0.5) * (east - west) / columns
        return self._at(*self._cells(latitude[:, None], longitude[None, :]))

    def mask(
        self,
        index: int,
        step_degrees: float = 0.25,
        bounds: tuple[tuple[float, float], tuple[float, float]] = WHOLE_EARTH,
    ) -> ClimateMask:
        """Where the class with this index is, for drawing its belt (30 ms for the whole Earth)."""
        climate = climate_of_code(int(code_of_index(index)))
        return ClimateMask(climate, self.grid(step_degrees, bounds) == climate.code, bounds)

    def _cells(
        self, latitude: NDArray[np.float64], longitude: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        row = ((90 - latitude) * (self.rows / 180)).astype(np.int64)
        column = ((longitude + 180) * (self.columns / 360)).astype(np.int64)
        return row.clip(0, self.rows - 1), column.clip(0, self.columns - 1)

    def _at(self, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.uint8]:
        position = (row * self.columns + column).astype(np.uint32)
        return self._codes[np.searchsorted(self._starts, position, side="right") - 1]


_LOCK = threading.Lock()
_CACHE: dict[str, Any] = {}
