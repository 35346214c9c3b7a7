"""Read a folder in the layout of OSV-Mini-129k as one table of photos.

A dataset folder holds ``train_mini.csv`` and ``test_mini.csv``, and photos at
``{split}_images/{region}/{id}.jpg``. `read_dataset` returns coordinates, capture time, context
labels and a split for every photo; wrong values are reported with file, column and row.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.data.metadata import NULL_ISLAND_DEGREES
from geoclip_core.data.splits import spatial_split
from geoclip_core.data.tables import (
    MISSING_TEXT,
    Problems,
    parse_numbers,
    read_csv,
    whole_ids,
)
from geoclip_core.data.vocabulary import FIXED_VOCABULARIES, Vocabulary
from geoclip_core.earth.climate import UNKNOWN, index_of_code
from geoclip_core.errors import DatasetError, FileError
from geoclip_core.files import read_json, remember_opened

SPLITS = ("train", "val", "test")
# Only import-photos writes "buffer": photos too close to both train and test.
FILE_SPLITS = ("train", "test", "buffer")
UNKNOWN_REGION = "unknown"  # folder of photos whose region is not known
DESCRIPTION_FILE = "dataset.json"
ATTRIBUTION = "Place names: GeoNames (CC BY 4.0). Climate: Beck et al. 2018 (CC BY 4.0)."
MAX_TEXT = 300  # most characters of an id or place name
MANY_IDS = 5  # so many long ids that all end with 0 were rounded

LEAST_PHOTOS = 20  # fewest photos besides those of test from which a model can be trained

# Column of our tables: the name column and the unique key column in the file.
PLACES = {
    "country": ("country", "unique_country"),
    "state": ("region", "unique_region"),
    "county": ("sub-region", "unique_sub-region"),
    "city": ("city", "unique_city"),
}
REQUIRED = ("id", "latitude", "longitude")
# The columns that are read.
WANTED = (
    *(*REQUIRED, "latitude_ref", "longitude_ref", "captured_at", "climate", "sequence"),
    *(column for pair in PLACES.values() for column in pair),
)
# All columns of OSV-Mini-129k.
COLUMNS = (
    *("id", "latitude", "longitude", "thumb_original_url", "country", "sequence", "captured_at"),
    *("lon_bin", "lat_bin", "cell", "region", "sub-region", "city", "land_cover", "road_index"),
    *("drive_side", "climate", "soil", "dist_sea"),
    *(f"quadtree_10_{size}" for size in (500, 1000, 2500, 5000, 12500, 25000, 50000)),
    *("unique_country", "unique_region", "unique_sub-region", "unique_city"),
    *("creator_username", "creator_id"),
)


@dataclasses.dataclass(frozen=True)
class PhotoDataset:
    """Photos of one folder.

    Attributes:
        root: The folder; paths in the table are relative to it.
        name: Display name of the dataset.
        table: One row per photo: id, path, latitude, longitude (degrees), captured_at (UTC or NaT),
            climate (class index or -100), month (0-11 or -100), country, state, county, city
            (names or NA), country_key, state_key, county_key, city_key (unique, or NA), sequence
            (or NA), split ("train", "val", "test", or "buffer": not used, because closer than 1 km
            to a photo of another split).
        synthetic: Whether the photos were drawn by this project and show no real place.
    """

    root: Path
    name: str
    table: pd.DataFrame
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.table)

    def split(self, name: str) -> "PhotoDataset":
        """Return the photos of "train", "val", "test" or "buffer", possibly none.

        Raises:
            DatasetError: there is no such split.
        """
        if name not in (*SPLITS, "buffer"):
            raise DatasetError(f"no split {name!r}; there are {', '.join(SPLITS)} and buffer")
        return self.select((self.table["split"] == name).to_numpy())

    def select(self, rows: np.ndarray) -> "PhotoDataset":
        """Return the photos at positions (k,) or under a boolean mask (n,)."""
        table = self.table.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows]
        return dataclasses.replace(self, table=table.reset_index(drop=True))

    @property
    def coordinates(self) -> np.ndarray:
        """Latitude and longitude in degrees, (n, 2) float64."""
        return self.table[["latitude", "longitude"]].to_numpy(dtype=np.float64)

    @property
    def paths(self) -> list[Path]:
        """The n photo files, which need not exist."""
        return [self.root / path for path in self.table["path"]]

    @property
    def learnable(self) -> np.ndarray:
        """Mask (n,) of train, val and what was cut out between them.

        A model that is measured by cross-validation learns from all of these.
        """
        split = self.table["split"]
        between = (split == "buffer") & self.table["path"].str.startswith("train_images/")
        mask: np.ndarray = (split.isin(["train", "val"]) | between).to_numpy()
        return mask

    def keys(self, feature: str) -> "pd.Series[str]":
        """Return the vocabulary keys of one feature, (n,) text, NA where unknown."""
        if feature in FIXED_VOCABULARIES:
            vocabulary = FIXED_VOCABULARIES[feature]()
            index = self.table[feature].to_numpy()
            known = np.where(index < 0, len(vocabulary), index)
            keys = np.array([*vocabulary.keys, None], dtype=object)[known]
            return pd.Series(keys, index=self.table.index, dtype="str")
        keys_of_places: pd.Series[str] = self.table[f"{feature}_key"]
        return keys_of_places

    def labels(self, vocabularies: Mapping[str, Vocabulary]) -> dict[str, np.ndarray]:
        """Return the class indices of every vocabulary's feature, each (n,) int64, or -100."""
        return {name: vocab.encode(self.keys(name)) for name, vocab in vocabularies.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all columns and rows of the table, in their order: 16 hexadecimal digits.

        Results are stored under this name, so it must change with any label or split.
        """
        digest = hashlib.sha256("\n".join(self.table.columns).encode())
        rows = pd.util.hash_pandas_object(self.table, index=False)
        digest.update(rows.to_numpy(dtype="<u8").tobytes())
        return digest.hexdigest()[:16]


def read_dataset(root: Path | str, *, val_fraction: float = 0.1, seed: int = 0) -> PhotoDataset:
    """Read a folder in the layout of OSV-Mini-129k, and remember that it was opened.

    Args:
        root: Folder with ``train_mini.csv`` or ``test_mini.csv`` or both.
        val_fraction: Share of the training rows that becomes val, by spatial blocks; 0 for none.
        seed: Determines which blocks become val.

    Raises:
        DatasetError: there are no rows, or a value is wrong (file, column and row are named).
    """
    root = Path(root)
    present = splits_in(root)
    description = read_description(root)
    table = pd.concat([read_table(root, split) for split in present], ignore_index=True)
    if not len(table):
        files = " and ".join(csv_path(root, split).name for split in present)
        raise DatasetError(f"{root}: {files} have no rows")
    train = (table["split"] == "train").to_numpy()
    if train.any() and val_fraction > 0:
        part = table.loc[train, ["latitude", "longitude", "sequence"]]
        table.loc[train, "split"] = spatial_split(
            part[["latitude", "longitude"]].to_numpy(),
            val_fraction,
            seed=seed,
            sequences=part["sequence"],
        )
    remember_opened(root)
    name = description.get("name")
    return PhotoDataset(
        root=root,
        name=name if isinstance(name, str) and name else root.resolve().name,
        table=table,
        synthetic=description.get("synthetic") is True,
    )


def too_small(photos: int) -> str:
    """Return a sentence if so many photos outside of test are too few to train; else ""."""
    if photos >= LEAST_PHOTOS:
        return ""
    return (
        f"too small to train: {LEAST_PHOTOS} photos are needed besides those of test, and there "
        f"are {photos}: add photos"
    )


def check_folder(root: Path) -> None:
    """Check that there is a folder.

    Raises:
        DatasetError: there is none, or it is a file.
    """
    if os.path.isfile(root):
        raise DatasetError(f"{root} is a file; give the folder with train_mini.csv and the photos")
    if not os.path.isdir(root):  # also False for names that are too long
        raise DatasetError(f"{root}: no such folder; give the folder of a dataset")


def splits_in(root: Path) -> list[str]:
    """Return the splits of which a dataset folder has a CSV.

    Raises:
        DatasetError: the folder is missing, or has neither a train nor a test CSV.
    """
    check_folder(root)
    present = [split for split in FILE_SPLITS if csv_path(root, split).is_file()]
    if not set(present) & {"train", "test"}:
        raise DatasetError(
            f"{root}: neither train_mini.csv nor test_mini.csv is here; choose the folder that "
            "contains them, or make one with python -m train demo-data, import-photos or download"
        )
    return present


def csv_path(root: Path, split: str) -> Path:
    """Return the path of a split's CSV."""
    return root / f"{split}_mini.csv"


def photo_paths(split: str, region: pd.Series, photo_id: pd.Series) -> pd.Series:
    """Return the paths (n,) of photos relative to the dataset folder, from regions and ids (n,)."""
    folder = region.fillna(UNKNOWN_REGION).str.replace(r"[/\\]", "_", regex=True)
    return f"{split}_images/" + folder + "/" + photo_id + ".jpg"


def read_description(root: Path) -> dict[str, Any]:
    """Return the content of ``dataset.json`` (name, synthetic, ...), empty if there is none.

    Raises:
        DatasetError: the file is not a JSON object.
    """
    path = root / DESCRIPTION_FILE
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except FileError as error:
        raise DatasetError(
            f"{path}: {error.reason.removeprefix('is ')}; correct it, or delete it if this is not "
            "a demo set"
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: must contain a JSON object with name and synthetic")
    return content


def write_description(root: Path, description: Mapping[str, Any]) -> None:
    """Write ``dataset.json`` into the folder of a dataset that this project made."""
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (root / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def check_output(output: Path, made_by: str) -> None:
    """Refuse to replace a folder that was not made by the command `made_by`.

    Raises:
        ValueError: `output` is a file, or a folder with other content.
        DatasetError: its ``dataset.json`` is not a JSON object.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; choose a folder for the dataset")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if read_description(output).get("made_by") != made_by:
        raise ValueError(
            f"{output} is not empty and was not made by {made_by}; choose another folder"
        )


def read_table(root: Path, split: str) -> pd.DataFrame:
    """Read the CSV of one split as rows of `PhotoDataset.table`.

    Raises:
        DatasetError: the file cannot be read, or a value is wrong.
    """
    path = csv_path(root, split)
    table, problems = parse(read_csv(path, WANTED, REQUIRED), path.name)
    problems.raise_first(
        "python -m train doctor DATASET --write-clean FOLDER writes CSVs without such rows"
    )
    table.insert(1, "path", photo_paths(split, table["state"], table["id"]))
    return table.assign(split=split)


def parse(frame: pd.DataFrame, file: str) -> tuple[pd.DataFrame, Problems]:
    """Turn text columns into the columns of `PhotoDataset.table`, and collect the wrong values.

    Args:
        frame: n rows of text from `read_csv`.
        file: Name of the CSV, for the problems.

    Returns:
        The table (n rows, no path and split), with wrong values set to missing, and the problems.
    """
    frame = frame.assign(id=whole_ids(frame["id"]))
    problems = Problems(frame, file)
    table = pd.DataFrame(index=frame.index)
    table["id"] = frame["id"]
    _check_ids(problems)
    latitude = problems.degrees("latitude", 90, required=True)
    longitude = problems.degrees("longitude", 180, required=True)
    nowhere = np.maximum(np.abs(latitude), np.abs(longitude)) < NULL_ISLAND_DEGREES
    problems.add("latitude", nowhere, "and longitude 0 stand for no position")
    table["latitude"] = np.where(nowhere, np.nan, latitude)
    table["longitude"] = np.where(nowhere, np.nan, longitude)
    table["captured_at"] = _times(problems)
    table["climate"] = _climates(problems)
    months = table["captured_at"].dt.month.sub(1).fillna(UNKNOWN)
    table["month"] = months.astype("int16")
    for place, columns in PLACES.items():
        table[place], table[f"{place}_key"] = _place(frame, place)
        for column in columns:
            if column in frame:
                long = frame[column].str.len().to_numpy() > MAX_TEXT
                problems.add(column, long, f"is longer than {MAX_TEXT} characters")
    dots = table["state"].isin([".", ".."]).to_numpy(dtype=bool)
    problems.add(PLACES["state"][0], dots, "cannot be the name of a folder")
    table["sequence"] = _text(frame, "sequence")
    return table, problems


def _check_ids(problems: Problems) -> None:
    ids = problems.frame["id"]
    empty = ids.str.strip().eq("").to_numpy()
    problems.add("id", empty, "is not an id; every photo needs one")
    rounded = ids.str.fullmatch(r"\d([.,]\d+)?[eE]\+?\d+|\d{16,}[.,]0+").to_numpy(dtype=bool)
    long_numbers = ids.str.fullmatch(r"\d{16,}").to_numpy(dtype=bool)
    if long_numbers.sum() >= MANY_IDS and ids[long_numbers].str.endswith("0").all():
        rounded |= long_numbers  # spreadsheets keep 15 digits
    problems.add("id", rounded, "was rounded by a spreadsheet; take the original CSV")
    unsafe = ids.str.contains(r"[/\\\x00-\x1f]|^\.", regex=True).to_numpy() & ~empty
    problems.add("id", unsafe, "cannot be a file name")
    long = ids.str.len().to_numpy() > MAX_TEXT
    problems.add("id", long, f"is longer than {MAX_TEXT} characters")
    twice = ids.duplicated().to_numpy() & ~empty
    problems.add("id", twice, "is also the id of an earlier row")


def _times(problems: Problems) -> pd.Series:
    frame = problems.frame
    if "captured_at" not in frame:
        return pd.Series(pd.NaT, index=frame.index, dtype="datetime64[ms, UTC]")
    number, wrong = parse_numbers(frame["captured_at"])
    reason = "is not a number; write milliseconds since 1970, in UTC"
    problems.add("captured_at", wrong, reason)
    number = problems.milliseconds(number)
    known = ~np.isnan(number)
    values = np.full(len(number), np.datetime64("NaT", "ms"))
    values[known] = number[known].astype(np.int64).astype("datetime64[ms]")
    times: pd.Series = pd.Series(values, index=frame.index).dt.tz_localize("UTC")
    return times


def _climates(problems: Problems) -> np.ndarray:
    frame = problems.frame
    if "climate" not in frame:
        return np.full(len(frame), UNKNOWN, dtype=np.int16)
    number, wrong = parse_numbers(frame["climate"])
    valid = (number >= 0) & (number <= 30) & (number == np.floor(number))
    wrong |= ~np.isnan(number) & ~valid
    problems.add("climate", wrong, "is not a climate code; use a whole number from 0 to 30")
    return index_of_code(np.where(valid, number, np.nan)).astype(np.int16)


def _text(frame: pd.DataFrame, column: str) -> "pd.Series[str]":
    if column not in frame:
        return pd.Series(pd.NA, index=frame.index, dtype="str")
    text = frame[column].str.strip()
    known: pd.Series[str] = text.mask(text.isin(MISSING_TEXT))
    return known


def _place(frame: pd.DataFrame, place: str) -> tuple[pd.Series, pd.Series]:
    """Return names (n,) and keys (n,) of a place; a missing column is built from the other."""
    name, unique = PLACES[place]
    names, keys = _text(frame, name), _text(frame, unique)
    if name not in frame:
        return keys.str.partition("_")[0] if len(keys) else keys, keys
    if unique not in frame:
        larger = list(PLACES)[: list(PLACES).index(place)]
        keys = names
        for other in reversed(larger):
            keys = keys + "_" + _text(frame, PLACES[other][0]).fillna("")
    # The file writes "_CX" as the key of a region that has no name.
    return names, keys.mask(names.isna())
