"""From a dataset to a model that is ready to learn: features, vocabularies, cells, statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoclip_core.data.table import PhotoDataset
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary, build_vocabularies
from geoclip_core.earth.geocells import Geocells, make_geocells
from geoclip_core.loops.fit_options import FitOptions
from geoclip_core.model.backbone import Backbone
from geoclip_core.model.geolocation import GeolocationModel, ModelConfig

PHOTOS_PER_CELL, MOST_CELLS, SMALLEST_CELL = 15, 1000, 3


@dataclass(frozen=True)
class TrainingPhotos:
    """Labels and places of n photos, as tensors."""

    coordinates: Tensor
    """(n, 2) float32 degrees."""
    labels: dict[str, Tensor]
    """Feature -> (n,) class indices, `IGNORE_INDEX` where unknown."""

    @classmethod
    def of(cls, photos: PhotoDataset, vocabularies: Mapping[str, Vocabulary]) -> "TrainingPhotos":
        """Of a dataset."""
        return cls(
            torch.from_numpy(photos.coordinates).float(),
            {f: torch.from_numpy(v) for f, v in photos.labels(vocabularies).items()},
        )


def learnable_vocabularies(
    train: PhotoDataset, features: tuple[str, ...]
) -> tuple[dict[str, Vocabulary], list[str]]:
    """Vocabularies of the features that the training photos can teach, and the names of the rest.

    A feature with fewer than two classes among the labels has nothing to learn. Parents that are
    left out are stepped over: cities then belong to states, if counties are unknown.
    """
    every = build_vocabularies(train, features)
    known = {
        feature: len(np.unique(labels[labels != IGNORE_INDEX]))
        for feature, labels in train.labels(every).items()
    }
    kept = tuple(feature for feature in features if known[feature] >= 2)
    left_out = [feature for feature in features if feature not in kept]
    return (build_vocabularies(train, kept) if left_out else every), left_out


def build_model(
    options: FitOptions,
    backbone: Backbone,
    vocabularies: Mapping[str, Vocabulary],
    coordinates: NDArray[np.float64],
    embeddings: NDArray[np.floating],
    name: str,
) -> GeolocationModel:
    """An untrained model that knows the statistics of the training photos.

    Args:
        options: which heads.
        backbone: whose embeddings they read; it is not attached.
        vocabularies: of the features to learn; empty without context.
        coordinates: (n, 2) of the training photos: cells come from these alone.
        embeddings: (m, D) of training photos, for the normaliser.
        name: of the model.
    """
    torch.manual_seed(options.seed)
    cells = _cells(options, coordinates)
    use_context = options.use_context and bool(vocabularies)
    config = ModelConfig(
        features=tuple(vocabularies) if use_context else (),
        use_context=use_context,
        coordinate_head=options.coordinate_head,
        head_options=_head_options(options, cells),
        context_heads="linear",
        context_options=_context_options(options) if use_context else {},
        join_options={"width": options.join_width} if use_context else {},
    )
    model = GeolocationModel(
        config, backbone.config, backbone.block_widths, vocabularies, name=name
    )
    model.normaliser.fit(torch.from_numpy(np.asarray(embeddings, dtype=np.float32)))
    if cells is not None:
        model.coordinate_head.start_from(cells, coordinates)
    else:
        model.coordinate_head.start_from(coordinates)
    return model


def _cells(options: FitOptions, coordinates: NDArray[np.float64]) -> Geocells | None:
    if options.coordinate_head != "geocells":
        return None
    count = options.cells or min(MOST_CELLS, max(2, len(coordinates) // PHOTOS_PER_CELL))
    return make_geocells(coordinates, count, seed=options.seed, min_photos=SMALLEST_CELL)


def _head_options(options: FitOptions, cells: Geocells | None) -> dict[str, Any]:
    shared = {"hidden": options.hidden, "dropout": options.dropout}
    if cells is None:
        return shared
    return {
        **shared,
        "cells": len(cells),
        "smoothing": options.smoothing,
        "offset_rank": options.offset_rank,
    }


def _context_options(options: FitOptions) -> dict[str, Any]:
    if options.context_hidden:
        return {"kind": "mlp", "hidden": options.context_hidden, "dropout": options.dropout}
    return {"kind": "linear", "dropout": options.dropout}
