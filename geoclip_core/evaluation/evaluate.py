"""Evaluate a model on a dataset: predict in shards, compare, write the results.

An interrupted evaluation reuses its finished shards, in a folder named after model and photos.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.evaluation import metrics
from geoclip_core.evaluation.predictions import (
    CLAIM_COLUMNS,
    LEVEL_COLUMNS,
    PredictionsError,
    predictions_frame,
    read_header,
    read_predictions,
    write_predictions,
)
from geoclip_core.files import write_atomically
from geoclip_core.processes import Progress

if TYPE_CHECKING:  # imports torch, which the Evaluation page must not wait for
    from geoclip_core.model.geolocation import Locatable

PREDICTIONS, METRICS, SHARDS = "predictions.parquet", "metrics.json", "shards"
SHARD_PHOTOS = 1024
BATCH = 32  # small, because a bank head returns a point per bank photo for every photo


def model_fingerprint(model: "Locatable") -> str:
    """Return 16 hexadecimal digits that depend on weights, vocabularies and calibration."""
    digest = hashlib.sha256(model.weights_hash().encode())
    for feature, vocabulary in model.vocabularies.items():
        digest.update(json.dumps([feature, list(vocabulary.keys)]).encode())
    digest.update((model.calibration.to_json() if model.calibration else "uncalibrated").encode())
    return digest.hexdigest()[:16]


def predict_in_shards(
    model: "Locatable",
    dataset: PhotoDataset,
    embeddings: np.ndarray,
    folder: str | Path,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the predictions of every photo; finished shards in ``folder`` are reused.

    Args:
        model: any model.
        dataset: n photos.
        embeddings: (n, D), in the order of the photos.
        folder: folder of the shards; those of other models or photos are left alone.
        progress: called with (photos done, all photos).

    Returns:
        The predictions table of the n photos.

    Raises:
        PredictionsError: the number of embeddings differs from the number of photos.
    """
    if len(embeddings) != len(dataset):
        raise PredictionsError(f"{len(embeddings)} embeddings for {len(dataset)} photos")
    key = hashlib.sha256(f"{model_fingerprint(model)}{dataset.fingerprint}{SHARD_PHOTOS}".encode())
    place = Path(folder) / key.hexdigest()[:16]
    frames = []
    for start in range(0, len(dataset), SHARD_PHOTOS):
        rows = np.arange(start, min(start + SHARD_PHOTOS, len(dataset)))
        path = place / f"{start:09d}.parquet"
        frame = _finished_shard(path, dataset.table["id"].iloc[rows])
        if frame is None:
            part = dataset.select(rows)
            estimates = (
                estimate
                for at in range(0, len(rows), BATCH)
                for estimate in model.predict(
                    np.array(embeddings[rows[at] : rows[0] + min(at + BATCH, len(rows))])
                )
            )
            frame = predictions_frame(part, estimates, model.vocabularies)
            write_predictions(frame, path)
        frames.append(frame)
        if progress:
            progress(int(rows[-1]) + 1, len(dataset))
    if not frames:
        return predictions_frame(dataset, (), model.vocabularies)
    return pd.concat(frames, ignore_index=True)


def _finished_shard(path: Path, ids: pd.Series) -> pd.DataFrame | None:
    """Return the shard if it exists, can be read and is of these photos, else None."""
    if not path.exists():
        return None
    try:
        frame = read_predictions(path)
    except PredictionsError:
        return None
    if not {*LEVEL_COLUMNS, *CLAIM_COLUMNS} <= set(frame.columns):  # of an older version
        return None
    return frame if frame["id"].tolist() == ids.astype(str).tolist() else None


def compare(
    frame: pd.DataFrame, other: pd.DataFrame, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return the metrics of two predictions tables on the photos in both, paired by id.

    Returns:
        ``n`` photos in both, ``this`` and ``other`` (distance metrics on those photos) and
        ``difference`` (:func:`metrics.paired_difference`, this minus other).

    Raises:
        PredictionsError: no photo is in both, or the two have different true places.
    """
    both = frame.merge(other, on="id", suffixes=("", "_other"), how="inner")
    if both.empty:
        raise PredictionsError("the two tables have no photo in common")
    apart = metrics.errors_km(both, both[["latitude_other", "longitude_other"]].to_numpy())
    if (apart > 0.1).any():
        photo = both["id"][apart > 0.1].iloc[0]
        raise PredictionsError(
            f"the two tables put the photo {photo!r} {apart.max():.1f} km apart: "
            "they are of different datasets"
        )
    this_km = both["error_km"].to_numpy(np.float64)
    other_km = both["error_km_other"].to_numpy(np.float64)
    return {
        "n": len(both),
        "this": metrics.distance_metrics(this_km),
        "other": metrics.distance_metrics(other_km),
        "difference": metrics.paired_difference(
            this_km, other_km, resamples=resamples, seed=seed, groups=metrics.sequences(both)
        ),
    }


def save_evaluation(
    folder: str | Path, frame: pd.DataFrame, report: Mapping[str, Any], about: Mapping[str, Any]
) -> Path:
    """Write ``predictions.parquet``, then ``metrics.json``, each atomically; return the folder.

    ``report`` is the result of :func:`metrics.summarise` and possibly comparisons. ``about``
    (``model``, ``dataset``, ``split``, ``root``, ``synthetic``, ``note``) is written to both.
    """
    folder = Path(folder)
    write_predictions(frame, folder / PREDICTIONS, about)
    text = json.dumps({"about": dict(about), **report}, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / METRICS, text)
    return folder


def predictions_of(place: str | Path) -> Path | None:
    """Return the path of the predictions at a path or in a run or evaluation folder, or None."""
    place = Path(place).expanduser()
    if place.is_file() and place.suffix == ".parquet":
        return place
    for candidate in (place / PREDICTIONS, place / "checkpoint" / PREDICTIONS):
        if os.path.lexists(candidate):
            return candidate
    return None


def describe(path: Path) -> dict[str, Any]:
    """Return the ``about`` of a predictions table, with ``model`` and ``use_context``.

    If missing, ``model`` is the name of the folder, and ``use_context`` tells whether the table has
    context heads.
    """
    about, columns = read_header(path)
    folder = path.parent.parent if path.parent.name == "checkpoint" else path.parent
    about["model"] = about.get("model") or folder.name
    heads = any(name.endswith("_top1") for name in columns)
    about.setdefault("use_context", heads)
    return about
