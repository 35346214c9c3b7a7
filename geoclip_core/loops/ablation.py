"""What each part of the method is worth: the same photos, with one thing changed at a time."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from geoclip_core.data.table import PhotoDataset
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.loops.bank_model import BankData, fit_bank_model
from geoclip_core.loops.degrees_model import fit_degrees_model
from geoclip_core.loops.fit_model import TrainingPhotos, build_model
from geoclip_core.loops.fit_options import FitOptions
from geoclip_core.loops.fit_task import FitTask
from geoclip_core.loops.photo_loader import CachedEmbeddings
from geoclip_core.loops.run_session import RunSession
from geoclip_core.loops.training import LoopSettings, TrainingLoop
from geoclip_core.model.backbone import Backbone
from geoclip_core.model.calibration import fit_calibration
from geoclip_core.model.geolocation import Estimate, GeolocationModel
from geoclip_core.model.retrieval_head import MAX_RIDGE_BANK

if TYPE_CHECKING:
    from accelerate import Accelerator

Features = Literal["plain", "pretrained", "projected"]
DEGREES = "degrees, L2 (older recipe)"


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    head: str
    """"geocells", "regression", "retrieval", or `DEGREES`."""
    use_context: bool = True
    features: Features = "plain"
    """The backbone as it comes, after contrastive pretraining, or that one's shared space."""
    smoothing: float = 0.5

    @property
    def name(self) -> str:
        """What the row is called."""
        smoothed = f", smoothing {self.smoothing:g}" if self.head == "geocells" else ""
        return self.head + smoothed


def variants(pretrained: bool = True) -> list[Variant]:
    """The rows: heads × context × pretraining, other smoothings, and the older recipe."""
    features: tuple[Features, ...] = ("plain", "pretrained") if pretrained else ("plain",)
    heads = ("geocells", "regression", "retrieval")
    rows = [
        Variant(head, context, kind)
        for head, kind, context in itertools.product(heads, features, (True, False))
    ]
    rows += [Variant("geocells", context, smoothing=0.0) for context in (True, False)]
    rows += [Variant("geocells", context, smoothing=1.0) for context in (True, False)]
    if pretrained:
        rows += [Variant("geocells", context, "projected") for context in (True, False)]
    return [*rows, Variant(DEGREES, True), Variant(DEGREES, False)]


@dataclass(frozen=True)
class AblationSplit:
    """Photos that are learnt from, chosen on and measured on, and how they are embedded."""

    train: PhotoDataset
    val: PhotoDataset
    test: PhotoDataset
    embeddings: Mapping[str, Mapping[str, NDArray[np.floating]]]
    """Features -> split -> (n, D)."""
    backbones: Mapping[str, Backbone]
    vocabularies: Mapping[str, Vocabulary]


@dataclass
class AblationResult:
    """What a variant did on the test photos of one split and seed."""

    errors_km: NDArray[np.float64]
    hits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Feature -> (right, labelled)."""
    seconds: float = 0.0
    """Of fitting on embeddings that are there already."""


def measure_variant(
    variant: Variant, split: AblationSplit, options: FitOptions, accelerator: "Accelerator"
) -> AblationResult:
    """Fit a variant on train, choose and calibrate on val, measure on test.

    Args:
        variant: what is changed.
        split: the photos.
        options: everything else; its seed is the variant's.
        accelerator: of this process.
    """
    embeddings = split.embeddings[variant.features]
    vocabularies = dict(split.vocabularies) if variant.use_context else {}
    began = time.perf_counter()
    if variant.head == DEGREES:
        guess = fit_degrees_model(
            (embeddings["train"], split.train.coordinates),
            (embeddings["val"], split.val.coordinates),
            split.train.labels(vocabularies),
            {feature: len(words) for feature, words in vocabularies.items()},
            seed=options.seed,
        )
        seconds = time.perf_counter() - began
        answers, logits = guess(embeddings["test"])
        return _result(split.test, answers, logits, vocabularies, seconds)
    fit = _fit_bank if variant.head == "retrieval" else _fit_heads
    model = fit(variant, split, options, vocabularies, accelerator)
    raw = model.predict(np.asarray(embeddings["val"], dtype=np.float32))
    model.calibration = fit_calibration(
        [estimate.posterior for estimate in raw], split.val.coordinates, folds=0
    )
    seconds = time.perf_counter() - began
    estimates: list[Estimate] = model.predict(np.asarray(embeddings["test"], dtype=np.float32))
    answers = np.array([estimate.posterior.mode() for estimate in estimates])
    context = {
        feature: np.array([estimate.context[feature] for estimate in estimates])
        for feature in vocabularies
    }
    return _result(split.test, answers, context, vocabularies, seconds)


def _fit_heads(
    variant: Variant,
    split: AblationSplit,
    options: FitOptions,
    vocabularies: Mapping[str, Vocabulary],
    accelerator: "Accelerator",
) -> GeolocationModel:
    embeddings = split.embeddings[variant.features]
    chosen = replace(
        options,
        coordinate_head=variant.head,
        use_context=variant.use_context,
        **({"smoothing": variant.smoothing} if variant.head == "geocells" else {}),
    )
    model = build_model(
        chosen,
        split.backbones[variant.features],
        vocabularies,
        split.train.coordinates,
        embeddings["train"],
        variant.name,
    )
    task = FitTask(
        model,
        chosen,
        TrainingPhotos.of(split.train, vocabularies),
        TrainingPhotos.of(split.val, vocabularies),
        CachedEmbeddings(embeddings["train"]),
        lambda: embeddings["val"],
    )
    settings = LoopSettings.of(chosen)
    with TemporaryDirectory(prefix="ablation-") as folder:
        session = RunSession(None)
        TrainingLoop(accelerator, session, Path(folder), task, settings, len(split.train)).run()
    return model.eval()


def _fit_bank(
    variant: Variant,
    split: AblationSplit,
    options: FitOptions,
    vocabularies: Mapping[str, Vocabulary],
    accelerator: "Accelerator",
) -> GeolocationModel:
    embeddings = split.embeddings[variant.features]["train"]
    data = BankData(
        torch.from_numpy(np.asarray(embeddings, dtype=np.float32)),
        split.train.coordinates,
        split.train.labels(vocabularies),
    )
    chosen = replace(
        options,
        coordinate_head="retrieval",
        use_context=variant.use_context,
        vote="kernel-ridge" if len(split.train) <= MAX_RIDGE_BANK else "cosine",
        features=tuple(vocabularies) or options.features,
    )
    backbone = split.backbones[variant.features]
    return fit_bank_model(
        data, vocabularies, chosen.bank_options, backbone.config, backbone.block_widths
    )


def _result(
    test: PhotoDataset,
    answers: NDArray[np.float64],
    scores: Mapping[str, NDArray[np.floating]],
    vocabularies: Mapping[str, Vocabulary],
    seconds: float,
) -> AblationResult:
    hits = {}
    for feature, labels in test.labels(vocabularies).items():
        # a place that training has never seen is a miss, not a reason to leave the photo out
        known = test.keys(feature).notna().to_numpy()
        right = (scores[feature].argmax(1) == labels) & (labels != IGNORE_INDEX)
        hits[feature] = (int(right[known].sum()), int(known.sum()))
    return AblationResult(haversine_km(answers, test.coordinates), hits, seconds)
