"""A dataset: one table of photos with coordinates, time, context labels and a split."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.data.splits import spatial_split
from geoclip_core.data.vocabulary import Vocabulary, climate_vocabulary, month_vocabulary
from geoclip_core.earth.climate import UNKNOWN, index_of_code
from geoclip_core.errors import DatasetError

MISSING_TEXT = ("", "nan", "NaN", "<NA>")  # not "NA" (Namibia), not "None" (a town in Piedmont)
_MISSING_NUMBER = (*MISSING_TEXT, "NA", "N/A", "None", "none", "null", "NULL")


def read_csv_text(path: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    """The wanted columns (None: all) of any CSV that it has, as text, missing values as "".

    Raises:
        DatasetError: not a CSV in UTF-8, empty or ragged.
    """
    _check_start(path)
    try:
        # All columns, though some are dropped: with usecols, pandas lets too long rows pass.
        frame = pd.read_csv(path, dtype="str", na_filter=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError as error:
        raise DatasetError(f"{path}: the file has no header row") from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x}); "
            "save it again as CSV UTF-8"
        ) from error
    except pd.errors.ParserError as error:
        raise DatasetError(
            f"{path}: not a table: {str(error).strip()}; a text with a comma needs quotes around it"
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise DatasetError(
            f"{path}: not a table: its rows have more fields than its header; a text with a comma "
            "needs quotes around it"
        )
    frame.columns = frame.columns.str.strip()
    return frame if columns is None else frame[[name for name in frame if name in columns]]


def parse_numbers(text: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (n,) of text, NaN where missing or wrong, and which ones (n,) are wrong."""
    number = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    number = np.where(np.isinf(number), np.nan, number)
    missing = np.isnan(number)
    if missing.any():
        rest = text[missing].str.strip()
        missing[missing] = ~rest.isin(_MISSING_NUMBER).to_numpy(dtype=bool)
    return number, missing


def _check_start(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file") from error
    if not start:
        raise DatasetError(f"{path}: the file is empty; copy or download it again")
    if start.startswith(b"PK"):
        raise DatasetError(f"{path}: this is a ZIP archive or a spreadsheet, not a CSV")
    if start.startswith(b"\x1f\x8b"):
        raise DatasetError(f"{path}: this is a gzip archive, not a CSV; unpack it")
    if start.startswith(b"PAR1"):
        raise DatasetError(f"{path}: this is a Parquet file, not a CSV; write it as CSV")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DatasetError(f"{path}: this is UTF-16, not UTF-8; save it again as CSV UTF-8")


# "buffer" is written by this project only: photos of neither side, too close to both.
FILE_SPLITS = ("train", "test", "buffer")
UNKNOWN_REGION = "unknown"  # the folder of photos whose region is not known
DESCRIPTION_FILE = "dataset.json"
MAX_TEXT = 300  # longest id or place name that is believed

# Our column: the name in the file, and the unique key column beside it.
PLACES = {
    "country": ("country", "unique_country"),
    "state": ("region", "unique_region"),
    "county": ("sub-region", "unique_sub-region"),
    "city": ("city", "unique_city"),
}
WANTED = (
    "id",
    "latitude",
    "longitude",
    "captured_at",
    "climate",
    "sequence",
    *(column for pair in PLACES.values() for column in pair),
)
COLUMNS = (
    *("id", "latitude", "longitude", "thumb_original_url", "country", "sequence", "captured_at"),
    *("lon_bin", "lat_bin", "cell", "region", "sub-region", "city", "land_cover", "road_index"),
    *("drive_side", "climate", "soil", "dist_sea"),
    *(f"quadtree_10_{size}" for size in (500, 1000, 2500, 5000, 12500, 25000, 50000)),
    *("unique_country", "unique_region", "unique_sub-region", "unique_city"),
    *("creator_username", "creator_id"),
)

_CLEAN = "python -m train doctor DATASET --write-clean FOLDER writes CSVs without such rows"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Rows of one file whose value in one column cannot be used.

    Attributes:
        file: Name of the CSV.
        column: The column, by its name in the file.
        rows: (k,) positions in the file, from 0; a spreadsheet shows them two further down.
        values: The k values as written, shortened.
        reason: What is wrong and what would be right.
    """

    file: str
    column: str
    rows: np.ndarray
    values: tuple[str, ...]
    reason: str

    def sentence(self) -> str:
        """The problem in one line, with the first row named."""
        more = f" ({len(self.rows):,} such rows)" if len(self.rows) > 1 else ""
        return (
            f"{self.file}: column {self.column!r}, row {int(self.rows[0]) + 2}: "
            f"{self.values[0]!r} {self.reason}{more}"
        )


def csv_path(root: Path, split: str) -> Path:
    """Where the table of a split lies."""
    return root / f"{split}_mini.csv"


def photo_paths(split: str, region: pd.Series, photo_id: pd.Series) -> pd.Series:
    """Paths of photos, relative to the dataset folder."""
    folder = region.fillna(UNKNOWN_REGION).str.replace(r"[/\\]", "_", regex=True)
    return f"{split}_images/" + folder + "/" + photo_id + ".jpg"


def read_description(root: Path) -> dict[str, Any]:
    """The content of ``dataset.json`` (name, synthetic, ...), empty when there is none.

    Raises:
        DatasetError: the file is not a JSON object.
    """
    path = root / DESCRIPTION_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: not JSON ({error}); mend it, or delete it if this is not a demo set"
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: must hold a JSON object with name and synthetic")
    return content


def read_text(path: Path, columns: Sequence[str] | None = WANTED) -> pd.DataFrame:
    """The wanted columns (None: all) of a dataset's CSV, as `read_csv_text` gives them.

    Raises:
        DatasetError: as there, or it has no id, latitude or longitude.
    """
    frame = read_csv_text(path, columns)
    missing = [name for name in ("id", "latitude", "longitude") if name not in frame]
    if missing:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(300).strip()
        hint = "; the columns must be separated by commas" if ";" in header else ""
        raise DatasetError(
            f"{path}: no column {', '.join(map(repr, missing))} in the header {header!r}{hint}"
        )
    return frame


def parse(frame: pd.DataFrame, file: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Turn text columns into the columns of a dataset table, and say which rows are wrong.

    Args:
        frame: (n,) rows of text, as `read_text` gives them.
        file: Name of the CSV, for the problems.

    Returns:
        The table (n rows, without path and split) with unusable values missing, and the problems.
    """
    problems: list[Problem] = []

    def wrong(column: str, mask: np.ndarray, reason: str) -> None:
        rows = np.flatnonzero(mask)
        if len(rows):
            values = tuple(str(v)[:60] for v in frame[column].iloc[rows])
            problems.append(Problem(file, column, rows, values, reason))

    table = pd.DataFrame(index=frame.index)
    table["id"] = frame["id"]
    _check_ids(frame["id"], wrong)
    for column, limit in (("latitude", 90.0), ("longitude", 180.0)):
        number, bad = parse_numbers(frame[column])
        missing = np.isnan(number) & ~bad
        outside = ~bad & ~missing & ~(np.abs(number) <= limit)
        wrong(column, bad, "is not a number; degrees are written like -97.7431")
        wrong(column, missing, "is no coordinate; every photo needs one")
        wrong(column, outside, f"is outside -{limit:g} to {limit:g} degrees")
        table[column] = np.where(outside, np.nan, number)
    table["captured_at"] = _times(frame, wrong)
    table["climate"] = _climates(frame, wrong)
    months = table["captured_at"].dt.month.sub(1).fillna(UNKNOWN)
    table["month"] = months.astype("int16")
    for place, (name, unique) in PLACES.items():
        table[place], table[f"{place}_key"] = _place(frame, place, name, unique)
        for column in (name, unique):
            if column in frame:
                long = frame[column].str.len().to_numpy() > MAX_TEXT
                wrong(column, long, f"is longer than {MAX_TEXT} characters")
    dots = table["state"].isin([".", ".."]).to_numpy(dtype=bool)
    wrong(PLACES["state"][0], dots, "is no name for a folder of photos")
    table["sequence"] = _text(frame, "sequence")
    return table, problems


def raise_first(problems: Sequence[Problem]) -> None:
    """Raise the first of the problems, if any.

    Raises:
        DatasetError: naming it, how many more there are, and what to do.
    """
    if problems:
        more = f" {len(problems) - 1} more kinds of problems follow." if problems[1:] else ""
        raise DatasetError(f"{problems[0].sentence()}.{more} {_CLEAN}.")


def _check_ids(ids: pd.Series, wrong: Any) -> None:
    text = ids.str.strip()
    empty = text.eq("").to_numpy()
    wrong("id", empty, "is no id; every photo needs one")
    rounded = ids.str.fullmatch(r"\d(\.\d+)?[eE]\+?\d+").to_numpy()
    wrong("id", rounded, "was rounded by a spreadsheet; take the original CSV")
    unsafe = ids.str.contains(r"[/\\\x00-\x1f]|^\.", regex=True).to_numpy() & ~empty
    wrong("id", unsafe, "cannot be a file name")
    wrong("id", ids.str.len().to_numpy() > MAX_TEXT, f"is longer than {MAX_TEXT} characters")
    twice = ids.duplicated().to_numpy() & ~empty
    wrong("id", twice, "is the id of an earlier row too")


def _times(frame: pd.DataFrame, wrong: Any) -> pd.Series:
    if "captured_at" not in frame:
        return pd.Series(pd.NaT, index=frame.index, dtype="datetime64[ms, UTC]")
    number, bad = parse_numbers(frame["captured_at"])
    wrong("captured_at", bad, "is not a number; it is milliseconds since 1970, in UTC")
    # Seconds read as milliseconds fall into 1970, microseconds far beyond 2100.
    outside = (number < -4.6e12) | ((number >= 0) & (number < 31.6e9)) | (number >= 4.1e12)
    wrong("captured_at", outside, "is not milliseconds since 1970; is it seconds or microseconds?")
    number[outside] = np.nan
    known = ~np.isnan(number)
    values = np.full(len(number), np.datetime64("NaT", "ms"))
    values[known] = number[known].astype(np.int64).astype("datetime64[ms]")
    return pd.Series(values, index=frame.index).dt.tz_localize("UTC")


def _climates(frame: pd.DataFrame, wrong: Any) -> np.ndarray:
    if "climate" not in frame:
        return np.full(len(frame), UNKNOWN, dtype=np.int16)
    number, bad = parse_numbers(frame["climate"])
    known = ~np.isnan(number)
    fine = (number >= 0) & (number <= 30) & (number == np.floor(number))
    bad |= known & ~fine
    wrong("climate", bad, "is no climate code: they are whole numbers from 0 to 30")
    return index_of_code(np.where(fine, number, np.nan)).astype(np.int16)


def _text(frame: pd.DataFrame, column: str) -> pd.Series:
    if column not in frame:
        return pd.Series(pd.NA, index=frame.index, dtype="str")
    text = frame[column].str.strip()
    return text.mask(text.isin(MISSING_TEXT))


def _place(frame: pd.DataFrame, place: str, name: str, unique: str) -> tuple[pd.Series, pd.Series]:
    names, keys = _text(frame, name), _text(frame, unique)
    if name not in frame:
        return keys.str.partition("_")[0] if len(keys) else keys, keys
    if unique not in frame:
        larger = list(PLACES)[: list(PLACES).index(place)]
        keys = names
        for other in reversed(larger):
            keys = keys + "_" + _text(frame, PLACES[other][0]).fillna("")
    # "_CX" is how the file writes the key of a region that has no name.
    return names, keys.mask(names.isna())


SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class PhotoDataset:
    """Photos of one folder.

    Attributes:
        root: The folder; paths in the table are relative to it.
        name: What to call the dataset.
        table: One row a photo. id, path, latitude, longitude (degrees), captured_at (UTC or NaT),
            climate (class index or -100), month (0-11 or -100), country, state, county, city
            (names or NA), country_key, state_key, county_key, city_key (unique, or NA), sequence
            (or NA), split ("train", "val", "test", or "buffer": left out because closer than 1 km
            to a val photo and not in val).
        synthetic: Whether the photos were drawn by this project and show no real place.
    """

    root: Path
    name: str
    table: pd.DataFrame
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.table)

    def split(self, name: str) -> "PhotoDataset":
        """The photos of one split: "train", "val", "test" or "buffer".

        Raises:
            DatasetError: no such split. A split without photos is an empty dataset.
        """
        if name not in (*SPLITS, "buffer"):
            raise DatasetError(f"no split {name!r}; there are {', '.join(SPLITS)} and buffer")
        return self.select((self.table["split"] == name).to_numpy())

    def select(self, rows: np.ndarray) -> "PhotoDataset":
        """The photos at positions (k,) or under a boolean mask (n,)."""
        table = self.table.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows]
        return dataclasses.replace(self, table=table.reset_index(drop=True))

    @property
    def coordinates(self) -> np.ndarray:
        """Latitude and longitude in degrees, (n, 2) float64."""
        return self.table[["latitude", "longitude"]].to_numpy(dtype=np.float64)

    @property
    def paths(self) -> list[Path]:
        """The n photo files; whether they exist is not looked up."""
        return [self.root / path for path in self.table["path"]]

    def keys(self, feature: str) -> pd.Series:
        """The vocabulary keys of one feature, (n,) text, NA where unknown."""
        if feature in ("climate", "month"):
            vocabulary = climate_vocabulary() if feature == "climate" else month_vocabulary()
            index = self.table[feature].to_numpy()
            known = np.where(index < 0, len(vocabulary), index)
            keys = np.array([*vocabulary.keys, None], dtype=object)[known]
            return pd.Series(keys, index=self.table.index, dtype="str")
        return self.table[f"{feature}_key"]

    def labels(self, vocabularies: Mapping[str, Vocabulary]) -> dict[str, np.ndarray]:
        """Class indices of every vocabulary's feature, each (n,) int64, -100 where unknown."""
        return {name: vocab.encode(self.keys(name)) for name, vocab in vocabularies.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every column of the table in its order: 16 hexadecimal digits.

        Another label or another split is another dataset to whoever keeps results by this name.
        """
        digest = hashlib.sha256("\n".join(self.table.columns).encode())
        rows = pd.util.hash_pandas_object(self.table, index=False)
        digest.update(rows.to_numpy(dtype="<u8").tobytes())
        return digest.hexdigest()[:16]


def read_dataset(root: Path | str, *, val_fraction: float = 0.1, seed: int = 0) -> PhotoDataset:
    """Read a folder in the layout of OSV-Mini-129k.

    Args:
        root: Folder with ``train_mini.csv`` or ``test_mini.csv`` or both.
        val_fraction: Share of the training rows that becomes val, by spatial blocks; 0 for none.
        seed: Which blocks become val.

    Raises:
        DatasetError: nothing to read, or a wrong value, with its file, column and row.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    description = read_description(root)
    files = {s: csv_path(root, s) for s in FILE_SPLITS}
    present = {split: path for split, path in files.items() if path.is_file()}
    if not set(present) & {"train", "test"}:
        raise DatasetError(
            f"{root}: neither train_mini.csv nor test_mini.csv is here; choose the folder that "
            "holds them, or make one with python -m train demo-data, import-photos or download"
        )
    tables = []
    for split, path in present.items():
        table, problems = parse(read_text(path), path.name)
        raise_first(problems)
        table.insert(1, "path", photo_paths(split, table["state"], table["id"]))
        table["split"] = split
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    if not len(table):
        raise DatasetError(f"{root}: {' and '.join(p.name for p in present.values())} have no rows")
    train = (table["split"] == "train").to_numpy()
    if train.any() and val_fraction > 0:
        part = table.loc[train, ["latitude", "longitude", "sequence"]]
        table.loc[train, "split"] = spatial_split(
            part[["latitude", "longitude"]].to_numpy(),
            val_fraction,
            seed=seed,
            sequences=part["sequence"],
        )
    name = description.get("name")
    return PhotoDataset(
        root=root,
        name=name if isinstance(name, str) and name else root.resolve().name,
        table=table,
        synthetic=description.get("synthetic") is True,
    )
