"""Make, check, write and read predictions tables."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from annotated_types import Len
from numpy.typing import NDArray

from geoclip_core.checks import checked, shown
from geoclip_core.data.tables import NAMES_AS_IDS, Problems, read_csv, whole_ids
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.earth.gazetteer import UNIT_LEVELS
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.errors import DatasetError, FileError, first_line
from geoclip_core.files import MAX_TEXT, atomic_file, open_file, parse_json, readable
from geoclip_core.model.map_context import place_levels
from geoclip_core.processes import Progress

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

LEVEL_COLUMNS = tuple(
    f"level_{level}{end}" for level in UNIT_LEVELS for end in ("", "_probability")
)
"""Key and probability of the most probable unit at each level of `Prediction.levels`; a table of
another system, or of an older version, lacks them."""

CLAIM_COLUMNS = ("truth_rank", "truth_p_value", "other_rank", "other_p_value", "held_out_photos")
"""The true place and the place of another photo as claims: `Posterior.misfit`, the p-value if
the model has one, and the number of held-out photos that it is judged by. `Calibration.ranks_of`
says what the misfit is."""

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
"""Bytes of the largest table that is read; 119,008 photos take 30 MB."""
MAX_ROWS, MAX_COLUMNS, MAX_MEMORY = 2_000_000, 1000, 800_000_000
"""Rows and columns of the largest table, and bytes that its numbers, or one text column, take."""
FARTHEST_KM = 20_100.0
"""Just above half of the Earth's circumference."""
_AT_ONCE = 64
"""Posteriors that are summarised at once."""
_Note = Annotated[str, Len(0, 4000)]
_LIMITS = {
    "latitude": (-90.0, 90.0, True),
    "predicted_latitude": (-90.0, 90.0, True),
    "longitude": (-180.0, 180.0, True),
    "predicted_longitude": (-180.0, 180.0, True),
    "error_km": (0.0, FARTHEST_KM, True),
    "radius_50_km": (0.0, FARTHEST_KM, False),
    "radius_90_km": (0.0, FARTHEST_KM, False),
    "log_density": (-1e15, 1e3, False),
    "climate": (float("-inf"), 29.0, False),
    "month": (float("-inf"), 11.0, False),
}
"""Number column -> lowest and highest value, and whether it may not be missing."""
_TEXTS = ("id", "path", "sequence")
_DESCRIPTION = "its description"
_ABOUT = b"geolocation_predictions"


class PredictionsError(ValueError):
    """A predictions table cannot be used; the message names the wrong column or row."""


def predictions_frame(
    dataset: "PhotoDataset",
    estimates: "Iterable[Estimate]",
    vocabularies: Mapping[str, Vocabulary],
    folds: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Return a predictions table of estimates and the truth.

    Args:
        dataset: n photos.
        estimates: n estimates in the order of the photos, calibrated if the model is.
        vocabularies: context feature -> vocabulary of the model.
        folds: (n,) of a cross-validation. The other place that a photo is compared with is one of
            the same fold, as the model knows the places of the other folds.

    Returns:
        n rows with :data:`CORE_COLUMNS`, :data:`CANDIDATE_COLUMNS`, :data:`LEVEL_COLUMNS`,
        :data:`CLAIM_COLUMNS`, the five columns of each head (:data:`HEAD_SUFFIXES`) and
        :data:`TRUTH_COLUMNS`. ``rank`` counts from 1; ties go to the lower class index, as in
        ``top1``. If the truth is missing, or not in the vocabulary, ``truth``, ``rank`` and
        ``truth_probability`` are missing.

    Raises:
        PredictionsError: the number of estimates differs from the number of photos, or a head has
            no vocabulary or one of another length.
    """
    table = dataset.table.reset_index(drop=True)
    truth = np.asarray(dataset.coordinates, dtype=np.float64)
    labels = dataset.labels(vocabularies)
    places: list[dict[str, Any]] = []
    heads: dict[str, list[NDArray[np.float64]]] = {}
    others = _other_places(truth, folds)
    rest = iter(estimates)
    # numpy and the tree of places release the lock of the interpreter
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(islice(rest, _AT_ONCE)):
            first, last = len(places), len(places) + len(some)
            if last > len(table):
                raise PredictionsError(f"more estimates than the dataset's {len(table)} photos")
            posteriors = [estimate.posterior for estimate in some]
            places += pool.map(_place, posteriors, truth[first:last], others[first:last])
            for estimate in some:
                for feature, probabilities in estimate.context.items():
                    shares = np.asarray(probabilities, dtype=np.float64)
                    heads.setdefault(feature, []).append(shares)
    if len(places) != len(table):
        raise PredictionsError(f"{len(places)} estimates for {len(table)} photos")

    frame = pd.DataFrame({"id": table["id"].astype(str)})
    frame["latitude"], frame["longitude"] = truth[:, 0], truth[:, 1]
    best = np.array([place.pop("best") for place in places], dtype=np.float64).reshape(-1, 2)
    frame["predicted_latitude"], frame["predicted_longitude"] = best[:, 0], best[:, 1]
    frame["error_km"] = haversine_km(truth, best)
    for column in (
        *("radius_50_km", "radius_90_km", "log_density"),
        *CLAIM_COLUMNS,
        *CANDIDATE_COLUMNS,
    ):
        values = pd.Series([place[column] for place in places])
        frame[column] = values if column in CANDIDATE_COLUMNS else values.astype(np.float64)
    for column in LEVEL_COLUMNS:
        values = pd.Series([place["levels"].get(column) for place in places], dtype=object)
        number = column.endswith("_probability")
        frame[column] = values.astype(np.float64) if number else values.astype("str")
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


def core_frame(
    dataset: "PhotoDataset", posteriors: "Iterable[Posterior]", progress: Progress
) -> pd.DataFrame:
    """Return the :data:`CORE_COLUMNS` of n photos alone, in a fraction of the time.

    Args:
        dataset: n photos.
        posteriors: their posteriors, calibrated if the model is.
        progress: called after each photo with (photos done, all photos).
    """
    truth = np.asarray(dataset.coordinates, dtype=np.float64)
    rows = []
    for place, posterior in zip(truth, posteriors, strict=True):
        best = posterior.mode()
        radii = posterior.radii_km((0.5, 0.9), best)
        rows.append((*best, *radii, float(posterior.log_density(place[None])[0])))
        progress(len(rows), len(truth))
    values = np.array(rows, dtype=np.float64).reshape(-1, 5)
    columns = (
        *(dataset.table["id"].astype(str).reset_index(drop=True), truth[:, 0], truth[:, 1]),
        *(values[:, 0], values[:, 1], haversine_km(truth, values[:, :2])),
        *(values[:, 2], values[:, 3], values[:, 4]),
    )
    return pd.DataFrame(dict(zip(CORE_COLUMNS, columns, strict=True)))


def _other_places(
    truth: NDArray[np.float64], folds: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """Return for each photo the place (n, 2) of another one of its fold, each used once."""
    rng, others = np.random.default_rng(0), np.empty_like(truth)
    for fold in (None,) if folds is None else np.unique(folds):
        rows = np.arange(len(truth)) if folds is None else np.flatnonzero(folds == fold)
        order = rng.permutation(rows)
        others[order] = truth[np.roll(order, 1)]
    return others


def _place(
    posterior: "Posterior", truth: NDArray[np.float64], other: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the place columns of one photo."""
    ranks = posterior.misfit(np.stack([truth, other]))
    p_values = posterior.p_values(ranks)
    if p_values is None:
        p_values = np.full(2, np.nan)
    if np.array_equal(truth, other):  # there is no other photo
        ranks[1] = p_values[1] = np.nan
    held_out = 0 if posterior.held_out_ranks is None else len(posterior.held_out_ranks)
    claims = (ranks[0], p_values[0], ranks[1], p_values[1], held_out)
    levels: dict[str, Any] = {}
    for level in place_levels(posterior):
        levels[f"level_{level.level}"] = level.key
        levels[f"level_{level.level}_probability"] = level.probability
    best = posterior.mode()
    candidates = posterior.top_k(TOP_K)
    half, most = posterior.radii_km((0.5, 0.9), best)
    return {
        "levels": levels,
        **dict(zip(CLAIM_COLUMNS, claims, strict=True)),
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
    if frame["id"].isna().any():
        row = int(np.flatnonzero(frame["id"].isna())[0])
        raise PredictionsError(f"{source}: row {row + 1} has no id")
    twice = frame["id"].duplicated()
    if twice.any():
        raise PredictionsError(f"{source}: the id {shown(frame['id'][twice].iloc[0])} occurs twice")
    for column, (low, high, required) in _limits(frame).items():
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        wrong = ~((values >= low) & (values <= high))
        if not required:
            wrong &= frame[column].notna().to_numpy()
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            value = frame[column].iloc[row]
            if isinstance(value, np.generic):
                value = value.item()  # shown as 30, not np.int64(30)
            raise PredictionsError(
                f"{source}: {column} of id {shown(frame['id'].iloc[row])} is {shown(value)}; it "
                f"must lie between {low:g} and {high:g}"
            )
    return frame


def _limits(frame: pd.DataFrame) -> dict[str, tuple[float, float, bool]]:
    """Return lowest and highest value of each number column, and whether it may not be missing."""
    limits = {column: limit for column, limit in _LIMITS.items() if column in frame}
    for feature in head_features(frame):
        limits[f"{feature}_probability"] = (0, 1 + 1e-3, False)
        limits[f"{feature}_truth_probability"] = (0, 1 + 1e-3, False)
        limits[f"{feature}_rank"] = (1, 1e7, False)
    for column in frame.columns:
        if column.startswith("baseline_") and column.endswith("_km"):
            limits[column] = (0, FARTHEST_KM, False)
    return limits


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
    """Return a predictions table after checking it. It may come from a stranger.

    Columns of other kinds than numbers, texts and the lists of candidates are left out. Without
    ``candidates``, those lists, most of the memory of a large table, are left out, too.

    Raises:
        PredictionsError: the file is missing, is not Parquet, is too large, or cannot be evaluated.
    """
    with _parquet(path) as file:
        table = _read_columns(file, candidates)
        ranks = {f"{name.removesuffix('_top1')}_rank" for name in table.column_names}
        frame = pd.DataFrame(
            {name: _column(name, table.column(name), name in ranks) for name in table.column_names}
        )
    return validate_predictions(frame, str(path))


@contextmanager
def _parquet(path: str | Path) -> Iterator[pq.ParquetFile]:
    """Open a table, whose text columns are read as dictionaries.

    Raises:
        PredictionsError: it is missing, is not Parquet, or is too large; or the block raised an
            error of any kind, as the decoders do on crafted bytes.
    """
    try:
        with open_file(path, MAX_BYTES) as stream:
            schema = pq.ParquetFile(stream).schema_arrow
            texts = [field.name for field in schema if _is_text(field.type)]
            file = pq.ParquetFile(stream, read_dictionary=texts)
            names = schema.names
            if len(names) > MAX_COLUMNS or len(set(names)) < len(names):
                raise PredictionsError(
                    f"a table has up to {MAX_COLUMNS} columns, each of its own name"
                )
            if file.metadata.num_rows > MAX_ROWS:
                raise PredictionsError(
                    f"it has {file.metadata.num_rows:,} rows; at most {MAX_ROWS:,} are read"
                )
            yield file
    except FileError as error:
        raise PredictionsError(f"{path}: not a readable predictions table ({error})") from error
    except PredictionsError as error:
        raise PredictionsError(f"{path}: {error}") from error
    except Exception as error:
        reason = first_line(error)
        raise PredictionsError(f"{path}: not a readable predictions table ({reason})") from error


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _read_columns(file: pq.ParquetFile, candidates: bool) -> pa.Table:
    """Read numbers, texts and candidates within the limits on memory."""
    wanted = []
    for field in file.schema_arrow:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if field.name in CANDIDATE_COLUMNS:
            if candidates and pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
                wanted.append(field.name)
        elif _is_number(kind) or _is_text(kind) or pa.types.is_boolean(kind):
            wanted.append(field.name)
        elif field.name in CORE_COLUMNS or field.name in TRUTH_COLUMNS:
            raise PredictionsError(f"the column {field.name} holds {shown(str(kind))}")
    metadata, size, values = file.metadata, 0, 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            part = metadata.row_group(group).column(index)
            if part.path_in_schema.partition(".")[0] in wanted:
                size += part.total_uncompressed_size
                values = max(values, part.num_values)
    if size > MAX_MEMORY or values > 20 * MAX_ROWS:
        raise PredictionsError(f"it unpacks to more than {readable(MAX_MEMORY)}")
    table = file.read(columns=wanted).replace_schema_metadata(None)
    table.validate(full=True)
    if table.num_rows != metadata.num_rows:
        raise PredictionsError(f"it has {table.num_rows:,} of {metadata.num_rows:,} rows")
    return table


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _column(name: str, values: pa.ChunkedArray, is_rank: bool) -> "pd.Series[Any]":
    """Return a column of a table as pandas keeps it, converted to the kind that its name wants."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    text = name in _TEXTS or name.endswith(("_key", "_truth", "_top1"))
    if text and not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise PredictionsError(f"the column {name} holds {shown(str(kind))}, not texts")
    number = name in _LIMITS or name.endswith(("_km", "_probability", "_rank"))
    if number and not _is_number(kind):
        raise PredictionsError(f"the column {name} holds {shown(str(kind))}, not numbers")
    if _is_text(kind):
        return _texts(name, values)
    if text:
        return pd.Series(values.cast(pa.string()).to_pandas(), dtype="str")
    if name in ("climate", "month") and not (pa.types.is_integer(kind) and not values.null_count):
        codes = values.cast(pa.float64()).to_numpy()
        codes = np.where(np.isfinite(codes) & (np.abs(codes) < 2**31), codes, IGNORE_INDEX)
        if (codes != np.floor(codes)).any():
            raise PredictionsError(f"the column {name} must hold whole numbers")
        return pd.Series(codes.astype(np.int64))
    if is_rank:
        ranks = values.cast(pa.float64()).to_numpy()
        if not (np.isnan(ranks) | (np.abs(ranks) < 2**31) & (ranks == np.floor(ranks))).all():
            raise PredictionsError(f"the column {name} must hold whole numbers")
        return pd.Series(ranks).astype("Int32")
    if name in CORE_COLUMNS:
        return pd.Series(values.cast(pa.float64()).to_numpy())
    series: pd.Series[Any] = values.to_pandas()
    return series


def _texts(name: str, values: pa.ChunkedArray) -> "pd.Series[Any]":
    """Unpack a text column, whose texts may be repeated a million times in a few bytes."""
    size = 0
    for chunk in values.chunks:
        if pa.types.is_dictionary(chunk.type):
            lengths = pc.binary_length(chunk.dictionary).to_numpy(zero_copy_only=False)
            indices = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
            if len(lengths):
                size += int(np.bincount(indices, minlength=len(lengths)) @ lengths)
    if size > MAX_MEMORY:
        raise PredictionsError(f"the column {name} unpacks to {readable(size)}")
    return pd.Series(values.cast(pa.large_string()).to_pandas(), dtype="str")


@dataclass(frozen=True)
class _About:
    """The description inside a table; further keys are kept as they are."""

    model: _Note | None = None
    dataset: _Note | None = None
    split: _Note | None = None
    note: _Note | None = None
    warning: _Note | None = None
    root: _Note | None = None
    use_context: bool | None = None
    synthetic: bool | None = None


def read_about(path: str | Path) -> dict[str, Any]:
    """Return the ``about`` that :func:`write_predictions` was given; {} if none.

    Raises:
        PredictionsError: the file is not Parquet, or a key of ``about`` has another type.
    """
    return read_header(path)[0]


def read_header(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """Return ``about`` and the names of the columns.

    Raises:
        PredictionsError: as :func:`read_about`.
    """
    with _parquet(path) as file:
        text = (file.schema_arrow.metadata or {}).get(_ABOUT, b"{}")
        if len(text) > MAX_TEXT:
            raise PredictionsError("its description is too long")
        names = list(file.schema_arrow.names)
        try:
            value = parse_json(text.decode(), _DESCRIPTION)
            about = checked(dict[str, Any], value, _DESCRIPTION)
            checked(_About, about, _DESCRIPTION)
        except (FileError, UnicodeDecodeError) as error:
            raise PredictionsError(str(error)) from error
    return about, names


def read_candidates(path: str | Path, photo_id: str) -> list[tuple[float, float, float]]:
    """Return the candidates (latitude, longitude, probability) of one photo.

    The list is empty if the table has no readable candidates or no such photo.
    """
    try:
        with _parquet(path) as file:
            if not all(column in file.schema_arrow.names for column in CANDIDATE_COLUMNS):
                return []
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"]).column("id").cast(pa.string())
                at = pc.index(ids, photo_id).as_py()
                if at < 0:
                    continue
                rows = file.read_row_group(group, columns=list(CANDIDATE_COLUMNS)).slice(at, 1)
                row = rows.to_pylist()[0]
                found = zip(*(row[column] or [] for column in CANDIDATE_COLUMNS), strict=False)
                return [place for place in islice(found, 100) if _is_place(place)]
    except PredictionsError:
        pass
    return []


def _is_place(place: tuple[object, ...]) -> bool:
    """Whether these are latitude and longitude in degrees and a probability."""
    return all(
        isinstance(value, float) and abs(value) <= limit
        for value, limit in zip(place, (90, 180, 1.001), strict=True)
    )


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
        source = Path(source)
        name = source.name
    try:
        table = _read_guess_columns(source, name)
    except DatasetError as error:
        raise PredictionsError(str(error)) from error
    guesses = pd.DataFrame({"id": whole_ids(table["id"]).str.strip()})
    problems = Problems(table, name)
    for column, bound in (("latitude", 90), ("longitude", 360)):
        texts = table[column].str.strip()
        values = problems.degrees(column, bound, required=True)
        low = -90.0 if column == "latitude" else -180.0
        wrong = ~((values >= low) & (values <= bound))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise PredictionsError(
                f"{name}, row {table.index[row] + 2}: the {column} {texts.iloc[row]!r} is not a "
                f"number of degrees between {low:g} and {-low:g}"
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


def _read_guess_columns(source: Path | bytes, name: str) -> pd.DataFrame:
    """Return `id`, `latitude` and `longitude` of the guesses as text; may raise DatasetError."""
    columns = ("id", "latitude", "longitude")
    guessed = {"predicted_latitude": "latitude", "predicted_longitude": "longitude"}
    try:  # predicted first: in a table with both, latitude and longitude are the truth
        table = read_csv(
            source, ("id", *guessed), ("id", *guessed), name=name, aliases=NAMES_AS_IDS
        )
    except DatasetError:
        letters = ("latitude_ref", "longitude_ref")
        return read_csv(source, (*columns, *letters), columns, name=name, aliases=NAMES_AS_IDS)
    return table.rename(columns=guessed)


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
