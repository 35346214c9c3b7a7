"""`pretrain`: train an image and a text tower on photos and captions with a contrastive loss."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.data import KNOWN_FEATURES
from geoclip_core.data.captions import caption, captions
from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary, build_vocabularies
from geoclip_core.errors import TrainingError
from geoclip_core.files import atomic_folder, write_atomically
from geoclip_core.model.backbones import backbone_config, build_backbone, load_image_text
from geoclip_core.model.image_text import (
    SMALL,
    ClipPair,
    ImageTextModel,
    ImageTextPair,
    TextTower,
)
from geoclip_core.model.losses import contrastive_loss
from geoclip_core.model.transformers_backbone import model_type
from geoclip_core.training.cards import pretrain_card
from geoclip_core.training.distributed import gather_counts, gather_rows, scaled_gradient
from geoclip_core.training.inputs import (
    CachedEmbeddings,
    EmbeddedSplit,
    Embedder,
    PhotoLoader,
    check_size,
    read_training_dataset,
)
from geoclip_core.training.loop import Indices, StepPart, TrainingLoop, build_optimizer
from geoclip_core.training.options import PretrainOptions
from geoclip_core.training.session import StopRequestedError, TrainingRun

Array = NDArray[np.floating]
PretrainRun = TrainingRun[PretrainOptions]

RETRIEVAL_BATCH, LOSS_BATCH, TEXT_BATCH = 16, 128, 256
ZERO_SHOT_FEATURES = ("state", "climate", "month")
SINGLE_PART = 0.25
"""Share of the captions that mention a single feature."""
NOTHING = caption({})
TRAINED = 0.92
"""Share of the run's progress at the end of training."""


def pretrain(run: PretrainRun, dataset: PhotoDataset | None = None) -> None:
    """Train on a dataset and write both towers and their metrics into the run folder.

    Args:
        run: options, session and folder of the run.
        dataset: replaces the dataset in the options.

    Raises:
        StopRequestedError: a stop was requested; the state and a checkpoint are saved.
        ValueError: the dataset or the backbone cannot be used.
    """
    options, session, accelerator = run.options, run.session, run.accelerator
    if dataset is None:
        dataset = read_training_dataset(options, session)
        check_size(dataset, "pretraining")
    train = dataset.split("train")
    torch.manual_seed(options.seed)
    pair = build_pair(options, train).to(accelerator.device)
    _set_trainable(pair, options)
    embedder = Embedder(options, session, accelerator, pair.backbone)
    prepared = (
        _frozen_tower(embedder, dataset)
        if options.frozen
        else _trained_tower(embedder, dataset, options)
    )
    features = tuple(feature for feature in ZERO_SHOT_FEATURES if feature in options.features)
    vocabularies = build_vocabularies(train.table, features)
    evaluators = {
        split: PairEvaluator(
            photos,
            prepared.embeddings[split],
            vocabularies,
            options.features,
            options.seed,
        )
        for split, photos in prepared.measured.items()
    }
    task = PretrainTask(
        pair,
        options,
        prepared.train.table,
        prepared.inputs,
        evaluators["val"],
        accelerator.process_index,
        accelerator.num_processes,
    )
    loop = TrainingLoop(
        accelerator,
        session,
        run.folder,
        task,
        options,
        len(prepared.train),
        0.4 if options.frozen else 0.0,
        TRAINED,
    )
    ended = loop.run()
    stopped = "" if ended else f"after {loop.step} of {loop.total} steps"
    session.progress("evaluating", TRAINED, now=True)
    wanted = ("val", "test") if ended else ("val",)
    reports = {s: evaluators[s].measure(pair) for s in wanted if len(prepared.measured[s])}
    if accelerator.is_main_process:
        _write(run, pair, dataset, reports, stopped)
    accelerator.wait_for_everyone()
    if not ended:
        raise StopRequestedError


@dataclass(frozen=True)
class _Prepared:
    """Photos to train on and to evaluate on, and their embeddings."""

    train: PhotoDataset
    inputs: CachedEmbeddings | PhotoLoader
    measured: dict[str, PhotoDataset]
    """Split -> photos."""
    embeddings: dict[str, Callable[[], Array]]
    """Split -> function that returns its embeddings (n, D) with the current weights."""


def _frozen_tower(embedder: Embedder, dataset: PhotoDataset) -> _Prepared:
    splits = embedder.splits(dataset, shares=(0.0, 0.4))
    train = splits.pop("train")

    def cached(split: EmbeddedSplit) -> Callable[[], Array]:
        return lambda: split.embeddings

    return _Prepared(
        train.photos,
        CachedEmbeddings(train.embeddings),
        {name: split.photos for name, split in splits.items()},
        {name: cached(split) for name, split in splits.items()},
    )


def _trained_tower(
    embedder: Embedder, dataset: PhotoDataset, options: PretrainOptions
) -> _Prepared:
    train = dataset.split("train")
    loader = PhotoLoader(
        train.paths,
        embedder.backbone.preprocessing,
        options.augment,
        options.seed,
        options.workers,
    )
    measured = {name: dataset.split(name) for name in ("val", "test")}
    return _Prepared(
        train,
        loader,
        measured,
        {name: partial(embedder.now, photos) for name, photos in measured.items()},
    )


def build_pair(options: PretrainOptions, train: PhotoDataset) -> ImageTextPair:
    """Return the towers of CLIP or of an earlier pretraining, or a backbone with a text tower.

    `train` holds the photos whose captions give a small text tower its vocabulary.

    Raises:
        ValueError: the options change the views or framing of an earlier pretraining.
    """
    changes = options.backbone_changes()
    config = backbone_config(options.backbone, **changes)
    if config.kind == "transformers" and model_type(config) == "clip":
        return ClipPair(config)
    if config.kind == "image-text":
        if changes:
            raise TrainingError(
                "views and framing of an earlier pretraining cannot be changed: leave them out"
            )
        return load_image_text(Path(config.name))
    backbone = build_backbone(config)
    if options.text != SMALL:
        return ImageTextModel(backbone, TextTower.pretrained(options.text), options.width)
    texts = captions(train.table, features=options.features)
    for vocabulary in build_vocabularies(train.table, options.features).values():
        texts += class_captions(vocabulary)
    return ImageTextModel(backbone, TextTower.small(texts), options.width)


def _set_trainable(pair: ImageTextPair, options: PretrainOptions) -> None:
    """Freeze all but the chosen part of the image tower, the text tower and the projections."""
    pair.backbone.set_trainable(options.train_backbone)
    small = isinstance(pair, ImageTextModel) and options.text == SMALL
    for module in pair.text_modules():
        for parameter in module.parameters():
            parameter.requires_grad_(options.train_text or small)
    for parameter in pair.bridges():
        parameter.requires_grad_(True)


class PairEvaluator:
    """Evaluates a pair of towers on the photos of one split.

    Args:
        photos: n photos.
        embeddings: returns the backbone's embeddings (n, D) with the current weights; rows of NaN
            are left out.
        vocabularies: vocabularies of the features to classify.
        features: features that captions mention.
        seed: seed of the batches.
    """

    def __init__(
        self,
        photos: PhotoDataset,
        embeddings: Callable[[], Array],
        vocabularies: Mapping[str, Vocabulary],
        features: tuple[str, ...],
        seed: int,
    ) -> None:
        self.photos, self.embeddings, self.seed = photos, embeddings, seed
        self.vocabularies = vocabularies
        self.captions = captions(photos.table, features=features)
        self.labels = photos.labels(vocabularies)

    @torch.no_grad()
    def measure(self, pair: ImageTextPair) -> dict[str, Any]:
        """Return "n" photos, "loss", and "retrieval" and "zero_shot" accuracies (0 to 1)."""
        pair.eval()
        values = np.asarray(self.embeddings(), dtype=np.float32)
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        device = pair.scale.device
        images = torch.cat(
            [
                pair.encode_embedding(torch.from_numpy(values[part]).to(device)).float().cpu()
                for part in np.array_split(rows, -(-len(rows) // TEXT_BATCH))
            ]
        )
        written = [self.captions[row] for row in rows]
        texts = encode_texts(pair, written)
        scale = float(pair.scale)
        return {
            "n": len(rows),
            "loss": self._loss(images, texts, written, scale),
            "retrieval": self._retrieval(images, texts, written),
            "zero_shot": {
                feature: self._zero_shot(pair, images, feature, rows)
                for feature in ZERO_SHOT_FEATURES
                if feature in self.vocabularies
            },
        }

    def validate(self, pair: ImageTextPair) -> dict[str, float]:
        """Return the results of `measure` to follow during training, without nesting."""
        report = self.measure(pair)
        flat = {"loss": report["loss"], "retrieval_of_16": report["retrieval"]["image_to_text"]}
        zero_shot = {f: v["top1"] for f, v in report["zero_shot"].items() if v["n"]}
        return {**flat, **{f"{feature}_zero_shot": v for feature, v in zero_shot.items()}}

    def _order(self, count: int) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(count)

    def _loss(self, images: Tensor, texts: Tensor, written: list[str], scale: float) -> float:
        """Return the mean contrastive loss in batches of 128; equal captions are positives."""
        total, names = 0.0, np.array(written)
        order = self._order(len(names))
        for part in np.array_split(order, -(-len(order) // LOSS_BATCH)):
            same = torch.from_numpy(names[part][:, None] == names[part][None, :])
            total += float(contrastive_loss(images[part], texts[part], scale, same)) * len(part)
        return total / len(order)

    def _retrieval(self, images: Tensor, texts: Tensor, written: list[str]) -> dict[str, float]:
        """Return the share of photos whose most similar caption of 16 is right, and vice versa.

        Photos are shuffled and cut into batches of 16; a smaller last batch is left out, unless it
        is the only one. A caption equal to the photo's own is right.
        """
        names = np.array(written)
        order = self._order(len(names))
        size = min(RETRIEVAL_BATCH, len(order))
        hits: dict[str, list[bool]] = {"image_to_text": [], "text_to_image": []}
        for start in range(0, len(order) - size + 1, size):
            part = order[start : start + size]
            similarity = images[part] @ texts[part].T
            for name, axis in (("image_to_text", 1), ("text_to_image", 0)):
                found = similarity.argmax(axis).numpy()
                hits[name] += (names[part][found] == names[part]).tolist()
        return {**{name: float(np.mean(right)) for name, right in hits.items()}, "among": size}

    def _zero_shot(
        self, pair: ImageTextPair, images: Tensor, feature: str, rows: NDArray[np.int64]
    ) -> dict[str, float | int | None]:
        """Return the accuracy of choosing the class whose caption is most similar to the photo.

        "majority" is the accuracy of always choosing the most common class.
        """
        vocabulary, labels = self.vocabularies[feature], self.labels[feature][rows]
        known = labels != IGNORE_INDEX
        if not known.any():
            return {"top1": None, "majority": None, "n": 0}
        prompts = encode_texts(pair, class_captions(vocabulary))
        guess = (images @ prompts.T).argmax(1).numpy()
        majority = np.bincount(labels[known]).max() / known.sum()
        top1 = float(np.mean(guess[known] == labels[known]))
        return {"top1": top1, "majority": float(majority), "n": int(known.sum())}


def class_captions(vocabulary: Vocabulary) -> list[str]:
    """Return a caption for each class that mentions only the class, in the words of training."""
    feature = vocabulary.feature
    values = range(len(vocabulary)) if feature in ("climate", "month") else vocabulary.names
    return [caption({feature: value}, features=(feature,)) for value in values]


@torch.no_grad()
def encode_texts(pair: ImageTextPair, texts: list[str]) -> Tensor:
    """Return unit vectors (n, P) of n texts; equal texts are encoded once."""
    different = sorted(set(texts))
    device = pair.scale.device
    vectors = []
    for start in range(0, len(different), TEXT_BATCH):
        tokens = pair.tokens(different[start : start + TEXT_BATCH])
        tokens = {name: ids.to(device) for name, ids in tokens.items()}
        vectors.append(pair.encode_tokens(tokens).float().cpu())
    row = {text: number for number, text in enumerate(different)}
    return torch.cat(vectors)[[row[text] for text in texts]]


class EpochCaptions:
    """Captions of the training photos, with other features left out in every epoch.

    Sometimes all features but one are left out, because zero-shot classification uses captions of a
    single feature. The choice depends on (seed, epoch, row) alone, so that every process can make
    the captions of all photos.
    """

    def __init__(self, table: pd.DataFrame, options: PretrainOptions) -> None:
        columns = [name for name in KNOWN_FEATURES if name in table]
        self._rows: list[dict[str, Any]] = [
            dict(zip(columns, row, strict=True)) for row in table[columns].astype(object).to_numpy()
        ]
        self.options = options

    def of(self, epoch: int, rows: Iterable[int]) -> list[str]:
        """Return the captions of `rows` in an epoch."""
        return [self._caption(epoch, int(row)) for row in rows]

    def _caption(self, epoch: int, row: int) -> str:
        rng = np.random.default_rng([self.options.seed, 1, epoch, row])
        features = self.options.features
        single = rng.random() < SINGLE_PART
        text = caption(
            self._rows[row],
            rng,
            features=(str(rng.choice(features)),) if single else features,
            drop_probability=self.options.drop_probability,
        )
        if single and text == NOTHING:  # the one feature is unknown for this photo
            return caption(self._rows[row], features=features)
        return text


class PretrainObjective(nn.Module):
    """Both towers and the loss in one module, so that a distributed step is one forward pass."""

    def __init__(self, pair: ImageTextPair, process: int, processes: int) -> None:
        super().__init__()
        self.pair, self.process, self.processes = pair, process, processes

    def forward(
        self, inputs: Tensor | list[Tensor], tokens: dict[str, Tensor], same: Tensor
    ) -> Tensor:
        """Return the contrastive loss over the photos of all processes.

        Args:
            inputs: embeddings (b, D) or views of the photos of this process.
            tokens: tokens of the captions of this process, each (b, length).
            same: (n, n) whether two of the n photos of the step have the same caption.
        """
        if isinstance(inputs, Tensor):
            images = self.pair.encode_embedding(inputs)
        else:
            images = self.pair.encode_images(inputs)
        texts = self.pair.encode_tokens(tokens)
        counts = gather_counts(len(images), self.processes, images.device)
        images = gather_rows(images.float(), counts, self.process)
        texts = gather_rows(texts.float(), counts, self.process)
        scale = scaled_gradient(self.pair.scale, 1 / self.processes)
        return contrastive_loss(images, texts, scale, same)


class PretrainTask:
    """Trains a pair of towers; see `loop.Task`.

    Args:
        pair: both towers; parts that are not trained are frozen.
        options: training options.
        table: training rows of the dataset.
        inputs: embeddings of the training photos or, if the image tower is trained, the photos.
        evaluator: evaluator on the validation photos.
        process: index of this process.
        processes: number of processes.
    """

    criterion = "loss"

    def __init__(
        self,
        pair: ImageTextPair,
        options: PretrainOptions,
        table: pd.DataFrame,
        inputs: CachedEmbeddings | PhotoLoader,
        evaluator: PairEvaluator,
        process: int,
        processes: int,
    ) -> None:
        self.pair, self.evaluator, self.inputs = pair, evaluator, inputs
        self.captions = EpochCaptions(table, options)
        self.process, self.processes = process, processes
        self.module = PretrainObjective(pair, process, processes)
        pretrained = ("backbone.",) if options.text == SMALL else ("backbone.", "text.")
        self.optimizer = build_optimizer(self.module, options, pretrained)
        self._epoch = 0

    def parts(self, epoch: int, steps: Sequence[Sequence[Indices]]) -> Iterator[list[StepPart]]:
        """Yield the parts of each step; see `loop.Task`."""
        self._epoch = epoch
        return self.inputs.epoch(epoch, steps)

    def loss(
        self, module: nn.Module, part: StepPart, batch: Indices, processes: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of the whole step, the same in every process; see `loop.Task`."""
        device = next(module.parameters()).device
        counts = gather_counts(len(part.rows), self.processes, device)
        own = torch.from_numpy(part.rows).to(device)
        batch = gather_rows(own, counts, self.process).cpu().numpy()  # without unreadable photos
        texts = self.captions.of(self._epoch, batch)
        _, kinds = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
        same = torch.from_numpy(kinds[:, None] == kinds[None, :]).to(device)
        start = sum(counts[: self.process])
        tokens = self.pair.tokens(texts[start : start + counts[self.process]])
        tokens = {name: ids.to(device) for name, ids in tokens.items()}
        loss = module(part.inputs_on(device), tokens, same)
        return loss * processes, {
            "loss": float(loss.detach()),
            "scale": float(self.pair.scale.detach()),
        }

    def validate(self) -> dict[str, float]:
        """Return loss, retrieval accuracy among 16, and zero-shot accuracies on val."""
        return self.evaluator.validate(self.pair)


def _write(
    run: PretrainRun,
    pair: ImageTextPair,
    dataset: PhotoDataset,
    reports: Mapping[str, Mapping[str, Any]],
    stopped: str,
) -> None:
    """Write the towers, the metrics and the model card into the run folder."""
    pair.eval()
    metrics: dict[str, Any] = {
        "about": {
            "model": run.name,
            "dataset": dataset.name,
            "synthetic": dataset.synthetic,
        },
        **reports,
    }
    if stopped:
        metrics["stopped"] = stopped
    text = json.dumps(metrics, indent=2) + "\n"
    with atomic_folder(run.folder / "checkpoint") as folder:
        pair.save(folder)
        card = pretrain_card(run.name, run.options, dataset, reports, stopped)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / "metrics.json").write_text(text, encoding="utf-8")
    if stopped:
        return
    write_atomically(run.folder / "metrics.json", text)
    shutil.rmtree(run.folder / "resume", ignore_errors=True)
    for split, report in reports.items():
        zero_shot = ", ".join(
            f"{feature} {numbers['top1']:.1%} (majority {numbers['majority']:.1%})"
            for feature, numbers in report["zero_shot"].items()
            if numbers["n"]
        )
        run.session.log(
            f"{split}: retrieval among 16 {report['retrieval']['image_to_text']:.1%}; zero-shot "
            f"{zero_shot}"
        )
