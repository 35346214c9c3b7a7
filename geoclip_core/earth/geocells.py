"""Geocells: a partition of the Earth into cells that are small where photos are dense.

Cells are the Voronoi regions of spherical k-means centres (Dhillon and Modha 2001, seeded as in
k-means++, Arthur and Vassilvitskii 2007). Make them from training rows only.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoclip_core.earth.sphere import coordinates_of, haversine_km, normalise, unit_vectors

MAXIMUM_ROUNDS = 30
"""Limit on Lloyd iterations; the mean error hardly changes after twenty."""


class Geocells:
    """Cells given by their ``centres`` (k, 2) in degrees: a point belongs to the nearest centre.

    Raises:
        ValueError: there are no centres, or one is not a valid coordinate.
    """

    def __init__(self, centres: Any) -> None:
        self.centres: NDArray[np.float64] = normalise(np.asarray(centres, dtype=np.float64))
        if self.centres.ndim != 2 or len(self.centres) == 0:
            raise ValueError(
                f"Geocells need centres of shape (k, 2) with k > 0, not {self.centres.shape}."
            )

    def __len__(self) -> int:
        return len(self.centres)

    def assign(self, coordinates: Any) -> NDArray[np.int64]:
        """Return the index (n,) of the centre nearest on the sphere to each of coordinates (n, 2).

        Raises:
            ValueError: a coordinate is not finite or beyond a pole.
        """
        points = normalise(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
        return np.asarray(self._tree.query(unit_vectors(points))[1], dtype=np.int64)

    def radii_km(self, coordinates: Any) -> NDArray[np.float64]:
        """Return the root-mean-square distance (k,) in km of each cell's points to its centre.

        A cell without points, or with all of them on its centre, gets half the distance to the
        nearest other centre (0 if there is none).

        Raises:
            ValueError: a coordinate is not finite or beyond a pole.
        """
        points = np.asarray(coordinates, dtype=np.float64).reshape(-1, 2)
        cell = self.assign(points)
        squares = haversine_km(points, self.centres[cell]) ** 2
        count = np.bincount(cell, minlength=len(self))
        radius = np.sqrt(np.bincount(cell, squares, minlength=len(self)) / np.maximum(count, 1))
        if len(self) > 1:
            neighbours = self._tree.query(unit_vectors(self.centres), k=2)[1][:, 1]
            spacing = haversine_km(self.centres, self.centres[neighbours])
            radius = np.where(radius > 1e-6, radius, spacing / 2)
        return radius

    @functools.cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(unit_vectors(self.centres))


def make_geocells(coordinates: Any, count: int, seed: int = 0, min_photos: int = 1) -> Geocells:
    """Make up to ``count`` cells, each with at least ``min_photos`` of the coordinates (n, 2).

    The same arguments give the same cells. The result has fewer than ``count`` cells if there are
    fewer distinct places or if small cells were merged into their neighbours, but at least one: a
    single cell may have fewer than ``min_photos``.

    Raises:
        ValueError: there are no coordinates, one is not valid, or ``count`` or ``min_photos`` is
            below 1.
    """
    if count < 1 or min_photos < 1:
        raise ValueError(f"count and min_photos must be at least 1, not {count} and {min_photos}.")
    points = normalise(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
    if len(points) == 0:
        raise ValueError("Geocells are made from training coordinates, and there are none.")
    places, photos = np.unique(points, axis=0, return_counts=True)
    # Each distinct place counts once: equal points cannot be split, so a thousand frames of one
    # place must not attract more centres.
    vectors = unit_vectors(places)
    rng = np.random.default_rng(seed)
    centres = _seeds(vectors, min(count, len(places), max(1, len(points) // min_photos)), rng)
    centres = _lloyd(vectors, centres)
    return Geocells(coordinates_of(_without_small(vectors, photos, centres, min_photos)))


def _seeds(
    vectors: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw centres by k-means++: in proportion to the squared distance to those already drawn."""
    chosen = [int(rng.integers(len(vectors)))]
    squares = ((vectors - vectors[chosen[0]]) ** 2).sum(axis=1)
    for _ in range(count - 1):
        cumulated = np.cumsum(squares)
        # There are fewer centres than distinct points, so at least one square is positive.
        drawn = int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))
        chosen.append(min(drawn, len(vectors) - 1))
        np.minimum(squares, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1), out=squares)
    return vectors[chosen]


def _lloyd(vectors: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move every centre to the mean direction of its points until no point changes its cell.

    A centre that lost all its points is moved to a point far from its own centre.
    """
    previous = np.full(len(vectors), -1)
    for _ in range(MAXIMUM_ROUNDS):
        distance, cell = cKDTree(centres).query(vectors)
        if np.array_equal(cell, previous):
            break
        previous = cell
        sums = np.stack(
            [np.bincount(cell, vectors[:, axis], minlength=len(centres)) for axis in range(3)],
            axis=1,
        )
        lengths = np.linalg.norm(sums, axis=1)
        moved = lengths > 1e-12
        centres = centres.copy()
        centres[moved] = sums[moved] / lengths[moved, None]
        empty = np.flatnonzero(np.bincount(cell, minlength=len(centres)) == 0)
        centres[empty] = vectors[np.argsort(-distance, kind="stable")[: len(empty)]]
    return centres


def _without_small(
    vectors: NDArray[np.float64],
    photos: NDArray[np.int64],
    centres: NDArray[np.float64],
    min_photos: int,
) -> NDArray[np.float64]:
    """Merge the smallest cell into its neighbours until every cell has ``min_photos``."""
    alive = np.arange(len(centres))
    cell = cKDTree(centres).query(vectors)[1]
    counts = np.bincount(cell, photos, minlength=len(centres))
    while len(alive) > 1:
        smallest = alive[np.argmin(counts[alive])]
        if counts[smallest] >= min_photos:
            break
        alive = alive[alive != smallest]
        moved = np.flatnonzero(cell == smallest)
        cell[moved] = alive[cKDTree(centres[alive]).query(vectors[moved])[1]]
        counts += np.bincount(cell[moved], photos[moved], minlength=len(centres))
        counts[smallest] = 0
    return centres[alive]
