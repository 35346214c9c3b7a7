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
PRIOR_FLOOR = 0.01
"""Share of posterior and prior that is spread evenly over the Earth before they are compared."""
SAMPLED_POINTS = 1024
"""Number of heaviest points that get all samples; the others get one each."""
MOST_ANCHORS = 4096
"""Number of places up to which `Anchors` hold the scores of all pairs (64 MB)."""
_FINALISTS, _HEAVIEST = 24, 8
"""Points whose expected scores are compared exactly: those of the highest approximate scores, and
those of the highest weights."""
IN_CACHE = 2**16
"""Numbers of pairs that are computed together, so that they stay in the cache of a processor."""
_BINS = 4096
"""Number of bins in which the distance that holds a share of the mass is looked for."""


def kernel(bandwidth_km: float) -> tuple[float, float]:
    """Return the concentration κ and the log density per km² at the kernel's centre."""
    kappa = (EARTH_RADIUS_KM / bandwidth_km) ** 2
    area = 2 * np.pi * EARTH_RADIUS_KM**2
    return kappa, float(np.log(kappa) - np.log(area) - np.log(-np.expm1(-2 * kappa)))


def _floored(log_density: Floats) -> Floats:
    """Return log densities per km² of which `PRIOR_FLOOR` is spread evenly over the Earth."""
    even = np.log(PRIOR_FLOOR / (4 * np.pi * EARTH_RADIUS_KM**2))
    floored: Floats = np.logaddexp(np.log1p(-PRIOR_FLOOR) + log_density, even)
    return floored


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


def smoothed_radii(
    points: Floats, weights: Floats, bandwidth_km: float, centre: Floats, masses: Sequence[float]
) -> list[float]:
    """Return the distances in km from a centre within which shares of the smoothed mass lie.

    Takes points (n, 2) and centre (2,) in degrees, and the points' weights (n,). The smoothed mass
    is that of samples around the points, as from `kernel_samples`.
    """
    offsets, bearings = kernel_samples(bandwidth_km)
    farthest = float(offsets[-1])
    # from half chords, which are exact for near points
    half = np.linalg.norm(unit_vectors(points) - unit_vectors(centre), axis=1) / 2
    half = np.minimum(half, 1.0)
    angle = 2 * np.arcsin(half)
    order = np.argsort(angle)
    cumulative = np.cumsum(weights[order])
    # no sample is farther from its point than `farthest`, so that the distances asked for lie
    # between `low` and `high`, and points elsewhere need no samples
    at = np.searchsorted(cumulative, np.asarray(masses) * cumulative[-1])
    centred = angle[order][np.minimum(at, len(order) - 1)]
    low, high = float(centred.min()) - farthest, float(centred.max()) + farthest
    asked = (angle >= low - farthest) & (angle <= high + farthest)
    inside = float(weights[angle < low - farthest].sum())
    heavy = np.ones(len(points), dtype=bool)
    if len(points) > SAMPLED_POINTS:
        heavy[np.argpartition(-weights, SAMPLED_POINTS)[SAMPLED_POINTS:]] = False
    along = np.stack([1 - 2 * half**2, 2 * half * np.sqrt(1 - half**2)], axis=1)
    around = np.stack([np.cos(offsets), np.sin(offsets) * bearings])
    rows = np.flatnonzero(asked & heavy)
    # spherical law of cosines
    cosines = (along[rows] @ around).ravel()
    mass = np.repeat(weights[rows] / RING_SAMPLES, RING_SAMPLES)
    if not heavy.all():
        light = np.flatnonzero(~heavy)
        sample = np.arange(len(light)) * 37 % RING_SAMPLES
        kept = asked[light]
        light, sample = light[kept], sample[kept]
        single = (along[light] * around[:, sample].T).sum(axis=1)
        cosines = np.concatenate([cosines, single])
        mass = np.concatenate([mass, weights[light]])
    # sorted by bins first: only the bins of the distances asked for are sorted
    nearest, last = np.cos(max(low, 0.0)), np.cos(min(high, np.pi))
    scale = (_BINS - 1) / max(float(nearest - last), 1e-300)
    bins = np.clip((nearest - cosines) * scale + 1, 0, _BINS).astype(np.int32)
    filled = inside + np.cumsum(np.bincount(bins, mass, minlength=_BINS + 1))
    radii = []
    for share in masses:
        wanted = share * cumulative[-1]
        bin_ = min(int(np.searchsorted(filled, wanted)), _BINS)
        members = np.flatnonzero(bins == bin_)
        while not len(members):  # rounding left no mass for the last bins
            bin_ -= 1
            members = np.flatnonzero(bins == bin_)
        members = members[np.argsort(-cosines[members])]
        before = filled[bin_ - 1] if bin_ else inside
        index = int(np.searchsorted(before + np.cumsum(mass[members]), wanted))
        cosine = float(cosines[members[min(index, len(members) - 1)]])
        radii.append(EARTH_RADIUS_KM * float(np.arccos(min(max(cosine, -1.0), 1.0))))
    return radii


def _scores_km(distances: Floats) -> Floats:
    """Return exp(−d / 1492.7) of distances in km."""
    scores: Floats = np.exp(distances / -GEOSCORE_SCALE_KM)
    return scores


def _within(centres: Floats, points: Floats, reach_km: float, mass: Floats) -> Floats:
    """Return the mass (n,) of points (m, 3) near centres (n, 3); distances are right to metres."""
    closest = np.float32(np.cos(min(reach_km / EARTH_RADIUS_KM, np.pi)) - 1e-15)
    around, held = points.T.astype(np.float32), mass.astype(np.float32)
    asked, result = centres.astype(np.float32), np.empty(len(centres))
    step = max(1, IN_CACHE // max(len(points), 1))
    for start in range(0, len(centres), step):
        inside = asked[start : start + step] @ around >= closest
        result[start : start + step] = inside @ held
    return result


@dataclass(frozen=True, eq=False)
class Anchors:
    """Places near which the points of all posteriors of a model lie: the centres of its cells."""

    points: Floats
    """(n, 2) degrees."""

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """(n, n) score exp(−d / 1492.7 km) of answering with one place if another is right."""
        return _scores_km(pairwise_km(self.points, self.points)).astype(np.float32)


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
    anchors: Anchors | None = None
    """(n,) places near the points, in their order; they only save time."""
    prior: "Posterior | None" = None
    """Density of the training photos. With it, `misfit` compares with what was expected before the
    photo was seen."""

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

    @cached_property
    def vectors(self) -> Floats:
        """(n, 3) unit vectors of the points."""
        vectors: Floats = unit_vectors(self.points)
        return vectors

    @cached_property
    def _few(self) -> "Posterior":
        """The posterior condensed to the usual number of points."""
        return self.condensed()

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
        mass = self if few else self._few
        distances = pairwise_km(np.asarray(candidates, dtype=np.float64), mass.points)
        scores: Floats = _scores_km(distances) @ mass.weights
        return scores

    def mode(self) -> tuple[float, float]:
        """Return the point (latitude, longitude) with the highest expected GeoScore."""
        latitude, longitude = self.points[self._mode_index]
        return float(latitude), float(longitude)

    @cached_property
    def _mode_index(self) -> int:
        if self.scores is not None:
            return int(self.scores.argmax())
        if len(self) <= (EXACT_POINTS if self.anchors is None else 64):
            return int(self.expected_scores(self.points).argmax())
        heavy = np.argpartition(-self.log_weights, 63)[:64]
        if self.anchors is not None and len(self) <= MOST_ANCHORS:
            candidates = np.arange(len(self))
            light = self.anchors.scores @ self.weights.astype(np.float32)
            scores = light.astype(np.float64)
        else:
            # find the best neighbourhoods with condensed mass, then compare their points
            coarse = self._few.condensed(EXACT_POINTS)
            best = coarse.vectors[np.argsort(-coarse.expected_scores(coarse.points))[:4]]
            near = [np.argpartition(self.vectors @ -centre, 63)[:64] for centre in best]
            candidates = np.unique(np.concatenate([heavy, *near]))
            scores = self._few.expected_scores(self.points[candidates])
        order = np.argsort(-scores)[:_FINALISTS]
        heaviest = heavy[np.argsort(-self.log_weights[heavy])[:_HEAVIEST]]
        finalists = np.unique(np.concatenate([candidates[order], heaviest]))
        return int(finalists[self._exact_scores(finalists).argmax()])

    def _exact_scores(self, rows: NDArray[np.int64]) -> Floats:
        """Return the expected scores (m,) of answering with the points of rows (m,)."""
        scores: Floats = _scores_km(pairwise_km(self.points[rows], self.points)) @ self.weights
        return scores

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
        every = self._few
        points, vectors, remaining = every.points, every.vectors, every.weights.copy()
        alive = np.ones(len(every), dtype=bool)
        gathered = _within(vectors, vectors, reach, remaining)
        places: list[tuple[float, float, float]] = []
        centre = np.asarray(self.mode())
        while len(places) < k:
            # chords are faster to compare than kilometres
            chord = np.linalg.norm(vectors - unit_vectors(centre), axis=1)
            near = chord <= 2 * np.sin(min(reach / EARTH_RADIUS_KM, np.pi) / 2) + 1e-12
            places.append((float(centre[0]), float(centre[1]), float(remaining[near].sum())))
            gathered -= _within(vectors, vectors[near], reach, remaining[near])
            remaining[near] = 0.0
            alive &= ~near
            total = remaining.sum()
            if total <= 1e-6:
                break
            # among places that gather the same mass, the one in the middle is preferred
            best = np.where(alive, gathered, -1.0)
            tied = np.flatnonzero(best >= best.max() - 1e-6 * total - 1e-6)
            distances = pairwise_km(points[tied], points)
            gathers = (distances <= reach) + 1e-6 * np.exp(-distances / max(reach, 1.0))
            centre = points[tied[int((gathers @ remaining).argmax())]]
        return places

    def log_density(self, coordinates: Floats) -> Floats:
        """Return the natural logarithm (m,) of the density per km² at coordinates (m, 2)."""
        targets = unit_vectors(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
        kappa, log_norm = kernel(self.bandwidth_km)
        # log weight + κ (cosine − 1) of all pairs as one product
        ones = np.ones((len(targets), 1))
        asked = np.concatenate([targets * kappa, ones], axis=1)
        known = np.concatenate([self.vectors, self.log_weights[:, None] - kappa], axis=1)
        result = np.empty(len(targets))
        step = max(1, IN_CACHE // len(known))
        for start in range(0, len(targets), step):
            terms = asked[start : start + step] @ known.T
            highest = terms.max(axis=1, keepdims=True)
            terms -= highest
            # single precision is enough below the largest term, and several times as fast
            sums = np.exp(terms.astype(np.float32)).sum(axis=1, dtype=np.float64)
            result[start : start + step] = highest[:, 0] + np.log(sums)
        return result + log_norm

    def better_mass(self, coordinates: Floats) -> Floats:
        """Return the share (m,) of the mass that lies in denser places than coordinates (m, 2).

        A place is inside the highest-density region of 90 % if this is below 0.9.
        """
        shares: Floats = np.clip(self._denser_mass(coordinates), 0.0, 1.0)
        return shares

    def misfit(self, coordinates: Floats) -> Floats:
        """Return how poorly places (m, 2) fit; smaller is better.

        With a `prior`, it is the logarithm of the density of the prior over that of the posterior:
        by the lemma of Neyman and Pearson the statistic that tells true places best from places
        that other photos show. `PRIOR_FLOOR` of both is spread evenly over the Earth, so that
        places far from all training photos get about 0. Without a prior, it is the mass of denser
        places.
        """
        if self.prior is None:
            return self._denser_mass(coordinates)
        ratio: Floats = _floored(self.prior.log_density(coordinates))
        ratio -= _floored(self.log_density(coordinates))
        return ratio

    def _denser_mass(self, coordinates: Floats) -> Floats:
        """Return `better_mass`, and beyond it a measure of how far places (m, 2) are.

        Uniform between 0 and 1 over true places if the posterior is right. A place that is less
        dense than all mass gets 1 plus the difference in log density, and a place that is denser
        minus the difference, so that such places, which are many if the posterior is too sharp or
        too flat, still differ.
        """
        heavy = self
        if len(self) > DENSITY_POINTS:
            kept = np.argpartition(-self.log_weights, DENSITY_POINTS)[:DENSITY_POINTS]
            heavy = replace(
                self,
                points=self.points[kept],
                log_weights=self.log_weights[kept],
                scores=None,
                anchors=None,
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
        radii = smoothed_radii(self.points, self.weights, self.bandwidth_km, where, masses)
        return [
            min(max(radius * self._scale(mass), 1e-3), HALF_CIRCUMFERENCE_KM)
            for mass, radius in zip(masses, radii, strict=True)
        ]

    def condensed(self, max_points: int = 2 * EXACT_POINTS) -> "Posterior":
        """Return an approximation with at most `max_points` points and without scores.

        Points in one cube become their weighted mean; the cubes grow until `max_points` suffice.
        """
        if len(self) <= max_points:
            return self
        vectors = self.vectors
        smallest = max(self.bandwidth_km / EARTH_RADIUS_KM / 2, 1e-5)

        def cubes_of(growth: int) -> NDArray[np.int64]:
            cubes = np.floor(vectors / (smallest * 1.6**growth)).astype(np.int64) + 2**20
            return (cubes[:, 0] << 42) | (cubes[:, 1] << 21) | cubes[:, 2]

        def too_many(keys: NDArray[np.int64]) -> bool:
            ordered = np.sort(keys)
            return int(np.count_nonzero(np.diff(ordered))) >= max_points

        # the least growth of the cubes that suffices, by bisection
        low, high = -1, 0
        while too_many(cubes_of(high)):
            low, high = high, 2 * high + 4
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if too_many(cubes_of(middle)) else (low, middle)
        unique, inverse = np.unique(cubes_of(high), return_inverse=True)
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
                anchors=None,
            )

    def _scale(self, mass: float) -> float:
        if not self.radius_scale:
            return 1.0
        levels, factors = zip(*self.radius_scale, strict=True)
        return float(np.exp(np.interp(mass, levels, np.log(factors))))
