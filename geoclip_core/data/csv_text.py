"""CSV files that nobody vouches for, read as text: errors that say what a file is instead."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

MISSING_TEXT = ("", "nan", "NaN", "<NA>")  # not "NA" (Namibia), not "None" (a town in Piedmont)
_MISSING_NUMBER = (*MISSING_TEXT, "NA", "N/A", "None", "none", "null", "NULL")


class DatasetError(ValueError):
    """A dataset that cannot be read; the message names file, column and row, and what to do."""


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
