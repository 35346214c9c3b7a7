"""Compute the metrics of an evaluation: errors, places, context heads, groups.

All functions take a predictions table (see ``predictions``) or an array of errors in km. Intervals
come from ``intervals``; the checks of stated radii are in ``radii``.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from geoclip_core.data import KNOWN_FEATURES
from geoclip_core.data.vocabulary import class_name
from geoclip_core.earth.gazetteer import UNIT_LEVELS, Gazetteer, part_of_the_world
from geoclip_core.earth.sphere import geoscore, haversine_km
from geoclip_core.evaluation import intervals
from geoclip_core.evaluation.baselines import baseline_errors, baseline_title
from geoclip_core.evaluation.predictions import head_features
from geoclip_core.evaluation.radii import inside_radius, radius_check, risk_coverage
from geoclip_core.evaluation.style import ERROR_LIMIT_KM, ERROR_MARKS_KM
from geoclip_core.model.map_context import LIKELY

Floats = NDArray[np.float64]

THRESHOLDS_KM = ERROR_MARKS_KM
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
TOP_KS = (1, 3, 5)
PLACE_LEVELS = {
    "country": ("country_key", "predicted_country_key", "unique_country"),
    "region": ("state_key", "predicted_state_key", "unique_region"),
    "sub-region": ("county_key", "predicted_county_key", "unique_sub-region"),
    "city": ("city_key", "predicted_city_key", "unique_city"),
}
"""Place level of OSV-5M -> (truth, prediction) in a predictions table, the gazetteer's column."""

GROUPS = {
    "Country": "country_key",
    "State": "state_key",
    "Climate": "climate",
    "Month": "month",
    "Stated radius": "radius_50_km",
}
"""Title of a grouping of errors -> its column in a predictions table."""

RADIUS_EDGES_KM = (0, 25, 100, 200, 400, 750, 1500, 2500, 5000, ERROR_LIMIT_KM)
"""Edges of the groups of stated radii."""

SIGNIFICANCE = (0.05, 0.1)
"""p-values at or below which a claim is counted as rejected."""

FIRST_KM = 1.0
"""Upper edge of the first error bin, and the smallest error that charts show."""

_BINS_PER_DECADE = 10
_SEEN_KM, _SEEN_SHARE = 0.05, 0.1
# Least probability in a log loss, so that a truth with probability 0 costs 16 nats, not infinity.
_SMALLEST = float(np.finfo(np.float32).eps)


def mean_geoscore(error_km: ArrayLike) -> float:
    """Return the mean GeoScore of errors in km, of any shape: 5000 · exp(−d / 1492.7 km)."""
    return float(np.mean(geoscore(np.asarray(error_km, dtype=np.float64))))


def distance_metrics(error_km: ArrayLike) -> dict[str, Any]:
    """Return GeoScore, median, mean and quantiles in km, and accuracies, of (n,) errors in km.

    All are None for an empty array.
    """
    errors = np.asarray(error_km, dtype=np.float64)
    if not len(errors):
        return {
            **dict.fromkeys(("geoscore", "median_km", "mean_km")),
            "quantiles_km": {f"{share:g}": None for share in QUANTILES},
            "accuracy_at_km": {f"{threshold}": None for threshold in THRESHOLDS_KM},
        }
    quantiles = np.quantile(errors, QUANTILES).tolist()
    return {
        "geoscore": mean_geoscore(errors),
        "median_km": float(np.median(errors)),
        "mean_km": float(np.mean(errors)),
        "quantiles_km": {f"{s:g}": q for s, q in zip(QUANTILES, quantiles, strict=True)},
        "accuracy_at_km": {f"{t}": float(np.mean(errors < t)) for t in THRESHOLDS_KM},
    }


def errors_km(frame: pd.DataFrame, guess: ArrayLike) -> Floats:
    """Return the errors (n,) in km of guesses, (n, 2) or (2,) for all rows, in degrees."""
    truth = frame[["latitude", "longitude"]].to_numpy(np.float64)
    guesses = np.broadcast_to(np.asarray(guess, dtype=np.float64), truth.shape)
    return np.asarray(haversine_km(truth, guesses), dtype=np.float64)


def with_places(frame: pd.DataFrame, gazetteer: Gazetteer) -> pd.DataFrame:
    """Return a predictions table with the places nearest to the predicted points.

    They are in ``predicted_country_key``, ``predicted_state_key``, ``predicted_county_key`` and
    ``predicted_city_key``.
    """
    guess = frame[["predicted_latitude", "predicted_longitude"]].to_numpy(np.float64)
    places = gazetteer.frame(guess)
    columns = {named: places[column].to_numpy() for _, named, column in PLACE_LEVELS.values()}
    return frame.assign(**{name: pd.array(keys, dtype="str") for name, keys in columns.items()})


def place_hits(frame: pd.DataFrame) -> pd.DataFrame:
    """Return whether the predicted point lies in the true place, as OSV-5M counts it.

    The names of :func:`with_places` (those of the nearest GeoNames place) are compared with those
    of the dataset. A predicted point without a name at a level is wrong there.

    Returns:
        (n, levels) floats: 1 right, 0 wrong, NaN no truth. Levels without any truth are left out.
    """
    hits = {}
    for level, (truth_column, named, _) in PLACE_LEVELS.items():
        if truth_column not in frame or named not in frame:
            continue
        truth = frame[truth_column]
        known = truth.notna().to_numpy()
        if known.any():
            same = truth.to_numpy(dtype=object) == frame[named].to_numpy(dtype=object)
            hits[level] = np.where(known, same.astype(np.float64), np.nan)
    return pd.DataFrame(hits, index=frame.index)


def level_hits(frame: pd.DataFrame) -> pd.DataFrame:
    """Return whether the most probable unit at each level of the answer is the true one.

    Returns:
        (n, levels) floats, 1 right, 0 wrong, NaN where the truth has no name at that level or
        nothing was answered. A level without any known row is left out.
    """
    hits = {}
    for level in UNIT_LEVELS:
        truth, answer = _level_truth(frame, level), frame.get(f"level_{level}")
        if truth is None or answer is None or f"level_{level}_probability" not in frame:
            continue
        known = (truth.notna() & answer.notna()).to_numpy()
        if known.any():
            same = truth.to_numpy(dtype=object) == answer.to_numpy(dtype=object)
            hits[level] = np.where(known, same.astype(np.float64), np.nan)
    return pd.DataFrame(hits, index=frame.index)


def _level_truth(frame: pd.DataFrame, level: str) -> pd.Series | None:
    """Return the true key of a level, missing where it is not known; None if no row knows it."""
    column = {"town": "city_key"}.get(level, f"{level}_key")
    if level in ("continent", "subcontinent"):
        if "country_key" not in frame:
            return None
        number = UNIT_LEVELS.index(level)
        parts = {code: part_of_the_world(code) for code in frame["country_key"].dropna().unique()}
        named = {code: part[number] for code, part in parts.items() if part is not None}
        return frame["country_key"].map(named)
    return frame.get(column)


def level_metrics(frame: pd.DataFrame) -> dict[str, Any]:
    """Return how right the levels of the answers are, beside what they claim.

    Returns:
        ``by_level``: level -> ``n``, ``claimed`` (mean probability), ``reached`` (share right) and
        ``expected_calibration_error``; ``headline``: the same for the deepest level that claims at
        least half, with the ``share`` of photos that have one; ``reliability``
        (:func:`reliability_curve` over every level of every photo) and its
        ``expected_calibration_error``. Empty if the table has no levels or no truth.
    """
    hits = level_hits(frame)
    report: dict[str, Any] = {}
    claimed, right = [], []
    headline_claim = np.full(len(frame), np.nan)
    headline_right = np.full(len(frame), np.nan)
    for level, values in hits.items():
        stated = _numbers(frame, f"level_{level}_probability")
        right_here = np.where(np.isfinite(stated), values.to_numpy(np.float64), np.nan)
        report[str(level)] = _reliability(stated, right_here)
        claimed.append(stated)
        right.append(right_here)
        likely = (stated >= LIKELY) & np.isfinite(right_here)
        headline_claim[likely], headline_right[likely] = stated[likely], right_here[likely]
    if not report:
        return {}
    every, reached = np.concatenate(claimed), np.concatenate(right)
    known = np.isfinite(reached)
    return {
        "by_level": report,
        "headline": {
            "share": float(np.isfinite(headline_right).mean()),
            **_reliability(headline_claim, headline_right),
        },
        "expected_calibration_error": _reliability(every, reached)["expected_calibration_error"],
        "reliability": reliability_curve(every[known], reached[known]).to_dict("list"),
    }


def claim_metrics(frame: pd.DataFrame) -> dict[str, Any]:
    """Return whether p-values of claims are valid, and what they can tell apart.

    Returns:
        ``n``; of the p-values of the true places: ``deciles`` (share in each tenth of 0 to 1; 0.1
        each is uniform), ``kolmogorov_smirnov`` (largest distance from the uniform distribution)
        with ``kolmogorov_smirnov_p``, and ``rejected`` (share at or below 0.05 and 0.1; at most
        that if valid); ``power``: share of random other places (those of other photos) at or below
        0.05 and 0.1. Empty if the table has no p-values.
    """
    if not {"truth_p_value", "other_p_value", "held_out_photos"} <= set(frame.columns):
        return {}
    true, other = _numbers(frame, "truth_p_value"), _numbers(frame, "other_p_value")
    held_out = float(np.nanmax([0.0, *_numbers(frame, "held_out_photos")]))
    true = true[np.isfinite(true)]
    if not len(true) or held_out < 1:
        return {}
    from scipy import stats  # takes a second to import, which would delay other metrics

    distance = stats.kstest(true, "uniform").statistic
    # the held-out photos are a sample as well: a test of two samples; and photos of one sequence
    # are not independent, so that sequences count, of both samples in the same proportion
    groups = sequences(frame)
    share = 1.0 if groups is None else pd.Series(groups).nunique() / len(frame)
    effective = max(1, round(share * len(true) * held_out / (len(true) + held_out)))
    counts, _ = np.histogram(true, bins=10, range=(0.0, 1.0))
    return {
        "n": len(true),
        "deciles": (counts / len(true)).tolist(),
        "kolmogorov_smirnov": float(distance),
        "kolmogorov_smirnov_p": float(stats.kstwo.sf(distance, effective)),
        "rejected": {f"{level:g}": float((true <= level).mean()) for level in SIGNIFICANCE},
        "power": {f"{level:g}": _mean_below(other, level) for level in SIGNIFICANCE},
    }


def _numbers(frame: pd.DataFrame, column: str) -> Floats:
    """Return a column (n,) as numbers, NaN where it has none; a table may come from a stranger."""
    values = pd.to_numeric(frame[column], errors="coerce")
    return values.to_numpy(np.float64, na_value=np.nan)


def _mean_below(values: Floats, level: float) -> float | None:
    known = values[np.isfinite(values)]
    return float((known <= level).mean()) if len(known) else None


def _reliability(claimed: Floats, right: Floats) -> dict[str, Any]:
    """Return n, mean claimed probability, share right and ECE over the rows that are known."""
    known = np.isfinite(right)
    if not known.any():
        return {"n": 0, "claimed": None, "reached": None, "expected_calibration_error": None}
    curve = reliability_curve(claimed[known], right[known])
    return {
        "n": int(known.sum()),
        "claimed": float(claimed[known].mean()),
        "reached": float(right[known].mean()),
        "expected_calibration_error": expected_calibration_error(curve),
    }


def distance_hits(error_km: Floats) -> pd.DataFrame:
    """Return the columns of :func:`share_hits` that need only errors (n,) in km."""
    within = {f"accuracy_at_km:{t}": (error_km < t).astype(np.float64) for t in THRESHOLDS_KM}
    return pd.DataFrame({"geoscore": geoscore(error_km), "mean_km": error_km, **within})


def share_hits(frame: pd.DataFrame, *, context: bool = True) -> pd.DataFrame:
    """Return a column for each reported mean or share, NaN where a row does not count in it.

    Names are the path of the metric in ``metrics.json``, joined by colons: ``geoscore``,
    ``accuracy_at_km:25``, ``place_accuracy:city``, ``context:climate:top1``, ``coverage:90``.
    Without ``context``, the context heads are left out.
    """
    columns: dict[str, Any] = {}
    for level, hits in place_hits(frame).items():
        columns[f"place_accuracy:{level}"] = hits.to_numpy()
    for feature in head_features(frame) if context else ():
        for name, known in rank_hits(frame, feature).items():
            columns[f"context:{feature}:{name}"] = known
    for level, hits in level_hits(frame).items():
        columns[f"levels:by_level:{level}:reached"] = hits.to_numpy()
    for mass, inside in inside_radius(frame).items():
        columns[f"coverage:{mass}"] = inside
    return distance_hits(frame["error_km"].to_numpy(np.float64)).assign(**columns)


@dataclass(frozen=True)
class Measures:
    """Means, shares and the median error with 95 % intervals, by their path in ``metrics.json``."""

    n: int
    values: dict[str, float]
    bounds: dict[str, intervals.Interval]


def measure(
    hits: pd.DataFrame,
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
    groups: NDArray[np.generic] | None = None,
) -> Measures:
    """Return the mean of every column of :func:`share_hits`, and the median error, with intervals.

    Means over no rows are left out. Rows of one group (:func:`sequences`) are drawn together.
    """
    if hits.empty:
        return Measures(0, {}, {})
    paths = [str(path) for path in hits]
    shares = [":" in path for path in paths]
    draw: dict[str, Any] = {"resamples": resamples, "seed": seed, "groups": groups}
    bounds = intervals.mean_intervals(hits.to_numpy(), shares=shares, **draw)
    medians = intervals.median_samples(hits["mean_km"], **draw)
    means = zip(paths, hits.mean(), strict=True)
    values = {path: float(mean) for path, mean in means if np.isfinite(mean)}
    return Measures(
        len(hits),
        values | {"median_km": float(hits["mean_km"].median())},
        dict(zip(paths, bounds, strict=True))
        | {"median_km": intervals.percentile_interval(medians)},
    )


def sequences(frame: pd.DataFrame) -> NDArray[np.generic] | None:
    """Return the capture sequence of each row (n,), or None if the table has none."""
    return frame["sequence"].to_numpy() if "sequence" in frame else None


def summarise(
    frame: pd.DataFrame,
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return every metric of ``metrics.json`` for a predictions table, as JSON values.

    Args:
        frame: predictions table; see ``with_places`` and ``baselines.with_baselines``.
        resamples: bootstrap resamples of the 95 % intervals; 0: no intervals.
        seed: seed of the bootstrap.

    Returns:
        ``n``, the metrics of :func:`distance_metrics`, ``place_accuracy`` and ``place_n``,
        ``context`` (:func:`head_metrics` per feature), ``levels`` (:func:`level_metrics`),
        ``claims`` (:func:`claim_metrics`), ``coverage``, ``radius_check`` (:func:`radius_check`),
        ``risk_coverage``, ``log_density`` (mean of ln density per km²), ``baselines`` (distance
        metrics of each, and the paired ``difference`` of the model from it), and ``intervals``,
        which has [low, high] at the paths of the metrics. Shares lie between 0 and 1.
    """
    error_km = frame["error_km"].to_numpy(np.float64)
    groups = sequences(frame)
    draw: dict[str, Any] = {"resamples": resamples, "seed": seed, "groups": groups}
    places = place_hits(frame)
    report: dict[str, Any] = {
        "n": len(frame),
        **distance_metrics(error_km),
        "place_accuracy": places.mean().to_dict(),
        "place_n": places.notna().sum().to_dict(),
        "context": {feature: head_metrics(frame, feature) for feature in head_features(frame)},
        "levels": level_metrics(frame),
        "claims": claim_metrics(frame),
        "radius_check": radius_check(frame),
        "coverage": {mass: _mean(inside) for mass, inside in inside_radius(frame).items()},
        "risk_coverage": risk_coverage(frame).to_dict("list"),
        "log_density": _mean(frame["log_density"].to_numpy(np.float64)),
        "baselines": {},
        "intervals": {},
    }
    for name, other in baseline_errors(frame).items():
        report["baselines"][name] = distance_metrics(other)
        if resamples and len(frame):
            report["baselines"][name]["difference"] = paired_difference(error_km, other, **draw)
    if resamples and len(frame):
        for path, bound in measure(share_hits(frame), **draw).bounds.items():
            _put(report["intervals"], path.split(":"), _finite(bound))
        report["intervals"]["resamples"] = resamples
        report["intervals"]["drawn_by"] = "photo" if groups is None else "sequence"
    return report


def paired_difference(
    error_km: ArrayLike,
    other_km: ArrayLike,
    *,
    measures: Sequence[str] = ("geoscore", "median_km", "mean_km"),
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
    groups: NDArray[np.generic] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Return the differences of metrics, first minus second, with bootstrap intervals.

    The same photos are drawn for both, so that their difficulty cancels out.

    Args:
        error_km: (n,) errors of the first in km.
        other_km: (n,) errors of the second in km, on the same photos.
        measures: ``geoscore`` (more is better), ``median_km``, ``mean_km`` (less is better) and
            ``within_{r}_km`` for any radius (more is better).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
        groups: (n,) labels of rows that are drawn together.

    Returns:
        ``difference``, ``low`` and ``high`` of each measure; bounds are None if n < 2.

    Raises:
        ValueError: the two have different shapes.
    """
    first, second = (np.asarray(errors, dtype=np.float64) for errors in (error_km, other_km))
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} errors cannot be paired with {second.shape}")
    draw: dict[str, Any] = {"resamples": resamples, "seed": seed, "groups": groups}
    differences, bounds = {}, {}
    means = [name for name in measures if name != "median_km"]
    gains = np.stack([_measured(first, name) - _measured(second, name) for name in means], axis=1)
    for at, bound in enumerate(intervals.mean_intervals(gains, **draw)):
        differences[means[at]], bounds[means[at]] = float(gains[:, at].mean()), bound
    if "median_km" in measures:
        samples = (intervals.median_samples(errors, **draw) for errors in (first, second))
        bounds["median_km"] = intervals.percentile_interval(np.subtract(*samples))
        differences["median_km"] = float(np.median(first) - np.median(second))
    return {
        name: {"difference": differences[name], "low": low, "high": high}
        for name in measures
        for low, high in [_finite(bounds[name]) or (None, None)]
    }


def _measured(error_km: Floats, measure: str) -> Floats:
    if measure == "mean_km":
        return error_km
    if measure == "geoscore":
        return np.asarray(geoscore(error_km))
    radius = float(measure.removeprefix("within_").removesuffix("_km"))
    return (error_km < radius).astype(np.float64)


def _mean(values: Floats) -> float | None:
    """Return the mean of the finite values; None if there are none."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _finite(bound: intervals.Interval) -> list[float] | None:
    return list(bound) if np.all(np.isfinite(bound)) else None


def _put(tree: dict[str, Any], path: list[str], value: list[float] | None) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def rank_hits(frame: pd.DataFrame, feature: str) -> dict[str, Floats]:
    """Return ``top1``, ``top3``, ``top5``: (n,), 1 if the truth is in the first k, NaN unknown."""
    rank = frame[f"{feature}_rank"].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    known = np.isfinite(rank)
    return {f"top{k}": np.where(known, (rank <= k).astype(np.float64), np.nan) for k in TOP_KS}


def unseen(frame: pd.DataFrame, feature: str) -> NDArray[np.bool_]:
    """Return (n,) whether the truth is known but missing from the model's vocabulary."""
    missing = frame[f"{feature}_truth"].isna().to_numpy()
    key = f"{feature}_key"
    if key in frame:
        return missing & frame[key].notna().to_numpy()
    if feature in frame:  # climate and month are class indices; negative: unknown
        values = pd.to_numeric(frame[feature], errors="coerce").to_numpy(np.float64, na_value=-1.0)
        return missing & (values >= 0)
    return np.zeros(len(frame), dtype=bool)


def head_metrics(frame: pd.DataFrame, feature: str) -> dict[str, Any]:
    """Return the metrics of one context head.

    Returns:
        ``n`` photos counted, ``unseen`` (:func:`unseen`), ``top1``, ``top3``, ``top5``,
        ``top1_with_unseen``, ``macro_f1``, ``log_loss`` (mean −ln p of the truth),
        ``expected_calibration_error`` and ``majority`` (share of the most frequent true class:
        the accuracy of always giving that answer). All but the counts are None if ``n`` is 0.
    """
    truth = frame[f"{feature}_truth"]
    known = truth.notna().to_numpy()
    n, n_unseen = int(known.sum()), int(unseen(frame, feature).sum())
    report: dict[str, Any] = {"n": n, "unseen": n_unseen}
    names = ("top1", "top3", "top5", "top1_with_unseen", "macro_f1", "log_loss")
    if n == 0:
        return report | dict.fromkeys((*names, "expected_calibration_error", "majority"))
    for name, hits in rank_hits(frame, feature).items():
        report[name] = float(np.nanmean(hits))
    report["top1_with_unseen"] = report["top1"] * n / (n + n_unseen)
    rows = frame[known]
    report["macro_f1"] = macro_f1(rows[f"{feature}_truth"], rows[f"{feature}_top1"])
    own = rows[f"{feature}_truth_probability"].to_numpy(np.float64)
    report["log_loss"] = float(np.mean(-np.log(np.clip(own, _SMALLEST, 1.0))))
    curve = head_reliability(frame, feature)
    report["expected_calibration_error"] = expected_calibration_error(curve)
    report["majority"] = float(truth.value_counts(normalize=True).iloc[0])
    return report


def macro_f1(truth: pd.Series, guess: pd.Series) -> float:
    """Return the mean over classes of F1 = 2·TP / (2·TP + FP + FN).

    The classes are those that occur as truth or as guess, as in scikit-learn's
    ``f1_score(average="macro")``, all with the same weight. A missing guess is a miss.
    """
    codes, classes = pd.factorize(np.concatenate([truth.to_numpy(object), guess.to_numpy(object)]))
    if not len(classes):
        return float("nan")
    true, said = codes[: len(truth)], codes[len(truth) :]

    def counts(chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(chosen[chosen >= 0], minlength=len(classes))  # missing is −1

    hits = counts(true[true == said])
    total = counts(true) + counts(said)
    return float(np.mean(2 * hits / total))


def head_reliability(frame: pd.DataFrame, feature: str) -> pd.DataFrame:
    """Return :func:`reliability_curve` of a head over the rows whose truth is in its vocabulary.

    Rows without a probability are left out.
    """
    rows = frame[frame[f"{feature}_truth"].notna()]
    rows = rows[rows[f"{feature}_probability"].notna()]
    hit = rows[f"{feature}_truth"] == rows[f"{feature}_top1"]
    return reliability_curve(rows[f"{feature}_probability"], hit)


def reliability_curve(probability: ArrayLike, hit: ArrayLike) -> pd.DataFrame:
    """Return the accuracy in ten equal-width bins of the stated probability.

    Args:
        probability: (n,) probability of the answer; answers without one are left out.
        hit: (n,) whether the answer is right.

    Returns:
        One row per bin with photos: ``low``, ``high`` (edges), ``claimed`` (mean probability),
        ``reached`` (share right), ``n``.
    """
    bins = 10
    stated = np.clip(np.asarray(probability, dtype=np.float64), 0.0, 1.0)
    right = np.asarray(hit, dtype=np.float64)[~np.isnan(stated)]
    stated = stated[~np.isnan(stated)]
    index = np.minimum((stated * bins).astype(int), bins - 1)
    n = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        claimed = np.bincount(index, stated, minlength=bins) / n
        reached = np.bincount(index, right, minlength=bins) / n
    edges = np.linspace(0, 1, bins + 1)
    curve = pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "claimed": claimed, "reached": reached, "n": n}
    )
    return curve[curve["n"] > 0].reset_index(drop=True)


def expected_calibration_error(curve: pd.DataFrame) -> float:
    """Return the mean gap between stated and reached accuracy over bins, weighted by photos.

    This is the ECE of Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3,
    for a :func:`reliability_curve`; NaN if that has no photo.
    """
    gap = (curve["claimed"] - curve["reached"]).abs()
    return float((gap * curve["n"]).sum() / curve["n"].sum()) if len(curve) else float("nan")


def confusion_counts(
    frame: pd.DataFrame, feature: str, limit: int = 30
) -> tuple[pd.DataFrame, int]:
    """Return counts of (true class, guessed class), most frequent true classes first.

    Returns:
        A square table (rows truth, columns guess) of ``limit`` classes and, if there are more,
        "other" for the rest; and the number of classes in "other".
    """
    rows = frame[frame[f"{feature}_truth"].notna()]
    truth, guess = (rows[f"{feature}_{name}"].astype(object) for name in ("truth", "top1"))
    order = truth.value_counts().add(guess.value_counts() * 1e-6, fill_value=0)
    classes = order.sort_values(ascending=False, kind="stable").index.tolist()
    kept, dropped = classes[:limit], max(0, len(classes) - limit)
    if dropped:
        truth, guess = (s.where(s.isin(kept), "other") for s in (truth, guess))
        kept = [*kept, "other"]
    table = pd.crosstab(truth, guess).reindex(index=kept, columns=kept, fill_value=0)
    return table.rename_axis(index="truth", columns="guess"), dropped


def confused_pairs(frame: pd.DataFrame, feature: str, limit: int = 20) -> pd.DataFrame:
    """Return the most frequent mistakes of a head: ``truth``, ``guess``, ``n``, ``share``.

    ``share`` is that of the photos with this truth. Pairs with equal ``n`` are in alphabetical
    order.
    """
    columns = {f"{feature}_truth": "truth", f"{feature}_top1": "guess"}
    rows = frame[list(columns)].rename(columns=columns).dropna(subset="truth").astype(object)
    totals = rows["truth"].value_counts()
    wrong = rows[rows["truth"] != rows["guess"]]
    pairs = wrong.groupby(["truth", "guess"]).size().reset_index(name="n")
    pairs = pairs.sort_values(["n", "truth", "guess"], ascending=[False, True, True]).head(limit)
    pairs["share"] = pairs["n"] / pairs["truth"].map(totals).astype(float)
    return pairs.reset_index(drop=True)


def seen_before(error_km: ArrayLike) -> str:
    """Return a warning if a model with these errors was probably trained on the photos, else "".

    It is if more than one photo in ten is located to within 50 m.
    """
    errors = np.asarray(error_km)
    exact = float(np.mean(errors < _SEEN_KM)) if len(errors) else 0.0
    if exact <= _SEEN_SHARE:
        return ""
    return (
        f"{exact:.0%} of the guesses are exact to {_SEEN_KM * 1000:.0f} m: the model has probably "
        "been trained on these photos, so the numbers say nothing about other photos"
    )


def error_bins(error_km: Floats) -> pd.DataFrame:
    """Return a histogram of errors: ``low_km``, ``high_km``, ``photos``, ``share``.

    Bins have equal width in log km; the first holds everything below 1 km.
    """
    steps = int(np.ceil(np.log10(ERROR_LIMIT_KM) * _BINS_PER_DECADE))
    edges = FIRST_KM * 10 ** (np.arange(steps + 1) / _BINS_PER_DECADE)
    position = np.floor(np.log10(np.maximum(error_km, FIRST_KM)) * _BINS_PER_DECADE).astype(int)
    below = int((error_km < FIRST_KM).sum())
    photos = np.bincount(np.clip(position, 0, steps - 1), minlength=steps)
    photos[0] -= below
    table = pd.DataFrame({"low_km": [0.0, *edges[:-1]], "high_km": [FIRST_KM, *edges[1:]]})
    table["photos"] = [below, *photos]
    table["share"] = table["photos"] / max(len(error_km), 1)
    return table


def cumulative_curve(error_km: Floats) -> pd.DataFrame:
    """Return the share of photos below an error: ``error_km`` (incl. the thresholds), ``share``."""
    grid = np.unique([*np.geomspace(FIRST_KM, ERROR_LIMIT_KM, 160), *map(float, THRESHOLDS_KM)])
    ordered = np.sort(error_km)
    share = np.searchsorted(ordered, grid, side="left") / max(len(ordered), 1)
    return pd.DataFrame({"error_km": grid, "share": share})


def baseline_curves(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return :func:`cumulative_curve` of every baseline in a predictions table, by its title."""
    return {
        baseline_title(name).capitalize(): cumulative_curve(error_km[np.isfinite(error_km)])
        for name, error_km in baseline_errors(frame).items()
    }


def group_keys(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return the group of every row for a column of :data:`GROUPS`; missing if unknown."""
    keys = frame[column]
    if column == "radius_50_km":
        return radius_group(keys)
    if column in ("climate", "month"):
        return keys.astype("Float64").mask(keys < 0)
    return keys


def radius_group(radius_km: pd.Series) -> pd.Series:
    """Return the bin of each 50 % radius as ordered text; missing if there is no radius."""
    edges = list(RADIUS_EDGES_KM)
    labels = [f"{short_km(a)}–{short_km(b)} km" for a, b in itertools.pairwise(edges)]
    labels[-1] = f"over {short_km(edges[-2])} km"
    return pd.cut(radius_km, edges, labels=labels, include_lowest=True)


def group_name(column: str, key: str | float) -> str:
    """Return the display name of a group for a column of :data:`GROUPS`."""
    feature = column.removesuffix("_key")
    return class_name(feature, key) if feature in KNOWN_FEATURES else str(key)


def group_errors(frame: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """Return errors by group: ``group``, ``photos``, ``p10`` … ``p90`` in km, ``geoscore``.

    Rows without a key are left out; the largest group comes first.
    """
    columns = ["group", "photos", "p10", "p25", "median", "p75", "p90", "geoscore"]
    if not keys.notna().any():
        return pd.DataFrame({name: pd.Series(dtype="float64") for name in columns})
    error_km = frame["error_km"].reset_index(drop=True)
    grouped = error_km.groupby(keys.array, observed=True, dropna=True)
    table = grouped.quantile(np.array(QUANTILES)).unstack()
    table.columns = columns[2:7]
    table["photos"] = grouped.size()
    scores = pd.Series(geoscore(error_km.to_numpy(np.float64)))
    table["geoscore"] = scores.groupby(keys.array, observed=True, dropna=True).mean()
    table = table.sort_values("photos", ascending=False, kind="stable")
    return table.rename_axis("group").reset_index()[columns]


def errors_by(frame: pd.DataFrame, column: str, truth: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return :func:`group_errors` for a column of :data:`GROUPS`.

    Months and radii are in their order, other groups the largest first. ``truth`` is a table of the
    same rows with the column; by default ``frame``.
    """
    found = group_errors(frame, group_keys(frame if truth is None else truth, column))
    if column in ("radius_50_km", "month"):
        found = found.sort_values("group")
    return found.reset_index(drop=True)


def short_km(value: float) -> str:
    """Return a distance in km as text without its unit: "0.5", "12", "1,500"."""
    return f"{value:.1f}" if 0 < value < 10 and value % 1 else f"{value:,.0f}"
