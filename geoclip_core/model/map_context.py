"""Context from the map: climate, country, state, county and city under a posterior.

It replaces context heads in models without them. Pages must say that it comes from the map, not
from the photo.
"""

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.climate import ClimateRaster, climate_classes
from geoclip_core.earth.gazetteer import OFFSHORE_KM, Gazetteer, Place
from geoclip_core.model.posterior import Posterior

MAP_FEATURES = ("climate", "country", "state", "county", "city")
"""Features that the map has; the month is not one of them."""

MAX_POINTS = 2048
"""Number of heaviest points that are looked up; the rest of the mass counts as unknown."""

Labelled = list[tuple[str, float]]
Key = TypeVar("Key", bound=Hashable)


def map_context(
    posterior: Posterior, top: int = 10, features: Sequence[str] = MAP_FEATURES
) -> dict[str, Labelled]:
    """Return the labels on the map under a posterior, weighted by it.

    Args:
        posterior: where the photo may have been taken.
        top: most labels per feature.
        features: some of `MAP_FEATURES`.

    Returns:
        Feature -> (label, probability), most probable first. They sum to less than 1 if there are
        further labels, open water, or places without such a level (county). Features without a
        label are left out.

    Raises:
        ValueError: `top` is below 1, or a feature is not one of `MAP_FEATURES`.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    if unknown := [feature for feature in features if feature not in MAP_FEATURES]:
        raise ValueError(f"the map has no feature {unknown[0]!r}, only {', '.join(MAP_FEATURES)}")
    count = min(MAX_POINTS, len(posterior))
    heaviest = np.argpartition(-posterior.log_weights, count - 1)[:count]
    points, weights = posterior.points[heaviest], posterior.weights[heaviest]
    context = {}
    if "climate" in features:
        context["climate"] = _climates(points, weights, top)
    if levels := [feature for feature in features if feature != "climate"]:
        # summed by key, so that two places of the same name stay separate
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
    classes = climate_classes()
    indices = ClimateRaster.load().indices(points)
    keys = [int(index) if index >= 0 else None for index in indices]
    return [(classes[index].label, p) for index, p in _summed(keys, weights, top)]


def _key(place: Place, level: str) -> str | None:
    """Return the place's key at a level; None if it has no such level, or is far out at sea."""
    if place.on_water and place.distance_km > OFFSHORE_KM:
        return None
    keys = {
        "country": place.country,
        "state": place.state_key if place.state else None,
        "county": place.county_key if place.county else None,
        "city": place.city_key if place.city else None,
    }
    return keys[level] or None


def _names(place: Place, level: str) -> tuple[str | None, ...]:
    """Return a place's names from `level` up."""
    names = (place.city, place.county, place.state, place.country_name)
    return names[("city", "county", "state", "country").index(level) :]


def _summed(
    keys: Sequence[Key | None], weights: NDArray[np.float64], top: int
) -> list[tuple[Key, float]]:
    """Sum the weights of each key except None, the heaviest first."""
    totals: dict[Key, float] = {}
    for key, weight in zip(keys, weights, strict=True):
        if key is not None:
            totals[key] = totals.get(key, 0.0) + float(weight)
    return sorted(totals.items(), key=lambda item: -item[1])[:top]
