"""A dataset whose photos show their place by their colour, in the layout of OSV-Mini-129k."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

STATES = {
    "Texas": (31.0, -99.0),
    "Idaho": (44.0, -114.0),
    "Kansas": (38.5, -98.5),
    "Nevada": (39.5, -117.0),
}
CLIMATES = {"Texas": 14, "Idaho": 25, "Kansas": 26, "Nevada": 7}


def write(root: Path, train: int = 160, test: int = 40, seed: int = 0, size=(48, 32)) -> Path:
    """Write CSVs and JPEGs: red follows the latitude, green the longitude, blue the month."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        rows = [_row(rng, f"{split}{number}") for number in range(count)]
        pd.DataFrame(rows).to_csv(root / f"{split}_mini.csv", index=False)
        for row in rows:
            _photo(row, rng, size, root / f"{split}_images" / row["region"] / f"{row['id']}.jpg")
    return root


def _row(rng: np.random.Generator, name: str) -> dict:
    state = str(rng.choice(list(STATES)))
    side = int(rng.integers(2))
    county, town = f"County {side}", f"Town {side}{int(rng.integers(2))}"
    latitude, longitude = np.array(STATES[state]) + (side - 0.5) * 2 + rng.normal(0, 0.15, 2)
    month = int(rng.integers(12))
    moment = pd.Timestamp(year=2019, month=month + 1, day=10, tz="UTC")
    return {
        "id": name,
        "latitude": round(float(latitude), 6),
        "longitude": round(float(longitude), 6),
        "country": "US",
        "captured_at": int(moment.timestamp() * 1000),
        "region": state,
        "sub-region": county,
        "city": town if rng.random() > 0.05 else "",
        "climate": CLIMATES[state],
        "unique_country": "US",
        "unique_region": f"{state}_US",
        "unique_sub-region": f"{county}_{state}_US",
        "unique_city": f"{town}_{county}_{state}_US",
        "_month": month,
    }


def _photo(row: dict, rng: np.random.Generator, size: tuple[int, int], path: Path) -> None:
    colour = np.array(
        [
            255 * (row["latitude"] - 28) / 20,
            255 * (row["longitude"] + 120) / 24,
            255 * row["_month"] / 11,
        ]
    )
    width, height = size
    pixels = colour + rng.normal(0, 12, (height, width, 3))
    pixels[height // 2 :] = pixels[height // 2 :, :, ::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
