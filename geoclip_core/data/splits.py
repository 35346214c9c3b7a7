"""Split photos by place, so that no validation photo is near a training photo.

Val consists of blocks of the Earth's surface. Photos that are connected by steps of at most 1 km,
and photos of one sequence, form a group, which is assigned as a whole. A group larger than a block
(a road photographed every 500 m across a state) is cut at the block borders, and its training
photos within 1 km of the cut become "buffer": kept in the table, but in neither train nor val.
"""

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from geoclip_core.earth.sphere import EARTH_RADIUS_KM, unit_vectors

MIN_DISTANCE_KM = 1.0
# Small blocks are tried first: val then covers the same towns as train, as the test split does. The
# others are fallbacks: larger ones for photos so dense that small blocks are mostly border, a
# smaller one for a dataset within a few kilometres.
BLOCK_EDGES_KM = (6.0, 12.0, 25.0, 50.0, 3.0)
ENOUGH_SHARE = 0.5  # of the photos wanted in val; with fewer, the next edge is tried
BUFFER_SHARE = 0.03  # of all photos; the first edge with at most this much buffer is taken
MAX_BUFFER_SHARE = 0.3  # of all photos; an edge with more buffer is never taken
_VOXEL_KM = 0.2
_CLOSE = 1 + 1e-9  # margin on chords: a chord of 1 km is 1e-9 shorter than its arc


def spatial_split(
    coordinates: np.ndarray,
    fraction: float,
    *,
    seed: int = 0,
    sequences: pd.Series | None = None,
) -> np.ndarray:
    """Choose which training photos become val.

    No val photo is closer than `MIN_DISTANCE_KM` to a train photo. The choice depends on the seed
    and the photos, not on the order of the rows. Val is empty if no block size gives enough photos
    for val (all photos are at one place) with less than `MAX_BUFFER_SHARE` of all in the buffer.

    Args:
        coordinates: (n, 2) degrees.
        fraction: Share of photos wanted in val, in (0, 1).
        seed: Determines which blocks become val.
        sequences: (n,) sequence of each photo or NA; one sequence stays on one side unless it is
            longer than a block.

    Returns:
        (n,) object array of "train", "val" and "buffer".

    Raises:
        ValueError: the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the share of val must be between 0 and 1, not {fraction}")
    vectors = unit_vectors(np.asarray(coordinates, dtype=np.float64)) * EARTH_RADIUS_KM
    target = fraction * len(vectors)
    best = np.full(len(vectors), "train", dtype=object)
    if len(vectors) < 2:
        return best
    near = _near_groups(vectors)
    linked = near if sequences is None else _joined(near, sequences)
    least = MAX_BUFFER_SHARE * len(vectors)
    for edge in BLOCK_EDGES_KM:
        unit = _units(vectors, near, linked, sequences, edge)
        # The random offset moves the block borders with the seed.
        generator = np.random.default_rng(seed)
        block = _ids(np.floor(_centres(vectors, unit) / edge + generator.random(3)))[unit]
        split = _with_buffer(vectors, _choose(block, target, generator))
        lost = int((split == "buffer").sum())
        if (split == "val").sum() >= ENOUGH_SHARE * target and (split == "train").any():
            if lost <= BUFFER_SHARE * len(vectors):
                return split
            if lost < least:
                best, least = split, lost
    return best


def nearest_km(of: np.ndarray, among: np.ndarray, limit_km: float) -> np.ndarray:
    """Return distances (n,) in km from `of` (n, 2) to the nearest of `among` (m, 2).

    Distances beyond `limit_km` are inf.
    """
    if not len(of) or not len(among):
        return np.full(len(of), np.inf)
    limit = 2 * np.sin(min(limit_km / (2 * EARTH_RADIUS_KM), np.pi / 2))
    chord: np.ndarray
    chord, _ = cKDTree(unit_vectors(among)).query(
        unit_vectors(of), distance_upper_bound=max(limit, 1e-12) * _CLOSE
    )
    found = np.isfinite(chord)
    chord[found] = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord[found] / 2, 1))
    return chord


def _near_groups(vectors: np.ndarray) -> np.ndarray:
    """Return group numbers (n,): photos linked by steps of `MIN_DISTANCE_KM` share one.

    Photos are first pooled into cubes of 200 m, so that ten thousand photos of one street give a
    few links instead of fifty million. Links may be longer by a cube's diagonal, so none is missed.
    """
    cube = _ids(np.floor(vectors / _VOXEL_KM))
    centres = _centres(vectors, cube)
    reach = MIN_DISTANCE_KM * _CLOSE + _VOXEL_KM * np.sqrt(3)
    pairs = cKDTree(centres).query_pairs(reach, output_type="ndarray")
    groups: np.ndarray = _components(pairs[:, 0], pairs[:, 1], len(centres))[cube]
    return groups


def _joined(groups: np.ndarray, sequences: pd.Series) -> np.ndarray:
    """Merge groups (n,) that share a sequence."""
    codes, _ = pd.factorize(sequences.reset_index(drop=True))
    known = codes >= 0
    count = int(groups.max()) + 1
    merged = _components(groups[known], count + codes[known], count + int(codes.max()) + 1)
    joined: np.ndarray = merged[groups]
    return joined


def _units(
    vectors: np.ndarray,
    near: np.ndarray,
    linked: np.ndarray,
    sequences: pd.Series | None,
    edge: float,
) -> np.ndarray:
    """Return numbers (n,) of the units to assign: each photo's largest group that fits a block."""
    # From the finest to the coarsest; a coarser group wins if it fits into a block.
    levels = [np.arange(len(vectors))]
    if sequences is not None:
        codes, _ = pd.factorize(sequences.reset_index(drop=True))
        levels.append(np.where(codes >= 0, codes, codes.max() + 1 + np.arange(len(codes))))
    levels += [near, linked]
    unit = levels[0]
    for level in levels[1:]:
        level = _ids(level[:, None].astype(np.float64))
        small = _extent(vectors, level) <= edge
        unit = np.where(small[level], unit.max() + 1 + level, unit)
    return _ids(unit[:, None].astype(np.float64))


def _with_buffer(vectors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the split (n,): val where chosen, buffer near val, train elsewhere."""
    split = np.where(chosen, "val", "train").astype(object)
    if chosen.any():
        limit = MIN_DISTANCE_KM * _CLOSE
        nearest, _ = cKDTree(vectors[chosen]).query(vectors[~chosen], distance_upper_bound=limit)
        split[np.flatnonzero(~chosen)[np.isfinite(nearest)]] = "buffer"
    return split


def _choose(block: np.ndarray, target: float, generator: np.random.Generator) -> np.ndarray:
    """Return a mask (n,) of val: blocks in random order, skipping those that exceed the target."""
    sizes = np.bincount(block)
    chosen = np.zeros(len(sizes), dtype=bool)
    total = 0
    for index in generator.permutation(len(sizes)):
        if total + sizes[index] <= max(target, 1):
            chosen[index] = True
            total += int(sizes[index])
    in_val: np.ndarray = chosen[block]
    return in_val


def _extent(vectors: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the longest side of each group's bounding box (groups,), in km."""
    frame = pd.DataFrame(vectors).groupby(group)
    return np.asarray((frame.max() - frame.min()).max(axis=1))


def _centres(vectors: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.asarray(pd.DataFrame(vectors).groupby(group).mean())


def _ids(rows: np.ndarray) -> np.ndarray:
    """Number the distinct rows of (n, k) in sorted order, and return each row's number (n,)."""
    columns = [np.unique(column, return_inverse=True)[1] for column in rows.T]
    code = columns[0]
    for column in columns[1:]:
        code = np.unique(code * (int(column.max()) + 1) + column, return_inverse=True)[1]
    return code


def _components(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])
