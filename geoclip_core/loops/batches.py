"""Which photos make up which step, the same on one process and on many."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EpochBatches:
    """The batches of every epoch: a new order each, decided by (seed, epoch) alone.

    An epoch is cut into batches of nearly equal size (they differ by one photo at most), so that
    no tiny last batch takes a step of its own. `batch_size` counts the photos of one optimizer
    step, over all processes and accumulation steps.
    """

    count: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_size < 1:
            raise ValueError(f"no batches of {self.batch_size} from {self.count} photos")

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-self.count // self.batch_size)

    def epoch(self, epoch: int) -> list[Indices]:
        """The batches of an epoch (0, 1, ...), each an array of row numbers."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return np.array_split(order, self.per_epoch)


def parts_of(batch: Indices, process: int, processes: int, accumulation: int) -> list[Indices]:
    """The accumulation parts of a batch that one process takes.

    Raises:
        ValueError: some process would get no photo.
    """
    if len(batch) < processes:
        raise ValueError(
            f"a step of {len(batch)} photos cannot be shared by {processes} processes: "
            "take a larger batch size or fewer processes"
        )
    own = np.array_split(batch, processes)[process]
    return np.array_split(own, min(accumulation, len(own)))
