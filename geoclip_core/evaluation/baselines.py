"""Baselines: guesses that need no model, or only its embeddings.

They are made from training photos alone. On photos of ten states a constant guess already has a
GeoScore of about 3,000, so every report shows it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.earth.sphere import (
    destination,
    geoscore,
    haversine_km,
    pairwise_km,
    spherical_mean,
)

NEIGHBOURS = 10
_CHUNK = 512
_MOST_POINTS = 20_000
_PREFIX, _SUFFIX = "baseline_", "_km"
_TITLES = {
    "constant": "best constant guess",
    "true_country_centroid": "centre of the true country",
    "true_state_centroid": "centre of the true state",
    "nearest_photo": "place of the most similar photo",
}


def baseline_title(name: str) -> str:
    """Return the title of a baseline in lower case: "best constant guess"."""
    if name in _TITLES:
        return _TITLES[name]
    if name.startswith("nearest_"):
        return f"among the {name.removeprefix('nearest_')} most similar photos"
    return name.replace("_", " ")


def with_baselines(frame: pd.DataFrame, guesses: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return a predictions table with the error of each (n, 2) guess in ``baseline_{name}_km``.

    There, baselines can be filtered and paired row by row like the model.
    """
    truth = frame[["latitude", "longitude"]].to_numpy(np.float64)
    errors = {
        f"{_PREFIX}{name}{_SUFFIX}": haversine_km(truth, np.asarray(guess, dtype=np.float64))
        for name, guess in guesses.items()
    }
    return frame.assign(**errors)


def baseline_errors(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return (n,) errors in km of every baseline in a predictions table, by name."""
    return {
        column.removeprefix(_PREFIX).removesuffix(_SUFFIX): frame[column].to_numpy(np.float64)
        for column in frame.columns
        if column.startswith(_PREFIX) and column.endswith(_SUFFIX)
    }


class BaselineError(ValueError):
    """A baseline cannot be made from these rows; the message says why."""


def check_training_rows(train: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Check that `train` has only training rows, and no photo of `rows`.

    Raises:
        BaselineError: it has no row, or rows of another split or of `rows`; the message names the
            split or the photo.
    """
    if not len(train):
        raise BaselineError("a baseline needs training rows, and there are none")
    if "split" in train:
        others = sorted(set(train["split"].dropna()) - {"train"})
        if others:
            raise BaselineError(f"baselines are made from train alone, not from {others[0]!r} rows")
    shared = train["id"].astype(str).isin(set(rows["id"].astype(str)))
    if shared.any():
        photo = train["id"][shared].iloc[0]
        raise BaselineError(f"the photo {photo!r} is both in train and among the evaluated rows")


def constant_guess(coordinates: np.ndarray) -> np.ndarray:
    """Return the point (2,) of the highest mean GeoScore over (n, 2) coordinates in degrees.

    The best of up to 500 of the points is refined by steps in eight directions that halve from
    500 km to 1 km. Of more than 20,000 points a random sample is used.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    generator = np.random.default_rng(0)
    if len(coordinates) > _MOST_POINTS:
        coordinates = coordinates[generator.choice(len(coordinates), _MOST_POINTS, replace=False)]
    start = coordinates
    if len(start) > 500:
        start = start[generator.choice(len(start), 500, replace=False)]
    start = np.concatenate([start, spherical_mean(coordinates)[None]])
    scores = np.array([geoscore(haversine_km(point, coordinates)).mean() for point in start])
    best, score = start[int(scores.argmax())], float(scores.max())
    step = 500.0
    while step >= 1.0:
        around = destination(best, np.arange(0.0, 360.0, 45.0), step)
        scores = geoscore(pairwise_km(around, coordinates)).mean(axis=1)
        if scores.max() > score:
            best, score = around[int(scores.argmax())], float(scores.max())
        else:
            step /= 2
    return np.asarray(best, dtype=np.float64)


def centroid_of_true(
    train: pd.DataFrame, rows: pd.DataFrame, column: str, fallback: np.ndarray
) -> np.ndarray:
    """Return the spherical mean (n, 2) of the training photos that share each row's true class.

    A perfect classifier of ``column`` could answer this. Rows without a class, or with one that no
    training photo has, get ``fallback`` (2,).
    """
    guess = np.tile(np.asarray(fallback, dtype=np.float64), (len(rows), 1))
    coordinates = train[["latitude", "longitude"]].to_numpy(np.float64)
    members = train.reset_index(drop=True).groupby(column).indices
    for key, index in rows.reset_index(drop=True).groupby(column).indices.items():
        if key in members:
            guess[index] = spherical_mean(coordinates[members[key]])
    return guess


def nearest_neighbours(
    bank: np.ndarray,
    bank_coordinates: np.ndarray,
    queries: np.ndarray,
    k: int = NEIGHBOURS,
) -> np.ndarray:
    """Return the place of the highest expected GeoScore among the k most similar training photos.

    Embeddings are standardised with the bank's mean and standard deviation and compared by cosine;
    a neighbour's weight is exp((cos − best cos) / 0.05). With k = 1 this is the place of the most
    similar photo.

    Args:
        bank: (m, D) embeddings of training photos.
        bank_coordinates: (m, 2) degrees.
        queries: (n, D) embeddings.
        k: number of neighbours; if above m, all.

    Returns:
        (n, 2) degrees.

    Raises:
        BaselineError: the embeddings have different widths.
    """
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise BaselineError(f"embeddings of shapes {queries.shape} and {bank.shape} do not match")
    k = min(k, len(bank))
    mean, spread = bank.mean(axis=0, dtype=np.float64), bank.std(axis=0, dtype=np.float64)
    scale = 1.0 / np.maximum(spread, 1e-6)

    def directions(block: np.ndarray) -> np.ndarray:
        standard: np.ndarray = ((block - mean) * scale).astype(np.float32)
        standard /= np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-12)
        return standard

    unit = directions(np.asarray(bank))
    coordinates = np.asarray(bank_coordinates, dtype=np.float64)
    guess = np.empty((len(queries), 2))
    for start in range(0, len(queries), _CHUNK):
        cosine = directions(np.asarray(queries[start : start + _CHUNK])) @ unit.T
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        similarity = np.take_along_axis(cosine, nearest, axis=1).astype(np.float64)
        weights = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / 0.05)
        places = coordinates[nearest]
        distance = haversine_km(places[:, :, None], places[:, None])
        expected = np.einsum("bij,bj->bi", geoscore(distance), weights)
        choice = expected.argmax(axis=1)
        guess[start : start + _CHUNK] = places[np.arange(len(choice)), choice]
    return guess


def baseline_guesses(
    train: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    train_embeddings: np.ndarray | None = None,
    embeddings: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the baselines that the data allow, for rows of a dataset or predictions table.

    Args:
        train: training rows: ``id``, ``latitude``, ``longitude``, ``state_key``, ``country_key``.
        rows: the evaluated rows, with the same columns.
        train_embeddings: (len(train), D), for the nearest neighbours.
        embeddings: (len(rows), D).

    Returns:
        Guesses (n, 2) by name: ``constant``; ``true_state_centroid`` and ``true_country_centroid``
        if the truth is known; ``nearest_photo`` and ``nearest_10`` if there are embeddings.

    Raises:
        BaselineError: see `check_training_rows`; or the embeddings are of other rows.
    """
    check_training_rows(train, rows)
    coordinates = train[["latitude", "longitude"]].to_numpy(np.float64)
    constant = constant_guess(coordinates)
    guesses: dict[str, Any] = {"constant": np.tile(constant, (len(rows), 1))}
    for name, column in (
        ("true_country_centroid", "country_key"),
        ("true_state_centroid", "state_key"),
    ):
        if column in train and column in rows and rows[column].nunique() > 1:
            guesses[name] = centroid_of_true(train, rows, column, constant)
    if train_embeddings is not None and embeddings is not None:
        if len(train_embeddings) != len(train) or len(embeddings) != len(rows):
            raise BaselineError(
                f"{len(train_embeddings)} and {len(embeddings)} embeddings for "
                f"{len(train)} training and {len(rows)} evaluated photos"
            )
        guesses["nearest_photo"] = nearest_neighbours(
            train_embeddings, coordinates, embeddings, k=1
        )
        guesses[f"nearest_{NEIGHBOURS}"] = nearest_neighbours(
            train_embeddings, coordinates, embeddings
        )
    return guesses
