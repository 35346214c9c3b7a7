"""Bootstrap intervals: how far a number could move with another draw of test photos.

The percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13):
draw as many photos as there are, with replacement, measure again, and take the central 95 % of the
results. Photos of one capture sequence resemble each other, so where sequences are known they are
drawn whole (the cluster bootstrap), which keeps the intervals from being too narrow.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pandas as pd
from scipy.stats import beta, norm

CONFIDENCE = 0.95
RESAMPLES = 1000
_BLOCK = 32  # resamples per matrix product: many times faster than one by one


def resample_weights(
    n: int, resamples: int, seed: int, groups: Sequence | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """How often each of n rows is drawn, once per resample.

    Args:
        n: number of rows.
        resamples: number of arrays that are yielded.
        seed: of the draw; the same seed and groups give the same resamples, which is what makes
            the difference of two models a paired one.
        groups: (n,) labels of rows that are drawn together; None or missing labels: each by itself.

    Yields:
        (n,) int64 arrays of counts.
    """
    generator = np.random.default_rng(seed)
    codes = None if groups is None else group_codes(groups)
    count = n if codes is None else int(codes.max(initial=-1)) + 1
    for _ in range(resamples):
        drawn = np.bincount(generator.integers(count, size=count), minlength=count) if n else None
        if drawn is None:
            yield np.zeros(0, dtype=np.int64)
        else:
            yield drawn if codes is None else drawn[codes]


def group_codes(groups: Sequence | np.ndarray) -> np.ndarray:
    """(n,) group number of each row; a row whose label is missing is a group of its own."""
    codes, names = pd.factorize(np.asarray(groups, dtype=object))
    alone = codes < 0
    codes[alone] = len(names) + np.arange(int(alone.sum()))
    return codes


def percentile_interval(samples: np.ndarray, confidence: float = CONFIDENCE) -> tuple:
    """(low, high) that hold the central share of bootstrap samples; NaN where none is finite."""
    samples = np.asarray(samples, dtype=np.float64)
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def exact_share_interval(hits: int, n: int, confidence: float = CONFIDENCE) -> tuple:
    """(low, high) of a share of independent rows (Clopper and Pearson, Biometrika 1934)."""
    if n == 0:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high


def mean_intervals(
    values: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Sequence | np.ndarray | None = None,
    shares: Sequence[bool] | None = None,
    confidence: float = CONFIDENCE,
) -> list[tuple[float, float]]:
    """Bootstrap intervals of the means of columns, each over its own rows that are not missing.

    A share of yes and no that is 0 or 1 on every row has no spread to resample; there the exact
    binomial interval is given, so that "0 of 70" is not shown as certainly zero.

    Args:
        values: (n, m) floats, NaN where a row does not take part in a column.
        resamples: number of resamples.
        seed: of the draw.
        groups: (n,) labels of rows that are drawn together, as in :func:`resample_weights`.
        shares: (m,) which columns are yes (1) or no (0); none by default.
        confidence: mass of the interval.

    Returns:
        m pairs (low, high); NaN for a mean over fewer than two groups, which says nothing.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"values must be (rows, columns), got shape {values.shape}")
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    # Sums per group, so that a resample costs one product over groups and not over rows.
    if groups is not None:
        codes = group_codes(groups)
        totals = np.zeros((2, int(codes.max(initial=-1)) + 1, values.shape[1]))
        np.add.at(totals[0], codes, filled)
        np.add.at(totals[1], codes, known)
        filled, known = totals[0], totals[1]
    known = known.astype(np.float64)
    draws = resample_weights(len(filled), resamples, seed)
    means = np.full((resamples, values.shape[1]), np.nan)
    for start in range(0, resamples, _BLOCK):
        weights = np.array(list(islice(draws, _BLOCK)), dtype=np.float64)
        counted = weights @ known
        block = means[start : start + _BLOCK]
        np.divide(weights @ filled, counted, out=block, where=counted > 0)
    independent = (known > 0).sum(axis=0)
    bounds = []
    for index in range(values.shape[1]):
        column, n = values[:, index], int(independent[index])
        column = column[np.isfinite(column)]
        if shares is not None and shares[index] and len(set(column)) == 1:
            bounds.append(exact_share_interval(n * int(column[0]), n, confidence))
        else:
            bounds.append(percentile_interval(means[: resamples * (n > 1), index], confidence))
    return bounds


def weighted_quantile(ordered: np.ndarray, cumulative: np.ndarray, share: float) -> float:
    """Quantile of ascending values whose counts were summed up (linear between neighbours).

    Equal to ``np.quantile`` of the values repeated as often as they count.
    """
    total = int(cumulative[-1]) if len(cumulative) else 0
    if total == 0:
        return float("nan")
    position = share * (total - 1)
    low = int(np.floor(position))
    first = ordered[np.searchsorted(cumulative, low, side="right")]
    second = ordered[np.searchsorted(cumulative, min(low + 1, total - 1), side="right")]
    return float(first + (second - first) * (position - low))


def quantile_samples(
    values: np.ndarray,
    shares: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Sequence | np.ndarray | None = None,
) -> np.ndarray:
    """(resamples, len(shares)) bootstrap samples of quantiles of (n,) values, NaN if n < 2."""
    values = np.asarray(values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    samples = np.full((resamples, len(shares)), np.nan)
    if len(values) < 2:
        return samples
    for index, weights in enumerate(resample_weights(len(values), resamples, seed, groups)):
        cumulative = np.cumsum(weights[order])
        samples[index] = [weighted_quantile(ordered, cumulative, share) for share in shares]
    return samples


def large_sample_mean_intervals(
    values: np.ndarray,
    *,
    groups: Sequence | np.ndarray | None = None,
    shares: Sequence[bool] | None = None,
    confidence: float = CONFIDENCE,
) -> list[tuple[float, float]]:
    """What :func:`mean_intervals` tends to for many rows, in one pass over them.

    Mean ± z standard errors, linearised for means over groups of unlike size. From ten thousand
    groups on, the ends are within a hundredth of the interval's width of the bootstrap's; shares
    with fewer than 50 of either answer are given their exact interval.

    Args:
        values: (n, m) floats, NaN where a row does not take part in a column.
        groups: (n,) labels of rows that belong together.
        shares: (m,) which columns are yes (1) or no (0).
        confidence: mass of the interval.
    """
    values = np.asarray(values, dtype=np.float64)
    codes = None if groups is None else group_codes(groups)
    bounds = []
    for index in range(values.shape[1]):
        column = values[:, index]
        known = np.isfinite(column)
        mean, error, independent = _mean_and_error(column[known], _at(codes, known))
        rare = min(column[known].sum(), (1 - column[known]).sum()) if len(column[known]) else 0
        if shares is not None and shares[index] and rare < 50:
            hits = round(mean * independent) if independent else 0
            bounds.append(exact_share_interval(hits, independent, confidence))
        else:
            reach = float(norm.ppf(0.5 + confidence / 2)) * error
            bounds.append((mean - reach, mean + reach))
    return bounds


def large_sample_quantile_interval(
    values: np.ndarray,
    share: float,
    *,
    groups: Sequence | np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Interval of a quantile from the spread of the share below it (Woodruff, JASA 1952)."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return float("nan"), float("nan")
    below = (values <= np.quantile(values, share)).astype(np.float64)
    _, error, _ = _mean_and_error(below, None if groups is None else group_codes(groups))
    reach = float(norm.ppf(0.5 + confidence / 2)) * error
    low, high = np.quantile(values, np.clip([share - reach, share + reach], 0, 1))
    return float(low), float(high)


def _mean_and_error(column: np.ndarray, codes: np.ndarray | None) -> tuple[float, float, int]:
    """Mean, its standard error, and the number of independent groups."""
    if codes is None:
        independent = len(column)
        squares = ((column - column.mean()) ** 2).sum() if independent else 0.0
    else:
        deviations = np.bincount(codes, column - (column.mean() if len(column) else 0.0))
        independent = len(np.unique(codes))
        squares = (deviations**2).sum()
    if independent < 2:
        return float(column.mean()) if len(column) else float("nan"), float("nan"), independent
    return float(column.mean()), float(np.sqrt(squares)) / len(column), independent


def _at(codes: np.ndarray | None, known: np.ndarray) -> np.ndarray | None:
    return None if codes is None else codes[known]
