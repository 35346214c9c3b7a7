"""Synthetic predictions tables of any size: real place names, random guesses."""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geoclip_core.data.vocabulary import Vocabulary, climate_vocabulary, month_vocabulary
from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import destination, haversine_km, normalise

TEN_STATES = (
    *("Idaho", "Kansas", "Montana", "Nebraska", "Nevada"),
    *("New Mexico", "Oklahoma", "Oregon", "Texas", "Wyoming"),
)


@functools.cache
def _towns() -> pd.DataFrame:
    """Coordinates and place columns of the gazetteer's towns in the ten states."""
    gazetteer = Gazetteer.load()
    points = gazetteer.coordinates
    box = (points[:, 0] > 25) & (points[:, 0] < 50) & (points[:, 1] > -125) & (points[:, 1] < -93)
    frame = gazetteer.frame(points[box])
    frame[["latitude", "longitude"]] = points[box]
    frame = frame[(frame["country"] == "US") & frame["region"].isin(TEN_STATES)]
    return frame.dropna().reset_index(drop=True)


def synthetic_predictions(
    n: int, seed: int = 0, skill_km: float = 300.0, candidates: bool = True
) -> pd.DataFrame:
    """n predictions in ten states, with all five heads and some missing truths.

    Args:
        n: rows.
        seed: of everything.
        skill_km: median error, roughly.
        candidates: also make the list columns (slow for many rows).
    """
    rng = np.random.default_rng(seed)
    towns = _towns()
    pick = rng.integers(len(towns), size=n)
    truth = towns[["latitude", "longitude"]].to_numpy()[pick] + rng.normal(0, 0.03, (n, 2))
    unsure = rng.lognormal(0, 0.7, n)
    error = skill_km * unsure * rng.lognormal(0, 0.8, n)
    guess = normalise(destination(truth, rng.uniform(0, 360, n), error))
    frame = pd.DataFrame(
        {
            "id": [f"photo-{i:06d}" for i in range(n)],
            "latitude": truth[:, 0],
            "longitude": truth[:, 1],
            "predicted_latitude": guess[:, 0],
            "predicted_longitude": guess[:, 1],
            "error_km": haversine_km(truth, guess),
            "radius_50_km": np.minimum(skill_km * unsure, 20_000),
            "radius_90_km": np.minimum(skill_km * unsure * 2.8, 20_000),
            "log_density": -8 - error / 500,
        }
    )
    if candidates:
        others = destination(guess[:, None], rng.uniform(0, 360, (n, 4)), rng.gamma(2, 300, (n, 4)))
        points = np.concatenate([guess[:, None], normalise(others)], axis=1)
        shares = np.sort(rng.dirichlet(np.ones(6), n), axis=1)[:, :0:-1]
        frame["candidate_latitudes"] = list(points[..., 0])
        frame["candidate_longitudes"] = list(points[..., 1])
        frame["candidate_probabilities"] = list(shares)
    month = rng.integers(-1, 12, n)
    month[month < 0] = -100
    climate = ClimateRaster.load().indices(truth)
    truths = {
        "climate": np.array([*climate_vocabulary().keys, None], dtype=object)[
            np.where(climate < 0, -1, climate)
        ],
        "month": np.array([*month_vocabulary().keys, None], dtype=object)[np.maximum(month, -1)],
    }
    for feature, column in (("state", "region"), ("county", "sub-region"), ("city", "city")):
        truths[feature] = towns[f"unique_{column}"].to_numpy(dtype=object)[pick]
    for feature, values in truths.items():
        _head(frame, feature, values, rng)
    frame["path"] = [f"test_images/x/{name}.jpg" for name in frame["id"]]
    frame["country_key"] = "US"
    for feature in ("state", "county", "city"):
        frame[f"{feature}_key"] = pd.Series(truths[feature], dtype="str")
    frame["climate"], frame["month"] = climate.astype(np.int16), month.astype(np.int16)
    return frame


def _head(frame: pd.DataFrame, feature: str, truth: np.ndarray, rng: np.random.Generator) -> None:
    n = len(truth)
    known = pd.notna(truth)
    choices = truth[known]
    claimed = rng.beta(2, 2, n)
    right = known & (rng.uniform(size=n) < claimed)
    top = np.where(right, truth, choices[rng.integers(len(choices), size=n)])
    right = known & (top == truth)
    rank = np.where(right, 1, 2 + rng.geometric(0.3, n))
    frame[f"{feature}_truth"] = pd.Series(truth, dtype="str")
    frame[f"{feature}_top1"] = pd.Series(top, dtype="str")
    frame[f"{feature}_probability"] = claimed.astype(np.float32)
    frame[f"{feature}_rank"] = pd.Series(rank, dtype="Int32").mask(~known)
    own = np.where(right, claimed, (1 - claimed) / rank)
    frame[f"{feature}_truth_probability"] = np.where(known, own, np.nan).astype(np.float32)


@dataclass(frozen=True)
class TinyDataset:
    """What ``predictions_frame`` asks of a dataset."""

    table: pd.DataFrame
    given: dict[str, np.ndarray]

    @property
    def coordinates(self) -> np.ndarray:
        return self.table[["latitude", "longitude"]].to_numpy(np.float64)

    def labels(self, vocabularies: dict[str, Vocabulary]) -> dict[str, np.ndarray]:
        return {name: self.given[name] for name in vocabularies}
