"""Embeddings on disk: written in shards, joined when complete, never half read."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoclip_core.atomic_writes import atomic_file
from geoclip_core.cache_folders import cache_folders
from geoclip_core.data.table import PhotoDataset
from geoclip_core.model.backbone import Backbone

logger = logging.getLogger(__name__)
SHARD_PHOTOS = 512
_ARRAY, _FAILURES, _PHOTOS = "embeddings.npy", "failures.json", "photos.npy"


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of n photos in the order of their dataset."""

    values: NDArray[np.float16]
    """(n, D), a memory map where they come from the disk. NaN where a photo cannot be read."""
    failures: dict[int, str]
    """Row -> why that photo cannot be read."""

    @property
    def readable(self) -> NDArray[np.bool_]:
        """(n,) whether the photo could be read."""
        mask = np.ones(len(self.values), dtype=bool)
        mask[list(self.failures)] = False
        return mask


class EmbeddingCache:
    """The embeddings of one dataset by one backbone.

    The key is made of the backbone, its weights and preprocessing, and of the photos (path,
    position, file size).
    """

    def __init__(
        self, backbone: Backbone, dataset: PhotoDataset, folder: Path | str | None = None
    ) -> None:
        self._width = backbone.embedding_width
        self._photos = _photo_hashes(dataset)
        self._home = Path(folder or default_cache()).expanduser() / _backbone_key(backbone)
        self.place = self._home / hashlib.sha256(self._photos.tobytes()).hexdigest()[:16]

    def find(self) -> Embeddings | None:
        """The complete embeddings, or those rows of a larger set that is complete."""
        return _complete(self.place) or _part_of_larger(self._home, self._photos)

    def has_shard(self, start: int) -> bool:
        """Whether the shard that begins at a row is there; if it is, it is whole."""
        return self._shard(start).exists()

    def write_shard(self, start: int, part: Embeddings) -> None:
        """Write the shard that begins at a row, whole or not at all."""
        failures = np.frombuffer(json.dumps(part.failures).encode(), np.uint8)
        with atomic_file(self._shard(start)) as unfinished, unfinished.open("wb") as file:
            np.savez(file, values=part.values, failures=failures)

    def join(self) -> None:
        """Make one array of all shards; it appears by a rename, then the shards go."""
        shape = (len(self._photos), self._width)
        failures: dict[int, str] = {}
        with atomic_file(self.place / _ARRAY) as unfinished:
            array = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
            for start in range(0, len(self._photos), SHARD_PHOTOS):
                with np.load(self._shard(start), allow_pickle=False) as shard:
                    array[start : start + SHARD_PHOTOS] = shard["values"]
                    wrong = json.loads(shard["failures"].tobytes().decode())
                failures |= {start + int(row): text for row, text in wrong.items()}
            array.flush()
            del array
            np.save(self.place / _PHOTOS, self._photos)
            (self.place / _FAILURES).write_text(json.dumps(failures), encoding="utf-8")
        for shard in [*self.place.glob("shard-*.npz"), *self.place.glob(".shard-*.part")]:
            shard.unlink(missing_ok=True)

    def _shard(self, start: int) -> Path:
        return self.place / f"shard-{start:09d}.npz"


def default_cache() -> Path:
    """Where embeddings are kept unless a folder is named."""
    return cache_folders().models.parent / "embeddings"


def _backbone_key(backbone: Backbone) -> str:
    config = {k: v for k, v in backbone.config.to_dict().items() if k != "name"}
    facts = [config, backbone.preprocessing.to_dict(), backbone.weights_hash()]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(backbone.config.name).name).strip("-.")
    return f"{name or 'backbone'}-{digest}"


def _photo_hashes(dataset: PhotoDataset) -> NDArray[np.uint64]:
    """One number a photo, of its path, position and file size: a replaced file is a new photo."""
    hashes = np.empty(len(dataset), dtype=np.uint64)
    rows = zip(dataset.table["path"], dataset.coordinates, dataset.paths, strict=True)
    for row, (path, (latitude, longitude), file) in enumerate(rows):
        try:
            size = os.stat(file).st_size
        except OSError:
            size = -1
        text = f"{path}|{latitude!r}|{longitude!r}|{size}"
        hashes[row] = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return hashes


def _complete(place: Path) -> Embeddings | None:
    if not (place / _ARRAY).exists():
        return None
    try:
        values = np.load(place / _ARRAY, mmap_mode="r", allow_pickle=False)
        failures = json.loads((place / _FAILURES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning("embeddings in %s are damaged and made again: %s", place, error)
        with contextlib.suppress(OSError):
            shutil.rmtree(place)
        return None
    return Embeddings(values, {int(row): text for row, text in failures.items()})


def _part_of_larger(home: Path, photos: NDArray[np.uint64]) -> Embeddings | None:
    """The rows of these photos from another complete set of the same backbone."""
    for place in sorted(home.glob("*/")):
        if not (place / _PHOTOS).exists():
            continue
        whole, known = _complete(place), np.load(place / _PHOTOS, allow_pickle=False)
        if whole is None or len(known) < len(photos):
            continue
        order = np.argsort(known)
        at = np.minimum(np.searchsorted(known, photos, sorter=order), len(known) - 1)
        rows = order[at]
        if np.array_equal(known[rows], photos):
            where = {int(r): i for i, r in enumerate(rows)}
            failures = {where[r]: t for r, t in whole.failures.items() if r in where}
            return Embeddings(whole.values[rows], failures)
    return None
