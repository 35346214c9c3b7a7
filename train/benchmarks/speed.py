"""Time heads (training, calibration, predictions) and the engines that can run a backbone."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from accelerate import PartialState
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from geoclip_core.data.dataset import PhotoDataset, read_dataset
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.demo.dataset import write_demo
from geoclip_core.earth.sphere import unit_vectors
from geoclip_core.evaluation.calibrate import calibrate, summary
from geoclip_core.evaluation.predictions import predictions_frame
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.model.geolocation import GeolocationModel
from geoclip_core.training.distributed import build_accelerator, same_text_everywhere
from geoclip_core.training.embeddings import onnx_engine
from geoclip_core.training.fit import FitTask, build_model, fit_backbone
from geoclip_core.training.inputs import CachedEmbeddings
from geoclip_core.training.loop import TrainingLoop
from geoclip_core.training.options import FitOptions, Views, options_class, view_sizes
from geoclip_core.training.session import RunSession
from train.benchmarks.measure import FULL_ROWS, Cost, alternated, measured, peak_mb
from train.recipes import recipe_options

MOST_VAL = 20_000
"""Photos of val that the heads are validated on."""
FEATURES_OF_PLACES = 192
"""Number of random waves over the Earth that the generated embeddings are made of."""


@options_class
class HeadsOptions:
    """Options of `benchmark heads`."""

    rows: Annotated[int, Ge(500)] = FULL_ROWS
    """photos of the drawn table"""
    recipe: str = "osv-mini"
    """recipe of the heads"""
    epochs: Annotated[int, Ge(1)] = 10
    """epochs of the training"""
    batch_size: Annotated[int, Ge(0)] = 0
    """photos of a step; 0: as in the recipe"""
    evaluated: Annotated[int, Ge(1)] = 500
    """photos of which a predictions table is made"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the generated embeddings"""


def heads(options: HeadsOptions) -> int:
    """Time the training of heads on generated embeddings, and the calibration after it.

    For several processes: accelerate launch --multi_gpu --num_processes 2 -m train benchmark heads
    """
    result = benchmark_heads(options)
    if PartialState().is_main_process:
        print(result.text())
    return 0


@dataclass(frozen=True)
class HeadsBenchmark:
    """Result of the benchmark."""

    rows: int
    trained_on: int
    """Photos of the training split."""
    width: int
    classes: dict[str, int]
    """Number of classes of each head, and of cells."""
    epochs: int
    processes: int
    """Processes that share each step."""
    steps: int
    batch_size: int
    """Photos of a step, over all processes."""
    steps_a_second: float
    """Of wall time, without validation."""
    training: Cost
    """Of this process, validation after each epoch included."""
    calibration: Cost
    """Of at most 1,500 photos of val. This and what follows is not measured with several
    processes."""
    prediction: Cost
    """Of one photo: heads and row of the predictions table."""
    heads_alone: Cost
    """The heads' part of `prediction`."""
    peak_mb: float
    """Most memory of the process, memory map included."""
    validation: dict[str, float]
    """After training: median_km, geoscore, and {feature}_top1."""
    coverage: dict[str, float]
    """Cross-validated: percentage -> share of photos inside that radius."""

    def text(self) -> str:
        """Return a table for the terminal."""
        classes = ", ".join(f"{name} {count:,}" for name, count in self.classes.items())
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.validation.items())
        inside = ", ".join(f"{mass} %: {share:.1%}" for mass, share in self.coverage.items())
        rows = {
            f"{self.epochs} epochs": self.training,
            "calibration": self.calibration,
            "predicting one photo": self.prediction,
        }
        return "\n".join(
            [
                f"{self.rows:,} photos, embeddings of {self.width:,} numbers; {classes}",
                *(
                    f"{name:<24}{cost.seconds:10.4g} s{cost.cpu_seconds:12.4g} s of CPU"
                    for name, cost in rows.items()
                    if cost.seconds
                ),
                f"{self.steps:,} steps of {self.batch_size:,} photos, {self.steps_a_second:.3g} a "
                f"second; processes: {self.processes}",
                f"peak memory {self.peak_mb:,.0f} MB",
                f"val: {values}" + (f"; inside {inside}" if inside else ""),
            ]
        )


class TimedTask(FitTask):
    """A training of heads that counts the time of its validations."""

    validation_seconds = 0.0

    def validate(self) -> dict[str, float]:
        """Return the metrics of `FitTask.validate`."""
        started = time.perf_counter()
        values = super().validate()
        self.validation_seconds += time.perf_counter() - started
        return values


def benchmark_heads(options: HeadsOptions) -> HeadsBenchmark:
    """Train heads on generated embeddings of a drawn table, calibrate and predict.

    Several processes of `accelerate launch` share the training, and nothing else is measured.
    """
    chosen = recipe_options(FitOptions, options.recipe)
    chosen = replace(chosen, epochs=options.epochs, patience=0, device="cpu")
    if options.batch_size:
        chosen = replace(chosen, batch_size=options.batch_size)
    backbone = build_backbone(fit_backbone(chosen))
    accelerator = build_accelerator(chosen)
    with contextlib.ExitStack() as stack:
        scratch = ""
        if accelerator.is_main_process:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="heads-"))
        folder = Path(same_text_everywhere(accelerator, scratch))
        stack.callback(accelerator.wait_for_everyone)  # before the folder is removed
        root, file, width = folder / "demo", folder / "embeddings.npy", backbone.embedding_width
        if accelerator.is_main_process:
            write_demo(root, options.rows, metadata_only=True)
            generated_embeddings(read_dataset(root), width, file, options.seed)
        accelerator.wait_for_everyone()
        dataset = read_dataset(root)
        values: NDArray[np.float16] = np.load(file, mmap_mode="r")
        split = dataset.table["split"].to_numpy()
        train, val = np.flatnonzero(split == "train"), np.flatnonzero(split == "val")[:MOST_VAL]
        photos, held = dataset.select(train), dataset.select(val)
        vocabularies = build_vocabularies(photos.table, chosen.features)
        known, asked = values[train], values[val]  # copies, as in `fit`
        model = build_model(
            chosen, backbone, vocabularies, photos.coordinates, known, options.recipe
        )
        task = TimedTask(model, chosen, photos, held, CachedEmbeddings(known), lambda: asked)
        loop = TrainingLoop(accelerator, RunSession(None), folder, task, chosen, len(photos))
        training = measured(loop.run)
        model.eval()
        coverage: dict[str, float] = {}
        calibration = prediction = heads_alone = Cost(0.0, 0.0, 0.0)
        few = held.select(np.arange(min(options.evaluated, len(held))))
        if accelerator.num_processes == 1:
            calibration = measured(lambda: coverage.update(_calibrated(model, held, asked)))
            prediction = measured(lambda: _predicted(model, few, asked))
            heads_alone = measured(lambda: _through_heads(model, asked[: len(few)]))
    cells = {"cells": chosen.geocells.cells or len(torch.as_tensor(model.coordinate_head.centres))}
    return HeadsBenchmark(
        rows=options.rows,
        trained_on=len(photos),
        width=width,
        classes={f: len(v) for f, v in vocabularies.items()} | cells,
        epochs=options.epochs,
        processes=accelerator.num_processes,
        steps=loop.step,
        batch_size=chosen.batch_size,
        steps_a_second=loop.step / max(training.seconds - task.validation_seconds, 1e-9),
        training=training,
        calibration=calibration,
        prediction=_share(prediction, len(few)),
        heads_alone=_share(heads_alone, len(few)),
        peak_mb=peak_mb(),
        validation=dict(loop.best_values),
        coverage=coverage,
    )


def _share(cost: Cost, count: int) -> Cost:
    return replace(cost, seconds=cost.seconds / count, cpu_seconds=cost.cpu_seconds / count)


def _through_heads(model: GeolocationModel, embeddings: NDArray[np.floating]) -> None:
    with torch.no_grad():
        for start in range(0, len(embeddings), 32):
            model(torch.from_numpy(np.asarray(embeddings[start : start + 32], np.float32)))


def _calibrated(
    model: GeolocationModel, photos: PhotoDataset, embeddings: NDArray[np.floating]
) -> dict[str, float]:
    result = calibrate(model, photos, embeddings)
    model.calibration = result.calibration
    crossed: dict[str, float] = summary(result)["cross_validated_coverage"]
    return crossed


def _predicted(
    model: GeolocationModel, photos: PhotoDataset, embeddings: NDArray[np.floating]
) -> None:
    estimates = (
        estimate
        for start in range(0, len(photos), 32)
        for estimate in model.predict(embeddings[start : min(start + 32, len(photos))])
    )
    predictions_frame(photos, estimates, model.vocabularies)


def generated_embeddings(
    dataset: PhotoDataset, width: int, path: Path, seed: int = 0
) -> NDArray[np.float16]:
    """Write embeddings (n, width) that tell about place, climate and month, and return a map.

    They are random mixtures of waves over the Earth and of climate and month, with noise.
    """
    rng = np.random.default_rng(seed)
    mixture = Mixture(rng, width)
    climate, month = (dataset.table[name].to_numpy(np.int64) for name in ("climate", "month"))
    climates, months = rng.normal(size=(31, width)), rng.normal(size=(13, width))
    values = np.lib.format.open_memmap(path, "w+", np.float16, (len(dataset), width))
    for start in range(0, len(dataset), 4096):
        rows = slice(start, start + 4096)
        part = mixture.of(unit_vectors(dataset.coordinates[rows]))
        part += 0.4 * climates[climate[rows].clip(-1)] + 0.4 * months[month[rows].clip(-1)]
        values[rows] = part + rng.standard_normal(part.shape, dtype=np.float32)
    values.flush()
    del values
    mapped: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return mapped


class Mixture:
    """Random mixtures of waves over the Earth, of which generated embeddings are made."""

    def __init__(self, rng: np.random.Generator, width: int) -> None:
        self._frequencies = rng.normal(size=(3, FEATURES_OF_PLACES)) * 12
        self._phases = rng.uniform(0, 2 * np.pi, FEATURES_OF_PLACES)
        self._mixing = rng.normal(size=(FEATURES_OF_PLACES, width)) / FEATURES_OF_PLACES**0.5

    def of(self, vectors: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the mixtures (n, width) at unit vectors (n, 3)."""
        waves = np.sin(vectors @ self._frequencies + self._phases)
        return (waves @ self._mixing).astype(np.float32)


@options_class
class EnginesOptions:
    """Options of `benchmark engines`."""

    backbone: str = "efficientnet-lite2"
    """hub id, folder or name of the backbone"""
    views: Views = ("380x380", "320x512")
    """HEIGHTxWIDTH of each view of a photo"""
    photos: Annotated[int, Ge(1)] = 32
    """photos in a batch"""
    rounds: Annotated[int, Ge(1)] = 3
    """rounds in which the engines are timed in turn; the median is printed"""


def engines(options: EnginesOptions) -> int:
    """Time a backbone in torch, in torch in parts, and in ONNX Runtime, on random views."""
    sizes = view_sizes(options.views)
    backbone = build_backbone(backbone_config(options.backbone, views=sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(options.photos, 3, h, w, generator=generator) for h, w in sizes]
    runs: dict[str, Callable[[Sequence[Tensor]], Any]] = {
        "torch, whole batches": lambda views: torch.cat(
            [backbone.features(view).float() for view in views], dim=1
        ),
        "torch, in parts": backbone.embed,
    }
    if (onnx := onnx_engine(backbone)) is not None:
        runs["ONNX Runtime, in parts"] = onnx
    with torch.inference_mode():
        costs = alternated(
            {name: partial(run, views) for name, run in runs.items()}, options.rounds
        )
    seconds = {name: [cost.seconds for cost in found] for name, found in costs.items()}
    print(f"{backbone.config.name}, {', '.join(options.views)}, {options.photos} photos")
    whole = statistics.median(seconds["torch, whole batches"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"  {name:<24}{1000 * median / options.photos:8.1f} ms a photo"
            f"{whole / median:8.1f} × as fast"
        )
    return 0
