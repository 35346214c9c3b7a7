"""What a predictions table is worth: distances, GeoScore, places, heads, coverage, intervals.

Definitions are those of OpenStreetView-5M (Astruc et al., CVPR 2024, section 4 and the code
published with it) and PIGEON (Haas et al., CVPR 2024), so that numbers can be compared:
haversine distance with R = 6371 km; GeoScore = mean of 5000·exp(−d / 1492.7 km), not rounded;
accuracy at r = share of photos with d < r; place accuracy as in :func:`place_hits`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.earth.sphere import geoscore, haversine_km
from geoclip_core.loops import context_metrics, intervals, reliability
from geoclip_core.loops.baselines import baseline_errors, with_baselines
from geoclip_core.loops.predictions import head_features

THRESHOLDS_KM = (1, 25, 200, 750, 2500)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Place level of OSV-5M -> (truth, prediction) in a predictions table, and the gazetteer's column.
PLACE_LEVELS = {
    "country": ("country_key", "predicted_country_key", "unique_country"),
    "region": ("state_key", "predicted_state_key", "unique_region"),
    "sub-region": ("county_key", "predicted_county_key", "unique_sub-region"),
    "city": ("city_key", "predicted_city_key", "unique_city"),
}


def distance_metrics(error_km: np.ndarray) -> dict[str, Any]:
    """GeoScore, median, mean and quantiles in km, and accuracies, of (n,) errors in km.

    Everything is None for an empty array: there is nothing to report, and zero would be a lie.
    """
    error_km = np.asarray(error_km, dtype=np.float64)
    if not len(error_km):
        empty = {f"{threshold}": None for threshold in THRESHOLDS_KM}
        quantiles = {f"{share:g}": None for share in QUANTILES}
        return {
            "geoscore": None,
            "median_km": None,
            "mean_km": None,
            "quantiles_km": quantiles,
            "accuracy_at_km": empty,
        }
    return {
        "geoscore": float(np.mean(geoscore(error_km))),
        "median_km": float(np.median(error_km)),
        "mean_km": float(np.mean(error_km)),
        "quantiles_km": dict(
            zip(
                (f"{share:g}" for share in QUANTILES),
                np.quantile(error_km, QUANTILES).tolist(),
                strict=True,
            )
        ),
        "accuracy_at_km": {f"{t}": float(np.mean(error_km < t)) for t in THRESHOLDS_KM},
    }


def errors_km(frame: pd.DataFrame, guess: np.ndarray) -> np.ndarray:
    """(n,) errors of guesses, (n, 2) or one (2,) for all rows, against the truth of a table."""
    truth = frame[["latitude", "longitude"]].to_numpy(np.float64)
    return haversine_km(truth, np.broadcast_to(np.asarray(guess, dtype=np.float64), truth.shape))


def with_places(frame: pd.DataFrame, gazetteer: Any) -> pd.DataFrame:
    """A predictions table with the names of the predicted points (``predicted_state_key``, ...).

    Args:
        frame: predictions of n rows.
        gazetteer: something whose ``frame(coordinates)`` gives the ``unique_*`` columns.
    """
    guess = frame[["predicted_latitude", "predicted_longitude"]].to_numpy(np.float64)
    places = gazetteer.frame(guess)
    columns = {named: places[column].to_numpy() for _, named, column in PLACE_LEVELS.values()}
    return frame.assign(**{name: pd.array(keys, dtype="str") for name, keys in columns.items()})


def place_hits(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether the predicted point lies in the true place, as OSV-5M counts it.

    The predicted point is reverse-geocoded (nearest GeoNames place) and its ``unique_*`` name
    compared with the dataset's. A row without a true name leaves the denominator of that level
    only; a predicted point without a name at that level is wrong.

    Args:
        frame: predictions with the dataset's ``country_key``, ``state_key``, ``county_key``,
            ``city_key`` and the columns of :func:`with_places`.

    Returns:
        (n, levels) floats, 1 right, 0 wrong, NaN no truth. A level that no row knows is left out.
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


def share_hits(frame: pd.DataFrame) -> pd.DataFrame:
    """One column per reported mean or share, NaN where a row takes no part in it.

    Names are the path of the number in the report, joined by a colon: ``geoscore``,
    ``accuracy_at_km:25``, ``place_accuracy:city``, ``context:climate:top1``, ``coverage:90``.
    """
    error_km = frame["error_km"].to_numpy(np.float64)
    columns: dict[str, np.ndarray] = {"geoscore": geoscore(error_km), "mean_km": error_km}
    for threshold in THRESHOLDS_KM:
        columns[f"accuracy_at_km:{threshold}"] = (error_km < threshold).astype(np.float64)
    for level, hits in place_hits(frame).items():
        columns[f"place_accuracy:{level}"] = hits.to_numpy()
    for feature in head_features(frame):
        for name, hits in context_metrics.rank_hits(frame, feature).items():
            columns[f"context:{feature}:{name}"] = hits
    for mass, inside in reliability.inside_radius(frame).items():
        columns[f"coverage:{mass}"] = inside
    return pd.DataFrame(columns)


def summarise(
    frame: pd.DataFrame,
    *,
    baselines: Mapping[str, np.ndarray] | None = None,
    gazetteer: Any | None = None,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Every number of a report on one predictions table, as JSON values.

    Args:
        frame: a predictions table.
        baselines: guesses (n, 2) for the same rows, by name (``baselines.baseline_guesses``), on
            top of those that the table already holds (``baselines.with_baselines``).
        gazetteer: for place accuracies, where the table has not got the names of the predicted
            points; None then leaves them out.
        resamples: bootstrap resamples of the 95 % intervals; 0 leaves the intervals out.
        seed: of the bootstrap.

    Returns:
        ``n``, the numbers of :func:`distance_metrics`, ``place_accuracy`` and ``place_n``,
        ``context`` (:func:`context_metrics.head_metrics` per feature), ``coverage``,
        ``risk_coverage``, ``log_density`` (mean, nats per km²), ``baselines`` (distance metrics
        of each, and the paired ``difference`` of the model from it), and ``intervals``, which
        repeats the paths of the numbers with [low, high]. Shares lie between 0 and 1.
    """
    if gazetteer is not None and "predicted_country_key" not in frame:
        frame = with_places(frame, gazetteer)
    error_km = frame["error_km"].to_numpy(np.float64)
    groups = frame["sequence"].to_numpy() if "sequence" in frame else None
    draw = {"resamples": resamples, "seed": seed, "groups": groups}
    report: dict[str, Any] = {"n": len(frame), **distance_metrics(error_km)}
    report["place_accuracy"], report["place_n"] = {}, {}
    for level, hits in place_hits(frame).items():
        report["place_accuracy"][level] = float(hits.mean())
        report["place_n"][level] = int(hits.notna().sum())
    report["context"] = {
        feature: context_metrics.head_metrics(frame, feature) for feature in head_features(frame)
    }
    report["coverage"] = {
        mass: _mean(inside) for mass, inside in reliability.inside_radius(frame).items()
    }
    report["risk_coverage"] = reliability.risk_coverage(frame).to_dict("list")
    report["log_density"] = _mean(frame["log_density"].to_numpy(np.float64))
    report["baselines"] = {}
    for name, other in baseline_errors(with_baselines(frame, baselines or {})).items():
        report["baselines"][name] = distance_metrics(other)
        if resamples and len(frame):
            report["baselines"][name]["difference"] = paired_difference(error_km, other, **draw)
    report["intervals"] = {}
    if resamples and len(frame):
        columns = share_hits(frame)
        shares = [":" in path for path in columns.columns]
        bounds = intervals.mean_intervals(columns.to_numpy(), shares=shares, **draw)
        for path, bound in zip(columns.columns, bounds, strict=True):
            _put(report["intervals"], path.split(":"), _finite(bound))
        medians = intervals.quantile_samples(error_km, (0.5,), **draw)[:, 0]
        report["intervals"]["median_km"] = _finite(intervals.percentile_interval(medians))
        report["intervals"]["resamples"] = resamples
        report["intervals"]["drawn_by"] = "photo" if groups is None else "sequence"
    return report


def paired_difference(
    error_km: np.ndarray,
    other_km: np.ndarray,
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, dict[str, float | None]]:
    """First minus second on the same photos, with bootstrap intervals.

    The same photos are drawn for both, so that the luck of the draw cancels out.

    Returns:
        ``geoscore`` (more is better), ``median_km`` and ``mean_km`` (less is better), each with
        ``difference``, ``low``, ``high``.
    """
    error_km, other_km = (np.asarray(e, dtype=np.float64) for e in (error_km, other_km))
    if error_km.shape != other_km.shape:
        raise ValueError(f"{error_km.shape} errors cannot be paired with {other_km.shape}")
    draw = {"resamples": resamples, "seed": seed, "groups": groups}
    gains = np.stack([geoscore(error_km) - geoscore(other_km), error_km - other_km], axis=1)
    bounds = intervals.mean_intervals(gains, **draw)
    first = intervals.quantile_samples(error_km, (0.5,), **draw)[:, 0]
    second = intervals.quantile_samples(other_km, (0.5,), **draw)[:, 0]
    median = float(np.median(error_km) - np.median(other_km))
    bound = intervals.percentile_interval(first - second)
    return {
        "geoscore": _difference(float(gains[:, 0].mean()), bounds[0]),
        "median_km": _difference(median, bound),
        "mean_km": _difference(float(gains[:, 1].mean()), bounds[1]),
    }


def _difference(difference: float, bound: tuple[float, float]) -> dict[str, float | None]:
    low, high = _finite(bound) or (None, None)
    return {"difference": difference, "low": low, "high": high}


def _mean(values: np.ndarray) -> float | None:
    """Mean of the values that are numbers; None if there are none."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _finite(bound: tuple[float, float]) -> list[float] | None:
    return list(bound) if np.all(np.isfinite(bound)) else None


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
