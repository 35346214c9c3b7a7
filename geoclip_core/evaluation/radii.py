"""Check the radii that a model states against the errors of a predictions table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from geoclip_core.evaluation.style import ERROR_LIMIT_KM
from geoclip_core.model.calibration import CALIBRATED_BY, Calibration, identity_of

if TYPE_CHECKING:  # takes a second to import, which locating a photo need not wait
    import pandas as pd

Floats = NDArray[np.float64]

RADIUS_COLUMNS = {"50": "radius_50_km", "90": "radius_90_km"}
"""Percentage of the mass -> column of its radius in a predictions table."""
_RISK_SHARES = tuple(np.round(np.arange(0.05, 1.0001, 0.05), 2).tolist())


def inside_radius(frame: "pd.DataFrame") -> dict[str, Floats]:
    """Return ``{"50": (n,), "90": (n,)}``: 1 if the error is within the radius, NaN if none."""
    error_km = frame["error_km"].to_numpy(np.float64)
    inside = {}
    for mass, column in RADIUS_COLUMNS.items():
        radius = frame[column].to_numpy(np.float64)
        inside[mass] = np.where(np.isfinite(radius), (error_km <= radius).astype(float), np.nan)
    return inside


def radius_check(frame: "pd.DataFrame") -> dict[str, Any]:
    """Return whether the photos contradict the stated radii.

    Returns:
        "50" and "90" -> ``n``, ``coverage``, ``low`` and ``high`` (the shares between which 95 % of
        binomial samples of n lie if the radius is right), ``contradicted``, and ``factor``: by what
        the radius must be multiplied to hold its share of these photos. Without a mass of which no
        radius is stated.
    """
    error_km = frame["error_km"].to_numpy(np.float64)
    checks = {}
    for mass, column in RADIUS_COLUMNS.items():
        radius = frame[column].to_numpy(np.float64)
        known = np.isfinite(radius) & (radius > 0)
        if not known.any():
            continue
        ratios = error_km[known] / radius[known]
        n, share = int(known.sum()), float(mass) / 100
        low, high = binomial_range(n, share)
        coverage = float((ratios <= 1).mean())
        rank = min(int(np.ceil((n + 1) * share)), n)
        checks[mass] = {
            "n": n,
            "coverage": coverage,
            "low": low,
            "high": high,
            "contradicted": not low <= coverage <= high,
            "factor": float(np.sort(ratios)[rank - 1]),
        }
    return checks


def binomial_range(n: int, share: float) -> tuple[float, float]:
    """Return the shares between which 95 % of samples of n lie if each hits with `share`."""
    # scipy.stats.binom.interval gives the same, but takes a second to import
    low, high = np.searchsorted(bdtr(np.arange(n + 1), n, share), (0.025, 0.975))
    return float(low) / n, float(high) / n


@dataclass(frozen=True)
class MeasuredRadius:
    """Corrections of radii that measured photos contradict; none by default."""

    factors: dict[float, float] = field(default_factory=dict)
    """Share of the mass -> factor on the radius."""
    constants: dict[float, float] = field(default_factory=dict)
    """Share of the mass -> km that held that share of the measured errors."""
    note: str | None = None
    """What was done, in words; None: nothing."""

    def radius_km(self, mass: float, stated_km: float) -> float:
        """Return the radius to state in place of `stated_km`."""
        if mass in self.constants:
            return self.constants[mass]
        return min(stated_km * self.factors.get(mass, 1.0), ERROR_LIMIT_KM)


def measured_radius(report: Mapping[str, Any], calibration: Calibration | None) -> MeasuredRadius:
    """Return what to state instead of radii that the photos of a metrics.json contradict.

    Nothing if the numbers were measured with another calibration than the one in use.

    A radius whose coverage lies outside 95 % of the binomial distribution is multiplied by the
    factor that :func:`radius_check` found on those photos. Reports of older versions have no
    factor: the quantile of their errors is stated instead, the same for every photo; or, without
    it, half the circumference of the Earth, which says nothing.
    """
    if report.get(CALIBRATED_BY) not in (None, identity_of(calibration)):
        return MeasuredRadius()
    factors, constants, said = {}, {}, []
    count = report.get("n") or 0
    checks = report.get("radius_check") or {}
    for mass, covered in (report.get("coverage") or {}).items():
        share = float(mass) / 100
        check = checks.get(mass)
        if check is not None:
            contradicted = bool(check.get("contradicted"))
        elif covered is None or not count:
            continue
        else:
            low, high = binomial_range(int(count), share)
            contradicted = not low <= covered <= high
        if not contradicted:
            continue
        if check is not None and check.get("factor"):
            factors[share] = float(check["factor"])
        else:
            quantile = report.get("median_km") if mass == "50" else None
            quantile = quantile or (report.get("quantiles_km") or {}).get(f"{share:g}")
            constants[share] = float(quantile or ERROR_LIMIT_KM)
        said.append(f"the {mass} % radius held {covered:.0%}")
    if not said:
        return MeasuredRadius()
    held = " and ".join(said).replace("%", " %").replace("  %", " %")
    return MeasuredRadius(factors, constants, f"as measured on {count:,} photos, where {held}")


def risk_coverage(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the error of the share of photos with the smallest 50 % radii.

    This is selective prediction (Geifman and El-Yaniv, Selective Classification for Deep Neural
    Networks, NeurIPS 2017). Among equal radii the worst errors come first.

    Returns:
        ``share`` of photos kept, ``radius_50_km`` (largest radius kept), ``median_km``,
        ``mean_km``, ``n``; empty if no photo has a radius.
    """
    import pandas as pd

    rows = frame[["radius_50_km", "error_km"]].astype(np.float64)
    rows = rows[np.isfinite(rows["radius_50_km"])]
    rows = rows.sort_values(["radius_50_km", "error_km"], ascending=[True, False])
    radius, error = rows["radius_50_km"].to_numpy(), rows["error_km"].to_numpy()
    points = []
    for share in _RISK_SHARES if len(rows) else ():
        n = max(1, round(share * len(rows)))
        points.append(
            (share, radius[n - 1], float(np.median(error[:n])), float(np.mean(error[:n])), n)
        )
    return pd.DataFrame(points, columns=["share", "radius_50_km", "median_km", "mean_km", "n"])


def coverage_curve(frame: "pd.DataFrame", bins: int = 10) -> "pd.DataFrame":
    """Return the coverage of both radii in groups of photos with similar radii.

    A model whose overall coverage is right can still be overconfident where its radii are small.

    Returns:
        One row per group of equal size: ``radius_50_km`` (median of the group),
        ``coverage_50``, ``coverage_90``, ``n``.
    """
    import pandas as pd

    rows = frame[["error_km", *RADIUS_COLUMNS.values()]].astype(np.float64)
    finite = np.isfinite(rows.to_numpy()).all(axis=1)
    rows = rows[finite].sort_values("radius_50_km", kind="stable")
    groups = []
    for part in np.array_split(np.arange(len(rows)), min(bins, len(rows))) if len(rows) else ():
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


def coverage_at_scales(frame: "pd.DataFrame", scales: ArrayLike | None = None) -> "pd.DataFrame":
    """Return the coverage that radii multiplied by factors, by default 0.1 to 10, would have.

    Returns:
        ``scale``, ``coverage_50``, ``coverage_90``; NaN if no photo has a radius.
    """
    import pandas as pd

    factors = np.geomspace(0.1, 10, 81) if scales is None else np.asarray(scales, dtype=np.float64)
    error_km = frame["error_km"].to_numpy(np.float64)
    table = pd.DataFrame({"scale": factors})
    for mass, column in RADIUS_COLUMNS.items():
        radius = frame[column].to_numpy(np.float64)
        known = np.isfinite(radius)
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.sort(np.nan_to_num(error_km[known] / radius[known], nan=0.0, posinf=np.inf))
        reached = np.searchsorted(needed, factors, side="right")
        table[f"coverage_{mass}"] = reached / len(needed) if len(needed) else np.nan
    return table
