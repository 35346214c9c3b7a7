"""A model that takes coordinates as embeddings, and datasets for it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.earth.sphere import destination, normalise
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.geolocation import Estimate
from geoclip_core.model.posterior import Posterior

STATES = Vocabulary("state", ("North_XX", "South_XX"), ("North", "South"))


@dataclass
class FakeModel:
    """The embedding (latitude, longitude) is where the model thinks the photo was taken."""

    spread_km: float = 100.0
    calibration: Calibration | None = None
    vocabularies: dict = field(default_factory=lambda: {"state": STATES})
    photos_predicted: int = 0
    backbone = None
    context_source = "photo"
    domain = None

    def weights_hash(self) -> str:
        return f"{self.spread_km}"

    def predict(self, embedding: np.ndarray) -> list[Estimate]:
        self.photos_predicted += len(embedding)
        estimates = []
        for latitude, longitude in np.asarray(embedding, dtype=np.float64):
            around = destination((latitude, longitude), np.arange(0, 360, 45.0), self.spread_km)
            points = np.concatenate([[(latitude, longitude)], around])
            posterior = Posterior(points, np.log([0.6] + [0.05] * 8), 20.0)
            if self.calibration:
                posterior = self.calibration.apply(posterior)
            north = 0.8 if latitude > 0 else 0.3
            estimates.append(Estimate(posterior, {"state": np.array([north, 1 - north])}))
        return estimates


def photo_dataset(n: int, split: str = "test", seed: int = 0, name: str = "fakes") -> PhotoDataset:
    """n photos all over the Earth whose state is the hemisphere."""
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.uniform(-60, 60, n), rng.uniform(-180, 180, n)
    state = pd.Series(np.where(latitude > 0, "North", "South"), dtype="str")
    table = pd.DataFrame(
        {
            "id": [f"{split}{i:05d}" for i in range(n)],
            "path": [f"{split}_images/x/{i}.jpg" for i in range(n)],
            "latitude": latitude,
            "longitude": longitude,
            "captured_at": pd.NaT,
            "climate": np.full(n, -100, dtype=np.int16),
            "month": np.full(n, -100, dtype=np.int16),
            "sequence": pd.Series([None] * n, dtype="str"),
            "split": split,
        }
    )
    for level in ("country", "state", "county", "city"):
        known = level == "state"
        table[level] = state if known else pd.Series([None] * n, dtype="str")
        table[f"{level}_key"] = state + "_XX" if known else table[level]
    return PhotoDataset(Path("photos"), name, table)


def embeddings_of(dataset: PhotoDataset, error_km: float = 150.0, seed: int = 1) -> np.ndarray:
    """Answers that miss the truth by about ``error_km``."""
    rng = np.random.default_rng(seed)
    n = len(dataset)
    away = rng.rayleigh(error_km, n)
    return normalise(destination(dataset.coordinates, rng.uniform(0, 360, n), away))
