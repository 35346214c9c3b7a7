"""What the map knows under a posterior: the units of the Earth (continent to town) and climates.

The mass of a unit is that of the whole posterior inside it, kernel included: samples of the kernel
are looked up in gazetteer and climate raster. Photos are taken on land, so a kernel's samples at
sea count for nothing; its mass is that of its samples on land.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from geoclip_core.earth.climate import NO_DATA_CODE, ClimateRaster, climate_classes, index_of_code
from geoclip_core.earth.gazetteer import OFFSHORE_KM, UNIT_LEVELS, Gazetteer
from geoclip_core.earth.sphere import normalise
from geoclip_core.model.posterior import Posterior, Samples

MAP_FEATURES = ("climate", "country", "state", "county", "city")
"""Features that the map has; the month is not one of them."""

LIKELY = 0.5
"""Least probability of a unit for a headline to name it without "perhaps"."""

FIXED_SAMPLES, MOVING_SAMPLES = 16_384, 4096
"""Samples of a posterior whose points stay the same from photo to photo, looked up once, and of
others, looked up anew for each photo."""

LEAST_MASS = 1e-4
"""Mass in a region from which on its samples represent the posterior there."""
REGION_POINTS = 2048
"""Samples, or places, that stand for points outside of a region."""
NARROWEST_KM = 25.0
"""Kernel width of a posterior in a region where samples do not say more."""

_KEPT = 16
_LOOKED_UP: "OrderedDict[tuple[bytes, float], _OnMap]" = OrderedDict()
_LOCK = threading.Lock()

Labelled = list[tuple[str, float]]


@dataclass(frozen=True)
class Level:
    """The most probable unit at one level, inside that of the level before."""

    level: str
    """One of `UNIT_LEVELS`."""
    name: str
    """With the larger places from its country down: "Texas, United States"."""
    key: str
    """As in `Units.keys`: "Texas_US"."""
    probability: float
    """Mass of the posterior in the whole unit, corrected by calibration: of the units that are said
    with 60 %, about 60 % are right."""
    given: bool = False
    """Whether it was given, by itself or by a smaller unit inside it."""

    @property
    def short(self) -> str:
        """The name without larger places: "Texas"."""
        return self.name.split(", ")[0]

    @property
    def percent(self) -> str:
        """The probability as text: "61 %", ">99 %"; "given" if it was not estimated."""
        if self.given:
            return "given"
        share = 100 * self.probability
        return ">99 %" if share > 99 else "<1 %" if share < 1 else f"{share:.0f} %"


@dataclass(frozen=True)
class Region:
    """The part of the land where something known holds: units and a climate, all of them."""

    units: tuple[tuple[str, int], ...] = ()
    """(level, index) of units that all contain the place."""
    climate: int | None = None
    """Class index of its climate."""

    def contains(self, place: NDArray[np.int64], climate: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which points are in it, by nearest gazetteer place (m,) and climate class (m,)."""
        inside = np.ones(len(place), dtype=bool)
        for level, index in self.units:
            inside &= Gazetteer.load().units(level).of_place[place] == index
        return inside if self.climate is None else inside & (climate == self.climate)


@dataclass(frozen=True)
class _OnMap:
    """Samples of a posterior on land."""

    coordinates: NDArray[np.float64]
    """(m, 2) degrees."""
    point: NDArray[np.int64]
    """(m,) index of the posterior's point."""
    share: NDArray[np.float64]
    """(m,) share of the point's mass."""
    place: NDArray[np.int64]
    """(m,) index of the nearest place of the gazetteer."""
    climate: NDArray[np.int64]
    """(m,) class index, −1 for none."""

    @property
    def size(self) -> int:
        return len(self.point)


def inside_region(posterior: Posterior, region: Region) -> Posterior | None:
    """Return a posterior conditioned on a region, or None if no place on the map is in it.

    A point in the region stays and keeps the mass of its kernel in it; a point outside is replaced
    by the samples of its kernel inside. If there is next to no mass in the region, the points are
    the gazetteer's places in it, weighted by the density. The held-out ranks do not hold under the
    condition and are dropped.
    """
    gazetteer, raster = Gazetteer.load(), ClimateRaster.load()
    found, mass = _on_map(posterior)
    kept = region.contains(found.place, found.climate) & (mass > 0)
    if mass[kept].sum() >= LEAST_MASS:
        own, _ = gazetteer.nearest_in_degrees(posterior.points)
        stays = region.contains(own, raster.indices(posterior.points))
        whole = np.bincount(found.point[kept], mass[kept], minlength=len(posterior))
        staying = np.flatnonzero(stays & (whole > 0))
        rows = np.flatnonzero(kept & ~stays[found.point])
        # every k-th is enough: the samples of a point go round it
        step = max(1, -(-len(rows) // REGION_POINTS))
        points = np.concatenate([posterior.points[staying], found.coordinates[rows[::step]]])
        weights = np.log(np.concatenate([whole[staying], mass[rows[::step]] * step]))
        bandwidth = posterior.bandwidth_km
    else:
        places = gazetteer.coordinates
        inside = region.contains(np.arange(len(places)), raster.indices(places))
        rows = np.flatnonzero(inside)
        if not len(rows):
            return None
        points = places[rows[:: -(-len(rows) // REGION_POINTS)]]
        weights = posterior.log_density(points)
        bandwidth = min(posterior.bandwidth_km, NARROWEST_KM)
    return replace(
        posterior,
        points=points,
        log_weights=weights,
        bandwidth_km=bandwidth,
        scores=None,
        fixed=False,
        held_out_ranks=None,
        anchors=None,
    )


def place_levels(posterior: Posterior, region: Region | None = None) -> tuple[Level, ...]:
    """Return the most probable unit at each of `UNIT_LEVELS`, each inside the one before.

    With a region, kernels end at its border. A level without a name there (many places have no
    county) is left out; the tuple is empty if all mass is at sea.
    """
    gazetteer = Gazetteer.load()
    found, mass = _on_map(posterior, region)
    place = found.place
    known = () if region is None else region.units
    deepest = max((UNIT_LEVELS.index(level) for level, _ in known), default=-1)
    levels = []
    for number, level in enumerate(UNIT_LEVELS):
        units = gazetteer.units(level)
        unit = units.of_place[place]
        named = unit >= 0
        if not mass[named].sum() > 0:
            continue
        totals = np.bincount(unit[named], mass[named])
        best = int(totals.argmax())
        name = gazetteer.unit_name(level, best)
        share = corrected(float(totals[best]), *posterior.level_map)
        levels.append(Level(level, name, units.keys[best], share, number <= deepest))
        # points outside of the unit are not looked at again
        inside = unit == best
        place, mass = place[inside], mass[inside]
    return tuple(levels)


def corrected(share: float, slope: float, offset: float) -> float:
    """Return the probability whose log odds are slope × those of a share + offset.

    Platt, "Probabilistic Outputs for Support Vector Machines", 1999. 0 and 1 stay.
    """
    if not 0 < share < 1 - 1e-9:
        return min(max(share, 0.0), 1.0)
    return float(expit(slope * logit(share) + offset))


def level_outcomes(
    posteriors: Sequence[Posterior], coordinates: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return what all levels of posteriors claim (k,), and whether each unit holds the truth (k,).

    Args:
        posteriors: n of photos that the model was not trained on.
        coordinates: (n, 2) where those were taken.
    """
    gazetteer = Gazetteer.load()
    places, _ = gazetteer.nearest_in_degrees(normalise(coordinates))
    claimed, right = [], []
    for posterior, place in zip(posteriors, places, strict=True):
        for level in place_levels(posterior):
            units = gazetteer.units(level.level)
            true = int(units.of_place[place])
            if true >= 0:
                claimed.append(level.probability)
                right.append(units.keys[true] == level.key)
    return np.array(claimed, dtype=np.float64), np.array(right, dtype=np.bool_)


def map_context(
    posterior: Posterior,
    top: int = 10,
    features: Sequence[str] = MAP_FEATURES,
    region: Region | None = None,
) -> dict[str, Labelled]:
    """Return the labels on the map under a posterior, weighted by it.

    It stands in for context heads in models without them. Pages that show it say that it comes from
    the map, not from the photo.

    Args:
        posterior: where the photo may have been taken.
        top: most labels per feature.
        features: some of `MAP_FEATURES`.
        region: where the kernels end, if something is known about the place.

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
    gazetteer = Gazetteer.load()
    found, mass = _on_map(posterior, region)
    context = {}
    for feature in features:
        if feature == "climate":
            classes = climate_classes()
            best = _heaviest(found.climate, mass, top)
            context[feature] = [(classes[index].label, share) for index, share in best]
        else:
            level = "town" if feature == "city" else feature
            best = _heaviest(gazetteer.units(level).of_place[found.place], mass, top)
            context[feature] = [(gazetteer.unit_name(level, i), share) for i, share in best]
    return {feature: labels for feature, labels in context.items() if labels}


def _on_map(
    posterior: Posterior, region: Region | None = None
) -> tuple[_OnMap, NDArray[np.float64]]:
    """Return the samples of a posterior on land and in a region, and the mass (m,) of each."""
    found, mass = _on_land(posterior)
    if region is None:
        return found, mass
    inside = region.contains(found.place, found.climate)
    whole = np.bincount(found.point, mass, minlength=len(posterior))
    left = np.bincount(found.point[inside], mass[inside], minlength=len(posterior))
    point = found.point[inside]
    # the mass of a point is that of its samples in the region
    grown = mass[inside] * whole[point] / np.maximum(left[point], 1e-300)
    part = _OnMap(
        found.coordinates[inside],
        point,
        found.share[inside],
        found.place[inside],
        found.climate[inside],
    )
    return part, grown / max(grown.sum(), 1e-300)


def _on_land(posterior: Posterior) -> tuple[_OnMap, NDArray[np.float64]]:
    """Return the samples of a posterior on land, and the mass (m,) of each."""
    if not posterior.fixed or len(posterior) > FIXED_SAMPLES:
        samples = posterior.samples(MOVING_SAMPLES)
        found = _looked_up(samples, len(posterior))
        # resampled by weight: a point's mass is that of its samples, on land or not
        resampled = np.bincount(samples.point, samples.mass)
        return found, resampled[found.point] * found.share
    key = (posterior.points.tobytes(), posterior.bandwidth_km)
    with _LOCK:
        known = _LOOKED_UP.get(key)
        if known is not None:
            _LOOKED_UP.move_to_end(key)
    if known is None:
        known = _looked_up(posterior.samples(FIXED_SAMPLES, fixed=True), len(posterior))
        with _LOCK:
            _LOOKED_UP[key] = known
            while len(_LOOKED_UP) > _KEPT:
                _LOOKED_UP.popitem(last=False)
    return known, posterior.weights[known.point] * known.share


def _looked_up(samples: Samples, points: int) -> _OnMap:
    codes = ClimateRaster.load().codes(samples.coordinates)
    land = codes != NO_DATA_CODE
    place, distance = Gazetteer.load().nearest_in_degrees(samples.coordinates)
    land |= distance <= OFFSHORE_KM
    point = samples.point[land]
    on_land = np.bincount(point, minlength=points)
    climate = index_of_code(codes[land])
    return _OnMap(samples.coordinates[land], point, 1 / on_land[point], place[land], climate)


def _heaviest(
    index: NDArray[np.int64], mass: NDArray[np.float64], top: int
) -> list[tuple[int, float]]:
    """Sum the mass of each index except −1; return the heaviest."""
    known = index >= 0
    if not known.any():
        return []
    totals = np.bincount(index[known], mass[known])
    order = np.argsort(-totals, kind="stable")[:top]
    return [(int(i), min(float(totals[i]), 1.0)) for i in order if totals[i] > 0]
