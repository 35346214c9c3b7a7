"""Whether the stated radius and the stated confidence can be believed.

A radius of 50 % should hold the truth for half of the photos (coverage), and photos with a small
radius should have small errors (risk against coverage).
"""

import numpy as np
import pandas as pd

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
