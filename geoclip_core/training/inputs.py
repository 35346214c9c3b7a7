"""Inputs of a training: the dataset, embeddings by split, and augmented photos by step."""

import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from geoclip_core.data.dataset import LEAST_PHOTOS, PhotoDataset, read_dataset, too_small
from geoclip_core.data.photos import open_photo
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary, build_vocabularies
from geoclip_core.errors import PhotoError, TrainingError
from geoclip_core.model.backbone import Backbone, Preprocessing
from geoclip_core.training.embeddings import Embeddings, embed_dataset, embed_images
from geoclip_core.training.loop import Indices, StepPart
from geoclip_core.training.options import TrainingOptions
from geoclip_core.training.session import RunSession

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
LEAST_TRAIN, LEAST_VAL = 20, 10
"""Least number of photos in train and val."""
EMBED_BATCH = 32
AHEAD = 3
"""Number of step parts that are read ahead."""
TOLERATED_SHARE = 0.05
"""Share of unreadable photos above which training fails."""
SMALLEST_CROP = 0.6
"""Least share of each side that a crop keeps at strength 1."""
COLOUR = 0.25
"""Largest change of brightness, contrast and saturation at strength 1, as a share."""
JPEG_QUALITY = (40, 95)
JPEG_PROBABILITY = 0.5


@dataclass(frozen=True)
class EmbeddedSplit:
    """The readable photos of a split and their embeddings (n, D)."""

    photos: PhotoDataset
    embeddings: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.photos)


def read_training_dataset(options: TrainingOptions, session: RunSession) -> PhotoDataset:
    """Return the dataset of a run.

    Raises:
        DatasetError: it cannot be read.
    """
    dataset = read_dataset(
        options.dataset_folder(), val_fraction=options.val_fraction, seed=options.seed
    )
    counts = {split: len(dataset.split(split)) for split in SPLITS}
    shown = ", ".join(f"{n:,} {split}" for split, n in counts.items())
    session.log(f"dataset {dataset.name}: {shown} photos")
    return dataset


def check_size(dataset: PhotoDataset, method: str, *, every: bool = False) -> None:
    """Refuse a dataset that is too small.

    Args:
        dataset: all photos. A bank learns from all but those of test, and is measured by
            cross-validation; other methods need a val split.
        method: "bank", or what else is to be trained, for the message.
        every: whether the photos of test are learned from too.

    Raises:
        TrainingError: there are too few photos.
    """
    if sentence := too_small(len(dataset) if every else int(dataset.learnable.sum())):
        raise TrainingError(f"{dataset.root}: {sentence}")
    if method == "bank":
        return
    counts = dataset.table["split"].value_counts()
    for split, least in (("train", LEAST_TRAIN), ("val", LEAST_VAL)):
        if (found := int(counts.get(split, 0))) < least:
            change = "raise" if split == "val" else "lower"
            remedy = f'add photos, {change} "Val fraction" (val_fraction) under More options'
            if method != "pretraining":
                remedy += f", or coordinate_head bank, for which {LEAST_PHOTOS} photos are enough"
            raise TrainingError(
                f"{dataset.root}: too small for {method}: {least} photos are needed in the {split} "
                f"split, and there are {found}: {remedy}"
            )


def learnable_vocabularies(
    train: PhotoDataset, features: tuple[str, ...], least: int = 2
) -> tuple[dict[str, Vocabulary], list[str]]:
    """Return vocabularies of the features that can be learned, and the names of the others.

    A feature needs two classes and `least` labels among the training photos. The children of a
    feature that is left out get the next larger place as parent: cities get states if counties are
    unknown.
    """
    every = build_vocabularies(train.table, features)
    kept = []
    for feature, labels in train.labels(every).items():
        known = labels[labels != IGNORE_INDEX]
        if len(known) >= least and len(np.unique(known)) >= 2:
            kept.append(feature)
    left_out = [feature for feature in features if feature not in kept]
    return (build_vocabularies(train.table, tuple(kept)) if left_out else every), left_out


class Embedder:
    """Embeds the photos of a run; the processes of a distributed run share the work."""

    def __init__(
        self,
        options: TrainingOptions,
        session: RunSession,
        accelerator: Accelerator,
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
        """Return the readable photos of each split with their embeddings.

        Args:
            dataset: all photos. Without `cache_dir`, those of other splits are embedded too, for
                later runs.
            names: splits to return.
            shares: shares of the run that are done before and after, for its progress.
            cache_dir: cache of this run alone; None: the cache of the options.

        Raises:
            ValueError: too few photos of train or val can be read.
            EmbeddingError: see `embed_dataset`.
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
                raise TrainingError(
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
        """Return the embeddings of all photos, from the cache or computed; see `splits`."""
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
        """Return embeddings (n, D) with the current weights; unreadable photos are rows of NaN."""
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
        whole: NDArray[np.float32] = accelerator.reduce(filled, "sum").cpu().numpy()
        whole[accelerator.reduce(bad, "sum").cpu().numpy() > 0] = np.nan
        return whole


def _rows(values: NDArray[np.float16], rows: NDArray[np.int64]) -> NDArray[np.float16]:
    """Return rows of a memory map: a view if they are contiguous, else a copy."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return values[rows[0] : rows[-1] + 1]
    return values[rows]


class CachedEmbeddings:
    """Yields cached embeddings (n, D), for a backbone that is not trained."""

    def __init__(self, embeddings: NDArray[np.floating]) -> None:
        self.embeddings = embeddings

    def epoch(self, epoch: int, steps: Sequence[Sequence[Indices]]) -> Iterator[list[StepPart]]:
        """Yield the parts of each step with embeddings (b, D) float32."""
        del epoch
        for parts in steps:
            yield [
                StepPart(rows, torch.from_numpy(self.embeddings[rows].astype(np.float32)))
                for rows in parts
            ]


class PhotoLoader:
    """Reads and augments the photos of an epoch, for a backbone that is trained.

    The augmentation of a photo depends on (seed, epoch, row) alone, so it is the same for any
    number of threads or processes and after a resume.

    Args:
        paths: photos by row.
        preprocessing: preprocessing of the backbone.
        strength: strength of the augmentation; 0: none.
        seed: seed of the augmentation.
        workers: threads that read photos.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        strength: float,
        seed: int,
        workers: int,
    ) -> None:
        self.paths, self.preprocessing = list(paths), preprocessing
        self.strength, self.seed, self.workers = strength, seed, workers
        self._unreadable: set[int] = set()

    def epoch(self, epoch: int, steps: Sequence[Sequence[Indices]]) -> Iterator[list[StepPart]]:
        """Yield the parts of each step with the views of their readable photos.

        Raises:
            ValueError: no photo of a part, or too few photos in all, can be read.
        """
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
                raise TrainingError(
                    f"{len(self._unreadable)} of {len(self.paths)} photos cannot be read, for "
                    f"example: {error} Check the dataset with python -m train doctor"
                ) from error
            return None
        rng = np.random.default_rng([self.seed, epoch, row])
        return self.preprocessing.pixels(augmented(photo.image, rng, self.strength))

    def _collect(self, rows: Indices, futures: Sequence[Future[list[Tensor] | None]]) -> StepPart:
        results = [future.result() for future in futures]
        kept = np.array([result is not None for result in results], dtype=bool)
        pixels = [result for result in results if result is not None]
        if not pixels:
            raise TrainingError("none of the photos of a training step can be read")
        return StepPart(rows[kept], [torch.stack(v) for v in zip(*pixels, strict=True)])


def augmented(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Return a copy of a photo with random crop, colours and JPEG compression.

    Args:
        image: RGB image.
        rng: random generator; the same state gives the same copy.
        strength: 0: return the photo itself; 1: the usual amount; 2: the most.
    """
    if strength <= 0:
        return image
    image = _cropped(image, rng, 1 - (1 - SMALLEST_CROP) * min(strength, 2.0))
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        factor = 1 + min(COLOUR * strength, 0.9) * rng.uniform(-1, 1)
        image = enhancer(image).enhance(factor)
    quality = int(rng.integers(*JPEG_QUALITY))
    if rng.random() < JPEG_PROBABILITY * min(strength, 1.0):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer).convert("RGB")
    return image


def _cropped(image: Image.Image, rng: np.random.Generator, smallest: float) -> Image.Image:
    width, height = image.size
    shares = rng.uniform(smallest, 1.0, size=2)
    crop_width = max(1, round(width * shares[0]))
    crop_height = max(1, round(height * shares[1]))
    left = int(rng.integers(0, width - crop_width + 1))
    top = int(rng.integers(0, height - crop_height + 1))
    return image.crop((left, top, left + crop_width, top + crop_height))
