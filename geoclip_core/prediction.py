"""The estimate for one photo, with named places and radii."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.gazetteer import Gazetteer, Place
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.model.posterior import Posterior

RADIUS_MASSES = (0.5, 0.9)
CONTINENT_KM = 2500.0
"""The benchmark's threshold for a continent (Vo et al., "Revisiting IM2GPS", ICCV 2017)."""


@dataclass(frozen=True)
class Exif:
    """What the camera wrote into the photo; never used for the estimate."""

    latitude: float | None
    longitude: float | None
    captured_at: datetime | None


@dataclass(frozen=True)
class Candidate:
    """One of the places that a photo may show."""

    latitude: float
    longitude: float
    probability: float
    place: Place


@dataclass(frozen=True)
class Prediction:
    """An estimate of where a photo was taken, with its uncertainty.

    Attributes:
        file: Name of the photo.
        model: Name of the model.
        latitude, longitude: Degrees; the point with the highest expected GeoScore.
        radius_km: Share of the probability (0.5, 0.9) -> radius in km around the point that holds
            it.
        candidates: Distinct places, the most probable first.
        context: Feature -> (label, probability) of every class, the most probable first.
        posterior: The whole distribution, for heatmaps.
        place: The named place nearest to the point.
        exif: What the camera wrote, or None if it wrote neither position nor time.
        seconds: Time taken for this photo, including reading it.
        calibrated: Whether the radii were fitted on held-out photos.
        context_source: "photo" if context heads read the context in the photo, "map" if it was
            looked up under the posterior.
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

    @classmethod
    def of(cls, posterior: Posterior, top_k: int, **about: Any) -> Self:
        """Return the prediction that a posterior gives, with named places.

        Args:
            posterior: Where the photo may have been taken.
            top_k: Number of candidate places.
            about: The other attributes; at least `file`, `model` and `context`.
        """
        best = posterior.mode()
        places = posterior.top_k(top_k)
        named = Gazetteer.load().places([best, *[(lat, lon) for lat, lon, _ in places]])
        return cls(
            latitude=best[0],
            longitude=best[1],
            radius_km={mass: posterior.radius_km(mass, best) for mass in RADIUS_MASSES},
            candidates=tuple(
                Candidate(lat, lon, probability, place)
                for (lat, lon, probability), place in zip(places, named[1:], strict=True)
            ),
            posterior=posterior,
            place=named[0],
            **about,
        )

    @property
    def unsure(self) -> bool:
        """Whether even the continent is uncertain: half of the mass is over 2,500 km away."""
        return self.radius_km[0.5] > CONTINENT_KM

    @property
    def error_km(self) -> float | None:
        """Great-circle distance in km to the EXIF position, or None if there is none."""
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
