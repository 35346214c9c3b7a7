"""What the map says of the places that a posterior holds likely.

A model without context heads still has something to show: the climate, country, state, county and
city under its posterior. These are read from the map, not from the photo, and every page that shows
them says so.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.climate import ClimateRaster, climate_names
from geoclip_core.earth.gazetteer import OFFSHORE_KM, Gazetteer, Place
from geoclip_core.model.posterior import Posterior

MAP_FEATURES = ("climate", "country", "state", "county", "city")
"""Features that a map knows; the month is none of them."""

MAX_POINTS = 2048
"""The heaviest points are looked up; the rest of the mass counts as unknown."""

Labelled = list[tuple[str, float]]


def map_context(
    posterior: Posterior, top: int = 10, features: Sequence[str] = MAP_FEATURES
) -> dict[str, Labelled]:
    """Labels of the map under a posterior, weighted by it.

    Args:
        posterior: where the photo may have been taken.
        top: labels a feature, at most.
        features: some of `MAP_FEATURES`.

    Returns:
        Feature -> (label, probability), most probable first. What is missing to one is spread over
        further labels, open water (climate) or places without such a level (county). A feature of
        which the map knows nothing there is left out.

    Raises:
        ValueError: if a feature is not one that a map knows.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    if unknown := [feature for feature in features if feature not in MAP_FEATURES]:
        raise ValueError(
            f"the map knows nothing of {unknown[0]!r}, only of {', '.join(MAP_FEATURES)}"
        )
    count = min(MAX_POINTS, len(posterior))
    heaviest = np.argpartition(-posterior.log_weights, count - 1)[:count]
    points, weights = posterior.points[heaviest], posterior.weights[heaviest]
    context = {}
    if "climate" in features:
        context["climate"] = _climates(points, weights, top)
    if levels := [feature for feature in features if feature != "climate"]:
        # Places by their full key, so that two Springfields stay two.
        places = Gazetteer.load().places(points)
        for level in levels:
            keys = [_key(place, level) for place in places]
            names = {
                key: ", ".join(dict.fromkeys(filter(None, _names(place, level))))
                for key, place in zip(keys, places, strict=True)
            }
            context[level] = [(names[k], p) for k, p in _summed(keys, weights, top)]
    return {feature: context[feature] for feature in features if context.get(feature)}


def _climates(points: NDArray[np.float64], weights: NDArray[np.float64], top: int) -> Labelled:
    classes = climate_names()
    indices = ClimateRaster.load().indices(points)
    keys = [int(index) if index >= 0 else None for index in indices]
    return [(classes[index].label, p) for index, p in _summed(keys, weights, top)]


def _key(place: Place, level: str) -> str | None:
    """The place's key at a level; None where it has no such level, or is far out at sea."""
    at_sea = place.on_water and place.distance_km > OFFSHORE_KM
    return None if at_sea or not getattr(place, level) else getattr(place, f"{level}_key")


def _names(place: Place, level: str) -> tuple[str | None, ...]:
    """A place's names from `level` up."""
    below = {
        "country": ("country_name",),
        "state": ("state", "country_name"),
        "county": ("county", "state", "country_name"),
        "city": ("city", "county", "state", "country_name"),
    }
    return tuple(getattr(place, name) for name in below[level])


def _summed(
    keys: Sequence[Hashable], weights: NDArray[np.float64], top: int
) -> list[tuple[Hashable, float]]:
    """Weight of each key but None, the heaviest first."""
    totals: dict[Hashable, float] = {}
    for key, weight in zip(keys, weights, strict=True):
        if key is not None:
            totals[key] = totals.get(key, 0.0) + float(weight)
    return sorted(totals.items(), key=lambda item: -item[1])[:top]
