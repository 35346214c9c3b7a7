"""The round kernel by which the points of a posterior are smoothed.

It is a von Mises–Fisher density of concentration κ = (R / bandwidth)² (Mardia & Jupp, Directional
Statistics, 2000, section 9.3).
"""

import numpy as np
from numpy.typing import NDArray

from geoclip_core.earth.sphere import EARTH_RADIUS_KM, haversine_km

Floats = NDArray[np.float64]

RING_SAMPLES = 96
"""Samples of the kernel around a point."""
SAMPLED_POINTS = 1024
"""So many of the heaviest points get all samples, the others one each."""


def kernel(bandwidth_km: float) -> tuple[float, float]:
    """Concentration κ, and log of the density per km² at the centre of the kernel."""
    kappa = (EARTH_RADIUS_KM / bandwidth_km) ** 2
    area = 2 * np.pi * EARTH_RADIUS_KM**2
    return kappa, float(np.log(kappa) - np.log(area) - np.log(-np.expm1(-2 * kappa)))


def kernel_samples(bandwidth_km: float) -> tuple[Floats, Floats]:
    """Angles from the centre (radians) and cosines of the bearing, of samples of the kernel."""
    kappa, _ = kernel(bandwidth_km)
    index = np.arange(RING_SAMPLES)
    quantile = (index + 0.5) / RING_SAMPLES
    # inverse of the distribution of 1 − cos(angle), a truncated exponential
    height = -np.log1p(quantile * np.expm1(-2 * kappa)) / kappa
    angles = 2 * np.arcsin(np.sqrt(np.clip(height / 2, 0.0, 1.0)))
    bearings = np.cos(index * np.pi * (3 - np.sqrt(5)))
    return angles, bearings


def smoothed_distances(
    points: Floats, weights: Floats, bandwidth_km: float, centre: Floats
) -> tuple[Floats, Floats]:
    """Distances in km from a centre at which the smoothed mass lies, and how much of it.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        weights: (n,) mass of each point.
        bandwidth_km: Kernel width.
        centre: (2,) latitude and longitude in degrees.

    Returns:
        (m,) distances, ascending, and (m,) weights with the same sum as those of the points.
    """
    offsets, bearings = kernel_samples(bandwidth_km)
    # each point becomes rings of its kernel; of many points only the heaviest need all of them
    heavy = np.argsort(-weights, kind="stable")[:SAMPLED_POINTS]
    light = np.setdiff1d(np.arange(len(points)), heavy)
    every = np.tile(np.arange(RING_SAMPLES), len(heavy))
    point = np.concatenate([np.repeat(heavy, RING_SAMPLES), light])
    sample = np.concatenate([every, np.arange(len(light)) * 37 % RING_SAMPLES])
    mass = np.concatenate([np.repeat(weights[heavy] / RING_SAMPLES, RING_SAMPLES), weights[light]])
    # distances by the spherical law of cosines
    angle = (haversine_km(points, centre) / EARTH_RADIUS_KM)[point]
    cosines = np.cos(angle) * np.cos(offsets[sample])
    cosines += np.sin(angle) * np.sin(offsets[sample]) * bearings[sample]
    distances = EARTH_RADIUS_KM * np.arccos(np.clip(cosines, -1.0, 1.0))
    order = np.argsort(distances)
    return distances[order], mass[order]
