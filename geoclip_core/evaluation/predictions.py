"""Make, check, write and read predictions tables."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.files import atomic_file

if TYPE_CHECKING:  # imports torch, which the Evaluation page must not wait for
    from geoclip_core.data.dataset import PhotoDataset
    from geoclip_core.model.geolocation import Estimate
    from geoclip_core.model.posterior import Posterior

CORE_COLUMNS = (
    "id",
    "latitude",
    "longitude",
    "predicted_latitude",
    "predicted_longitude",
    "error_km",
    "radius_50_km",
    "radius_90_km",
    "log_density",
)
"""Columns that every predictions table has."""

CANDIDATE_COLUMNS = ("candidate_latitudes", "candidate_longitudes", "candidate_probabilities")

TRUTH_COLUMNS = (
    "path",
    "country_key",
    "state_key",
    "county_key",
    "city_key",
    "climate",
    "month",
    "sequence",
)
"""Columns copied from the dataset, as far as it has them."""

HEAD_SUFFIXES = ("truth", "top1", "probability", "rank", "truth_probability")
"""Suffixes of the columns of a context head: ``climate_truth``, ``climate_top1``, ..."""

TOP_K = 5
MAX_BYTES = 200_000_000
_ABOUT = b"geolocation_predictions"
_NAMES = {
    "id": ("id", "photo_id", "image_id", "file"),
    # predicted first: in a table with both, latitude and longitude are the truth
    "latitude": ("predicted_latitude", "latitude", "lat"),
    "longitude": ("predicted_longitude", "longitude", "lon", "lng", "long"),
}
"""Column of guesses -> its names in a CSV."""


class PredictionsError(ValueError):
    """A predictions table cannot be used; the message names the wrong column or row."""


def predictions_frame(
    dataset: "PhotoDataset",
    estimates: "Iterable[Estimate]",
    vocabularies: Mapping[str, Vocabulary],
) -> pd.DataFrame:
    """Return a predictions table of estimates and the truth.

    Args:
        dataset: n photos.
        estimates: n estimates in the order of the photos, calibrated if the model is.
        vocabularies: context feature -> vocabulary of the model.

    Returns:
        n rows with :data:`CORE_COLUMNS`, :data:`CANDIDATE_COLUMNS`, the five columns of each head
        (:data:`HEAD_SUFFIXES`) and :data:`TRUTH_COLUMNS`. ``rank`` counts from 1; ties go to the
        lower class index, as in ``top1``. If the truth is missing, or not in the vocabulary,
        ``truth``, ``rank`` and ``truth_probability`` are missing.

    Raises:
        PredictionsError: the number of estimates differs from the number of photos, or a head has
            no vocabulary or one of another length.
    """
    table = dataset.table.reset_index(drop=True)
    truth = np.asarray(dataset.coordinates, dtype=np.float64)
    labels = dataset.labels(vocabularies)
    places: list[dict[str, Any]] = []
    heads: dict[str, list[NDArray[np.float64]]] = {}
    for row, estimate in enumerate(estimates):
        if row >= len(table):
            raise PredictionsError(f"more estimates than the {len(table)} photos of the dataset")
        places.append(_place(estimate.posterior, truth[row]))
        for feature, probabilities in estimate.context.items():
            heads.setdefault(feature, []).append(np.asarray(probabilities, dtype=np.float64))
    if len(places) != len(table):
        raise PredictionsError(f"{len(places)} estimates for {len(table)} photos")

    frame = pd.DataFrame({"id": table["id"].astype(str)})
    frame["latitude"], frame["longitude"] = truth[:, 0], truth[:, 1]
    best = np.array([place.pop("best") for place in places], dtype=np.float64).reshape(-1, 2)
    frame["predicted_latitude"], frame["predicted_longitude"] = best[:, 0], best[:, 1]
    frame["error_km"] = haversine_km(truth, best)
    for column in ("radius_50_km", "radius_90_km", "log_density", *CANDIDATE_COLUMNS):
        values = pd.Series([place[column] for place in places])
        frame[column] = values if column in CANDIDATE_COLUMNS else values.astype(np.float64)
    for feature, rows in heads.items():
        if feature not in vocabularies:
            raise PredictionsError(f"the head {feature!r} has no vocabulary")
        if len(rows) != len(table):
            raise PredictionsError(f"the head {feature!r} is missing from some estimates")
        columns = _head_columns(feature, rows, labels[feature], vocabularies[feature])
        frame = pd.concat([frame, columns], axis=1)
    for column in TRUTH_COLUMNS:
        if column in table:
            text = column not in ("climate", "month")
            frame[column] = table[column].astype("str") if text else table[column]
    return frame


def _place(posterior: "Posterior", truth: NDArray[np.float64]) -> dict[str, Any]:
    """Return the place columns of one photo."""
    best = posterior.mode()
    candidates = posterior.top_k(TOP_K)
    half, most = posterior.radii_km((0.5, 0.9), best)
    return {
        "best": (float(best[0]), float(best[1])),
        "radius_50_km": float(half),
        "radius_90_km": float(most),
        "log_density": float(np.asarray(posterior.log_density(truth[None])).reshape(-1)[0]),
        "candidate_latitudes": [float(candidate[0]) for candidate in candidates],
        "candidate_longitudes": [float(candidate[1]) for candidate in candidates],
        "candidate_probabilities": [float(candidate[2]) for candidate in candidates],
    }


def _head_columns(
    feature: str,
    rows: Sequence[NDArray[np.float64]],
    labels: NDArray[np.int64],
    vocabulary: Vocabulary,
) -> pd.DataFrame:
    """Return the five columns of a head from its probabilities, (classes,) for each photo."""
    for row in rows:
        if row.shape != (len(vocabulary),):
            raise PredictionsError(
                f"head {feature!r}: {row.shape} probabilities for a vocabulary of {len(vocabulary)}"
            )
    probabilities, photos, known = np.stack(rows), np.arange(len(rows)), labels >= 0
    top = probabilities.argmax(axis=1)
    own = probabilities[photos, np.where(known, labels, 0)]
    ties = probabilities == own[:, None]
    ahead = (probabilities > own[:, None]) | (ties & (np.arange(len(vocabulary)) < labels[:, None]))
    keys = np.asarray([*vocabulary.keys, None], dtype=object)  # the last one: no truth
    return pd.DataFrame(
        {
            f"{feature}_truth": pd.Series(keys[np.where(known, labels, -1)], dtype="str"),
            f"{feature}_top1": pd.Series(keys[top], dtype="str"),
            f"{feature}_probability": probabilities[photos, top].astype(np.float32),
            f"{feature}_rank": pd.Series(1 + ahead.sum(axis=1), dtype="Int32").mask(~known),
            f"{feature}_truth_probability": np.where(known, own, np.nan).astype(np.float32),
        }
    )


def head_features(frame: pd.DataFrame) -> list[str]:
    """Return the context features for which a table has all :data:`HEAD_SUFFIXES`."""
    names = [column.removesuffix("_top1") for column in frame.columns if column.endswith("_top1")]
    return [n for n in names if all(f"{n}_{suffix}" in frame for suffix in HEAD_SUFFIXES)]


def validate_predictions(frame: pd.DataFrame, source: str = "predictions") -> pd.DataFrame:
    """Return the table if it can be evaluated; ``source`` is its name in error messages.

    Raises:
        PredictionsError: a core column is missing, an id occurs twice, a coordinate is missing or
            out of range, or an error is missing or negative.
    """
    missing = [column for column in CORE_COLUMNS if column not in frame]
    if missing:
        raise PredictionsError(f"{source}: columns are missing: {', '.join(missing)}")
    twice = frame["id"].duplicated()
    if twice.any():
        raise PredictionsError(f"{source}: the id {frame['id'][twice].iloc[0]!r} occurs twice")
    for column, bound in (
        ("latitude", 90),
        ("predicted_latitude", 90),
        ("longitude", 180),
        ("predicted_longitude", 180),
    ):
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64)
        wrong = ~(np.abs(values) <= bound)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise PredictionsError(
                f"{source}: {column} of id {frame['id'].iloc[row]!r} is "
                f"{frame[column].iloc[row]!r}; it must lie between -{bound} and {bound} degrees"
            )
    errors = frame["error_km"].to_numpy(np.float64)
    if not np.all(errors >= 0):
        raise PredictionsError(f"{source}: error_km has missing or negative values")
    return frame


def write_predictions(
    frame: pd.DataFrame, path: str | Path, about: Mapping[str, Any] | None = None
) -> Path:
    """Write a predictions table as Parquet, atomically, and return the path.

    ``about`` (JSON values) describes the table: model, dataset, split, note, ...
    """
    path = Path(path)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    described = {_ABOUT: json.dumps(dict(about or {})).encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **described})
    with atomic_file(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")
    return path


def read_predictions(path: str | Path, *, candidates: bool = True) -> pd.DataFrame:
    """Return a predictions table after checking it.

    Without ``candidates`` their columns, most of the memory of a large table, are left out.

    Raises:
        PredictionsError: the file is missing, is not Parquet, or cannot be evaluated.
    """
    try:
        names = pq.read_schema(path).names
        columns = [name for name in names if candidates or name not in CANDIDATE_COLUMNS]
        frame = pd.read_parquet(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise PredictionsError(f"{path}: not a readable predictions table ({error})") from error
    return validate_predictions(frame, str(path))


def read_about(path: str | Path) -> dict[str, Any]:
    """Return the ``about`` of :func:`write_predictions`; {} if there is none.

    Raises:
        PredictionsError: the file cannot be read.
    """
    try:
        text = (pq.read_schema(path).metadata or {}).get(_ABOUT, b"{}")
    except (OSError, pa.ArrowException) as error:
        raise PredictionsError(f"{path}: not a readable predictions table ({error})") from error
    about: dict[str, Any] = json.loads(text)
    return about


def read_candidates(path: str | Path, photo_id: str) -> list[tuple[float, float, float]]:
    """Return the candidates (latitude, longitude, probability) of one photo.

    The list is empty if the table has no candidates or no such photo.
    """
    names = pq.read_schema(path).names
    if not all(column in names for column in CANDIDATE_COLUMNS):
        return []
    rows = pq.read_table(path, columns=list(CANDIDATE_COLUMNS), filters=[("id", "=", photo_id)])
    if rows.num_rows == 0:
        return []
    row = rows.slice(0, 1).to_pylist()[0]
    return list(zip(*(row[column] or [] for column in CANDIDATE_COLUMNS), strict=False))


def read_guesses(source: str | Path | bytes, name: str = "the CSV") -> pd.DataFrame:
    """Return the guesses of another system from a CSV file, or from the content of one.

    Args:
        source: path or content.
        name: name of the content in error messages.

    Returns:
        ``id`` (text), ``latitude``, ``longitude`` (degrees). Longitudes between 180 and 360 are
        accepted and wrapped.

    Raises:
        PredictionsError: the file cannot be used; the message names the column or row, counted as
            in a spreadsheet.
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
            f"{name}: the id {guesses['id'][twice].iloc[0]!r} occurs twice; give one per photo"
        )
    return guesses


def imported_predictions(guesses: pd.DataFrame, photos: pd.DataFrame) -> pd.DataFrame:
    """Return a predictions table of another system's guesses, for the photos that have one.

    Args:
        guesses: result of :func:`read_guesses`; ids may have a folder and an extension
            (``a/b/123.jpg`` for ``123``).
        photos: a dataset's table or a predictions table.

    Returns:
        The matched rows in the order of ``photos``, without radii, density and heads.
        ``attrs["unmatched"]`` is the number of guesses without a photo, ``attrs["unanswered"]``
        that of photos without a guess.

    Raises:
        PredictionsError: no id matches, or two guesses are for the same photo.
    """
    ids = photos["id"].astype(str)
    keys = guesses["id"]
    if not keys.isin(set(ids)).any():
        keys = keys.str.replace("\\", "/", regex=False).str.rsplit("/", n=1).str[-1]
        keys = keys.str.replace(r"\.[A-Za-z]{3,4}$", "", regex=True)
    position = pd.Index(keys).get_indexer(pd.Index(ids)) if keys.is_unique else None
    if position is None:
        raise PredictionsError(
            "two ids are the same without folder and extension: give one guess per photo"
        )
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
    frame: pd.DataFrame = rows[["id", "latitude", "longitude"]].copy()
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
