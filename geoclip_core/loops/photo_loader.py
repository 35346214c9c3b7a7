"""Photos for training steps: read ahead by threads, augmented by a chance that can be repeated."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoclip_core.data.photos import PhotoError, open_photo
from geoclip_core.loops.batches import Indices
from geoclip_core.model.augmentation import augmented
from geoclip_core.model.backbone import Preprocessing

logger = logging.getLogger(__name__)
AHEAD = 3
"""Parts of steps that are read before they are needed."""
TOLERATED_SHARE = 0.05


@dataclass(frozen=True)
class LoadedPhotos:
    """The readable photos of a part of a step."""

    rows: Indices
    views: list[Tensor]


class CachedEmbeddings:
    """Hands out the embeddings of an epoch, where the backbone is frozen.

    Args:
        embeddings: (n, D) by row.
    """

    def __init__(self, embeddings: NDArray[np.floating]) -> None:
        self.embeddings = embeddings

    def epoch(self, epoch: int, steps: Sequence[Sequence[Indices]]) -> Iterator[list[Tensor]]:
        """(b, D) float32 for each part of each step, in order; the epoch changes nothing."""
        del epoch
        for parts in steps:
            yield [
                torch.from_numpy(np.asarray(self.embeddings[rows], dtype=np.float32))
                for rows in parts
            ]


class PhotoLoader:
    """Reads and augments the photos of an epoch.

    What chance does to a photo depends on (seed, epoch, row) alone, not on threads, processes or
    where a run was resumed.

    Args:
        paths: photos by row.
        preprocessing: of the backbone.
        strength: of the augmentation; 0 for none.
        seed: chance.
        workers: threads.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        strength: float,
        seed: int,
        workers: int = 2,
    ) -> None:
        self.paths, self.preprocessing = list(paths), preprocessing
        self.strength, self.seed, self.workers = strength, seed, workers
        self._unreadable: set[int] = set()

    def epoch(self, epoch: int, steps: Sequence[Sequence[Indices]]) -> Iterator[list[LoadedPhotos]]:
        """The photos of each part of each step, in order."""
        flat = [rows for parts in steps for rows in parts]
        with ThreadPoolExecutor(self.workers) as pool:
            waiting = [self._submit(pool, epoch, rows) for rows in flat[:AHEAD]]
            following = AHEAD
            for parts in steps:
                loaded = []
                for rows in parts:
                    futures = waiting.pop(0)
                    if following < len(flat):
                        waiting.append(self._submit(pool, epoch, flat[following]))
                        following += 1
                    loaded.append(self._collect(rows, futures))
                yield loaded

    def _submit(
        self, pool: ThreadPoolExecutor, epoch: int, rows: Indices
    ) -> list[Future[list[Tensor] | None]]:
        return [pool.submit(self._read, epoch, int(row)) for row in rows]

    def _read(self, epoch: int, row: int) -> list[Tensor] | None:
        try:
            photo = open_photo(self.paths[row], draft_size=self.preprocessing.draft_size)
        except PhotoError as error:
            if row not in self._unreadable:
                logger.warning("left out: %s", error)
            self._unreadable.add(row)
            if len(self._unreadable) > max(10, TOLERATED_SHARE * len(self.paths)):
                raise ValueError(
                    f"{len(self._unreadable)} of {len(self.paths)} photos cannot be read, for "
                    f"example: {error} Check the dataset with python -m train doctor"
                ) from error
            return None
        rng = np.random.default_rng([self.seed, epoch, row])
        return self.preprocessing.pixels(augmented(photo.image, rng, self.strength))

    def _collect(
        self, rows: Indices, futures: Sequence[Future[list[Tensor] | None]]
    ) -> LoadedPhotos:
        results = [future.result() for future in futures]
        kept = np.array([result is not None for result in results], dtype=bool)
        pixels = [result for result in results if result is not None]
        if not pixels:
            raise ValueError("not one photo of a training step can be read")
        return LoadedPhotos(rows[kept], [torch.stack(v) for v in zip(*pixels, strict=True)])
