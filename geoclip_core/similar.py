"""Find the training photos that look most like a photo, among those that a model has at hand.

They come from the dataset of the model's run, by the cached embeddings, or else from the bank in
its checkpoint, which has places but no photos.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from geoclip_core.errors import FileError
from geoclip_core.files import atomic_file, was_opened
from geoclip_core.jobs import JobError
from geoclip_core.model.bank_heads import BankHead
from geoclip_core.model.geolocation import GeolocationModel, Locatable
from geoclip_core.training.embeddings import EmbeddingCache
from geoclip_core.training.options import FitOptions
from geoclip_core.training.runs import Run

if TYPE_CHECKING:  # imports pandas, which takes a second
    from geoclip_core.data.dataset import PhotoDataset

logger = logging.getLogger(__name__)
Directions = NDArray[np.float32]
WHOLE_BYTES = 64 * 2**20
"""Directions of up to this size are compared as they are; of more, first a projection."""
SHORT_WIDTH = 128
"""Width of the projection."""
SAMPLE = 4096
"""Rows that the projection is fitted to."""
COMPARED = 1024
"""Rows nearest by the projection that are compared in full."""
_CHUNK = 4096


class DirectionIndex:
    """Finds the rows of a matrix that point in nearly the same direction as a vector.

    A large matrix is first compared by a projection on its `SHORT_WIDTH` main directions, which is
    computed once and kept in a file; the `COMPARED` nearest are then compared in full.

    Args:
        read: returns the directions (b, D), of length 1, of row numbers (b,).
        rows: number of rows n.
        width: their width D.
        folder: where the projection is kept; None: in memory.
    """

    def __init__(
        self,
        read: Callable[[NDArray[np.int64]], Directions],
        rows: int,
        width: int,
        folder: Path | None = None,
    ) -> None:
        self._read, self._rows = read, rows
        self._whole: Directions | None = None
        if 4 * rows * width <= WHOLE_BYTES or width <= SHORT_WIDTH:
            self._whole = read(np.arange(rows))
        else:
            self._axes, self._short = self._projected(width, folder)

    def nearest(self, direction: Directions, k: int) -> tuple[NDArray[np.int64], Directions]:
        """Return the k rows with the largest cosine to a direction (D,), and their cosines."""
        if self._whole is not None:
            rows, cosines = np.arange(self._rows), self._whole @ direction
        else:
            roughly = self._short @ (direction @ self._axes)
            most = min(max(COMPARED, k), self._rows)
            rows = np.sort(np.argpartition(roughly, -most)[-most:])
            cosines = self._read(rows) @ direction
        order = np.argsort(-cosines, kind="stable")[:k]
        return rows[order], cosines[order]

    def _projected(self, width: int, folder: Path | None) -> tuple[Directions, Directions]:
        if folder is not None:
            try:
                axes = np.load(folder / "axes.npy", allow_pickle=False)
                short = np.load(folder / "short.npy", mmap_mode="r", allow_pickle=False)
                if axes.shape == (width, SHORT_WIDTH) and short.shape == (self._rows, SHORT_WIDTH):
                    return axes, short
            except (OSError, ValueError):
                pass  # not there, or damaged: computed again
        sample = np.unique(np.linspace(0, self._rows - 1, SAMPLE).astype(np.int64))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, _, found = torch.svd_lowrank(torch.from_numpy(self._read(sample)), q=SHORT_WIDTH)
        axes = np.ascontiguousarray(found.numpy(), dtype=np.float32)
        short = np.empty((self._rows, SHORT_WIDTH), dtype=np.float32)
        for start in range(0, self._rows, _CHUNK):
            part = np.arange(start, min(start + _CHUNK, self._rows))
            short[part] = self._read(part) @ axes
        if folder is not None:
            try:
                for name, values in (("axes.npy", axes), ("short.npy", short)):
                    with atomic_file(folder / name) as unfinished, unfinished.open("wb") as file:
                        np.save(file, values)
            except OSError as error:  # a full or read-only disk
                logger.warning("the projection is not kept: %s", error)
        return axes, short


@dataclass(frozen=True)
class TrainingPhotos:
    """The training photos that a model has at hand."""

    index: DirectionIndex | None
    """None: there are none."""
    coordinates: NDArray[np.float64]
    """(n, 2) degrees."""
    direction: Callable[[torch.Tensor], Directions]
    """Returns the direction (D,) of a raw embedding (D,)."""
    root: Path | None = None
    paths: tuple[str, ...] = ()
    """n files relative to `root`; empty: not known."""
    note: str = ""


def training_photos(model: Locatable, folder: Path | None) -> TrainingPhotos:
    """Return the training photos that a model has at hand.

    Only a dataset that this user has opened is read: the folder may be anything if the run comes
    from somebody else.

    Args:
        model: with its backbone.
        folder: of its checkpoint or run, or None.
    """
    if not isinstance(model, GeolocationModel):
        return _nothing("This model keeps no training photos.")
    dataset, options, note = _dataset_of(folder)
    if dataset is not None and options is not None:
        found = _from_dataset(model, dataset, options, folder)
        if found is not None:
            return found
        note = (
            f"The embeddings of {dataset.root} are not in the cache, or the photos have changed: "
            "python -m train embed computes them again."
        )
    head = model.coordinate_head
    if not isinstance(head, BankHead) or not len(head.bank):
        return _nothing(note or "This model keeps no training photos.")
    bank = head.bank[:, : model.embedding_width].cpu().numpy()

    def read(rows: NDArray[np.int64]) -> Directions:
        return _unit(bank[rows].astype(np.float32))

    def direction(embedding: torch.Tensor) -> Directions:
        with torch.inference_mode():
            normalised = model.normaliser(embedding[None])
            only: Directions = _unit(head.embedding_directions(normalised).cpu().numpy())[0]
            return only

    return TrainingPhotos(
        DirectionIndex(read, len(bank), bank.shape[1]),
        head.coordinates.double().cpu().numpy(),
        direction,
        note=note or "This model keeps the places of its training photos, not the photos.",
    )


def _nothing(note: str) -> TrainingPhotos:
    return TrainingPhotos(
        None, np.zeros((0, 2)), lambda _: np.zeros(0, dtype=np.float32), note=note
    )


def _dataset_of(folder: Path | None) -> tuple["PhotoDataset | None", dict[str, Any] | None, str]:
    """Return dataset and options of the run that a model comes from, or why there is none."""
    from geoclip_core.data.dataset import read_dataset

    run = None
    for place in () if folder is None else (folder, folder.parent):
        try:
            run = Run.open(place)
            break
        except JobError:
            continue
    if run is None:
        return None, None, ""
    try:
        options = run.config
        root = Path(str(options.get("data") or ""))
        if not options.get("data") or not root.is_dir():
            return None, None, f"The dataset of this run has moved: {root} is not there."
        if not was_opened(root):
            return None, None, f"{root} is no dataset that you have opened here."
        fraction, seed = options.get("val_fraction"), options.get("seed")
        dataset = read_dataset(
            root,
            val_fraction=float(FitOptions.val_fraction if fraction is None else fraction),
            seed=int(seed or 0),
        )
    except (JobError, FileError, ValueError, TypeError, OSError) as error:
        return None, None, f"The dataset of this run cannot be read: {error}"
    return dataset, options, ""


def _from_dataset(
    model: GeolocationModel, dataset: "PhotoDataset", options: dict[str, Any], folder: Path | None
) -> TrainingPhotos | None:
    """Return the training photos of a dataset by their cached embeddings; None: not cached."""
    if model.backbone is None or folder is None:
        return None
    own = [place / "embeddings" for place in (folder, folder.parent)]  # of a trained backbone
    chosen = options.get("cache_dir")
    cache, embedded = None, None
    for root in (None if chosen is None else str(chosen), *own):
        cache = EmbeddingCache(model.backbone, dataset, root)
        if (embedded := cache.find()) is not None:
            break
    if cache is None or embedded is None:
        return None
    used = (dataset.table["split"] == "train").to_numpy()
    if isinstance(model.coordinate_head, BankHead):
        bank = options.get("bank")
        every = isinstance(bank, dict) and bool(bank.get("all_rows"))
        used = np.ones(len(dataset), dtype=bool) if every else dataset.learnable
    rows = np.flatnonzero(used & embedded.readable)
    if not len(rows):
        return None
    values, normaliser = embedded.values, model.normaliser

    def directions(raw: torch.Tensor) -> Directions:
        with torch.inference_mode():
            return _unit(normaliser(raw.to(normaliser.mean.device)).cpu().numpy())

    def read(asked: NDArray[np.int64]) -> Directions:
        raw = np.asarray(values[rows[asked]], dtype=np.float32)
        return directions(torch.from_numpy(raw))

    digest = hashlib.sha256(normaliser.mean.cpu().numpy().tobytes())
    digest.update(normaliser.scale.cpu().numpy().tobytes() + rows.tobytes())
    return TrainingPhotos(
        DirectionIndex(
            read, len(rows), values.shape[1], cache.place / f"near-{digest.hexdigest()[:12]}"
        ),
        dataset.coordinates[rows],
        lambda embedding: directions(embedding[None])[0],
        dataset.root,
        tuple(dataset.table["path"].iloc[rows]),
    )


def _unit(rows: Directions) -> Directions:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Directions = (rows / np.maximum(length, 1e-12)).astype(np.float32, copy=False)
    return scaled
