"""Several photos of one place: one posterior from many."""

from collections.abc import Sequence

import numpy as np

from geoclip_core.earth.sphere import EARTH_RADIUS_KM
from geoclip_core.model.posterior import Posterior

OUTLIER_SHARE = 0.01
"""Share of each photo's mass that is spread evenly over the Earth before pooling, so that a single
misleading photo cannot veto the place that all others point to."""

_EARTH_AREA_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2


def pooled_posterior(posteriors: Sequence[Posterior]) -> Posterior:
    """Logarithmic pool (the normalised geometric mean) of the posteriors of one place.

    Equal weights that sum to one: photos of one place are not independent, so the pool sharpens
    where they agree but never as far as a product would (Genest & Zidek, "Combining Probability
    Distributions", Statistical Science 1986, section 3). A radius that is calibrated for one photo
    is therefore not made smaller than the photos themselves justify.

    Args:
        posteriors: One or more; of the same or of different points.

    Returns:
        A posterior over the union of the points, with the mean bandwidth.

    Raises:
        ValueError: there is no posterior.
    """
    if not posteriors:
        raise ValueError("pooling needs at least one posterior")
    first = posteriors[0]
    if len(posteriors) == 1:
        return first
    scale = first.radius_scale
    if all(np.array_equal(p.points, first.points) for p in posteriors[1:]):
        floor = np.log(OUTLIER_SHARE / len(first))
        logs = [np.logaddexp(np.log1p(-OUTLIER_SHARE) + p.log_weights, floor) for p in posteriors]
        known = [p.scores for p in posteriors if p.scores is not None]
        return Posterior(
            first.points,
            np.mean(logs, axis=0),
            float(np.mean([p.bandwidth_km for p in posteriors])),
            scores=np.mean(known, axis=0) if len(known) == len(posteriors) else None,
            radius_scale=scale,
        )
    points = np.concatenate([p.points for p in posteriors])
    # a point stands for the mass around it: weigh it by what its own photo put there
    own = np.concatenate([p.log_weights for p in posteriors])
    own_density = np.concatenate([p.log_density(p.points) for p in posteriors])
    floor = np.log(OUTLIER_SHARE / _EARTH_AREA_KM2)
    logs = [
        np.logaddexp(np.log1p(-OUTLIER_SHARE) + p.log_density(points), floor) for p in posteriors
    ]
    return Posterior(
        points,
        np.mean(logs, axis=0) + own - own_density,
        float(np.mean([p.bandwidth_km for p in posteriors])),
        radius_scale=scale,
    )
