"""Measure the effect of heads, context, pretraining and smoothing on one dataset.

Every variant is fitted on train, selected and calibrated on val, and evaluated on test: the
dataset's own test split, or the held-out folds of a cross-validation.
"""

import copy
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from geoclip_core.data.dataset import PhotoDataset, read_dataset
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.earth.sphere import geoscore, haversine_km
from geoclip_core.evaluation.baselines import baseline_guesses, baseline_title
from geoclip_core.evaluation.metrics import distance_metrics
from geoclip_core.files import write_json
from geoclip_core.model.backbone import Backbone
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.bank_heads import MAX_RIDGE_BANK
from geoclip_core.model.calibration import fit_calibration
from geoclip_core.model.geolocation import GeolocationModel
from geoclip_core.training.distributed import build_accelerator
from geoclip_core.training.fit import (
    FitTask,
    build_model,
    fit_backbone,
)
from geoclip_core.training.fit_bank import BankData, BankInputs, fit_bank_model, random_folds
from geoclip_core.training.inputs import CachedEmbeddings, Embedder, learnable_vocabularies
from geoclip_core.training.loop import TrainingLoop
from geoclip_core.training.options import (
    BankOptions,
    FitOptions,
    GeocellOptions,
    PretrainOptions,
    Views,
    options_class,
)
from geoclip_core.training.pretrain import PretrainRun, pretrain
from geoclip_core.training.session import RunSession
from train.recipes import recipe_options

if TYPE_CHECKING:
    from accelerate import Accelerator

Array = NDArray[np.floating]
Places = NDArray[np.float64]
Key = tuple[str, str, str]
"""Head, context and pretraining of a row of the table."""
Head = Literal["geocells", "regression", "bank"]
Features = Literal["plain", "pretrained", "projected"]

DEGREES: Final = "degrees, L2 (older recipe)"
VAL_SHARE = 0.15
"""Share of the training photos of a fold that become val."""
STEPS, BATCH, LEARNING_RATE = 1500, 128, 1e-3
"""Training of the older recipe: steps, batch size, learning rate."""
_PRETRAINING = {"plain": "no", "pretrained": "yes", "projected": "yes, shared space"}


@options_class
class AblationOptions:
    """Options of `benchmark ablation`."""

    data: Path
    """dataset folder"""
    folds: Annotated[int, Ge(0)] = 0
    """folds of a cross-validation over all photos; 0: the dataset's own test split"""
    seeds: Annotated[int, Ge(1)] = 3
    """repeats with other weights, order and folds"""
    views: Views = ("128x128",)
    """HEIGHTxWIDTH of each view of a photo"""
    pretrain: bool = True
    """also evaluate after contrastive pretraining on each training split"""
    epochs: Annotated[int, Ge(0)] = 0
    """epochs of the heads; 0: as in the recipe demo"""
    pretrain_epochs: Annotated[int, Ge(0)] = 0
    """epochs of the pretraining; 0: as in the recipe demo"""
    cache_dir: Path | None = None
    """where embeddings are kept; by default the platform's cache folder"""
    output: Path | None = None
    """JSON file for every number, updated after each split"""

    def __post_init__(self) -> None:
        if self.folds == 1:
            raise ValueError("--folds must be 0 or at least 2")


def ablation(options: AblationOptions) -> int:
    """Print the effect of heads, context, pretraining and smoothing as a Markdown table."""
    dataset = read_dataset(options.data)
    fitting = _fit_options(options, 0)
    protocol = f"{options.folds}-fold cross-validation" if options.folds else "its own test split"
    table = AblationTable(
        f"{dataset.name}, {len(dataset):,} photos{', synthetic' if dataset.synthetic else ''}: "
        f"{protocol}, {options.seeds} seeds, {fitting.backbone} at {', '.join(options.views)}"
    )
    accelerator = build_accelerator(fitting)
    rows = variants(options.pretrain)
    preparing = "embedding and pretraining" if options.pretrain else "embedding"
    with tqdm(total=options.seeds * max(1, options.folds) * len(rows), unit="fit") as bar:
        bar.set_description(preparing)
        for split, seed in ablation_splits(options, dataset, accelerator):
            for name, result in _baselines(split).items():
                table.add((name, "", ""), seed, result)
            for variant in rows:
                bar.set_description(" · ".join(variant.key))
                result = _measure(variant, split, _fit_options(options, seed), accelerator)
                table.add(variant.key, seed, result)
                bar.update()
            if options.output is not None:
                write_json(options.output, table.report())
            bar.set_description(preparing)
    print(markdown(table.report()))
    return 0


def _fit_options(options: AblationOptions, seed: int) -> FitOptions:
    return recipe_options(FitOptions, "demo", _changes(options, seed, options.epochs))


def _changes(options: AblationOptions, seed: int, epochs: int) -> dict[str, Any]:
    changes = {"data": options.data, "views": options.views, "seed": seed, "device": "cpu"}
    return {**changes, "epochs": epochs} if epochs else changes


@dataclass(frozen=True)
class AblationSplit:
    """Photos to train, select and evaluate on, and their embeddings."""

    train: PhotoDataset
    val: PhotoDataset
    test: PhotoDataset
    embeddings: Mapping[Features, Mapping[str, Array]]
    """Features -> split -> (n, D)."""
    backbones: Mapping[Features, Backbone]
    vocabularies: Mapping[str, Vocabulary]


def ablation_splits(
    options: AblationOptions, dataset: PhotoDataset, accelerator: "Accelerator"
) -> Iterator[tuple[AblationSplit, int]]:
    """Yield the splits to evaluate on, with the seed of the weights."""
    for seed in range(options.seeds):
        if not options.folds:
            yield _prepared(options, dataset, seed, accelerator), seed
            continue
        fold_of = random_folds(len(dataset), options.folds, seed)
        for fold in range(options.folds):
            labels = np.where(fold_of == fold, "test", "train").astype(object)
            rest = np.flatnonzero(fold_of != fold)
            shuffled = np.random.default_rng([seed, fold]).permutation(rest)
            labels[shuffled[: max(10, round(VAL_SHARE * len(rest)))]] = "val"
            folded = replace(dataset, table=dataset.table.assign(split=labels))
            yield _prepared(options, folded, seed, accelerator), seed


def _prepared(
    options: AblationOptions, dataset: PhotoDataset, seed: int, accelerator: "Accelerator"
) -> AblationSplit:
    """Embed a split, before and after pretraining on its training photos."""
    fitting = _fit_options(options, seed)
    # a few hundred worldwide photos are too few to learn large vocabularies
    worldwide = dataset.table["country"].nunique() > 1
    features = (
        ("climate", "country") if worldwide else ("climate", "month", "state", "county", "city")
    )
    vocabularies, _ = learnable_vocabularies(dataset.split("train"), features)
    backbones, embeddings, photos = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="ablation-") as scratch:
        kinds: dict[Features, FitOptions] = {"plain": fitting}
        if options.pretrain:
            changes = _changes(options, seed, options.pretrain_epochs)
            if worldwide:
                changes["features"] = ("climate", "country", "state", "city")
            run = Path(scratch) / "pretrained"
            run.mkdir()
            chosen = recipe_options(PretrainOptions, "demo", changes)
            pretrain(PretrainRun(chosen, RunSession(None), accelerator, run, run.name), dataset)
            kinds["pretrained"] = replace(fitting, backbone=str(run / "checkpoint"))
            kinds["projected"] = replace(kinds["pretrained"], projection=True, depths=())
        for kind, fitted in kinds.items():
            backbones[kind] = build_backbone(fit_backbone(fitted))
            embedder = Embedder(fitted, RunSession(None), accelerator, backbones[kind])
            # later runs cannot use the embeddings of a backbone that is pretrained here
            cache = options.cache_dir if kind == "plain" else Path(scratch) / "embeddings"
            splits = embedder.splits(dataset, cache_dir=cache)
            embeddings[kind] = {name: np.array(part.embeddings) for name, part in splits.items()}
            photos = {name: part.photos for name, part in splits.items()}
    return AblationSplit(
        photos["train"], photos["val"], photos["test"], embeddings, backbones, vocabularies
    )


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    head: Head | Literal["degrees, L2 (older recipe)"]
    use_context: bool = True
    features: Features = "plain"
    """The backbone without or with contrastive pretraining, or its space shared with captions."""
    smoothing: float = 0.5

    @property
    def key(self) -> Key:
        """Head, context and pretraining, as in the table."""
        smoothed = f", smoothing {self.smoothing:g}" if self.head == "geocells" else ""
        context = "yes" if self.use_context else "no"
        return self.head + smoothed, context, _PRETRAINING[self.features]


def variants(pretrained: bool = True) -> list[Variant]:
    """Return the rows of the table: heads × context × pretraining, smoothings, older recipe."""
    features: tuple[Features, ...] = ("plain", "pretrained") if pretrained else ("plain",)
    heads: tuple[Head, ...] = ("geocells", "regression", "bank")
    both = (True, False)
    rows = [
        Variant(head, use, kind) for head, kind, use in itertools.product(heads, features, both)
    ]
    for smoothing in (0.0, 1.0):
        rows += [Variant("geocells", use, smoothing=smoothing) for use in both]
    if pretrained:
        rows += [Variant("geocells", use, "projected") for use in both]
    return rows + [Variant(DEGREES, use) for use in both]


@dataclass
class AblationResult:
    """Result of a variant on the test photos of one split and seed."""

    errors_km: NDArray[np.float64]
    hits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Feature -> (right, labelled) photos."""
    seconds: float = 0.0
    """Time to fit on cached embeddings."""


def _measure(
    variant: Variant, split: AblationSplit, options: FitOptions, accelerator: "Accelerator"
) -> AblationResult:
    """Fit a variant on train, select and calibrate it on val, and evaluate it on test."""
    embeddings = split.embeddings[variant.features]
    vocabularies = dict(split.vocabularies) if variant.use_context else {}
    began = time.perf_counter()
    if variant.head == DEGREES:
        answer = fit_degrees_model(
            (embeddings["train"], split.train.coordinates),
            (embeddings["val"], split.val.coordinates),
            split.train.labels(vocabularies),
            {feature: len(vocabulary) for feature, vocabulary in vocabularies.items()},
            seed=options.seed,
        )
        seconds = time.perf_counter() - began
        answers, scores = answer(embeddings["test"])
    else:
        if variant.head == "bank":
            model = _fit_bank(variant, split, options, vocabularies)
        else:
            chosen = replace(
                options,
                coordinate_head=variant.head,
                use_context=variant.use_context,
                geocells=GeocellOptions(smoothing=variant.smoothing),
            )
            model = _fit_heads(variant, split, chosen, vocabularies, accelerator)
        uncalibrated = model.predict(np.asarray(embeddings["val"], dtype=np.float32))
        model.calibration = fit_calibration(
            [estimate.posterior for estimate in uncalibrated],
            split.val.coordinates,
            measure_coverage=False,
        )
        seconds = time.perf_counter() - began
        estimates = model.predict(np.asarray(embeddings["test"], dtype=np.float32))
        answers = np.array([estimate.posterior.mode() for estimate in estimates])
        scores = {
            feature: np.array([estimate.context[feature] for estimate in estimates])
            for feature in vocabularies
        }
    guesses = {feature: values.argmax(axis=1) for feature, values in scores.items()}
    return AblationResult(
        haversine_km(answers, split.test.coordinates), _hits(split, guesses), seconds
    )


def _fit_heads(
    variant: Variant,
    split: AblationSplit,
    options: FitOptions,
    vocabularies: Mapping[str, Vocabulary],
    accelerator: "Accelerator",
) -> GeolocationModel:
    embeddings = split.embeddings[variant.features]
    model = build_model(
        options,
        split.backbones[variant.features],
        vocabularies,
        split.train.coordinates,
        embeddings["train"],
        variant.key[0],
    )
    task = FitTask(
        model,
        options,
        split.train,
        split.val,
        CachedEmbeddings(embeddings["train"]),
        lambda: embeddings["val"],
    )
    with tempfile.TemporaryDirectory(prefix="ablation-") as folder:
        session = RunSession(None)
        TrainingLoop(accelerator, session, Path(folder), task, options, len(split.train)).run()
    return model.eval()


def _fit_bank(
    variant: Variant,
    split: AblationSplit,
    options: FitOptions,
    vocabularies: Mapping[str, Vocabulary],
) -> GeolocationModel:
    data = BankData(
        torch.from_numpy(np.asarray(split.embeddings[variant.features]["train"], dtype=np.float32)),
        split.train.coordinates,
        split.train.labels(vocabularies),
    )
    chosen = replace(
        options,
        coordinate_head="bank",
        use_context=variant.use_context,
        bank=BankOptions(vote="kernel-ridge" if len(split.train) <= MAX_RIDGE_BANK else "cosine"),
        features=tuple(vocabularies) or options.features,
    )
    backbone = split.backbones[variant.features]
    return fit_bank_model(
        BankInputs(data, vocabularies, chosen, backbone.config, backbone.block_widths)
    )


def _hits(split: AblationSplit, guesses: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Count right guesses of context heads; `guesses`: feature -> class index, one or (n,)."""
    hits = {}
    truth = split.test.labels(split.vocabularies)
    for feature, guess in guesses.items():
        # photos whose place is not in the vocabulary count as wrong
        labelled = split.test.keys(feature).notna().to_numpy()
        right = (truth[feature] == guess) & (truth[feature] != IGNORE_INDEX)
        hits[feature] = (int(right[labelled].sum()), int(labelled.sum()))
    return hits


def _baselines(split: AblationSplit) -> dict[str, AblationResult]:
    embeddings = split.embeddings["plain"]
    guesses = baseline_guesses(
        split.train.table,
        split.test.table,
        train_embeddings=embeddings["train"],
        embeddings=embeddings["test"],
    )
    results = {
        name: AblationResult(haversine_km(guess, split.test.coordinates))
        for name, guess in guesses.items()
    }
    labels = split.train.labels(split.vocabularies)
    most_common = {
        f: np.bincount(known[known != IGNORE_INDEX]).argmax() for f, known in labels.items()
    }
    results["constant"].hits = _hits(split, most_common)
    return {baseline_title(name): result for name, result in results.items()}


class DegreesModel(nn.Module):
    """Linear heads on an embedding; coordinates are two numbers in degrees (older recipe).

    Args:
        width: embedding width D.
        classes: feature -> number of classes; empty without context.
    """

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({f: nn.Linear(width, count) for f, count in classes.items()})
        self.last = nn.Linear(width + sum(classes.values()), 2)

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Map (b, D) to (b, 2) unbounded degrees, and feature -> (b, classes) logits."""
        logits = {feature: head(embeddings) for feature, head in self.heads.items()}
        return self.last(torch.cat([embeddings, *logits.values()], dim=1)), logits

    @torch.no_grad()
    def answer(self, embeddings: Array) -> tuple[Places, dict[str, NDArray[np.float32]]]:
        """Map (m, D) to (m, 2) degrees, clipped and wrapped to valid ones, and logits."""
        guess, logits = self(torch.from_numpy(np.asarray(embeddings, dtype=np.float32)))
        degrees = guess.double().numpy()
        places = np.stack([degrees[:, 0].clip(-90, 90), (degrees[:, 1] + 180) % 360 - 180], axis=1)
        return places, {feature: scores.numpy() for feature, scores in logits.items()}


def fit_degrees_model(
    train: tuple[Array, Places],
    val: tuple[Array, Places],
    labels: Mapping[str, NDArray[np.int64]],
    classes: Mapping[str, int],
    seed: int = 0,
) -> Callable[[Array], tuple[Places, dict[str, NDArray[np.float32]]]]:
    """Fit a `DegreesModel` and return its `answer`.

    Args:
        train: embeddings (n, D), not normalised, and places (n, 2) in degrees.
        val: the same for val, whose median error in km selects the epoch.
        labels: feature -> (n,) class indices of train; empty without context.
        classes: feature -> number of classes.
        seed: seed of weights and order.
    """
    torch.manual_seed(seed)
    values = torch.from_numpy(np.asarray(train[0], dtype=np.float32))
    truth = torch.from_numpy(np.asarray(train[1], dtype=np.float32))
    known = {feature: torch.from_numpy(index) for feature, index in labels.items()}
    model = DegreesModel(values.shape[1], classes)
    with torch.no_grad():
        model.last.bias.copy_(truth.mean(dim=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    best, weights = np.inf, copy.deepcopy(model.state_dict())
    for _ in range(math.ceil(STEPS * BATCH / len(values))):
        for rows in torch.randperm(len(values)).split(BATCH):
            guess, logits = model(values[rows])
            loss = nn.functional.mse_loss(guess, truth[rows])
            for feature, scores in logits.items():
                target = known[feature][rows]
                if bool((target != IGNORE_INDEX).any()):
                    loss = loss + nn.functional.cross_entropy(
                        scores, target, ignore_index=IGNORE_INDEX
                    )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        median = float(np.median(haversine_km(model.answer(val[0])[0], val[1])))
        if median < best:
            best, weights = median, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return model.answer


@dataclass
class AblationTable:
    """The results of all rows, in order."""

    title: str
    rows: dict[Key, dict[int, list[AblationResult]]] = field(default_factory=dict)
    """Row -> seed -> results of the folds."""

    def add(self, key: Key, seed: int, result: AblationResult) -> None:
        """Add a result to its row."""
        self.rows.setdefault(key, {}).setdefault(seed, []).append(result)

    def numbers(self, key: Key) -> dict[str, Any]:
        """Return the metrics of a row, with the standard deviation of the GeoScore over seeds."""
        seeds = self.rows[key].values()
        results = [result for folds in seeds for result in folds]
        distances = distance_metrics(np.concatenate([result.errors_km for result in results]))
        scores = [
            geoscore(np.concatenate([fold.errors_km for fold in folds])).mean() for folds in seeds
        ]
        context = {}
        for feature in dict.fromkeys(feature for result in results for feature in result.hits):
            pairs = [result.hits[feature] for result in results if feature in result.hits]
            right, known = (sum(counts) for counts in zip(*pairs, strict=True))
            if known:
                context[feature] = right / known
        return {
            "median_km": distances["median_km"],
            "mean_km": distances["mean_km"],
            "geoscore": float(np.mean(scores)),
            "geoscore_deviation": float(np.std(scores)),
            "within_200_km": distances["accuracy_at_km"]["200"],
            "context": context,
            "seconds": float(np.mean([result.seconds for result in results])),
        }

    def report(self) -> dict[str, Any]:
        """Return all metrics in JSON types."""
        return {
            "title": self.title,
            "rows": [
                {"head": h, "use_context": c, "pretraining": p, **self.numbers((h, c, p))}
                for h, c, p in self.rows
            ],
        }


def markdown(report: Mapping[str, Any]) -> str:
    """Return a report as a Markdown table below its title."""
    rows = report["rows"]
    features = list(dict.fromkeys(feature for row in rows for feature in row["context"]))
    names = ["coordinate head", "context", "pretraining", "median km", "GeoScore", "< 200 km"]
    names += [f"{feature} top-1" for feature in features] + ["seconds"]
    lines = [report["title"], "", "| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        known = row["context"]
        cells = [
            row["head"],
            row["use_context"],
            row["pretraining"],
            f"{row['median_km']:,.0f}",
            f"{row['geoscore']:,.0f} ± {row['geoscore_deviation']:.0f}",
            f"{row['within_200_km']:.0%}",
            *(f"{known[feature]:.0%}" if feature in known else "" for feature in features),
            f"{row['seconds']:.1f}" if row["seconds"] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
