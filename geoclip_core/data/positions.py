"""A CSV that says where and when photos were taken: file, latitude, longitude, captured_at."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from geoclip_core.data.csv_text import DatasetError, parse_numbers, read_csv_text


@dataclasses.dataclass(frozen=True)
class Position:
    """Where and when a photo was taken.

    Attributes:
        latitude: Degrees, or None when the CSV leaves it empty.
        longitude: Degrees, or None.
        captured_at: Milliseconds since 1970, UTC, or None.
    """

    latitude: float | None
    longitude: float | None
    captured_at: int | None


class Positions:
    """The rows of such a CSV, found by a photo's path below the imported folder, or by its name."""

    def __init__(self, rows: dict[str, Position]) -> None:
        self._rows = rows
        names = pd.Series([Path(file).name for file in rows], dtype="str")
        alone = names[~names.duplicated(keep=False)]
        self._by_name = {name: list(rows)[i] for i, name in alone.items()}
        self._used: set[str] = set()

    def find(self, file: str) -> Position | None:
        """The position of a photo, given its path below the folder with "/" between the parts."""
        key = file if file in self._rows else self._by_name.get(Path(file).name)
        # A row that names another folder is about another photo of the same name.
        if key is None or (key != file and "/" in key):
            return None
        self._used.add(key)
        return self._rows[key]

    def unused(self) -> list[str]:
        """Files of the CSV that no photo was found for, in its order."""
        return [file for file in self._rows if file not in self._used]


def read_positions(path: Path) -> Positions:
    """Read the CSV; captured_at may be missing, ISO 8601 (UTC without a zone) or milliseconds.

    Raises:
        DatasetError: not such a CSV, or a wrong value, with its column and row.
    """
    frame = read_csv_text(path, ("file", "latitude", "longitude", "captured_at"))
    missing = [name for name in ("file", "latitude", "longitude") if name not in frame]
    if missing:
        raise DatasetError(f"{path}: no column {', '.join(map(repr, missing))}")
    files = frame["file"].str.strip().str.replace("\\", "/").str.removeprefix("./")
    _refuse(path, "file", frame, files.eq("").to_numpy(), "is no file name")
    _refuse(path, "file", frame, files.duplicated().to_numpy(), "is in an earlier row too")
    values = {}
    for column, limit in (("latitude", 90), ("longitude", 180)):
        values[column], wrong = parse_numbers(frame[column])
        _refuse(path, column, frame, wrong, "is not a number; degrees are written like -97.7431")
        outside = np.abs(values[column]) > limit
        _refuse(path, column, frame, outside, f"is outside -{limit} to {limit} degrees")
    times = _times(path, frame)
    rows = {}
    for i, file in enumerate(files):
        latitude, longitude = (float(values[column][i]) for column in ("latitude", "longitude"))
        known = not (np.isnan(latitude) or np.isnan(longitude))
        rows[file] = Position(latitude if known else None, longitude if known else None, times[i])
    return Positions(rows)


def _times(path: Path, frame: pd.DataFrame) -> list[int | None]:
    if "captured_at" not in frame:
        return [None] * len(frame)
    text = frame["captured_at"].str.strip()
    number, _ = parse_numbers(text)
    dates = pd.to_datetime(
        text.where(np.isnan(number)), utc=True, errors="coerce", format="ISO8601"
    )
    wrong = (dates.isna() & ~text.isin(["", "nan", "NaN"])).to_numpy() & np.isnan(number)
    reason = "is not a time; write 2024-07-31T14:05:00Z, or milliseconds since 1970"
    _refuse(path, "captured_at", frame, wrong, reason)
    outside = (number < -4.6e12) | ((number >= 0) & (number < 31.6e9)) | (number >= 4.1e12)
    reason = "is not milliseconds since 1970; is it seconds or microseconds?"
    _refuse(path, "captured_at", frame, outside, reason)
    dates = dates.dt.as_unit("ms").astype("int64").where(dates.notna())
    merged = np.where(np.isnan(number), dates.to_numpy(dtype=np.float64, na_value=np.nan), number)
    return [None if np.isnan(value) else int(value) for value in merged]


def _refuse(path: Path, column: str, frame: pd.DataFrame, wrong: np.ndarray, reason: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = str(frame[column].iloc[row])[:60]
        raise DatasetError(f"{path}: column {column!r}, row {row + 2}: {value!r} {reason}")
