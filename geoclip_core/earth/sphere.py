"""Geometry on a spherical Earth, for NumPy arrays and PyTorch tensors.

Coordinates are (latitude, longitude) in degrees, in that order, in the last axis. The functions
take arrays, sequences or tensors. If an argument is a tensor, they return a differentiable tensor
with its device and dtype; otherwise they return float64 arrays. The date line and the poles need
no special handling by the caller.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

EARTH_RADIUS_KM = 6371.0
"""Mean radius used by the geolocation benchmarks (Haas et al. 2024; Astruc et al. 2024)."""

GEOSCORE_SCALE_KM = 1492.7
"""Decay of the GeoGuessr-like score on the world map (Haas et al., PIGEON, CVPR 2024)."""

GEOSCORE_MAXIMUM = 5000.0
"""GeoScore of an error of 0 km."""


def haversine_km(a: Any, b: Any) -> Any:
    """Return great-circle distances (...) in km between coordinates (..., 2): haversine formula.

    ``a`` and ``b`` are broadcast. The gradient is finite everywhere; for equal and for antipodal
    points, where it is undefined, it is zero.
    """
    xp, (a, b) = _arrays(a, b)
    latitude_a, latitude_b = xp.deg2rad(a[..., 0]), xp.deg2rad(b[..., 0])
    half_latitude = (latitude_b - latitude_a) / 2
    half_longitude = xp.deg2rad(b[..., 1] - a[..., 1]) / 2
    h = (
        xp.sin(half_latitude) ** 2
        + xp.cos(latitude_a) * xp.cos(latitude_b) * xp.sin(half_longitude) ** 2
    )
    # arctan2 stays accurate near the antipode, where arcsin loses half of its digits.
    return 2 * EARTH_RADIUS_KM * xp.arctan2(_root(xp, h), _root(xp, 1 - h))


def pairwise_km(a: Any, b: Any) -> Any:
    """Return the distances (n, m) in km from each of ``a`` (n, 2) to each of ``b`` (m, 2)."""
    xp, (a, b) = _arrays(a, b)
    if xp is not np:
        if a.requires_grad or b.requires_grad:
            return haversine_km(a[:, None, :], b[None, :, :])
        # from differences, because products of single precision lose what is nearer than 2 km
        chord = xp.cdist(
            unit_vectors(a), unit_vectors(b), compute_mode="donot_use_mm_for_euclid_dist"
        )
        return chord.mul_(0.5).clamp_(max=1.0).asin_().mul_(2 * EARTH_RADIUS_KM)
    half_chord = cdist(unit_vectors(a), unit_vectors(b))
    half_chord *= 0.5
    np.minimum(half_chord, 1.0, out=half_chord)
    np.arcsin(half_chord, out=half_chord)
    half_chord *= 2 * EARTH_RADIUS_KM
    return half_chord


def geoscore(distance_km: Any) -> Any:
    """Return the GeoScore of an error in km: 5000 · exp(−d / 1492.7) (PIGEON, CVPR 2024)."""
    xp, (distance,) = _arrays(distance_km)
    return GEOSCORE_MAXIMUM * xp.exp(-distance / GEOSCORE_SCALE_KM)


def unit_vectors(coordinates: Any) -> Any:
    """Return unit vectors (..., 3) of coordinates (..., 2); x points to (0, 0), y to (0, 90)."""
    xp, (coordinates,) = _arrays(coordinates)
    latitude, longitude = xp.deg2rad(coordinates[..., 0]), xp.deg2rad(coordinates[..., 1])
    across = xp.cos(latitude)
    return xp.stack(
        [across * xp.cos(longitude), across * xp.sin(longitude), xp.sin(latitude)], axis=-1
    )


def coordinates_of(vectors: Any) -> Any:
    """Return coordinates (..., 2) of vectors (..., 3) of any length; (0, 0) for a zero vector."""
    xp, (vectors,) = _arrays(vectors)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    latitude = xp.rad2deg(xp.arctan2(z, _root(xp, x * x + y * y)))
    longitude = xp.rad2deg(xp.arctan2(y, x))
    return xp.stack([latitude, longitude - 360 * (longitude >= 180)], axis=-1)


def spherical_mean(coordinates: Any) -> NDArray[np.float64]:
    """Return the mean direction (2,) of coordinates (n, 2), which minimises the squared chords.

    If the vectors cancel out, every point minimises them equally, and the first one is returned.

    Raises:
        ValueError: there are no coordinates, or one is not valid.
    """
    points = np.asarray(coordinates, dtype=np.float64).reshape(-1, 2)
    if len(points) == 0:
        raise ValueError("There are no coordinates to average; give at least one.")
    resultant = unit_vectors(points).mean(axis=0)
    mean = points[0] if np.linalg.norm(resultant) < 1e-9 else coordinates_of(resultant)
    return np.asarray(normalise(mean))


def destination(coordinate: Any, bearing_degrees: Any, distance_km: Any) -> Any:
    """Return the end point (..., 2) of a great-circle path from ``coordinate`` (..., 2).

    The bearing (...) is in degrees clockwise from north, the distance (...) in km; all arguments
    are broadcast. Longitudes are in [−180, 180).
    """
    xp, (start, heading, distance) = _arrays(coordinate, bearing_degrees, distance_km)
    latitude, longitude = xp.deg2rad(start[..., 0]), xp.deg2rad(start[..., 1])
    heading, angle = xp.deg2rad(heading), distance / EARTH_RADIUS_KM
    # Cartesian, so that poles and distances beyond half the circumference need no special case.
    north = xp.cos(heading) * xp.sin(angle)
    east = xp.sin(heading) * xp.sin(angle)
    along = xp.cos(angle)
    across = along * xp.cos(latitude) - north * xp.sin(latitude)
    z = along * xp.sin(latitude) + north * xp.cos(latitude)
    new_latitude = xp.arctan2(z, _root(xp, across * across + east * east))
    new_longitude = xp.rad2deg(longitude + xp.arctan2(east, across))
    broadcast = xp.broadcast_arrays if xp is np else xp.broadcast_tensors
    new_latitude, new_longitude = broadcast(new_latitude, new_longitude)
    return xp.stack([xp.rad2deg(new_latitude), _wrapped(new_longitude)], axis=-1)


def bearing(a: Any, b: Any) -> Any:
    """Return initial bearings (...) from ``a`` to ``b`` (..., 2), degrees clockwise from north."""
    xp, (a, b) = _arrays(a, b)
    latitude_a, latitude_b = xp.deg2rad(a[..., 0]), xp.deg2rad(b[..., 0])
    longitude = xp.deg2rad(b[..., 1] - a[..., 1])
    east = xp.sin(longitude) * xp.cos(latitude_b)
    north = xp.cos(latitude_a) * xp.sin(latitude_b) - (
        xp.sin(latitude_a) * xp.cos(latitude_b) * xp.cos(longitude)
    )
    return xp.rad2deg(xp.arctan2(east, north)) % 360


def normalise(coordinates: Any) -> Any:
    """Return coordinates (..., 2) with longitudes wrapped to [−180, 180).

    Raises:
        ValueError: a coordinate is not finite or beyond a pole; the first one is named.
    """
    xp, (coordinates,) = _arrays(coordinates)
    if coordinates.ndim == 0 or coordinates.shape[-1] != 2:
        raise ValueError(
            "Coordinates must be pairs (latitude, longitude) in degrees, not an array of shape "
            f"{tuple(coordinates.shape)}."
        )
    latitude, longitude = coordinates[..., 0], coordinates[..., 1]
    wrong = ~(xp.isfinite(latitude) & xp.isfinite(longitude) & (abs(latitude) <= 90))
    if bool(wrong.any()):
        first = int(wrong.reshape(-1).nonzero()[0][0])
        pair = coordinates.reshape(-1, 2)[first]
        raise ValueError(
            f"Coordinate {first} is ({float(pair[0])}, {float(pair[1])}): latitude must lie in "
            "[-90, 90] and both numbers must be finite."
        )
    return xp.stack([latitude, _wrapped(longitude)], axis=-1)


def longitude_near(longitude: float, middle: float) -> float:
    """Return the copy of ``longitude`` within 180° of ``middle``, in degrees."""
    return middle + (longitude - middle + 180) % 360 - 180


def middle_longitude(longitudes: Sequence[float]) -> float:
    """Return the longitude to centre a map on: opposite the widest gap between ``longitudes``.

    Returns 0, as on the usual map, if there are no longitudes or no gap reaches 160°. Among
    equally wide gaps, the result closest to 0 is taken.
    """
    if not longitudes:
        return 0.0
    ordered = sorted({(value + 180) % 360 - 180 for value in longitudes})
    gaps = [
        (after - before, before + (after - before) / 2)
        for before, after in zip(ordered, [*ordered[1:], ordered[0] + 360], strict=True)
    ]
    width = max(gap for gap, _ in gaps)
    if width < 160:
        return 0.0
    middles = [longitude_near(at + 180, 0) for gap, at in gaps if gap > width - 1e-9]
    return min(middles, key=abs)


def _wrapped(longitude: Any) -> Any:
    wrapped = (longitude + 180) % 360 - 180
    # The remainder of a tiny negative number may round to 360; the interval excludes 180.
    return wrapped - 360 * (wrapped >= 180)


def _root(xp: ModuleType, value: Any) -> Any:
    """Return the square root, and 0 with gradient 0 (not NaN) where rounding made it negative."""
    positive = value > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, value, 1.0)), 0.0)


def _arrays(*values: Any) -> tuple[ModuleType, list[Any]]:
    """Return the library to compute with (torch if any value is a tensor) and its arrays."""
    # Not imported here: start-up without torch must stay fast, and a tensor implies its import.
    torch = sys.modules.get("torch")
    tensors = [v for v in values if torch is not None and isinstance(v, torch.Tensor)]
    if torch is None or not tensors:
        return np, [np.asarray(value, dtype=np.float64) for value in values]
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())
    device = tensors[0].device
    return torch, [torch.as_tensor(v, dtype=dtype, device=device) for v in values]
