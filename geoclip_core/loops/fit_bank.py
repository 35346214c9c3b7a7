"""Fitting and validating a retrieval model on a dataset: from embeddings to a checkpoint."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geoclip_core.data.table import PhotoDataset
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.loops.bank_card import bank_card
from geoclip_core.loops.bank_model import BankData, BankOptions, Progress, fit_bank_model
from geoclip_core.loops.bank_validation import BankSubject, measure
from geoclip_core.loops.predictions import write_predictions
from geoclip_core.model.backbone import Backbone
from geoclip_core.model.checkpoint import save_checkpoint

PREDICTIONS = "predictions.parquet"


def fit_bank(
    dataset: PhotoDataset,
    embeddings: NDArray[np.floating],
    backbone: Backbone,
    options: BankOptions,
    folder: str | Path,
    *,
    name: str,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit a retrieval model, with numbers of its cross-validation, and write its checkpoint.

    Args:
        dataset: photos; those of train and val are learnt from, of all splits with
            `options.use_all_rows`.
        embeddings: (n, D) of all its photos, in order; rows of NaN (unreadable photos) are left
            out.
        backbone: what embedded them.
        options: how to fit.
        folder: the checkpoint, with predictions.parquet of the cross-validation beside the model.
        name: of the model.
        command: what was run, for the model card.
        progress: called with (folds done, folds in all).

    Returns:
        The metrics, as in the checkpoint's metrics.json.

    Raises:
        ValueError: too few or too many photos, or embeddings of another dataset or backbone.
    """
    if embeddings.shape != (len(dataset), backbone.embedding_width):
        raise ValueError(
            f"{embeddings.shape} embeddings for {len(dataset)} photos of width "
            f"{backbone.embedding_width}"
        )
    used = np.isfinite(embeddings).all(axis=1)
    if not options.use_all_rows:
        used &= dataset.table["split"].isin(["train", "val"]).to_numpy()
    photos = dataset.select(used)
    # once the test of the model is cross-validation, every row that is used is a training row
    photos.table["split"] = "train"
    vocabularies = {}
    if options.use_context:
        vocabularies = build_vocabularies(photos, options.features)
    data = BankData(
        torch.from_numpy(np.asarray(embeddings[used], dtype=np.float32)),
        photos.coordinates,
        photos.labels(vocabularies),
    )
    subject = BankSubject(data, vocabularies, options, backbone.config, backbone.block_widths)
    measured = measure(subject, photos, progress)
    metrics = measured.metrics
    model = fit_bank_model(
        data, vocabularies, options, backbone.config, backbone.block_widths, name
    )
    model.calibration = measured.calibration
    model.attach_backbone(backbone)
    metrics |= {
        "name": name,
        "dataset": dataset.name,
        "photos": len(photos),
        "unreadable": int((~np.isfinite(embeddings).all(axis=1)).sum()),
        "measured_by": (
            f"{options.folds}-fold cross-validation, {options.repeats} times, "
            f"seeds from {options.seed}"
        ),
        "note": options.note,
        "command": command,
    }
    card = bank_card(model, metrics, photos, options, command)
    with tempfile.TemporaryDirectory() as scratch:
        about = {
            "model": name,
            "dataset": dataset.name,
            "split": "cross-validation",
            "note": "each photo was held out of the model that located it; the first of "
            f"{options.repeats} repeats with other folds",
            "use_context": options.use_context,
        }
        path = write_predictions(measured.frame, Path(scratch) / PREDICTIONS, about)
        save_checkpoint(folder, model, metrics, card, files={PREDICTIONS: path})
    return metrics
