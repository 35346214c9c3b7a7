"""`fit`: context heads and a coordinate head on a backbone, from a dataset to a checkpoint."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoclip_core.data.table import PhotoDataset
from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.loops.evaluate import save_evaluation
from geoclip_core.loops.fit_bank import PREDICTIONS, fit_bank
from geoclip_core.loops.fit_data import EmbeddedSplit, Embedder, read_training_dataset
from geoclip_core.loops.fit_model import TrainingPhotos, build_model, learnable_vocabularies
from geoclip_core.loops.fit_options import FitOptions
from geoclip_core.loops.fit_report import write_result, write_stopped
from geoclip_core.loops.fit_task import FitTask
from geoclip_core.loops.photo_loader import CachedEmbeddings, PhotoLoader
from geoclip_core.loops.predictions import read_about, read_predictions
from geoclip_core.loops.run_session import RunSession, StopRequestedError
from geoclip_core.loops.training import LoopSettings, TrainingLoop
from geoclip_core.loops.training_options import FREEZE
from geoclip_core.model.backbone import Backbone, BackboneConfig
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.model.geolocation import GeolocationModel

if TYPE_CHECKING:
    from accelerate import Accelerator

STATISTICS_PHOTOS = 2000
"""Training photos from which the normaliser takes its statistics where the backbone learns."""
FEW_PHOTOS = 1000
"""Fewer training photos favour a bank of them: its GeoScore is 1,038 with 280 photos, that of cells
704; on the demo set cells have the smaller median error (`benchmark ablation`)."""
TRAINED = 0.9
"""Share of the run's progress at the end of training."""


@dataclass(frozen=True)
class FitRun:
    """What every part of a fit needs."""

    options: FitOptions
    session: RunSession
    accelerator: "Accelerator"
    folder: Path
    name: str


def fit(run: FitRun) -> None:
    """Train on a dataset and leave a checkpoint, predictions and metrics in the run folder.

    Raises:
        StopRequestedError: the run was asked to stop; its state and a checkpoint are saved.
        ValueError: the dataset, the backbone or their combination cannot be trained.
    """
    options, session = run.options, run.session
    dataset = read_training_dataset(options, session)
    backbone = build_backbone(fit_backbone(options), run.accelerator.device)
    embedder = Embedder(options, session, run.accelerator, backbone)
    if options.coordinate_head == "retrieval":
        _fit_retrieval(run, dataset, backbone, embedder)
        return
    train = dataset.split("train")
    if options.frozen and len(train) < FEW_PHOTOS:
        session.log(
            f"{len(train)} training photos are few: --coordinate-head retrieval may well do better "
            "(README, What helps)"
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


def fit_backbone(options: FitOptions) -> BackboneConfig:
    """The backbone that the options mean."""
    changes: dict[str, Any] = {"depths": options.depths, "depth_pooling": options.depth_pooling}
    if options.views:
        changes["views"] = options.view_sizes
    if options.fit != "squash":
        changes["fit"] = options.fit
    if options.projection:
        changes["projection"] = True
    return backbone_config(options.backbone, **changes)


def _fit_heads(
    run: FitRun,
    dataset: PhotoDataset,
    backbone: Backbone,
    embedder: Embedder,
    vocabularies: Mapping[str, Vocabulary],
) -> None:
    """On cached embeddings: the backbone is not even run."""
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
        TrainingPhotos.of(train.photos, vocabularies),
        TrainingPhotos.of(val.photos, vocabularies),
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
    """Through the backbone, with augmentation."""
    options = run.options
    train, val = dataset.split("train"), dataset.split("val")
    order = np.random.default_rng(options.seed).permutation(len(train))
    sample = embedder.now(train.select(np.sort(order[:STATISTICS_PHOTOS])))
    readable = np.isfinite(sample).all(axis=1)
    model = build_model(
        options, backbone, vocabularies, train.coordinates, sample[readable], run.name
    )
    model.attach_backbone(backbone)
    backbone.freeze(FREEZE[options.train])
    loader = PhotoLoader(
        train.paths, backbone.preprocessing, options.augment, options.seed, options.workers
    )
    task = FitTask(
        model,
        options,
        TrainingPhotos.of(train, vocabularies),
        TrainingPhotos.of(val, vocabularies),
        loader,
        lambda: embedder.now(val),
    )
    loop = _loop(run, task, len(train), 0.05)
    ended = loop.run()
    model.eval()
    own = run.folder / "embeddings"  # of weights that no other run will have
    names = ("train", "val", "test") if ended else ("val",)
    splits = embedder.splits(dataset, names, (TRAINED, 0.96), cache_dir=own)
    _write(run, loop, model, dataset, splits, ended)
    if run.accelerator.is_main_process:
        shutil.rmtree(own, ignore_errors=True)


def _loop(run: FitRun, task: FitTask, count: int, start: float) -> TrainingLoop:
    settings = LoopSettings.of(run.options)
    return TrainingLoop(
        run.accelerator, run.session, run.folder, task, settings, count, start, TRAINED
    )


def _write(
    run: FitRun,
    loop: TrainingLoop,
    model: GeolocationModel,
    dataset: PhotoDataset,
    splits: Mapping[str, EmbeddedSplit],
    ended: bool,
) -> None:
    """Leave the result, in the main process.

    Raises:
        StopRequestedError: the run was stopped before its end.
    """
    model.eval()
    if run.accelerator.is_main_process:
        if ended:
            write_result(
                model, run.options, dataset, splits, run.session, run.folder, loop.best_values
            )
        else:
            where = f"after {loop.step} of {loop.total} steps"
            write_stopped(
                model, run.options, dataset, splits["val"], run.folder, where, loop.best_values
            )
    run.accelerator.wait_for_everyone()
    if not ended:
        raise StopRequestedError


def _fit_retrieval(
    run: FitRun, dataset: PhotoDataset, backbone: Backbone, embedder: Embedder
) -> None:
    """The closed form: no steps, and cross-validation instead of a test split."""
    options, session = run.options, run.session
    embedded = embedder.every(dataset, shares=(0.0, 0.5))
    if not run.accelerator.is_main_process:
        return

    def progress(done: int, total: int) -> None:
        session.raise_if_stopped()
        session.progress("cross-validating", 0.5 + 0.45 * done / total)

    checkpoint = run.folder / "checkpoint"
    metrics = fit_bank(
        dataset,
        embedded.values,
        backbone,
        options.bank_options,
        checkpoint,
        name=run.name,
        command=f"python -m train fit --recipe {options.recipe or 'config.yaml'} --data DIR",
        progress=progress,
    )
    frame = read_predictions(checkpoint / PREDICTIONS)
    save_evaluation(run.folder, frame, metrics, read_about(checkpoint / PREDICTIONS))
    session.log(
        f"cross-validated: median {metrics['median_km']:.1f} km, GeoScore {metrics['geoscore']:.0f}"
    )
