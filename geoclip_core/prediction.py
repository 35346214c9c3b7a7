"""The estimate for one photo, with named places and radii."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.gazetteer import Place
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.model.map_context import LIKELY, Level, place_levels
from geoclip_core.model.posterior import Posterior

RADIUS_MASSES = (0.5, 0.9)
"""Shares of the probability for which a radius is given."""


@dataclass(frozen=True)
class Exif:
    """Position (degrees) and time in a photo's metadata; never used for the estimate."""

    latitude: float | None
    longitude: float | None
    captured_at: datetime | None
    source: str = "EXIF"
    """Where the position, or else the time, was found: "EXIF", "XMP", or the file beside it."""


@dataclass(frozen=True)
class Candidate:
    """A place that a photo may show; coordinates in degrees."""

    latitude: float
    longitude: float
    probability: float
    place: Place


@dataclass(frozen=True)
class Prediction:
    """An estimate of where a photo was taken, with its uncertainty.

    Attributes:
        file: The path of the photo as it was given, or its name.
        model: Name of the model.
        latitude, longitude: Degrees; the point with the highest expected GeoScore.
        radius_km: Share of the probability (0.5, 0.9) -> radius in km of the circle around the
            point that contains it.
        candidates: Distinct places, the most probable first.
        context: Feature -> (label, probability) of every class, the most probable first.
        posterior: The whole distribution, for heatmaps.
        place: The named place nearest to the point.
        exif: None if the photo has neither position nor time.
        seconds: Time taken, including reading the photo.
        calibrated: Whether the radii were fitted on held-out photos.
        context_source: "photo" if context heads predicted the context from the photo, "map" if it
            was looked up on the map under the posterior.
    """

    file: str
    model: str
    latitude: float
    longitude: float
    radius_km: dict[float, float]
    candidates: tuple[Candidate, ...]
    context: dict[str, list[tuple[str, float]]]
    posterior: Posterior
    place: Place
    exif: Exif | None = None
    seconds: float = 0.0
    calibrated: bool = False
    context_source: Literal["photo", "map"] = "photo"

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The most probable continent, part of it, country, state, county and town.

        Each lies inside the one before; its probability is the mass of the posterior in the whole
        unit. Empty if all of the mass is at sea.
        """
        return place_levels(self.posterior)

    @property
    def unsure(self) -> bool:
        """Whether even the continent is uncertain: none holds half of the probability."""
        return not self.levels or self.levels[0].probability < LIKELY

    @property
    def headline(self) -> str:
        """The answer at the deepest level that holds at least half of the probability.

        "Probably Central Asia (61 %)", or "Perhaps Europe (38 %): not sure even of the continent".
        """
        if not self.levels:
            return "Not sure: the estimate lies at sea"
        if self.unsure:
            first = self.levels[0]
            return f"Perhaps {first.name} ({first.percent}): not sure even of the continent"
        best = [level for level in self.levels if level.probability >= LIKELY][-1]
        return f"Probably {best.name} ({best.percent})"

    @property
    def error_km(self) -> float | None:
        """Great-circle distance in km from the EXIF position, or None if there is none."""
        if self.exif is None or self.exif.latitude is None or self.exif.longitude is None:
            return None
        truth = (self.exif.latitude, self.exif.longitude)
        return float(haversine_km((self.latitude, self.longitude), truth))


@dataclass(frozen=True)
class Failure:
    """A photo that could not be read, and the reason in one sentence."""

    file: str
    error: str


def labelled(names: Sequence[str], probabilities: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Return (name, probability) of every class, the most probable first."""
    order = sorted(range(len(names)), key=lambda index: -probabilities[index])
    return [(names[index], float(probabilities[index])) for index in order]
