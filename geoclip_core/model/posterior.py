"""A probability distribution over the Earth: weighted points, each smoothed by a kernel.

The kernel is the von Mises–Fisher distribution (Mardia and Jupp, "Directional Statistics", 2000):
close to a Gaussian with the bandwidth in km as standard deviation in each direction, and valid
across the date line and at the poles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.sphere import (
    EARTH_RADIUS_KM,
    GEOSCORE_SCALE_KM,
    coordinates_of,
    destination,
    haversine_km,
    normalise,
    pairwise_km,
    unit_vectors,
)

Floats = NDArray[np.float64]
HALF_CIRCUMFERENCE_KM = float(np.pi * EARTH_RADIUS_KM)
EXACT_POINTS = 512
"""Up to this many points the mode is computed exactly; with more, the mass is condensed first."""
DISTINCT_KM = 150.0
"""Smallest distance between two of the top places."""
RING_SAMPLES = 96
"""Number of samples of the kernel around a point."""
DENSITY_POINTS, RANK_SAMPLES = 1024, 512
"""Heaviest points whose density counts when places are ranked, and places that they are ranked
against."""
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
SAMPLED_POINTS = 1024
"""Number of heaviest points that get all samples; the others get one each."""


def kernel(bandwidth_km: float) -> tuple[float, float]:
    """Return the concentration κ and the log density per km² at the kernel's centre."""
    kappa = (EARTH_RADIUS_KM / bandwidth_km) ** 2
    area = 2 * np.pi * EARTH_RADIUS_KM**2
    return kappa, float(np.log(kappa) - np.log(area) - np.log(-np.expm1(-2 * kappa)))


def kernel_samples(bandwidth_km: float) -> tuple[Floats, Floats]:
    """Sample the kernel: angles from its centre in radians and cosines of bearings, (96,) each."""
    index = np.arange(RING_SAMPLES)
    angles = kernel_angles(bandwidth_km, (index + 0.5) / RING_SAMPLES)
    return angles, np.cos(index * _GOLDEN_ANGLE)


def kernel_angles(bandwidth_km: float, share: Floats) -> Floats:
    """Return the angles (...) in radians within which shares (...) of a kernel's mass lie."""
    kappa, _ = kernel(bandwidth_km)
    # inverse of the distribution of 1 − cos(angle), a truncated exponential
    height = -np.log1p(share * np.expm1(-2 * kappa)) / kappa
    angles: Floats = 2 * np.arcsin(np.sqrt(np.clip(height / 2, 0.0, 1.0)))
    return angles


def smoothed_distances(
    points: Floats, weights: Floats, bandwidth_km: float, centre: Floats
) -> tuple[Floats, Floats]:
    """Return ascending distances (m,) in km of the smoothed mass from a centre, and masses (m,).

    Takes points (n, 2) and centre (2,) in degrees, and the points' weights (n,); the masses have
    the same sum.
    """
    offsets, bearings = kernel_samples(bandwidth_km)
    heavy = np.argsort(-weights, kind="stable")[:SAMPLED_POINTS]
    light = np.setdiff1d(np.arange(len(points)), heavy)
    all_samples = np.tile(np.arange(RING_SAMPLES), len(heavy))
    point = np.concatenate([np.repeat(heavy, RING_SAMPLES), light])
    sample = np.concatenate([all_samples, np.arange(len(light)) * 37 % RING_SAMPLES])
    mass = np.concatenate([np.repeat(weights[heavy] / RING_SAMPLES, RING_SAMPLES), weights[light]])
    # distances by the spherical law of cosines
    angle = haversine_km(points, centre) / EARTH_RADIUS_KM
    cosines = np.cos(angle)[point] * np.cos(offsets)[sample]
    cosines += np.sin(angle)[point] * np.sin(offsets)[sample] * bearings[sample]
    distances = EARTH_RADIUS_KM * np.arccos(np.clip(cosines, -1.0, 1.0))
    order = np.argsort(distances)
    return distances[order], mass[order]


@dataclass(frozen=True)
class Samples:
    """Places that represent a posterior with its kernel; deterministic."""

    coordinates: Floats
    """(m, 2) degrees."""
    point: NDArray[np.int64]
    """(m,) index of the posterior's point around which each sample lies, ascending."""
    mass: Floats
    """(m,) share of the probability, summing to one."""


@dataclass(frozen=True)
class DensityGrid:
    """Density on a regular grid: `density[i, j]` per km² at (latitudes[i], longitudes[j])."""

    latitudes: Floats
    longitudes: Floats
    density: Floats


@dataclass(frozen=True, eq=False)
class Posterior:
    """The probability distribution of where a photo was taken.

    Raises:
        ValueError: there are no points, a coordinate is not valid, the weights are not numbers or
            all zero, or the bandwidth is not positive.
    """

    points: Floats
    """(n, 2) latitude and longitude in degrees."""
    log_weights: Floats
    """(n,) natural logarithms of the weights, which are normalised to sum to one; −inf is zero."""
    bandwidth_km: float = 100.0
    """Kernel width of each point."""
    scores: Floats | None = None
    """(n,) expected score of answering with each point, if a head computes it (kernel ridge); None:
    computed from the weights."""
    radius_scale: tuple[tuple[float, float], ...] = ()
    """(mass, factor) pairs, ascending, by which calibration scales the radius."""
    level_map: tuple[float, float] = (1.0, 0.0)
    """(slope, offset) by which calibration corrects the log odds of levels (`place_levels`)."""
    fixed: bool = False
    """Whether every photo has the same points, so that what the map says of them can be kept."""
    held_out_ranks: Floats | None = None
    """(r,) `misfit` of the true places of held-out photos, ascending; None: not measured."""

    def __post_init__(self) -> None:
        points = normalise(np.asarray(self.points, dtype=np.float64).reshape(-1, 2))
        weights = np.asarray(self.log_weights, dtype=np.float64).reshape(-1)
        if not len(points) or len(points) != len(weights):
            raise ValueError(f"{len(points)} points and {len(weights)} weights do not match")
        if np.isnan(weights).any() or np.isposinf(weights).any() or np.isneginf(weights).all():
            raise ValueError("log weights must be numbers below infinity, not all −inf")
        if not (np.isfinite(self.bandwidth_km) and self.bandwidth_km > 0):
            raise ValueError(f"bandwidth must be a positive number of km, not {self.bandwidth_km}")
        if self.scores is not None:
            scores = np.asarray(self.scores, dtype=np.float64).reshape(-1)
            if len(scores) != len(points) or np.isnan(scores).any():
                raise ValueError("scores must be one number per point")
            object.__setattr__(self, "scores", scores)
        weights = weights - weights.max()
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "log_weights", weights - np.log(np.exp(weights).sum()))

    def __len__(self) -> int:
        return len(self.points)

    @cached_property
    def weights(self) -> Floats:
        """(n,) probabilities of the points, summing to one."""
        return np.exp(self.log_weights)

    def tempered(self, temperature: float) -> "Posterior":
        """Return the posterior with flatter weights (temperature above 1) or sharper ones.

        Raises:
            ValueError: the temperature is not a positive number.
        """
        if not (np.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be a positive number, not {temperature}")
        return replace(self, log_weights=self.log_weights / temperature)

    def samples(self, count: int, fixed: bool = False) -> Samples:
        """Return about `count` places among which the mass is spread as the density says.

        Each point gets samples in proportion to its weight, all of the same mass (systematic
        resampling). With `fixed`, each point gets equally many, so that posteriors with the same
        points and bandwidth have the same coordinates.
        """
        if fixed:
            counts = np.full(len(self), max(count // len(self), 1))
        else:
            cumulative = np.cumsum(self.weights)
            marks = (np.arange(count) + 0.5) / count * cumulative[-1]
            counts = np.bincount(
                np.minimum(np.searchsorted(cumulative, marks), len(self) - 1), minlength=len(self)
            )
        point = np.repeat(np.arange(len(self)), counts)
        number = np.arange(len(point)) - np.repeat(np.cumsum(counts) - counts, counts)
        angles = kernel_angles(self.bandwidth_km, (number + 0.5) / counts[point])
        # turned from point to point, so that neighbours are not sampled in the same directions
        bearings = np.degrees((number + 0.61803 * point) * _GOLDEN_ANGLE)
        places = destination(self.points[point], bearings, angles * EARTH_RADIUS_KM)
        if fixed:
            return Samples(places, point, self.weights[point] / counts[0])
        return Samples(places, point, np.full(len(point), 1 / len(point)))

    def expected_scores(self, candidates: Floats) -> Floats:
        """Return the expected exp(−d / 1492.7 km) (m,) of answering with candidates (m, 2)."""
        few = len(candidates) * len(self) <= EXACT_POINTS**2
        mass = self if few else self.condensed()
        distances = pairwise_km(np.asarray(candidates, dtype=np.float64), mass.points)
        scores: Floats = np.exp(-distances / GEOSCORE_SCALE_KM) @ mass.weights
        return scores

    def mode(self) -> tuple[float, float]:
        """Return the point (latitude, longitude) with the highest expected GeoScore."""
        latitude, longitude = self.points[self._mode_index]
        return float(latitude), float(longitude)

    @cached_property
    def _mode_index(self) -> int:
        if self.scores is not None:
            return int(self.scores.argmax())
        if len(self) <= EXACT_POINTS:
            return int(self.expected_scores(self.points).argmax())
        # find the best neighbourhoods with condensed mass, then compare their points exactly
        coarse = self.condensed(EXACT_POINTS)
        best = coarse.points[np.argsort(-coarse.expected_scores(coarse.points))[:4]]
        heavy = np.argpartition(-self.log_weights, 63)[:64]
        near = [np.argpartition(haversine_km(self.points, centre), 63)[:64] for centre in best]
        candidates = np.unique(np.concatenate([heavy, *near]))
        order = np.argsort(-self.expected_scores(self.points[candidates]))
        heaviest = heavy[np.argsort(-self.log_weights[heavy])[:8]]
        finalists = np.unique(np.concatenate([candidates[order[:24]], heaviest]))
        distances = pairwise_km(self.points[finalists], self.points)
        exact = np.exp(-distances / GEOSCORE_SCALE_KM) @ self.weights
        return int(finalists[exact.argmax()])

    def top_k(self, k: int) -> list[tuple[float, float, float]]:
        """Return up to k distinct places, best answer first: (latitude, longitude, probability).

        The first is `mode()`; each further one is the centre of the most mass that is over 150 km
        (or the bandwidth, if larger) from all earlier places. A place's probability is the mass of
        the points within that distance that no earlier place has counted, so that probabilities
        decrease from the second place on.

        Raises:
            ValueError: `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        reach = max(DISTINCT_KM, self.bandwidth_km)
        mass = self.condensed()
        vectors, remaining = unit_vectors(mass.points), mass.weights.copy()
        alive = np.ones(len(mass), dtype=bool)
        distances = pairwise_km(mass.points, mass.points)
        # among places that gather the same mass, the one in the middle is preferred
        gathers = (distances <= reach) + 1e-6 * np.exp(-distances / max(reach, 1.0))
        places: list[tuple[float, float, float]] = []
        centre = np.asarray(self.mode())
        while len(places) < k:
            # chords are faster to compare than kilometres
            chord = np.linalg.norm(vectors - unit_vectors(centre), axis=1)
            near = chord <= 2 * np.sin(min(reach / EARTH_RADIUS_KM, np.pi) / 2) + 1e-12
            places.append((float(centre[0]), float(centre[1]), float(remaining[near].sum())))
            remaining[near] = 0.0
            alive &= ~near
            if remaining.sum() <= 1e-6:
                break
            index = int(np.where(alive, gathers @ remaining, -1.0).argmax())
            centre = mass.points[index]
        return places

    def log_density(self, coordinates: Floats) -> Floats:
        """Return the natural logarithm (m,) of the density per km² at coordinates (m, 2)."""
        targets = unit_vectors(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
        vectors = unit_vectors(self.points)
        kappa, log_norm = kernel(self.bandwidth_km)
        result = np.empty(len(targets))
        step = max(1, 4_000_000 // len(vectors))
        for start in range(0, len(targets), step):
            terms = targets[start : start + step] @ vectors.T
            np.minimum(terms, 1.0, out=terms)
            terms -= 1
            terms *= kappa
            terms += self.log_weights
            # logsumexp in place, three times as fast as scipy's
            highest = terms.max(axis=1, keepdims=True)
            terms -= highest
            np.exp(terms, out=terms)
            result[start : start + step] = highest[:, 0] + np.log(terms.sum(axis=1))
        return result + log_norm

    def better_mass(self, coordinates: Floats) -> Floats:
        """Return the share (m,) of the mass that lies in denser places than coordinates (m, 2).

        A place is inside the highest-density region of 90 % if this is below 0.9.
        """
        shares: Floats = np.clip(self.misfit(coordinates), 0.0, 1.0)
        return shares

    def misfit(self, coordinates: Floats) -> Floats:
        """Return how poorly places (m, 2) fit: `better_mass`, and beyond it a measure of how far.

        Uniform between 0 and 1 over true places if the posterior is right. A place that is less
        dense than all mass gets 1 plus the difference in log density, and a place that is denser
        minus the difference, so that such places, which are many if the posterior is too sharp or
        too flat, still differ.
        """
        heavy = self
        if len(self) > DENSITY_POINTS:
            kept = np.argpartition(-self.log_weights, DENSITY_POINTS)[:DENSITY_POINTS]
            heavy = replace(
                self, points=self.points[kept], log_weights=self.log_weights[kept], scores=None
            )
        sampled = np.sort(heavy.log_density(heavy.samples(RANK_SAMPLES).coordinates))
        asked = heavy.log_density(coordinates)
        denser = 1 - np.searchsorted(sampled, asked, side="right") / len(sampled)
        values: Floats = denser + np.maximum(sampled[0] - asked, 0.0)
        values -= np.maximum(asked - sampled[-1], 0.0)
        return values

    def p_values(self, misfit: Floats) -> Floats | None:
        """Return the conformal p-values (m,) of places with such a `misfit` (m,).

        (1 + held-out photos whose true place fits as poorly or worse) / (1 + held-out photos),
        which is at most α with probability α for the true place of a photo of the same kind (Vovk,
        Gammerman & Shafer, "Algorithmic Learning in a Random World", 2005, section 2.2). None: no
        held-out photos were measured.
        """
        if self.held_out_ranks is None or not len(self.held_out_ranks):
            return None
        count = len(self.held_out_ranks)
        below = np.searchsorted(self.held_out_ranks, misfit, side="left")
        values: Floats = (1 + count - below) / (1 + count)
        return values

    def density_grid(
        self,
        step_degrees: float = 1.0,
        bounds: tuple[float, float, float, float] | None = None,
    ) -> DensityGrid:
        """Return the density per km² at the centres of a grid, for a heatmap.

        Args:
            step_degrees: side of a grid cell.
            bounds: (south, west, north, east) in degrees; west > east crosses the date line.
                None: the whole Earth.

        A kernel narrower than 0.6 grid steps is widened to that, so that no point falls between the
        cell centres. Longitudes continue past 180 if the date line is crossed.

        Raises:
            ValueError: the step is not positive, or too small for the area.
        """
        if not step_degrees > 0:
            raise ValueError(f"step must be a positive number of degrees, not {step_degrees}")
        south, west, north, east = bounds or (-90.0, -180.0, 90.0, 180.0)
        east = east + 360 if east <= west else east
        rows, columns = (
            max(1, round(side / step_degrees)) for side in (north - south, east - west)
        )
        latitudes = np.asarray(south + step_degrees * (np.arange(rows) + 0.5), np.float64)
        longitudes = np.asarray(west + step_degrees * (np.arange(columns) + 0.5), np.float64)
        if len(latitudes) * len(longitudes) > 2_000_000:
            raise ValueError("the grid would have over 2,000,000 cells: use a larger step")
        latitudes = latitudes[np.abs(latitudes) <= 90]
        mass = self.condensed(1024)
        kept = mass.weights > 1e-7 * mass.weights.max()
        kappa, log_norm = kernel(max(self.bandwidth_km, 0.6 * step_degrees * 111.2))
        vectors = unit_vectors(mass.points[kept]).astype(np.float32)
        weights = mass.weights[kept].astype(np.float32)
        mesh = np.stack(np.meshgrid(latitudes, longitudes, indexing="ij"), axis=-1)
        cells = unit_vectors(mesh.reshape(-1, 2)).astype(np.float32)
        density = np.empty(len(cells))
        for start in range(0, len(cells), 8192):
            exponent = cells[start : start + 8192] @ vectors.T
            exponent -= 1
            exponent *= np.float32(kappa)
            np.minimum(exponent, 0, out=exponent)
            density[start : start + 8192] = np.exp(exponent) @ weights
        density *= np.exp(log_norm)
        return DensityGrid(latitudes, longitudes, density.reshape(mesh.shape[:2]))

    def radius_km(self, mass: float, centre: Sequence[float] | None = None) -> float:
        """Return the radius of the circle around `centre` (default: the mode) that holds `mass`.

        A calibrated posterior multiplies it by its `radius_scale`, interpolated at `mass`.

        Raises:
            ValueError: `mass` is not between 0 and 1.
        """
        return self.radii_km([mass], centre)[0]

    def radii_km(
        self, masses: Sequence[float], centre: Sequence[float] | None = None
    ) -> list[float]:
        """Return `radius_km` of several masses, in the time of one.

        Raises:
            ValueError: a mass is not between 0 and 1.
        """
        for mass in masses:
            if not 0 < mass < 1:
                raise ValueError(f"mass must be between 0 and 1, not {mass}")
        where = np.asarray(self.mode() if centre is None else centre, dtype=np.float64)
        distances, weights = smoothed_distances(self.points, self.weights, self.bandwidth_km, where)
        cumulative = np.cumsum(weights)
        radii = []
        for mass in masses:
            index = min(int(np.searchsorted(cumulative, mass * cumulative[-1])), len(weights) - 1)
            radius = float(distances[index]) * self._scale(mass)
            radii.append(min(max(radius, 1e-3), HALF_CIRCUMFERENCE_KM))
        return radii

    def condensed(self, max_points: int = 2 * EXACT_POINTS) -> "Posterior":
        """Return an approximation with at most `max_points` points and without scores.

        Points in one cube become their weighted mean; the cubes grow until `max_points` suffice.
        """
        if len(self) <= max_points:
            return self
        vectors, side = unit_vectors(self.points), self.bandwidth_km / EARTH_RADIUS_KM / 2
        side = max(side, 1e-5)
        while True:
            cubes = np.floor(vectors / side).astype(np.int64) + 2**20
            keys = (cubes[:, 0] << 42) | (cubes[:, 1] << 21) | cubes[:, 2]
            unique, inverse = np.unique(keys, return_inverse=True)
            if len(unique) <= max_points:
                break
            side *= 1.6
        weights = np.bincount(inverse, weights=self.weights, minlength=len(unique))
        sums = np.stack(
            [
                np.bincount(inverse, weights=(self.weights + 1e-300) * axis, minlength=len(unique))
                for axis in vectors.T
            ],
            axis=1,
        )
        with np.errstate(divide="ignore"):
            return replace(
                self,
                points=coordinates_of(sums),
                log_weights=np.log(weights),
                scores=None,
                fixed=False,
            )

    def _scale(self, mass: float) -> float:
        if not self.radius_scale:
            return 1.0
        levels, factors = zip(*self.radius_scale, strict=True)
        return float(np.exp(np.interp(mass, levels, np.log(factors))))
