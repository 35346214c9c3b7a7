"""Whether the stated radius and the stated confidence can be believed.

A radius of 50 % should hold the truth for half of the photos (coverage), and photos with a small
radius should have small errors (risk against coverage).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.earth.sphere import geoscore, haversine_km
from geoclip_core.evaluation import intervals
from geoclip_core.evaluation.baselines import baseline_errors, with_baselines
from geoclip_core.evaluation.predictions import head_features

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
        for name, hits in rank_hits(frame, feature).items():
            columns[f"context:{feature}:{name}"] = hits
    for mass, inside in inside_radius(frame).items():
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
        ``context`` (:func:`head_metrics` per feature), ``coverage``,
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
    report["context"] = {feature: head_metrics(frame, feature) for feature in head_features(frame)}
    report["coverage"] = {mass: _mean(inside) for mass, inside in inside_radius(frame).items()}
    report["risk_coverage"] = risk_coverage(frame).to_dict("list")
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


TOP_KS = (1, 3, 5)
#: Smallest probability in a log loss, that of a float32: a model that says "never" and is wrong
#: is punished by 16 nats, not by infinity.
SMALLEST = float(np.finfo(np.float32).eps)


def rank_hits(frame: pd.DataFrame, feature: str) -> dict[str, np.ndarray]:
    """``top1``, ``top3``, ``top5``: (n,) floats, 1 if the truth is in the first k, NaN unknown."""
    rank = frame[f"{feature}_rank"].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    known = np.isfinite(rank)
    return {f"top{k}": np.where(known, (rank <= k).astype(np.float64), np.nan) for k in TOP_KS}


def unseen(frame: pd.DataFrame, feature: str) -> np.ndarray:
    """(n,) bool: the dataset names the truth, but the vocabulary of the model does not hold it."""
    missing = frame[f"{feature}_truth"].isna().to_numpy()
    key = f"{feature}_key"
    if key in frame:
        return missing & frame[key].notna().to_numpy()
    if feature in frame:  # climate and month are class indices; negative is unknown
        values = pd.to_numeric(frame[feature], errors="coerce").to_numpy(np.float64, na_value=-1.0)
        return missing & (values >= 0)
    return np.zeros(len(frame), dtype=bool)


def head_metrics(frame: pd.DataFrame, feature: str) -> dict[str, Any]:
    """Numbers of one head.

    Returns:
        ``n`` photos counted, ``unseen``, ``top1``, ``top3``, ``top5``, ``top1_with_unseen``,
        ``macro_f1`` (:func:`macro_f1`), ``log_loss`` (mean −ln p of the truth, nats),
        ``expected_calibration_error`` (:func:`expected_calibration_error`) and ``majority``
        (share of the commonest true class among these photos: what always saying it would give).
        Numbers are None where no photo is known.
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
    report["log_loss"] = float(np.mean(-np.log(np.clip(own, SMALLEST, 1.0))))
    hit = (rows[f"{feature}_truth"] == rows[f"{feature}_top1"]).to_numpy()
    report["expected_calibration_error"] = expected_calibration_error(
        rows[f"{feature}_probability"].to_numpy(np.float64), hit
    )
    report["majority"] = float(truth.value_counts(normalize=True).iloc[0])
    return report


def macro_f1(truth: pd.Series, guess: pd.Series) -> float:
    """Mean over classes of F1 = 2·TP / (2·TP + FP + FN).

    The classes are those that occur as truth or as guess among the rows (as in scikit-learn's
    ``f1_score(average="macro")``), each with the same weight however rare.
    """
    truth, guess = truth.astype(object).to_numpy(), guess.astype(object).to_numpy()
    codes, classes = pd.factorize(np.concatenate([truth, guess]))
    if not len(classes):
        return float("nan")
    true, said = codes[: len(truth)], codes[len(truth) :]
    hits = np.bincount(true[true == said], minlength=len(classes))
    total = np.bincount(true, minlength=len(classes)) + np.bincount(said, minlength=len(classes))
    return float(np.mean(2 * hits / total))


def reliability_curve(probability: np.ndarray, hit: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Claimed against reached accuracy in equal-width bins of the claimed probability.

    Returns:
        One row per bin that holds a photo: ``low``, ``high`` (edges), ``claimed`` (mean
        probability), ``reached`` (share right), ``n``.
    """
    probability = np.clip(np.asarray(probability, dtype=np.float64), 0.0, 1.0)
    index = np.minimum((probability * bins).astype(int), bins - 1)
    n = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        claimed = np.bincount(index, probability, minlength=bins) / n
        reached = np.bincount(index, np.asarray(hit, dtype=np.float64), minlength=bins) / n
    edges = np.linspace(0, 1, bins + 1)
    curve = pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "claimed": claimed, "reached": reached, "n": n}
    )
    return curve[curve["n"] > 0].reset_index(drop=True)


def expected_calibration_error(
    probability: np.ndarray, hit: np.ndarray, bins: int = 10
) -> float | None:
    """Mean distance of claimed and reached accuracy over bins, weighted by photos.

    ECE of Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    curve = reliability_curve(probability, hit, bins)
    if curve.empty:
        return None
    gap = (curve["claimed"] - curve["reached"]).abs()
    return float((gap * curve["n"]).sum() / curve["n"].sum())


def confusion_counts(
    frame: pd.DataFrame, feature: str, limit: int = 30
) -> tuple[pd.DataFrame, int]:
    """Counts of (true class, guessed class), commonest true classes first.

    Args:
        frame: a predictions table.
        feature: the head.
        limit: classes kept; the rest are summed up as "other".

    Returns:
        A square table (rows truth, columns guess) and the number of classes that were summed up.
    """
    rows = frame.loc[frame[f"{feature}_truth"].notna(), [f"{feature}_truth", f"{feature}_top1"]]
    truth, guess = (rows[column].astype(object) for column in rows)
    order = truth.value_counts().add(guess.value_counts() * 1e-6, fill_value=0)
    order = order.sort_values(ascending=False, kind="stable").index
    kept, dropped = list(order[:limit]), max(0, len(order) - limit)
    if dropped:
        truth, guess = (s.where(s.isin(kept), "other") for s in (truth, guess))
        kept = [*kept, "other"]
    table = pd.crosstab(truth, guess).reindex(index=kept, columns=kept, fill_value=0)
    return table.rename_axis(index="truth", columns="guess"), dropped


def confused_pairs(frame: pd.DataFrame, feature: str, limit: int = 20) -> pd.DataFrame:
    """The commonest mistakes of a head: ``truth``, ``guess``, ``n``, ``share`` of that truth.

    Pairs with equally many photos are in alphabetical order.
    """
    truth, guess = f"{feature}_truth", f"{feature}_top1"
    rows = frame.loc[frame[truth].notna(), [truth, guess]].astype(object)
    totals = rows[truth].value_counts()
    wrong = rows[rows[truth] != rows[guess]]
    pairs = wrong.groupby([truth, guess]).size().reset_index(name="n")
    pairs = pairs.rename(columns={truth: "truth", guess: "guess"})
    pairs = pairs.sort_values(["n", "truth", "guess"], ascending=[False, True, True]).head(limit)
    pairs["share"] = pairs["n"] / pairs["truth"].map(totals).astype(float)
    return pairs.reset_index(drop=True)


RADIUS_COLUMNS = {"50": "radius_50_km", "90": "radius_90_km"}
SEEN_KM, SEEN_SHARE = 0.05, 0.1
RISK_SHARES = tuple(np.round(np.arange(0.05, 1.0001, 0.05), 2).tolist())


def inside_radius(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """``{"50": (n,), "90": (n,)}``: 1 if the error is within the stated radius, NaN unstated."""
    error_km = frame["error_km"].to_numpy(np.float64)
    inside = {}
    for mass, column in RADIUS_COLUMNS.items():
        radius = frame[column].to_numpy(np.float64)
        inside[mass] = np.where(np.isfinite(radius), (error_km <= radius).astype(float), np.nan)
    return inside


def risk_coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Error of the photos the model is surest of, against their share.

    The photos are ordered by the stated 50 % radius, ties in the order of the table's errors
    from worst to best, so that a tie never flatters. An answer is kept for the given share of
    the photos with the smallest radius (selective prediction, Geifman and El-Yaniv, 2017).

    Returns:
        ``share`` of photos kept, ``radius_50_km`` (largest radius kept), ``median_km``,
        ``mean_km``, ``n``; empty if no photo states a radius.
    """
    rows = frame[["radius_50_km", "error_km"]].astype(np.float64)
    rows = rows[np.isfinite(rows["radius_50_km"])]
    rows = rows.sort_values(["radius_50_km", "error_km"], ascending=[True, False])
    radius, error = rows["radius_50_km"].to_numpy(), rows["error_km"].to_numpy()
    points = []
    for share in RISK_SHARES if len(rows) else ():
        n = max(1, round(share * len(rows)))
        points.append(
            (share, radius[n - 1], float(np.median(error[:n])), float(np.mean(error[:n])), n)
        )
    return pd.DataFrame(points, columns=["share", "radius_50_km", "median_km", "mean_km", "n"])


def coverage_curve(frame: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Coverage of both radii in groups of photos with a similar stated radius.

    A model whose total coverage is right can still be too sure where it is surest; this shows it.

    Returns:
        One row per group of equally many photos: ``radius_50_km`` (median of the group),
        ``coverage_50``, ``coverage_90``, ``n``.
    """
    rows = frame[["error_km", *RADIUS_COLUMNS.values()]].astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)].sort_values("radius_50_km", kind="stable")
    groups = []
    for part in np.array_split(np.arange(len(rows)), min(bins, len(rows)) or 1):
        if not len(part):
            continue
        group = rows.iloc[part]
        groups.append(
            {
                "radius_50_km": float(group["radius_50_km"].median()),
                "coverage_50": float((group["error_km"] <= group["radius_50_km"]).mean()),
                "coverage_90": float((group["error_km"] <= group["radius_90_km"]).mean()),
                "n": len(group),
            }
        )
    return pd.DataFrame(groups, columns=["radius_50_km", "coverage_50", "coverage_90", "n"])


def seen_before(error_km: np.ndarray) -> str:
    """A sentence if the model has probably been trained on these photos, else "".

    One guess in ten that is exact to 50 m is not skill: the answer was learnt by heart.
    """
    exact = float(np.mean(np.asarray(error_km) < SEEN_KM)) if len(error_km) else 0.0
    if exact <= SEEN_SHARE:
        return ""
    return (
        f"{exact:.0%} of the guesses are exact to {SEEN_KM * 1000:.0f} m: the model has probably "
        "been trained on these photos, and the numbers say nothing about new ones"
    )


def coverage_at_scales(frame: pd.DataFrame, scales: np.ndarray | None = None) -> pd.DataFrame:
    """Coverage if every radius were multiplied by a factor: ``scale``, ``coverage_50``, ``_90``.

    Where a curve crosses its target tells by how much the radii are off.
    """
    scales = np.geomspace(0.1, 10, 81) if scales is None else np.asarray(scales, dtype=np.float64)
    error_km = frame["error_km"].to_numpy(np.float64)
    table = {"scale": scales}
    for mass, column in RADIUS_COLUMNS.items():
        radius = frame[column].to_numpy(np.float64)
        known = np.isfinite(radius)
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.sort(np.nan_to_num(error_km[known] / radius[known], nan=0.0, posinf=np.inf))
        reached = np.searchsorted(needed, scales, side="right")
        table[f"coverage_{mass}"] = reached / len(needed) if len(needed) else np.nan
    return pd.DataFrame(table)
