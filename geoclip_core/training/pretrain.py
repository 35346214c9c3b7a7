"""`pretrain`: contrastive alignment of photos and captions, from a dataset to a backbone."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.data.captions import caption, captions
from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.features import KNOWN_FEATURES
from geoclip_core.data.vocabulary import (
    IGNORE_INDEX,
    Vocabulary,
    build_vocabularies,
)
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
    Embedder,
    LoadedPhotos,
    PhotoLoader,
    read_training_dataset,
)
from geoclip_core.training.loop import Indices, TrainingLoop, build_optimizer
from geoclip_core.training.options import PretrainOptions
from geoclip_core.training.session import RunSession, StopRequestedError

if TYPE_CHECKING:
    from accelerate import Accelerator

RETRIEVAL_BATCH, LOSS_BATCH, TEXT_BATCH = 16, 128, 256
ZERO_SHOT_FEATURES = ("state", "climate", "month")


class PairEncoder:
    """Measures a pair of towers on the photos of one split.

    Args:
        photos: n photos.
        embeddings: gives their raw embeddings (n, D) with the weights as they are; NaN rows are
            left out.
        vocabularies: of the features to classify.
        features: what captions mention.
        seed: of the batches.
    """

    def __init__(
        self,
        photos: PhotoDataset,
        embeddings: Callable[[], NDArray[np.floating]],
        vocabularies: Mapping[str, Vocabulary],
        features: tuple[str, ...],
        seed: int = 0,
    ) -> None:
        self.photos, self.embeddings, self.seed = photos, embeddings, seed
        self.vocabularies = vocabularies
        self.captions = captions(photos.table, features=features)
        self.labels = photos.labels(vocabularies)

    @torch.no_grad()
    def measure(self, pair: ImageTextPair, quick: bool = False) -> dict[str, Any]:
        """Loss, retrieval accuracies in batches of 16, zero-shot accuracies.

        Args:
            pair: both towers.
            quick: flat numbers alone, for a validation between epochs.
        """
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
        report: dict[str, Any] = {
            "n": len(rows),
            "loss": self._loss(images, texts, written, scale),
            "retrieval": self._retrieval(images, texts, written),
            "zero_shot": {
                feature: self._zero_shot(pair, images, feature, rows)
                for feature in ZERO_SHOT_FEATURES
                if feature in self.vocabularies
            },
        }
        if not quick:
            return report
        flat = {"loss": report["loss"], "retrieval_of_16": report["retrieval"]["image_to_text"]}
        zero_shot = {f: v["top1"] for f, v in report["zero_shot"].items() if v["n"]}
        return {**flat, **{f"{feature}_zero_shot": v for feature, v in zero_shot.items()}}

    def _order(self, count: int) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(count)

    def _loss(self, images: Tensor, texts: Tensor, written: list[str], scale: float) -> float:
        """Mean contrastive loss in batches of up to 128, equal captions being positives."""
        total, names = 0.0, np.array(written)
        order = self._order(len(names))
        for part in np.array_split(order, -(-len(order) // LOSS_BATCH)):
            same = torch.from_numpy(names[part][:, None] == names[part][None, :])
            total += float(contrastive_loss(images[part], texts[part], scale, same)) * len(part)
        return total / len(order)

    def _retrieval(self, images: Tensor, texts: Tensor, written: list[str]) -> dict[str, float]:
        """Share of photos whose most similar caption among 16 is theirs, and the reverse.

        Photos are shuffled and cut into batches of 16, a last smaller one left out (all are taken
        where there are fewer). A caption that reads the same as the photo's own is right.
        """
        names = np.array(written)
        order = self._order(len(names))
        size = min(RETRIEVAL_BATCH, len(order))
        hits = {"image_to_text": [], "text_to_image": []}
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
        """Classes by the caption that says nothing but the class; the majority class beside it."""
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
    """A caption for each class that mentions nothing else, worded like those of training."""
    feature = vocabulary.feature
    values = range(len(vocabulary)) if feature in ("climate", "month") else vocabulary.names
    return [caption({feature: value}, features=(feature,)) for value in values]


@torch.no_grad()
def encode_texts(pair: ImageTextPair, texts: list[str]) -> Tensor:
    """Vectors (n, P) of length 1; each different text is encoded once."""
    different = sorted(set(texts))
    device = pair.scale.device
    vectors = []
    for start in range(0, len(different), TEXT_BATCH):
        tokens = pair.tokens(different[start : start + TEXT_BATCH])
        tokens = {name: ids.to(device) for name, ids in tokens.items()}
        vectors.append(pair.encode_tokens(tokens).float().cpu())
    place = {text: number for number, text in enumerate(different)}
    return torch.cat(vectors)[[place[text] for text in texts]]


Array = NDArray[np.floating]
SINGLE_PART = 0.25
"""Share of the captions that say one thing alone."""
NOTHING = caption({})


class EpochCaptions:
    """The captions of the training photos, other ones in every epoch.

    Parts are dropped at random, and now and then all but one: captions that say a single thing are
    what classes are read from later. What a caption drops depends on (seed, epoch, row) alone, so
    every process knows the captions of all.
    """

    def __init__(self, table: pd.DataFrame, options: PretrainOptions) -> None:
        columns = [name for name in KNOWN_FEATURES if name in table]
        self._rows = table[columns].astype(object).to_dict("records")
        self.options = options

    def of(self, epoch: int, rows: Iterable[int]) -> list[str]:
        """Captions of some rows in an epoch."""
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
        if single and text == NOTHING:  # the one thing that was to be said is not known
            return caption(self._rows[row], features=features)
        return text


class PretrainObjective(nn.Module):
    """Both towers and the loss in one module."""

    def __init__(self, pair: ImageTextPair, process: int, processes: int) -> None:
        super().__init__()
        self.pair, self.process, self.processes = pair, process, processes

    def forward(
        self, inputs: Tensor | list[Tensor], tokens: dict[str, Tensor], same: Tensor
    ) -> Tensor:
        """The contrastive loss over the photos of all processes.

        Args:
            inputs: embeddings (b, D) or views of this process's photos.
            tokens: of this process's captions.
            same: (n, n) whether two photos of the step have the same caption.
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
    """Contrastive pretraining (see `training.Task`).

    Args:
        pair: `ImageTextModel` or `ClipPair`, frozen as it shall be.
        options: of the pretraining.
        table: training rows of the dataset.
        inputs: embeddings of the training photos or, where the image tower learns, the photos.
        encoder: of the validation photos.
        process, processes: of a distributed run.
    """

    criterion = "loss"

    def __init__(
        self,
        pair: ImageTextPair,
        options: PretrainOptions,
        table: pd.DataFrame,
        inputs: CachedEmbeddings | PhotoLoader,
        encoder: PairEncoder,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.pair, self.options, self.encoder = pair, options, encoder
        self.captions = EpochCaptions(table, options)
        self.process, self.processes = process, processes
        self.source = inputs
        self.module = PretrainObjective(pair, process, processes)
        self.optimizer = build_optimizer(
            self.module,
            options.learning_rate,
            options.backbone_learning_rate,
            options.weight_decay,
            slow_parts=("backbone.",) if options.text == SMALL else ("backbone.", "text."),
        )
        self._epoch = 0

    def inputs(self, epoch: int, batches: Sequence[Sequence[Indices]]) -> Iterator[list[Any]]:
        """Embeddings from the cache, or photos."""
        self._epoch = epoch
        return self.source.epoch(epoch, batches)

    def loss(
        self,
        module: nn.Module,
        inputs: Tensor | LoadedPhotos,
        rows: Indices,
        batch: Indices,
        processes: int,
    ) -> tuple[Tensor, dict[str, float]]:
        """See `training.Task.loss`: every process has the loss of the whole step."""
        device = next(module.parameters()).device
        values: Any
        if isinstance(inputs, LoadedPhotos):
            rows, values = inputs.rows, [view.to(device) for view in inputs.views]
            batch = self._readable_batch(rows, device)
        else:
            values = inputs.to(device)
        texts = self.captions.of(self._epoch, batch)
        _, kinds = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
        same = torch.from_numpy(kinds[:, None] == kinds[None, :]).to(device)
        position = {int(row): number for number, row in enumerate(batch)}
        own = [texts[position[int(row)]] for row in rows]
        tokens = {name: ids.to(device) for name, ids in self.pair.tokens(own).items()}
        loss = module(values, tokens, same)
        return loss * processes, {
            "loss": float(loss.detach()),
            "scale": float(self.pair.scale.detach()),
        }

    def validate(self) -> dict[str, float]:
        """Loss, retrieval among 16, and zero-shot accuracies on the validation photos."""
        return self.encoder.measure(self.pair, quick=True)

    def _readable_batch(self, rows: Indices, device: torch.device) -> Indices:
        """The rows of all processes whose photos could be read, process by process."""
        counts = gather_counts(len(rows), self.processes, device)
        own = torch.from_numpy(rows).to(device)
        return gather_rows(own, counts, self.process).cpu().numpy()


TRAINED = 0.92
"""Share of the run's progress at the end of training."""


@dataclass(frozen=True)
class PretrainRun:
    """What every part of a pretraining needs."""

    options: PretrainOptions
    session: RunSession
    accelerator: "Accelerator"
    folder: Path
    name: str


def pretrain(run: PretrainRun, dataset: PhotoDataset | None = None) -> None:
    """Train on a dataset and leave both towers in the run folder's checkpoint.

    Args:
        run: options, folder and the rest.
        dataset: instead of the one that the options name.

    Raises:
        StopRequestedError: the run was asked to stop; its state and a checkpoint are saved.
        ValueError: the dataset or the backbone cannot be trained.
    """
    options, session, accelerator = run.options, run.session, run.accelerator
    if dataset is None:
        dataset = read_training_dataset(options, session)
    train = dataset.split("train")
    torch.manual_seed(options.seed)
    pair = build_pair(options, train).to(accelerator.device)
    freeze_pair(pair, options)
    embedder = Embedder(options, session, accelerator, pair.backbone)
    prepared = _frozen(embedder, dataset) if options.frozen else _moving(embedder, dataset, run)
    features = tuple(feature for feature in ZERO_SHOT_FEATURES if feature in options.features)
    vocabularies = build_vocabularies(train.table, features)
    encoders = {
        split: PairEncoder(
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
        encoders["val"],
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
    where = "" if ended else f"after {loop.step} of {loop.total} steps"
    session.progress("evaluating", TRAINED, now=True)
    wanted = ("val", "test") if ended else ("val",)
    reports = {s: encoders[s].measure(pair) for s in wanted if len(prepared.measured[s])}
    if accelerator.is_main_process:
        write_pair(run, pair, dataset, reports, where)
    accelerator.wait_for_everyone()
    if not ended:
        raise StopRequestedError


@dataclass(frozen=True)
class _Prepared:
    """Photos, and how their embeddings are had: from the cache, or with the weights as they are."""

    train: PhotoDataset
    inputs: CachedEmbeddings | PhotoLoader
    measured: dict[str, PhotoDataset]
    embeddings: dict[str, Callable[[], NDArray[np.floating]]]


def _frozen(embedder: Embedder, dataset: PhotoDataset) -> _Prepared:
    splits = embedder.splits(dataset, shares=(0.0, 0.4))
    train = splits.pop("train")
    return _Prepared(
        train.photos,
        CachedEmbeddings(train.embeddings),
        {name: split.photos for name, split in splits.items()},
        {name: (lambda split=split: split.embeddings) for name, split in splits.items()},
    )


def _moving(embedder: Embedder, dataset: PhotoDataset, run: PretrainRun) -> _Prepared:
    options, train = run.options, dataset.split("train")
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
        {name: (lambda photos=photos: embedder.now(photos)) for name, photos in measured.items()},
    )


def build_pair(options: PretrainOptions, train: PhotoDataset) -> ImageTextPair:
    """Both towers: CLIP's own, those of an earlier pretraining, or a backbone and a text tower."""
    changes: dict[str, Any] = {}
    if options.views:
        changes["views"] = options.view_sizes
    if options.framing != "squash":
        changes["framing"] = options.framing
    config = backbone_config(options.backbone, **changes)
    if config.kind == "transformers" and model_type(config) == "clip":
        return ClipPair(config)
    if config.kind == "image-text":
        if changes:
            raise ValueError(
                "views and framing of an earlier pretraining cannot be changed: leave them out"
            )
        return load_image_text(Path(config.name))
    backbone = build_backbone(config)
    if options.text == SMALL:
        vocabularies = build_vocabularies(train.table, options.features)
        texts = captions(train.table, features=options.features)
        for vocabulary in vocabularies.values():
            texts += class_captions(vocabulary)
        return ImageTextModel(backbone, TextTower.small(texts), options.width)
    return ImageTextModel(backbone, TextTower.pretrained(options.text), options.width)


def freeze_pair(pair: ImageTextPair, options: PretrainOptions) -> None:
    """Choose what learns: the asked part of the image tower, the text tower, the bridges."""
    pair.backbone.set_trainable(options.train_backbone)
    small = isinstance(pair, ImageTextModel) and options.text == SMALL
    for module in pair.text_modules():
        for parameter in module.parameters():
            parameter.requires_grad_(options.train_text or small)
    for parameter in pair.bridges():
        parameter.requires_grad_(True)


def write_pair(
    run: PretrainRun,
    pair: ImageTextPair,
    dataset: PhotoDataset,
    reports: Mapping[str, Mapping[str, Any]],
    stopped: str,
) -> None:
    """Leave the towers, the numbers and the model card in the run folder."""
    pair.eval()
    metrics = {
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
