"""Time heads, the engines that can run a backbone, and a query of GeoCLIP beside its package."""

import contextlib
import importlib
import statistics
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from accelerate import PartialState
from annotated_types import Ge
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from geoclip_core.data.dataset import PhotoDataset, read_dataset
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.demo.dataset import write_demo
from geoclip_core.earth.sphere import unit_vectors
from geoclip_core.evaluation.calibrate import calibrate, summary
from geoclip_core.evaluation.predictions import predictions_frame
from geoclip_core.geoclip.gallery import Gallery, encode_gallery, gallery_key
from geoclip_core.geoclip.model import GeoClip
from geoclip_core.geoclip.weights import read_release
from geoclip_core.hub.wheel import REQUIREMENT, convert_wheel, fetch_wheel
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.model.geoclip_image import GEOCLIP_IMAGE_CONFIG, GeoClipImage
from geoclip_core.model.geolocation import GeolocationModel
from geoclip_core.model.transformers_backbone import empty_network
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

VIT_L_14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
"""Vision config of CLIP ViT-L/14, as far as it differs from transformers' default."""


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
    """photos in the predictions table"""
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
    """Random mixtures of waves over the Earth, from which embeddings are generated."""

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


@options_class
class GalleryOptions:
    """Options of `benchmark gallery`."""

    wheel: Path | None = None
    """the geoclip wheel; by default pip downloads it (35 MB)"""
    photo: Path | None = None
    """photo of the query; by default noise"""
    places: Annotated[int, Ge(0)] = 0
    """approximate number of gallery places to use; 0: all"""
    queries: Annotated[int, Ge(1)] = 3
    """repeats of our query, whose median is shown; the package's query runs once"""
    top_k: Annotated[int, Ge(1)] = 5
    """number of first places that must be the same"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the random weights of the image tower"""


def gallery(options: GalleryOptions) -> int:
    """Compare a query of the published GeoCLIP package with this one, on the same weights.

    The exit status is 1 if the two give different places.
    """
    result = benchmark_gallery(options)
    print(result.text())
    return 0 if result.equal_places else 1


@dataclass(frozen=True)
class GalleryBenchmark:
    """Times in seconds, and whether both sides give the same places."""

    places: int
    package_query: float
    """One photo through the package's `predict`, which encodes the gallery every time."""
    our_query: float
    """One photo through ours: image tower, product with the encoded gallery, exact ranking."""
    our_image: float
    """The image tower's part of `our_query`; the package's tower is the same."""
    encode_once: float
    """Encoding the gallery, once for all queries."""
    load: float
    """Reading the encoded gallery at a later start."""
    equal_places: bool
    """Whether the first `top_k` places are the same, in the same order."""
    probability_difference: float
    """Largest relative difference of their probabilities."""
    top_k: int

    def text(self) -> str:
        """Return a table for the terminal."""
        rows = [
            ("image tower, the same on both", self.our_image, self.our_image),
            ("gallery", self.package_query - self.our_image, self.our_query - self.our_image),
            ("whole query", self.package_query, self.our_query),
        ]
        same = "the same" if self.equal_places else "NOT THE SAME"
        return "\n".join(
            [
                f"one query, {self.places:,} places".ljust(32) + f"{REQUIREMENT:>15}{'ours':>11}",
                *(f"  {name:<30}{a:13.3f} s{b:9.3f} s" for name, a, b in rows),
                f"ours, once: encode the gallery {self.encode_once:.1f} s, "
                f"read it at a later start {self.load:.2f} s",
                f"first {self.top_k} places: {same}; probabilities differ by at most "
                f"{self.probability_difference:.1e} of themselves",
            ]
        )


def benchmark_gallery(
    options: GalleryOptions, tower: dict[str, Any] = VIT_L_14
) -> GalleryBenchmark:
    """Time a query on both sides, with the same random image tower.

    Args:
        options: options of the command.
        tower: vision config of the tower.

    Raises:
        DownloadError: no wheel is given and pip cannot download one.
    """
    with tempfile.TemporaryDirectory(prefix="gallery-") as scratch:
        folder = Path(scratch)
        source = options.wheel or fetch_wheel(folder)
        convert_wheel(source, folder / "release")
        release = read_release(folder / "release")
        step = max(1, len(release.coordinates) // options.places) if options.places else 1
        coordinates = release.coordinates[::step]
        path = options.photo or folder / "noise.png"
        if options.photo is None:
            noise = np.random.default_rng(options.seed).integers(0, 256, (512, 910, 3), np.uint8)
            Image.fromarray(noise).save(path)
        torch.manual_seed(options.seed)
        with published_package(source, folder / "package"):
            theirs = _package_model(tower)
            theirs.gps_gallery = theirs.gps_gallery[::step]
            started = time.perf_counter()
            expected, expected_probabilities = theirs.predict(str(path), top_k=options.top_k)
            package_query = time.perf_counter() - started
        backbone = _same_tower(theirs, release.image_mlp)
        started = time.perf_counter()
        encoded = encode_gallery(release.location_encoder, coordinates)
        encode_once = time.perf_counter() - started
        key, kept = gallery_key(release.location_encoder, coordinates), folder / "kept.safetensors"
        encoded.save(kept, key)
        started = time.perf_counter()
        loaded = Gallery.load(kept, key, release.location_encoder, coordinates)
        load = time.perf_counter() - started
        ours = GeoClip(backbone, loaded, release.logit_scale)
        image_times, query_times = [], []
        with torch.inference_mode():
            for _ in range(options.queries):
                started = time.perf_counter()
                with Image.open(path) as picture:
                    views = backbone.preprocessing.batch([picture.convert("RGB")])
                embedding = backbone.embed(views)
                image_times.append(time.perf_counter() - started)
                found, probabilities = ours.top_places(embedding, options.top_k)
                query_times.append(time.perf_counter() - started)
    difference = np.abs(probabilities[0] / expected_probabilities.double().numpy() - 1).max()
    return GalleryBenchmark(
        places=len(coordinates),
        package_query=package_query,
        our_query=float(np.median(query_times)),
        our_image=float(np.median(image_times)),
        encode_once=encode_once,
        load=load,
        equal_places=bool(np.allclose(found[0], expected.double().numpy(), atol=1e-5)),
        probability_difference=float(difference),
        top_k=options.top_k,
    )


@contextlib.contextmanager
def published_package(wheel: Path, folder: Path) -> Iterator[None]:
    """Make `geoclip.model` of the wheel importable inside the block.

    Empty modules with the same search path replace the package's __init__ files, which import its
    training code and so need torchvision.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for name in ("geoclip", "geoclip.model"):
        module = types.ModuleType(name)
        module.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n == "geoclip" or n.startswith("geoclip.")]:
            del sys.modules[name]


def _package_model(tower: dict[str, Any]) -> Any:
    """Return the package's model with a random tower and the published other weights."""
    from transformers import CLIPConfig, CLIPImageProcessorPil
    from transformers.utils import logging

    ends = {"bos_token_id": 0, "eos_token_id": 2}  # nosec B105
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = CLIPConfig(
        projection_dim=768,
        # as small as possible: the text tower of half a gigabyte is not used
        text_config={**text, "num_attention_heads": 1, "vocab_size": 8, **ends},
        vision_config=tower,
    )
    verbosity = logging.get_verbosity()
    # the import warns of a processor that needs torchvision; it is replaced below
    logging.set_verbosity_error()
    try:
        module = importlib.import_module("geoclip.model.image_encoder")
    finally:
        logging.set_verbosity(verbosity)
    vars(module).update(CLIPConfig=lambda **_: config, CLIPImageProcessor=CLIPImageProcessorPil)
    return importlib.import_module("geoclip.model.GeoCLIP").GeoCLIP(clip_pretrained=False).eval()


def _same_tower(theirs: Any, mlp: torch.nn.Sequential) -> GeoClipImage:
    """Return our image encoder with the weights of the package's tower."""
    clip = theirs.image_encoder.CLIP
    vision = {**clip.vision_model.config.to_dict(), "projection_dim": 768}
    with torch.device("meta"):
        tower = empty_network(vision, projection=True)
    tower.vision_model, tower.visual_projection = clip.vision_model, clip.visual_projection
    processor = theirs.image_encoder.image_processor
    pixels = {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
    return GeoClipImage(GEOCLIP_IMAGE_CONFIG, tower, mlp, pixels).eval()
