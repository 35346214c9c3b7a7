"""The photos of a fit and their embeddings, by split."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from geoclip_core.data.table import PhotoDataset, read_dataset
from geoclip_core.loops.embed import embed_dataset, embed_images
from geoclip_core.loops.embedding_cache import Embeddings
from geoclip_core.loops.run_session import RunSession
from geoclip_core.loops.training_options import TrainingOptions
from geoclip_core.model.backbone import Backbone

if TYPE_CHECKING:
    from accelerate import Accelerator

SPLITS = ("train", "val", "test")
LEAST_TRAIN, LEAST_VAL = 20, 10
EMBED_BATCH = 32


@dataclass(frozen=True)
class EmbeddedSplit:
    """The readable photos of a split and their embeddings (n, D)."""

    photos: PhotoDataset
    embeddings: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.photos)


def read_training_dataset(options: TrainingOptions, session: RunSession) -> PhotoDataset:
    """The dataset of a run, if it can be trained on.

    Raises:
        ValueError: too few photos in train or val.
    """
    dataset = read_dataset(options.data, val_fraction=options.val_fraction, seed=options.seed)
    counts = {split: len(dataset.split(split)) for split in SPLITS}
    shown = ", ".join(f"{n:,} {split}" for split, n in counts.items())
    session.log(f"dataset {dataset.name}: {shown} photos")
    for split, least in (("train", LEAST_TRAIN), ("val", LEAST_VAL)):
        if counts[split] < least:
            raise ValueError(
                f"{dataset.root}: training needs at least {least} photos in the {split} split, "
                f"and there are {shown}: give a larger dataset or another val_fraction"
            )
    return dataset


class Embedder:
    """Embeds photos of a run, sharing the work among its processes."""

    def __init__(
        self,
        options: TrainingOptions,
        session: RunSession,
        accelerator: "Accelerator",
        backbone: Backbone,
    ) -> None:
        self.options, self.session = options, session
        self.accelerator, self.backbone = accelerator, backbone

    def splits(
        self,
        dataset: PhotoDataset,
        names: Iterable[str] = SPLITS,
        shares: tuple[float, float] = (0.0, 0.4),
        cache_dir: Path | None = None,
    ) -> dict[str, EmbeddedSplit]:
        """The readable photos of some splits with their embeddings, from the cache if there.

        Args:
            dataset: all photos; those of other splits are embedded as well where the cache serves
                every run, so that another choice of splits finds them.
            names: which splits.
            shares: of the run's progress, before and after.
            cache_dir: a cache for this run alone; None: the options' one.
        """
        names = tuple(names)
        wanted = dataset
        if cache_dir is not None:
            wanted = dataset.select(dataset.table["split"].isin(names).to_numpy())
        embedded = self.every(wanted, shares, cache_dir)
        splits = {}
        for name in SPLITS:
            rows = np.flatnonzero((wanted.table["split"] == name).to_numpy() & embedded.readable)
            splits[name] = EmbeddedSplit(wanted.select(rows), _rows(embedded.values, rows))
        for name, least in (("train", LEAST_TRAIN), ("val", LEAST_VAL)):
            if name in names and len(splits[name]) < least:
                raise ValueError(
                    f"only {len(splits[name])} photos of the {name} split can be read: check the "
                    "dataset with python -m train doctor"
                )
        return splits

    def every(
        self,
        dataset: PhotoDataset,
        shares: tuple[float, float] = (0.0, 0.4),
        cache_dir: Path | None = None,
    ) -> Embeddings:
        """The embeddings of all photos of a dataset, from the cache if there."""
        accelerator = self.accelerator
        embedded = embed_dataset(
            self.backbone,
            dataset,
            cache_dir or self.options.cache_dir,
            batch_size=EMBED_BATCH,
            progress=self.session.embedding_progress(*shares),
            workers=self.options.workers,
            share=(accelerator.process_index, accelerator.num_processes),
            barrier=accelerator.wait_for_everyone,
        )
        for row, reason in list(embedded.failures.items())[:5]:
            self.session.log(f"left out {dataset.table['path'].iloc[row]}: {reason}")
        if len(embedded.failures) > 5:
            self.session.log(f"left out {len(embedded.failures)} unreadable photos in all")
        return embedded

    def now(self, photos: PhotoDataset) -> NDArray[np.float32]:
        """Embeddings (n, D) with the weights as they are; NaN rows for unreadable photos."""
        accelerator = self.accelerator
        mine = np.arange(accelerator.process_index, len(photos), accelerator.num_processes)
        paths = photos.paths
        part = embed_images(
            self.backbone, [paths[i] for i in mine], EMBED_BATCH, workers=self.options.workers
        )
        values = np.full((len(photos), self.backbone.embedding_width), np.nan, dtype=np.float32)
        values[mine] = part.values
        if accelerator.num_processes == 1:
            return values
        filled = torch.from_numpy(np.nan_to_num(values)).to(accelerator.device)
        bad = torch.zeros(len(photos), device=accelerator.device)
        bad[[int(mine[row]) for row in part.failures]] = 1
        whole = accelerator.reduce(filled, "sum").cpu().numpy()
        whole[accelerator.reduce(bad, "sum").cpu().numpy() > 0] = np.nan
        return whole


def _rows(values: NDArray[np.float16], rows: NDArray[np.int64]) -> NDArray[np.float16]:
    """Rows of a memory map: a view where they follow each other, else a copy."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return values[rows[0] : rows[-1] + 1]
    return values[rows]
