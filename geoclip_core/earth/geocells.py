"""Geocells: a partition of the Earth into cells that follow where the photos are.

Cells are the Voronoi regions of spherical k-means centres (Dhillon and Modha 2001, seeded as in
k-means++, Arthur and Vassilvitskii 2007): small where photos are dense, large where they are rare,
and none with too few photos to learn from. Make them from training rows only.
"""

import functools
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoclip_core.earth.sphere import (
    coordinates_of,
    haversine_km,
    normalise,
    pairwise_km,
    unit_vectors,
)

MAXIMUM_ROUNDS = 30
"""Lloyd steps; the mean error hardly moves after twenty."""


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
        """Cell index (n,) of coordinates (n, 2): the centre nearest on the sphere.

        Raises:
            ValueError: if a coordinate is not finite or beyond a pole.
        """
        points = normalise(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
        return self._tree.query(unit_vectors(points))[1].astype(np.int64)

    def distances_km(self, coordinates: Any) -> NDArray[np.float64]:
        """Distances (n, k) in km from coordinates (n, 2) to every centre."""
        return pairwise_km(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2), self.centres)

    def radii_km(self, coordinates: Any) -> NDArray[np.float64]:
        """Root-mean-square distance (k,) in km of a cell's own points to its centre.

        A cell without points, or with all of them on its centre, takes half the way to the nearest
        other centre (0 if there is none): its true extent is unknown, but not nothing.
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

    def to_dict(self) -> dict[str, NDArray[np.float64]]:
        """The arrays that a checkpoint stores; :meth:`from_dict` is the way back."""
        return {"centres": self.centres.copy()}

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Any]) -> Self:
        """Cells from what :meth:`to_dict` gave (arrays, tensors or nested lists)."""
        if "centres" not in arrays:
            raise ValueError(f"Geocells need an array 'centres'; got {sorted(arrays)}.")
        return cls(arrays["centres"])

    @functools.cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(unit_vectors(self.centres))


def make_geocells(coordinates: Any, count: int, seed: int = 0, min_photos: int = 1) -> Geocells:
    """Up to ``count`` cells, each holding at least ``min_photos`` of the coordinates (n, 2).

    The same arguments give the same cells. There are fewer where there are fewer distinct places
    or where small cells had to be given up; with fewer than ``min_photos`` photos there is one.

    Raises:
        ValueError: if there are no coordinates, one is not valid, or a count is not positive.
    """
    if count < 1 or min_photos < 1:
        raise ValueError(f"count and min_photos must be at least 1, not {count} and {min_photos}.")
    points = normalise(np.asarray(coordinates, dtype=np.float64).reshape(-1, 2))
    if len(points) == 0:
        raise ValueError("Geocells are made from training coordinates, and there are none.")
    places, photos = np.unique(points, axis=0, return_counts=True)
    # Distinct places count once: a burst of a thousand frames is no reason for a cell of its own
    # to be split, and equal points could not be split anyway.
    vectors = unit_vectors(places)
    rng = np.random.default_rng(seed)
    centres = _seeds(vectors, min(count, len(places), max(1, len(points) // min_photos)), rng)
    centres = _lloyd(vectors, centres)
    return Geocells(coordinates_of(_without_small(vectors, photos, centres, min_photos)))


def _seeds(
    vectors: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """k-means++: each next centre is drawn with the square of its distance to those before."""
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
    """Move every centre to the mean direction of its points until nothing changes cell."""
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
    """Give up the smallest cell, and let its points go to the next, until none is too small."""
    alive = np.arange(len(centres))
    cell = cKDTree(centres).query(vectors)[1]
    counts = np.bincount(cell, photos, minlength=len(centres))
    while len(alive) > 1:
        smallest = alive[np.argmin(counts[alive])]
        if counts[smallest] >= min_photos:
            break
        alive = alive[alive != smallest]
        orphans = np.flatnonzero(cell == smallest)
        cell[orphans] = alive[cKDTree(centres[alive]).query(vectors[orphans])[1]]
        counts += np.bincount(cell[orphans], photos[orphans], minlength=len(centres))
        counts[smallest] = 0
    return centres[alive]
