"""Write a small dataset in the layout of OSV-Mini-129k with known labels."""

from pathlib import Path

import pandas as pd
from PIL import Image

from geoclip_core.data.dataset import COLUMNS

# 2021-08-01T04:30Z: August in UTC, but still July in the local time of every state here.
MIDNIGHT = 1627792200000

TRAIN = [
    # id, latitude, longitude, captured_at, climate, region, sub-region, city
    ("844332109483204", 43.6135, -116.2035, 1610712000000, 7, "Idaho", "Ada County", "Boise"),
    (
        "1000000000000001",
        36.1750,
        -115.1372,
        1627776000000,
        4,
        "Nevada",
        "Clark County",
        "Las Vegas",
    ),
    ("1000000000000002", 44.1760, -112.2310, MIDNIGHT, 7, "Idaho", "Clark County", "Dubois"),
    ("1000000000000003", 32.4487, -99.7331, "", 6, "Texas", "Taylor County", "Abilene"),
    (
        "1000000000000004",
        38.9172,
        -97.2139,
        1577836799999,
        25,
        "Kansas",
        "Dickinson County",
        "Abilene",
    ),
    ("9007199254740993", 45.7833, -108.5007, 1588334400000, 0, "Montana", "", ""),
]
TEST = [
    (
        "1000000000000005",
        31.7587,
        -106.4869,
        1640995199999,
        5,
        "Texas",
        "El Paso County",
        "El Paso",
    ),
    (
        "1000000000000006",
        36.1800,
        -115.1400,
        1640995200000,
        4,
        "Nevada",
        "Clark County",
        "Las Vegas",
    ),
]


def frame(rows: list[tuple]) -> pd.DataFrame:
    """Return a table with all columns of the real files as text, unknown ones empty."""
    records = []
    for photo_id, latitude, longitude, captured_at, climate, region, county, city in rows:
        record = dict.fromkeys(COLUMNS, "")
        record |= {
            "id": photo_id,
            "latitude": str(latitude),
            "longitude": str(longitude),
            "captured_at": str(captured_at),
            "climate": str(climate),
            "country": "US",
            "region": region,
            "sub-region": county,
            "city": city,
            "sequence": f"sequence-of-{photo_id[-1]}",
            "unique_country": "US",
            "unique_region": f"{region}_US",
            "unique_sub-region": f"{county}_{region}_US" if county else "",
            "unique_city": f"{city}_{county}_{region}_US" if city else "",
            "lon_bin": "5",
            "lat_bin": "7",
            "drive_side": "1",
        }
        records.append(record)
    return pd.DataFrame(records, columns=list(COLUMNS))


def write(root: Path, split: str, table: pd.DataFrame, *, photos: bool = True) -> None:
    """Write one split's table, and a small photo for each row."""
    root.mkdir(parents=True, exist_ok=True)
    table.to_csv(root / f"{split}_mini.csv", index=False)
    if not photos:
        return
    for number, (photo_id, region) in enumerate(zip(table["id"], table["region"], strict=True)):
        path = root / f"{split}_images" / (region or "unknown") / f"{photo_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        red = 40 * (number + 1) % 256
        Image.new("RGB", (64, 36), (red, 90, 30 if split == "train" else 200)).save(path)


def make(root: Path, *, photos: bool = True) -> Path:
    """Write the dataset of `TRAIN` and `TEST`, and return its folder."""
    write(root, "train", frame(TRAIN), photos=photos)
    write(root, "test", frame(TEST), photos=photos)
    return root
