"""`pretrain`: contrastive alignment of photos and captions, from a dataset to a backbone."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from geoclip_core.atomic_writes import atomic_folder, write_atomically
from geoclip_core.data.captions import captions
from geoclip_core.data.table import PhotoDataset
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.loops.fit_data import Embedder, read_training_dataset
from geoclip_core.loops.photo_loader import CachedEmbeddings, PhotoLoader
from geoclip_core.loops.pretrain_card import pretrain_card
from geoclip_core.loops.pretrain_evaluation import (
    ZERO_SHOT_FEATURES,
    PairEncoder,
    class_captions,
)
from geoclip_core.loops.pretrain_options import PretrainOptions
from geoclip_core.loops.pretrain_task import PretrainTask
from geoclip_core.loops.run_session import RunSession, StopRequestedError
from geoclip_core.loops.training import LoopSettings, TrainingLoop
from geoclip_core.loops.training_options import FREEZE
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.model.clip_pair import ClipPair
from geoclip_core.model.image_text import ImageTextModel
from geoclip_core.model.text_tower import SMALL, TextTower
from geoclip_core.model.transformers_loading import model_type

if TYPE_CHECKING:
    from accelerate import Accelerator

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
    vocabularies = build_vocabularies(train, features)
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
        LoopSettings.of(options),
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


def build_pair(options: PretrainOptions, train: PhotoDataset) -> Any:
    """Both towers: CLIP's own, those of an earlier pretraining, or a backbone and a text tower."""
    changes: dict[str, Any] = {}
    if options.views:
        changes["views"] = options.view_sizes
    if options.fit != "squash":
        changes["fit"] = options.fit
    config = backbone_config(options.backbone, **changes)
    if config.kind == "transformers" and model_type(config) == "clip":
        return ClipPair(config)
    if config.kind == "image-text":
        if changes:
            raise ValueError(
                "views and fit of an earlier pretraining cannot be changed: leave them out"
            )
        return ImageTextModel.load(Path(config.name))
    backbone = build_backbone(config)
    if options.text == SMALL:
        vocabularies = build_vocabularies(train, options.features)
        texts = captions(train.table, features=options.features)
        for vocabulary in vocabularies.values():
            texts += class_captions(vocabulary)
        return ImageTextModel(backbone, TextTower.small(texts), options.width)
    return ImageTextModel(backbone, TextTower.pretrained(options.text), options.width)


def freeze_pair(pair: Any, options: PretrainOptions) -> None:
    """Choose what learns: the asked part of the image tower, the text tower, the bridges."""
    pair.backbone.freeze(FREEZE[options.train])
    small = isinstance(pair, ImageTextModel) and options.text == SMALL
    for module in pair.text_modules():
        for parameter in module.parameters():
            parameter.requires_grad_(options.train_text or small)
    for parameter in pair.bridges():
        parameter.requires_grad_(True)


def write_pair(
    run: PretrainRun,
    pair: Any,
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
