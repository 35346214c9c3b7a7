"""`fit`: train context heads and a coordinate head, from a dataset to a checkpoint."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.geocells import Geocells, make_geocells
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.evaluation.baselines import baseline_guesses, with_baselines
from geoclip_core.evaluation.calibrate import calibrate, save_calibration, summary
from geoclip_core.evaluation.evaluate import (
    PREDICTIONS,
    SHARDS,
    predict_in_shards,
    save_evaluation,
)
from geoclip_core.evaluation.metrics import distance_metrics, summarise, with_places
from geoclip_core.evaluation.predictions import read_about, read_predictions
from geoclip_core.files import read_json, read_text
from geoclip_core.model.backbone import Backbone, BackboneConfig, public_name
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.model.checkpoint import (
    CARD,
    CONFIG,
    load_checkpoint,
    save_checkpoint,
)
from geoclip_core.model.domain import Domain
from geoclip_core.model.geolocation import GeolocationModel, ModelConfig
from geoclip_core.model.losses import balanced_logits, log_priors, masked_cross_entropy
from geoclip_core.processes import Progress
from geoclip_core.training.cards import extension_sentences, fit_card
from geoclip_core.training.extend import bank_of, base_folder, extend_bank
from geoclip_core.training.fit_bank import fit_bank
from geoclip_core.training.inputs import (
    CachedEmbeddings,
    EmbeddedSplit,
    Embedder,
    PhotoLoader,
    check_size,
    learnable_vocabularies,
    read_training_dataset,
)
from geoclip_core.training.loop import Indices, StepPart, TrainingLoop, build_optimizer
from geoclip_core.training.options import FEW_PHOTOS, EmbeddingOptions, FitOptions
from geoclip_core.training.session import RunSession, StopRequestedError, TrainingRun

Array = NDArray[np.floating]
FitRun = TrainingRun[FitOptions]

PHOTOS_PER_CELL, MOST_CELLS, SMALLEST_CELL = 15, 1000, 3
"""Default number of geocells: training photos per cell, most cells, least photos of a cell."""
VALIDATION_BATCH = 512
STATISTICS_PHOTOS = 2000
"""Training photos for the statistics of the normaliser if the backbone is trained."""
MAX_CARD = 10**6
"""Bytes of the largest model card that is quoted."""
TRAINED = 0.9
"""Share of the run's progress at the end of training."""


def fit(run: FitRun) -> None:
    """Train on a dataset and write a checkpoint, predictions and metrics into the run folder.

    Raises:
        StopRequestedError: a stop was requested; the state and a checkpoint are saved.
        ValueError: the dataset or the backbone cannot be used.
    """
    options, session = run.options, run.session
    if options.extend is not None:
        _extend(run, options.extend)
        return
    dataset = read_training_dataset(options, session)
    photos = int(dataset.learnable.sum())
    head = options.head_for(photos)
    if head != options.coordinate_head:
        session.log(f"coordinate head: {head}, since {photos:,} photos may be trained on")
        options = replace(options, coordinate_head=head)
        run = replace(run, options=options)
    check_size(dataset, head, every=options.coordinate_head == "bank" and options.bank.all_rows)
    backbone = build_backbone(fit_backbone(options), run.accelerator.device)
    embedder = Embedder(options, session, run.accelerator, backbone)
    if head == "bank":
        _fit_bank(run, dataset, backbone, embedder)
        return
    train = dataset.split("train")
    if options.frozen and len(train) < FEW_PHOTOS:
        session.log(
            f"{len(train)} training photos are few: --coordinate-head bank may give a better "
            "GeoScore"
        )
    vocabularies: dict[str, Vocabulary] = {}
    if options.use_context:
        vocabularies, left_out = learnable_vocabularies(train, options.features)
        if left_out:
            session.log(f"no labels to learn from: {', '.join(left_out)} left out")
    if options.frozen:
        _fit_heads(run, dataset, backbone, embedder, vocabularies)
    else:
        _fit_end_to_end(run, dataset, backbone, embedder, vocabularies)


def fit_backbone(options: EmbeddingOptions) -> BackboneConfig:
    """Return the config of the backbone in the options."""
    return backbone_config(options.backbone, **options.backbone_changes())


def _fit_heads(
    run: FitRun,
    dataset: PhotoDataset,
    backbone: Backbone,
    embedder: Embedder,
    vocabularies: Mapping[str, Vocabulary],
) -> None:
    """Train the heads on cached embeddings."""
    splits = embedder.splits(dataset, shares=(0.0, 0.4))
    train, val = splits["train"], splits["val"]
    model = build_model(
        run.options,
        backbone,
        vocabularies,
        train.photos.coordinates,
        train.embeddings,
        run.name,
    )
    task = FitTask(
        model,
        run.options,
        train.photos,
        val.photos,
        CachedEmbeddings(train.embeddings),
        lambda: val.embeddings,
    )
    loop = _loop(run, task, len(train), 0.4)
    ended = loop.run()
    model.attach_backbone(backbone)
    _write(run, loop, model, dataset, splits, ended)


def _fit_end_to_end(
    run: FitRun,
    dataset: PhotoDataset,
    backbone: Backbone,
    embedder: Embedder,
    vocabularies: Mapping[str, Vocabulary],
) -> None:
    """Train through the backbone, on augmented photos."""
    options = run.options
    train, val = dataset.split("train"), dataset.split("val")
    order = np.random.default_rng(options.seed).permutation(len(train))
    sample = embedder.now(train.select(np.sort(order[:STATISTICS_PHOTOS])))
    readable = np.isfinite(sample).all(axis=1)
    model = build_model(
        options, backbone, vocabularies, train.coordinates, sample[readable], run.name
    )
    model.attach_backbone(backbone)
    backbone.set_trainable(options.train_backbone)
    loader = PhotoLoader(
        train.paths, backbone.preprocessing, options.augment, options.seed, options.workers
    )
    task = FitTask(model, options, train, val, loader, lambda: embedder.now(val))
    loop = _loop(run, task, len(train), 0.05)
    ended = loop.run()
    model.eval()
    own = run.folder / "embeddings"  # no other run has these weights
    names = ("train", "val", "test") if ended else ("val",)
    splits = embedder.splits(dataset, names, (TRAINED, 0.96), cache_dir=own)
    _write(run, loop, model, dataset, splits, ended)
    if run.accelerator.is_main_process:
        shutil.rmtree(own, ignore_errors=True)


def _fit_bank(run: FitRun, dataset: PhotoDataset, backbone: Backbone, embedder: Embedder) -> None:
    """Fit a bank in closed form; evaluate it by cross-validation instead of on a test split."""
    options, session = run.options, run.session
    embedded = embedder.every(dataset, shares=(0.0, 0.5))
    if not run.accelerator.is_main_process:
        return

    metrics = fit_bank(
        dataset,
        embedded.values,
        backbone,
        options,
        run.folder / "checkpoint",
        name=run.name,
        command=f"python -m train fit --recipe {options.recipe or 'config.yaml'} --data DIR",
        progress=_cross_validating(session),
    )
    _save_cross_validation(run, metrics)


def _cross_validating(session: RunSession) -> Progress:
    """Return a function of (done, total) that reports a cross-validation and stops it if asked."""

    def progress(done: int, total: int) -> None:
        session.raise_if_stopped()
        session.progress("cross-validating", 0.5 + 0.45 * done / total)

    return progress


def _extend(run: FitRun, source: str) -> None:
    """Add the photos to the bank of a model."""
    options, session = run.options, run.session
    folder = base_folder(source)
    base = load_checkpoint(folder)
    base.name = base.name or folder.name
    bank_of(base)  # raises before photos are embedded in vain
    dataset = read_training_dataset(options, session)
    backbone = base.backbone
    assert backbone is not None  # loaded with it
    embedder = Embedder(options, session, run.accelerator, backbone.to(run.accelerator.device))
    embedded = embedder.every(dataset, shares=(0.0, 0.5))
    if not run.accelerator.is_main_process:
        return

    card, config = folder / CARD, read_json(folder / CONFIG)
    metrics = extend_bank(
        dataset,
        embedded.values,
        base,
        options,
        run.folder / "checkpoint",
        name=run.name,
        command=f"python -m train fit --extend {base.name} --data DIR",
        base_card=read_text(card, MAX_CARD) if card.is_file() else "",
        save_backbone=isinstance(config, dict) and config.get("backbone_saved") is True,
        progress=_cross_validating(session),
    )
    _save_cross_validation(run, metrics)
    for sentence in extension_sentences(metrics["extension"]):
        session.log(sentence)


def _save_cross_validation(run: FitRun, metrics: Mapping[str, Any]) -> None:
    """Write predictions and metrics of a checkpoint into the run folder too."""
    path = run.folder / "checkpoint" / PREDICTIONS
    save_evaluation(run.folder, read_predictions(path), metrics, read_about(path))
    run.session.log(
        f"cross-validated: median {metrics['median_km']:.1f} km, GeoScore {metrics['geoscore']:.0f}"
    )


def _loop(run: FitRun, task: "FitTask", count: int, start: float) -> TrainingLoop:
    return TrainingLoop(
        run.accelerator, run.session, run.folder, task, run.options, count, start, TRAINED
    )


def build_model(
    options: FitOptions,
    backbone: Backbone,
    vocabularies: Mapping[str, Vocabulary],
    coordinates: NDArray[np.float64],
    embeddings: Array,
    name: str,
) -> GeolocationModel:
    """Return an untrained model with the statistics of the training photos.

    Args:
        options: options of the heads.
        backbone: backbone of the embeddings; it is not attached to the model.
        vocabularies: vocabularies of the context features; empty: no context heads.
        coordinates: (n, 2) degrees of the training photos, from which geocells are made.
        embeddings: (m, D) embeddings of training photos, for the normaliser.
        name: name of the model.
    """
    torch.manual_seed(options.seed)
    cells = _cells(options, coordinates)
    use_context = options.use_context and bool(vocabularies)
    config = ModelConfig(
        features=tuple(vocabularies) if use_context else (),
        use_context=use_context,
        coordinate_head=options.coordinate_head,
        head_options=_head_options(options, cells),
        context_heads="linear",
        context_options=_context_options(options) if use_context else {},
        join_options={"width": options.context.join_width} if use_context else {},
    )
    model = GeolocationModel(
        config, backbone.config, backbone.block_widths, vocabularies, name=name
    )
    model.normaliser.fit(torch.from_numpy(np.require(embeddings, requirements="W")))
    model.coordinate_head.start_from(coordinates, cells)
    return model


def _cells(options: FitOptions, coordinates: NDArray[np.float64]) -> Geocells | None:
    if options.coordinate_head != "geocells":
        return None
    count = options.geocells.cells or min(MOST_CELLS, max(2, len(coordinates) // PHOTOS_PER_CELL))
    return make_geocells(coordinates, count, seed=options.seed, min_photos=SMALLEST_CELL)


def _head_options(options: FitOptions, cells: Geocells | None) -> dict[str, Any]:
    shared = {"hidden": options.hidden, "dropout": options.dropout}
    if cells is None:
        return shared
    return {
        **shared,
        "cells": len(cells),
        "smoothing": options.geocells.smoothing,
        "offset_rank": options.geocells.offset_rank,
    }


def _context_options(options: FitOptions) -> dict[str, Any]:
    if options.context.hidden:
        return {"kind": "mlp", "hidden": options.context.hidden, "dropout": options.dropout}
    return {"kind": "linear", "dropout": options.dropout}


@dataclass(frozen=True)
class TrainingPhotos:
    """Labels and coordinates of n photos, as tensors."""

    coordinates: Tensor
    """(n, 2) float32 degrees."""
    labels: dict[str, Tensor]
    """Feature -> (n,) class indices, `IGNORE_INDEX` where unknown."""

    @classmethod
    def of(cls, photos: PhotoDataset, vocabularies: Mapping[str, Vocabulary]) -> "TrainingPhotos":
        """Return the coordinates and labels of a dataset."""
        return cls(
            torch.from_numpy(photos.coordinates).float(),
            {f: torch.from_numpy(v) for f, v in photos.labels(vocabularies).items()},
        )


class FitObjective(nn.Module):
    """The model and its losses in one module, so that a distributed step is one forward pass."""

    def __init__(self, model: GeolocationModel, options: FitOptions, train: TrainingPhotos) -> None:
        super().__init__()
        self.model, self.options = model, options
        for feature in model.features:
            priors = log_priors(train.labels[feature], len(model.vocabularies[feature]))
            self.register_buffer(f"priors_{feature}", priors, persistent=False)

    def forward(
        self,
        inputs: Tensor | list[Tensor],
        coordinates: Tensor,
        labels: Mapping[str, Tensor],
        denominators: Mapping[str, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the part of a step's loss that b of its photos contribute.

        Args:
            inputs: embeddings (b, D), or the views of b photos.
            coordinates: (b, 2) degrees.
            labels: feature -> (b,) class indices.
            denominators: "photos" -> photos in the step; feature -> those with a label.

        Returns:
            The loss, and its terms by name, detached.
        """
        if isinstance(inputs, Tensor):
            embedding = inputs
        else:
            assert self.model.backbone is not None  # attached before it is trained
            embedding = self.model.backbone.embed(inputs)
        output = self.model(embedding)
        share = len(coordinates) / denominators["photos"]
        parts = {"coordinates": self.model.coordinate_head.loss(output.coordinates, coordinates)}
        parts["coordinates"] = parts["coordinates"] * share
        total = self.options.coordinate_weight * parts["coordinates"]
        for feature, logits in output.context.items():
            priors = self.get_buffer(f"priors_{feature}")
            logits = balanced_logits(logits, priors, self.options.context.class_balance)
            summed = masked_cross_entropy(logits, labels[feature])
            parts[feature] = summed / max(denominators[feature], 1.0)
            total = total + self.options.context.weights.of(feature) * parts[feature]
        return total, {"loss": total.detach(), **{k: v.detach() for k, v in parts.items()}}


class FitTask:
    """Trains heads on cached embeddings, or the whole model on photos; see `loop.Task`.

    Args:
        model: model to train, with its backbone attached if that is trained.
        options: training options.
        train: training photos.
        val: validation photos.
        inputs: embeddings of the training photos or, end to end, the photos.
        val_embeddings: returns the validation embeddings (m, D) with the current weights.
    """

    criterion = "median_km"

    def __init__(
        self,
        model: GeolocationModel,
        options: FitOptions,
        train: PhotoDataset,
        val: PhotoDataset,
        inputs: CachedEmbeddings | PhotoLoader,
        val_embeddings: Callable[[], Array],
    ) -> None:
        self.model, self.inputs, self.val_embeddings = model, inputs, val_embeddings
        self.train = TrainingPhotos.of(train, model.vocabularies)
        self.val = TrainingPhotos.of(val, model.vocabularies)
        self.module = FitObjective(model, options, self.train)
        self.optimizer = build_optimizer(self.module, options)

    def parts(self, epoch: int, steps: Sequence[Sequence[Indices]]) -> Iterator[list[StepPart]]:
        """Yield the parts of each step; see `loop.Task`."""
        return self.inputs.epoch(epoch, steps)

    def loss(
        self, module: nn.Module, part: StepPart, batch: Indices, processes: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a part and numbers to log; see `loop.Task`."""
        device = next(module.parameters()).device
        denominators = {"photos": float(len(batch))}
        for feature in self.model.features:
            denominators[feature] = float((self.train.labels[feature][batch] != IGNORE_INDEX).sum())
        labels = {f: self.train.labels[f][part.rows].to(device) for f in self.model.features}
        coordinates = self.train.coordinates[part.rows].to(device)
        total, parts = module(part.inputs_on(device), coordinates, labels, denominators)
        # the gradients of the processes are averaged, but the parts of a step must be summed
        return total * processes, {name: float(v) * processes for name, v in parts.items()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return median and mean km, GeoScore, coordinate loss, and top-1 accuracy of each head."""
        self.model.eval()
        every = np.asarray(self.val_embeddings())
        readable = np.flatnonzero(np.isfinite(every).all(axis=1))
        device, head = self.model.normaliser.mean.device, self.model.coordinate_head
        answers, losses, hits = [], 0.0, {f: [0, 0] for f in self.model.features}
        for start in range(0, len(readable), VALIDATION_BATCH):
            rows = readable[start : start + VALIDATION_BATCH]
            values = torch.from_numpy(every[rows].astype(np.float32))
            output = self.model(values.to(device))
            coordinates = self.val.coordinates[rows].to(device)
            answers.append(head.answers(output.coordinates).cpu().double().numpy())
            losses += float(head.loss(output.coordinates, coordinates)) * len(coordinates)
            for feature, logits in output.context.items():
                labels = self.val.labels[feature][rows]
                known = labels != IGNORE_INDEX
                right = logits.argmax(1).cpu()[known] == labels[known]
                hits[feature][0] += int(right.sum())
                hits[feature][1] += int(known.sum())
        truth = self.val.coordinates[readable].double().numpy()
        numbers = distance_metrics(haversine_km(np.concatenate(answers), truth))
        return {
            **{name: numbers[name] for name in ("median_km", "mean_km", "geoscore")},
            "coordinates": losses / len(readable),
            **{f"{f}_top1": right / n for f, (right, n) in hits.items() if n},
        }


def _write(
    run: FitRun,
    loop: TrainingLoop,
    model: GeolocationModel,
    dataset: PhotoDataset,
    splits: Mapping[str, EmbeddedSplit],
    ended: bool,
) -> None:
    """Calibrate the model on val and write its checkpoint, in the main process.

    A completed run is evaluated on test, or on val if there is no test split.

    Raises:
        StopRequestedError: training was stopped before its end.
    """
    model.eval()
    if run.accelerator.is_main_process:
        own = _keep_backbone(model, run.options)
        val = splits["val"]
        model.domain = Domain.of(
            dataset.split("train"), model.unlikeness(np.asarray(val.embeddings))
        )

        def calibrating(done: int, total: int) -> None:
            if ended:  # a stopped run is still calibrated
                run.session.raise_if_stopped()
            run.session.progress("calibrating", TRAINED + 0.07 * done / total, until=0.97)

        calibration = calibrate(model, val.photos, val.embeddings, calibrating)
        model.calibration = calibration.calibration
        validation = dict(loop.best_values)
        checkpoint = run.folder / "checkpoint"
        if ended:
            split = "test" if len(splits["test"]) else "val"
            frame = _evaluate(run, model, splits, split)
            about = {
                "model": model.name,
                "dataset": dataset.name,
                "split": split,
                "root": str(dataset.root),
                "synthetic": dataset.synthetic,
            }
            report = summarise(frame, seed=run.options.seed)
            report |= {"calibration": summary(calibration), "validation": validation}
            run.session.progress("writing the checkpoint", 0.99, now=True)
            card = fit_card(model, run.options, dataset, split, report)
            save_checkpoint(checkpoint, model, {"about": about, **report}, card, save_backbone=own)
            save_calibration(checkpoint, calibration)
            save_evaluation(run.folder, frame, report, about)
            shutil.rmtree(run.folder / SHARDS, ignore_errors=True)
            shutil.rmtree(run.folder / "resume", ignore_errors=True)
            run.session.log(
                f"{split}: median {report['median_km']:.1f} km, GeoScore {report['geoscore']:.0f}, "
                f"best constant guess {report['baselines']['constant']['median_km']:.1f} km"
            )
        else:
            stopped = f"after {loop.step} of {loop.total} steps"
            card = fit_card(model, run.options, dataset, "val", None, stopped)
            values = {"stopped": stopped, "validation": validation}
            save_checkpoint(checkpoint, model, values, card, save_backbone=own)
            save_calibration(checkpoint, calibration)
    run.accelerator.wait_for_everyone()
    if not ended:
        raise StopRequestedError


def _evaluate(
    run: FitRun, model: GeolocationModel, splits: Mapping[str, EmbeddedSplit], split: str
) -> pd.DataFrame:
    """Return the predictions for a split, with baselines and places."""

    def progress(done: int, total: int) -> None:
        run.session.raise_if_stopped()
        run.session.progress("evaluating", 0.97 + 0.02 * done / total)

    measured, shards = splits[split], run.folder / SHARDS
    frame = predict_in_shards(
        model, measured.photos, measured.embeddings, shards, progress=progress
    )
    guesses = baseline_guesses(
        splits["train"].photos.table,
        measured.photos.table,
        train_embeddings=splits["train"].embeddings,
        embeddings=measured.embeddings,
    )
    return with_places(with_baselines(frame, guesses), Gazetteer.load())


def _keep_backbone(model: GeolocationModel, options: FitOptions) -> bool:
    """Return whether the checkpoint needs the backbone's weights, and remove paths from its name.

    It does if they were trained, or came from a folder, which may be moved or deleted.
    """
    config = model.backbone_config
    model.backbone_config = replace(config, name=public_name(config.name))
    return not options.frozen or Path(config.name).is_dir()
