"""The headline of an evaluation: a table of models and baselines, each number with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.earth.sphere import geoscore
from geoclip_core.loops import intervals, metrics
from geoclip_core.loops.baselines import baseline_errors, baseline_title

#: Resamples of the page's intervals: their ends move by a few percent of their width.
RESAMPLES = 400
#: From so many photos on, intervals come from standard errors, which then agree with resampling.
LARGE = 10_000
#: Measures of a difference, and whether more (1) or less (-1) of it is better.
MEASURES = {"geoscore": 1, "mean_km": -1, "within_200_km": 1}
PLACES = {
    "country": "Country",
    "region": "State",
    "sub-region": "County",
    "city": "City",
}


@dataclass(frozen=True)
class HeadlineRow:
    """One line of the table: numbers by path (``accuracy_at_km:25``), with their intervals."""

    name: str
    kind: str
    """"model", "other" (a second model) or "baseline"."""
    n: int
    values: dict[str, float]
    bounds: dict[str, tuple[float, float]]

    def renamed(self, name: str) -> "HeadlineRow":
        """The same numbers under another name."""
        return replace(self, name=name)


def model_row(frame: pd.DataFrame, name: str, kind: str) -> HeadlineRow:
    """Numbers of a predictions table."""
    columns = metrics.share_hits(frame)
    columns = columns[[c for c in columns if not c.startswith("context:")]]
    return _row(frame, frame["error_km"].to_numpy(np.float64), columns, name, kind)


def baseline_rows(frame: pd.DataFrame) -> list[HeadlineRow]:
    """Numbers of the baselines that a predictions table holds, best GeoScore first."""
    rows = []
    for name, error_km in baseline_errors(frame).items():
        known = np.isfinite(error_km)
        guessed = pd.DataFrame({"error_km": error_km[known]})
        guessed["radius_50_km"] = guessed["radius_90_km"] = np.nan
        columns = metrics.share_hits(guessed)
        title = baseline_title(name).capitalize()
        rows.append(_row(frame[known], error_km[known], columns, title, "baseline"))
    return sorted(rows, key=lambda row: -row.values.get("geoscore", 0.0))


def _row(
    frame: pd.DataFrame, error_km: np.ndarray, columns: pd.DataFrame, name: str, kind: str
) -> HeadlineRow:
    if not len(error_km):
        return HeadlineRow(name, kind, 0, {}, {})
    groups = frame["sequence"].to_numpy() if "sequence" in frame else None
    shares = [":" in path for path in columns]
    if len(error_km) > LARGE:
        found = intervals.large_sample_mean_intervals(
            columns.to_numpy(), shares=shares, groups=groups
        )
        median = intervals.large_sample_quantile_interval(error_km, 0.5, groups=groups)
    else:
        draw: dict[str, Any] = {"resamples": RESAMPLES, "seed": 0, "groups": groups}
        found = intervals.mean_intervals(columns.to_numpy(), shares=shares, **draw)
        samples = intervals.quantile_samples(error_km, (0.5,), **draw)
        median = intervals.percentile_interval(samples[:, 0])
    bounds = dict(zip(columns, found, strict=True)) | {"median_km": median}
    values = {path: float(np.nanmean(v)) for path, v in columns.items() if v.notna().any()}
    values["median_km"] = float(np.median(error_km))
    return HeadlineRow(name, kind, len(error_km), values, bounds)


def difference_rows(frame: pd.DataFrame, others: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What a model gains over others on the same photos, with paired 95 % intervals.

    Args:
        frame: predictions of the model.
        others: (n,) errors in km of others on the same rows, NaN where one has no answer.

    Returns:
        One row per other and measure (``geoscore``, ``mean_km``, ``within_200_km``): ``other``,
        ``measure``, ``n``, ``difference``, ``low``, ``high``, ``verdict``.
    """
    error_km = frame["error_km"].to_numpy(np.float64)
    groups = frame["sequence"].to_numpy() if "sequence" in frame else None
    records = []
    for name, other_km in others.items():
        both = np.isfinite(other_km)
        if not both.any():
            continue
        mine, theirs = error_km[both], other_km[both]
        gains = np.stack(
            [
                geoscore(mine) - geoscore(theirs),
                mine - theirs,
                (mine < 200).astype(float) - (theirs < 200),
            ],
            axis=1,
        )
        drawn = None if groups is None else groups[both]
        if len(mine) > LARGE:
            bounds = intervals.large_sample_mean_intervals(gains, groups=drawn)
        else:
            bounds = intervals.mean_intervals(gains, resamples=RESAMPLES, groups=drawn)
        for at, (measure, sign) in enumerate(MEASURES.items()):
            low, high = bounds[at]
            records.append(
                {
                    "other": name,
                    "measure": measure,
                    "n": int(both.sum()),
                    "difference": float(gains[:, at].mean()),
                    "low": low,
                    "high": high,
                    "verdict": _verdict(low * sign, high * sign),
                }
            )
    columns = ["other", "measure", "n", "difference", "low", "high", "verdict"]
    return pd.DataFrame(records, columns=columns)


def _verdict(low: float, high: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)) or min(low, high) <= 0 <= max(low, high):
        return "not told apart"
    return "better" if low > 0 else "worse"


def headline_frame(rows: Sequence[HeadlineRow]) -> pd.DataFrame:
    """The table as data, for a download: each number with ``_low`` and ``_high`` beside it."""
    records = []
    for row in rows:
        record: dict[str, Any] = {"name": row.name, "kind": row.kind, "n": row.n}
        for path, value in row.values.items():
            low, high = row.bounds.get(path, (np.nan, np.nan))
            key = path.replace(":", "_")
            record |= {key: value, f"{key}_low": low, f"{key}_high": high}
        records.append(record)
    return pd.DataFrame(records)
