"""Predictions of any other system: a CSV of id, latitude and longitude, judged on our photos."""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from geoclip_core.earth.sphere import haversine_km
from geoclip_core.loops.predictions import TRUTH_COLUMNS, PredictionsError

MAX_BYTES = 200_000_000
_NAMES = {
    "id": ("id", "photo_id", "image_id", "file"),
    "latitude": ("latitude", "predicted_latitude", "lat"),
    "longitude": ("longitude", "predicted_longitude", "lon", "lng", "long"),
}


def read_guesses(source: str | Path | bytes, name: str = "the CSV") -> pd.DataFrame:
    """Read a CSV of guesses.

    Args:
        source: a file, or its content.
        name: what to call it in errors, for content.

    Returns:
        ``id`` (text), ``latitude``, ``longitude`` (degrees). A longitude between 180 and 360 is
        taken as counted eastwards.

    Raises:
        PredictionsError: naming the column, or the row as a spreadsheet counts it.
    """
    if not isinstance(source, bytes):
        name = Path(source).name
        try:
            if Path(source).stat().st_size > MAX_BYTES:
                raise PredictionsError(f"{name} is larger than {MAX_BYTES // 10**6} MB")
            source = Path(source).read_bytes()
        except OSError as error:
            raise PredictionsError(f"{name} cannot be read: {error.strerror}") from error
    if len(source) > MAX_BYTES:
        raise PredictionsError(f"{name} is larger than {MAX_BYTES // 10**6} MB")
    try:
        text = source.decode("utf-8-sig")
        if "\x00" in text:
            raise PredictionsError(f"{name} is not a text file")
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except UnicodeDecodeError as error:
        raise PredictionsError(f"{name} is not UTF-8 text: save it as CSV UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise PredictionsError(f"{name} is empty") from error
    except pd.errors.ParserError as error:
        raise PredictionsError(f"{name} is not a CSV: {error}") from error
    columns = {column.strip().lower(): column for column in table.columns}
    found = {
        wanted: next((columns[alias] for alias in aliases if alias in columns), None)
        for wanted, aliases in _NAMES.items()
    }
    missing = [wanted for wanted, column in found.items() if column is None]
    if missing:
        raise PredictionsError(
            f"{name} has no column {' or '.join(missing)}; its columns are "
            f"{', '.join(map(str, table.columns))}. It must have id, latitude, longitude"
        )
    guesses = pd.DataFrame({"id": table[found["id"]].str.strip()})
    for column, bound in (("latitude", 90.0), ("longitude", 360.0)):
        texts = table[found[column]].str.strip()
        values = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
        low = -90.0 if column == "latitude" else -180.0
        wrong = ~((values >= low) & (values <= bound))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise PredictionsError(
                f"{name}, row {row + 2}: the {column} {texts.iloc[row]!r} is not a number of "
                f"degrees between {low:g} and {-low:g}"
            )
        guesses[column] = values
    guesses["longitude"] = guesses["longitude"].where(
        guesses["longitude"] <= 180, guesses["longitude"] - 360
    )
    twice = guesses["id"].duplicated()
    if twice.any():
        raise PredictionsError(
            f"{name}: the id {guesses['id'][twice].iloc[0]!r} occurs twice; one guess a photo"
        )
    return guesses


def imported_predictions(guesses: pd.DataFrame, photos: pd.DataFrame) -> pd.DataFrame:
    """A predictions table of another system's guesses, for the photos that it answered.

    Args:
        guesses: :func:`read_guesses`.
        photos: rows with ``id``, ``latitude``, ``longitude``: a dataset's table or a predictions
            table. Ids may carry a folder or an ending in the CSV (``a/b/123.jpg`` is ``123``).

    Returns:
        The matched rows in the order of ``photos``; radii and density are missing, and there are
        no heads. ``attrs["unmatched"]`` is the number of guesses without a photo, and
        ``attrs["unanswered"]`` that of photos without a guess.

    Raises:
        PredictionsError: not one id matches.
    """
    ids = photos["id"].astype(str)
    keys = guesses["id"]
    if not keys.isin(set(ids)).any():
        keys = keys.str.replace("\\", "/", regex=False).str.rsplit("/", n=1).str[-1]
        keys = keys.str.replace(r"\.[A-Za-z]{3,4}$", "", regex=True)
    position = pd.Index(keys).get_indexer(pd.Index(ids)) if keys.is_unique else None
    if position is None:
        raise PredictionsError("two guesses name the same photo once folders are taken off")
    answered = position >= 0
    if not answered.any():
        raise PredictionsError(
            f"none of the {len(guesses):,} ids is a photo of this dataset "
            f"(it has ids like {ids.iloc[0]!r}, the CSV like {guesses['id'].iloc[0]!r})"
            if len(guesses) and len(ids)
            else "there are no guesses, or no photos, to match"
        )
    rows = photos[answered].reset_index(drop=True)
    guess = guesses[["latitude", "longitude"]].to_numpy(np.float64)[position[answered]]
    frame = rows[["id", "latitude", "longitude"]].copy()
    frame["id"] = frame["id"].astype(str)
    frame["predicted_latitude"], frame["predicted_longitude"] = guess[:, 0], guess[:, 1]
    frame["error_km"] = haversine_km(rows[["latitude", "longitude"]].to_numpy(np.float64), guess)
    for column in ("radius_50_km", "radius_90_km", "log_density"):
        frame[column] = np.nan
    for column in TRUTH_COLUMNS:
        if column in rows:
            frame[column] = rows[column]
    frame.attrs["unmatched"] = int(len(guesses) - answered.sum())
    frame.attrs["unanswered"] = int((~answered).sum())
    return frame
