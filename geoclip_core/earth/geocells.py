"""Geocells: a partition of the Earth into cells that are small where photos are dense.

Cells are the Voronoi regions of spherical k-means centres (Dhillon and Modha 2001, seeded as in
k-means++, Arthur and Vassilvitskii 2007). Every cell has at least a given number of photos. Make
them from training rows only.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoclip_core.earth.sphere import (
    coordinates_of,
    haversine_km,
    normalise,
    unit_vectors,
)

MAXIMUM_ROUNDS = 30
"""Lloyd steps; the mean error hardly changes after twenty."""


class Geocells:
    """Cells given by their ``centres`` (k, 2) in degrees: a point belongs to the nearest centre."""

    def __init__(self, centres: Any) -> None:
        self.centres: NDArray[np.float64] = normalise(np.asarray(centres, dtype=np.float64))
        if self.centres.ndim != 2 or len(self.centres) == 0:
            raise ValueError(
                f"Geocells need centres of shape (k, 2), k > 0; got {self.centres.shape}."
            )

    def __len__(self) -> int:
        return len(self.centres)

    def assign(self, coordinates: Any) -> NDArray[np.int64]:
        """Return the cell index (n,) of coordinates (n, 2): the centre nearest on the sphere.

        Raises:
            ValueError: a coordinate is not finite or beyond a pole.
        """
        points = normalise(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
        return np.asarray(self._tree.query(unit_vectors(points))[1], dtype=np.int64)

    def radii_km(self, coordinates: Any) -> NDArray[np.float64]:
        """Return the root-mean-square distance (k,) in km of each cell's points to its centre.

        The extent of a cell without points, or with all of them on its centre, is unknown: it gets
        half the distance to the nearest other centre (0 if there is none).
        """
        points = np.asarray(coordinates, dtype=np.float64).reshape(-1, 2)
        cell = self.assign(points)
        squares = haversine_km(points, self.centres[cell]) ** 2
        count = np.bincount(cell, minlength=len(self))
        radius = np.sqrt(np.bincount(cell, squares, minlength=len(self)) / np.maximum(count, 1))
        if len(self) > 1:
            chords = self._tree.query(unit_vectors(self.centres), k=2)[1][:, 1]
            spacing = haversine_km(self.centres, self.centres[chords])
            radius = np.where(radius > 1e-6, radius, spacing / 2)
        return radius

    @functools.cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(unit_vectors(self.centres))


def make_geocells(coordinates: Any, count: int, seed: int = 0, min_photos: int = 1) -> Geocells:
    """Make up to ``count`` cells, each with at least ``min_photos`` of the coordinates (n, 2).

    The same arguments give the same cells. There are fewer where there are fewer distinct places or
    where small cells were merged into their neighbours; there is always at least one.

    Raises:
        ValueError: there are no coordinates, one is not valid, or a count is not positive.
    """
    if count < 1 or min_photos < 1:
        raise ValueError(f"count and min_photos must be at least 1, not {count} and {min_photos}.")
    points = normalise(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
    if len(points) == 0:
        raise ValueError("Geocells are made from training coordinates, and there are none.")
    places, photos = np.unique(points, axis=0, return_counts=True)
    # Distinct places count once: a burst of a thousand frames at one place needs no second cell,
    # and equal points cannot be split.
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
        # Of distinct points with fewer centres than points, some square is always positive.
        drawn = int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))
        chosen.append(min(drawn, len(vectors) - 1))
        np.minimum(squares, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1), out=squares)
    return vectors[chosen]


def _lloyd(vectors: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move every centre to the mean direction of its points until no point changes its cell."""
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
    """Dissolve the smallest cell into its neighbours until no cell is too small."""
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
