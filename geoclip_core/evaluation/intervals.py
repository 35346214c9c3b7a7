"""Bootstrap intervals: how much a metric could change with another draw of test photos.

The percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13):
draw as many photos as there are, with replacement, compute the metric again, and take the central
95 % of the results. Photos of one capture sequence are alike, so known sequences are drawn whole
(the cluster bootstrap); otherwise the intervals would be too narrow.

With more than ``MOST_UNITS`` photos or sequences, random bundles of them are drawn, which takes a
fraction of the time. The variance of a mean stays the same (the random group method: Wolter,
Introduction to Variance Estimation, 2007, chapter 2); widths change by about 1 %.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 1000
MOST_UNITS = 5000
_BLOCK = 32  # resamples per matrix product: many times faster than one by one
_PART = 512  # rows per part of the ordered values, see `median_samples`

Interval = tuple[float, float]
"""Lower and upper bound; NaN if unknown."""


def resampled(units: NDArray[np.intp], resamples: int, seed: int) -> Iterator[NDArray[np.int32]]:
    """Yield how often each unit is drawn, for blocks of resamples.

    The same seed and units give the same resamples, which pairs the models of a comparison.

    Args:
        units: (n,) unit of each row, from :func:`units_of`.
        resamples: number of resamples.
        seed: seed of the draw.

    Yields:
        (resamples of the block, number of units) counts.
    """
    generator = np.random.default_rng(seed)
    count = int(units.max(initial=-1)) + 1
    for start in range(0, resamples, _BLOCK):
        shape = (min(_BLOCK, resamples - start), count)
        if not count:
            yield np.zeros(shape, dtype=np.int32)
            continue
        drawn = generator.integers(count, size=shape)
        drawn += np.arange(shape[0])[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(shape).astype(np.int32)


def group_codes(groups: Sequence[object] | NDArray[np.generic]) -> NDArray[np.intp]:
    """Return the group number of each row (n,); rows without a label are groups of their own."""
    codes, names = pd.factorize(np.asarray(groups, dtype=object))
    alone = codes < 0
    codes[alone] = len(names) + np.arange(int(alone.sum()))
    return codes


def units_of(
    n: int, groups: Sequence[object] | NDArray[np.generic] | None, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the group and the unit (a group or bundle of groups) of each row, (n,) each."""
    codes = np.arange(n) if groups is None else group_codes(groups)
    count = int(codes.max(initial=-1)) + 1
    if count <= MOST_UNITS:
        return codes, codes
    return codes, (np.random.default_rng(seed).permutation(count) % MOST_UNITS)[codes]


def percentile_interval(samples: ArrayLike) -> Interval:
    """Return the bounds of the central 95 % of bootstrap samples; NaN if none is finite."""
    finite = np.asarray(samples, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def mean_intervals(
    values: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Sequence[object] | NDArray[np.generic] | None = None,
    shares: Sequence[bool] | None = None,
) -> list[Interval]:
    """Return bootstrap intervals of the means of columns, each over its rows that are not NaN.

    A share that is 0 or 1 on every row has no spread to resample. Its interval is the exact
    binomial one (Clopper and Pearson, 1934), so that "0 of 70" is not shown as certainly zero.

    Args:
        values: (n, m) floats, NaN where a row does not count in a column.
        resamples: number of resamples.
        seed: seed of the draw.
        groups: (n,) labels of rows that are drawn together; rows without a label are drawn alone.
        shares: (m,) which columns hold only 0 and 1; none by default.

    Returns:
        m intervals; NaN for a mean over fewer than two groups, whose spread is unknown.

    Raises:
        ValueError: ``values`` does not have two axes.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"values must be (rows, columns), got shape {values.shape}")
    known = np.isfinite(values)
    codes, units = units_of(len(values), groups, seed)
    # Sums per unit, so that a resample is a product over units, not over rows.
    sums, counts = (
        np.stack([np.bincount(units, column) for column in part.T], axis=1)
        for part in (np.where(known, values, 0.0), known)
    )
    blocks = []
    for drawn in resampled(units, resamples, seed):
        weights = drawn.astype(np.float64)
        counted = weights @ counts
        means = np.full(counted.shape, np.nan)
        blocks.append(np.divide(weights @ sums, counted, out=means, where=counted > 0))
    samples = np.concatenate(blocks)
    bounds = []
    for index, column in enumerate(values.T):
        independent = int(np.count_nonzero(np.bincount(codes[known[:, index]])))
        column = column[known[:, index]]
        if shares is not None and shares[index] and len(column) and np.ptp(column) == 0:
            from scipy import stats  # takes a second to import, which would delay locating a photo

            test = stats.binomtest(independent * int(column[0]), independent)
            low, high = test.proportion_ci(CONFIDENCE, method="exact")
            bounds.append((float(low), float(high)))
        else:
            bounds.append(percentile_interval(samples[: resamples * (independent > 1), index]))
    return bounds


def median_samples(
    values: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Sequence[object] | NDArray[np.generic] | None = None,
) -> NDArray[np.float64]:
    """Return bootstrap samples (resamples,) of the median of (n,) values; NaN if n < 2."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return np.full(resamples, np.nan)
    order = np.argsort(values, kind="stable")
    ordered, units = values[order], units_of(len(values), groups, seed)[1][order]
    # Counts per unit and part of the ordered rows, so that a resample reads only one part.
    part = np.arange(len(values)) // _PART
    parts, count = int(part[-1]) + 1, int(units.max()) + 1
    counts = np.bincount(units * parts + part, minlength=count * parts).reshape(count, parts)

    width = min(_PART, len(values))

    def drawn_values(
        block: NDArray[np.int32], ends: NDArray[np.float64], ranks: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the value with a rank in each resample of the block."""
        each = np.arange(len(block))
        at = (ends <= ranks[:, None]).sum(axis=1)
        before = np.where(at > 0, ends[each, at - 1], 0.0)
        rows = np.minimum(at[:, None] * _PART + np.arange(width), len(values) - 1)
        inside = np.cumsum(block[each[:, None], units[rows]], axis=1) + before[:, None]
        drawn: NDArray[np.float64] = ordered[rows[each, (inside <= ranks[:, None]).sum(axis=1)]]
        return drawn

    samples = []
    for block in resampled(units, resamples, seed):
        ends = np.cumsum(block @ counts.astype(float), axis=1)
        middle = ((ends[:, -1] - 1) // 2, ends[:, -1] // 2)
        samples.append(sum(drawn_values(block, ends, ranks) for ranks in middle) / 2)
    return np.concatenate(samples)
