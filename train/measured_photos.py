"""What `evaluate` and `calibrate` have in common: a model, and a split embedded with it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoclip_core.data.dataset import PhotoDataset

if TYPE_CHECKING:
    from geoclip_core.hub.models import LoadedModel

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class MeasuredPhotos:
    """The readable photos of a split and their embeddings (n, D)."""

    photos: PhotoDataset
    embeddings: np.ndarray
    unreadable: tuple[str, ...] = ()
    """Why photos were left out, one sentence each."""


def load(name: str, device: Device) -> "LoadedModel":
    """The model that a name stands for, on a device ("auto" takes a GPU if there is one).

    Raises:
        CheckpointError: there is no such model.
        ValueError: there is no such device.
    """
    import torch

    from geoclip_core.hub.models import load_model

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this computer has no CUDA GPU that torch can use")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: this computer has no Apple GPU that torch can use")
    return load_model(name, device)


def embed_split(
    model: Any,
    photos: PhotoDataset,
    *,
    batch_size: int,
    workers: int,
    cache_dir: Path | None,
    title: str,
) -> MeasuredPhotos:
    """Embed photos, from the cache as far as they are there, with a progress bar.

    Photos that cannot be read are named on the terminal and left out.

    Raises:
        EmbeddingError: not one photo can be read.
    """
    from geoclip_core.training.embeddings import embed_dataset
    from train.progress import ProgressBar

    with ProgressBar(title, "photos") as bar:
        embedded = embed_dataset(
            model.backbone,
            photos,
            cache_dir,
            batch_size=batch_size,
            workers=workers,
            progress=bar.update,
        )
    reasons = [
        f"{photos.table['path'].iloc[row]}: {reason}" for row, reason in embedded.failures.items()
    ]
    for reason in reasons[:5]:
        print(f"left out {reason}", file=sys.stderr)
    if len(reasons) > 5:
        print(f"left out {len(reasons):,} unreadable photos in all", file=sys.stderr)
    if not reasons:
        return MeasuredPhotos(photos, embedded.values)
    rows = np.flatnonzero(embedded.readable)
    return MeasuredPhotos(photos.select(rows), embedded.values[rows], tuple(reasons))
