"""The file layout of OSV-Mini-129k: its CSV columns, read strictly, and where its photos lie.

A dataset folder holds ``train_mini.csv`` and ``test_mini.csv`` and the photos at
``{split}_images/{region}/{id}.jpg``. Everything is read as text first, so that an id of sixteen
digits stays exact, "NA" stays Namibia, and a wrong value can be named with its row.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.data.csv_text import MISSING_TEXT, DatasetError, parse_numbers, read_csv_text
from geoclip_core.earth.climate import UNKNOWN, index_of_code

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
