"""What `Posterior` computes, in the plain way: every distance, every sample, sorted."""

import numpy as np

from geoclip_core.earth.sphere import EARTH_RADIUS_KM, haversine_km, pairwise_km
from geoclip_core.model.posterior import (
    DISTINCT_KM,
    RING_SAMPLES,
    SAMPLED_POINTS,
    kernel_samples,
)


def mode(posterior):
    """Return the point (2,) of the highest expected GeoScore, by comparing all."""
    scores = np.exp(-pairwise_km(posterior.points, posterior.points) / 1492.7) @ posterior.weights
    return posterior.points[scores.argmax()]


def radii_km(posterior, masses, centre):
    """Return the distances from a centre that hold shares of the mass, from all samples."""
    points, weights = posterior.points, posterior.weights
    offsets, bearings = kernel_samples(posterior.bandwidth_km)
    heavy = np.argsort(-weights, kind="stable")[:SAMPLED_POINTS]
    light = np.setdiff1d(np.arange(len(points)), heavy)
    point = np.concatenate([np.repeat(heavy, RING_SAMPLES), light])
    sample = np.concatenate(
        [np.tile(np.arange(RING_SAMPLES), len(heavy)), np.arange(len(light)) * 37 % RING_SAMPLES]
    )
    mass = np.concatenate([np.repeat(weights[heavy] / RING_SAMPLES, RING_SAMPLES), weights[light]])
    angle = haversine_km(points, np.asarray(centre)) / EARTH_RADIUS_KM
    cosines = np.cos(angle)[point] * np.cos(offsets)[sample]
    cosines += np.sin(angle)[point] * np.sin(offsets)[sample] * bearings[sample]
    distances = EARTH_RADIUS_KM * np.arccos(np.clip(cosines, -1, 1))
    order = np.argsort(distances)
    cumulative = np.cumsum(mass[order])
    at = np.searchsorted(cumulative, np.asarray(masses) * cumulative[-1])
    return distances[order][np.minimum(at, len(order) - 1)]


def top_k(posterior, k):
    """Return distinct places, the mass of each gathered from all points."""
    reach = max(DISTINCT_KM, posterior.bandwidth_km)
    distances = pairwise_km(posterior.points, posterior.points)
    gathers = (distances <= reach) + 1e-6 * np.exp(-distances / max(reach, 1.0))
    remaining, alive = posterior.weights.copy(), np.ones(len(posterior), dtype=bool)
    centre, places = np.asarray(posterior.mode()), []
    while len(places) < k:
        near = haversine_km(posterior.points, centre) <= reach + 1e-6
        places.append((*centre, remaining[near].sum()))
        remaining[near] = 0.0
        alive &= ~near
        if remaining.sum() <= 1e-6:
            break
        centre = posterior.points[np.where(alive, gathers @ remaining, -1.0).argmax()]
    return places
