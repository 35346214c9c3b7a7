"""What heads, context, pretraining and smoothing are worth, measured on one dataset."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.model.backbone import Backbone
from geoclip_core.model.bank_heads import MAX_RIDGE_BANK
from geoclip_core.model.calibration import fit_calibration
from geoclip_core.model.geolocation import Estimate, GeolocationModel
from geoclip_core.training.fit import FitTask, TrainingPhotos, build_model
from geoclip_core.training.fit_bank import BankData, fit_bank_model
from geoclip_core.training.inputs import CachedEmbeddings
from geoclip_core.training.loop import TrainingLoop
from geoclip_core.training.options import BankOptions, FitOptions, GeocellOptions, from_mapping
from geoclip_core.training.session import RunSession

if TYPE_CHECKING:
    from accelerate import Accelerator
from typing import TYPE_CHECKING, Any

from geoclip_core.evaluation.metrics import distance_metrics, mean_geoscore

if TYPE_CHECKING:
    pass
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from tqdm import tqdm

from geoclip_core.data.dataset import read_dataset
from geoclip_core.files import write_atomically
from geoclip_core.training.options import PretrainOptions
from train.command_line import load_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


Array = NDArray[np.floating]
Places = NDArray[np.float64]
STEPS, BATCH, LEARNING_RATE = 1500, 128, 1e-3


class DegreesModel(nn.Module):
    """Linear heads on an embedding.

    Args:
        width: width D of the embedding.
        classes: feature -> number of classes; empty without context.
    """

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({f: nn.Linear(width, count) for f, count in classes.items()})
        self.last = nn.Linear(width + sum(classes.values()), 2)

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(b, D) -> (b, 2) degrees as they come, and feature -> (b, classes) logits."""
        logits = {feature: head(embeddings) for feature, head in self.heads.items()}
        return self.last(torch.cat([embeddings, *logits.values()], dim=1)), logits

    @torch.no_grad()
    def answer(self, embeddings: Array) -> tuple[Places, dict[str, NDArray[np.float32]]]:
        """(m, D) -> (m, 2) places and the logits.

        Nothing keeps the numbers on the Earth: what left it is brought back.
        """
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
    """Fit it, and hand back what answers embeddings.

    Args:
        train: embeddings (n, D), raw, and places (n, 2).
        val: the same of the photos on which the epoch is chosen, by their median km.
        labels: feature -> (n,) class indices of train; empty without context.
        classes: feature -> number of classes.
        seed: of weights and order.

    Returns:
        `DegreesModel.answer`.
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
            loss = _loss(model, values[rows], truth[rows], {f: k[rows] for f, k in known.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        median = float(np.median(haversine_km(model.answer(val[0])[0], val[1])))
        if median < best:
            best, weights = median, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return model.answer


def _loss(
    model: DegreesModel,
    embeddings: torch.Tensor,
    truth: torch.Tensor,
    labels: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    guess, logits = model(embeddings)
    loss = nn.functional.mse_loss(guess, truth)
    for feature, scores in logits.items():
        if bool((labels[feature] != IGNORE_INDEX).any()):
            loss = loss + nn.functional.cross_entropy(
                scores, labels[feature], ignore_index=IGNORE_INDEX
            )
    return loss


Features = Literal["plain", "pretrained", "projected"]
DEGREES = "degrees, L2 (older recipe)"


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    head: str
    """"geocells", "regression", "bank", or `DEGREES`."""
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
    heads = ("geocells", "regression", "bank")
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
    fit = _fit_bank if variant.head == "bank" else _fit_heads
    model = fit(variant, split, options, vocabularies, accelerator)
    raw = model.predict(np.asarray(embeddings["val"], dtype=np.float32))
    model.calibration = fit_calibration(
        [estimate.posterior for estimate in raw], split.val.coordinates, measure_coverage=False
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
        geocells=GeocellOptions(smoothing=variant.smoothing)
        if variant.head == "geocells"
        else GeocellOptions(),
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
    with TemporaryDirectory(prefix="ablation-") as folder:
        session = RunSession(None)
        TrainingLoop(accelerator, session, Path(folder), task, chosen, len(split.train)).run()
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
        coordinate_head="bank",
        use_context=variant.use_context,
        bank=BankOptions(vote="kernel-ridge" if len(split.train) <= MAX_RIDGE_BANK else "cosine"),
        features=tuple(vocabularies) or options.features,
    )
    backbone = split.backbones[variant.features]
    return fit_bank_model(data, vocabularies, chosen, backbone.config, backbone.block_widths)


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


Key = tuple[str, str, str]
"""Head, context, pretraining: what tells a row from the others."""


@dataclass
class AblationTable:
    """Results by row, in the order of the table."""

    title: str
    features: tuple[str, ...]
    rows: dict[Key, dict[int, list["AblationResult"]]] = field(default_factory=dict)
    """Head, context, pretraining -> seed -> results, one for each fold."""

    def add(self, key: Key, seed: int, result: "AblationResult") -> None:
        """Count a result in."""
        self.rows.setdefault(key, {}).setdefault(seed, []).append(result)

    def numbers(self, key: Key) -> dict[str, Any]:
        """Median km, GeoScore with its deviation over seeds, context top-1, seconds."""
        seeds = self.rows[key].values()
        results = [result for folds in seeds for result in folds]
        errors = np.concatenate([result.errors_km for result in results])
        distances = distance_metrics(errors)
        scores = [
            mean_geoscore(np.concatenate([fold.errors_km for fold in folds])) for folds in seeds
        ]
        context = {}
        for feature in self.features:
            pairs = [result.hits[feature] for result in results if feature in result.hits]
            if sum(known for _, known in pairs):
                right, known = (sum(values) for values in zip(*pairs, strict=True))
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
        """Every number, in JSON types."""
        return {
            "title": self.title,
            "rows": [
                {"head": h, "use_context": c, "pretraining": p, **self.numbers((h, c, p))}
                for h, c, p in self.rows
            ],
        }


def markdown(report: Mapping[str, Any]) -> str:
    """The table of a report, under its title."""
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


VAL_SHARE = 0.15
"""Share of the photos of a training fold on which the epoch is chosen."""
_MARKS = {"plain": "no", "pretrained": "yes", "projected": "yes, shared space"}


@dataclass(frozen=True)
class Options:
    """Options of ``python -m train benchmark ablation``."""

    COMMAND: ClassVar[str] = "benchmark ablation"

    data: Path
    """Folder of the dataset."""
    folds: int = 0
    """Folds of a cross-validation over all photos; 0: the dataset's own test split."""
    seeds: int = 3
    """Repeats with other weights, order and folds."""
    views: tuple[str, ...] = ("128x128",)
    """HEIGHTxWIDTH of each view of a photo."""
    pretrain: bool = True
    """Also measure with contrastive pretraining, which is made anew on each training split."""
    epochs: int = 0
    """Epochs of the heads; 0: those of the recipe demo."""
    pretrain_epochs: int = 0
    """Epochs of the pretraining; 0: those of the recipe demo."""
    cache_dir: Path | None = None
    """Where embeddings are kept; by default the platform's cache folder."""
    output: Path | None = None
    """JSON file for every number, written anew after each split."""

    def __post_init__(self) -> None:
        if self.folds == 1 or self.folds < 0 or self.seeds < 1:
            raise ValueError("folds must be 0 or at least 2, seeds at least 1")
        if self.epochs < 0 or self.pretrain_epochs < 0:
            raise ValueError("epochs and pretrain-epochs must not be negative")


def run(options: Options) -> int:
    """Measure and print a Markdown table."""
    print(markdown(benchmark_ablation(options).report()))
    return 0


def benchmark_ablation(options: Options) -> AblationTable:
    """Measure every variant on every split and seed."""
    from geoclip_core.training.distributed import build_accelerator

    dataset = read_dataset(options.data)
    fitting = _fit_options(options, 0)
    accelerator = build_accelerator(fitting)
    protocol = f"{options.folds}-fold cross-validation" if options.folds else "its own test split"
    table = AblationTable(
        f"{dataset.name}, {len(dataset):,} photos{', synthetic' if dataset.synthetic else ''}: "
        f"{protocol}, {options.seeds} seeds, {fitting.backbone} at {', '.join(options.views)}",
        (),
    )
    rows = variants(options.pretrain)
    with tqdm(total=options.seeds * max(1, options.folds) * len(rows), unit="fit") as bar:
        bar.set_description("embedding and pretraining" if options.pretrain else "embedding")
        for split, seed in ablation_splits(options, dataset):
            table.features = tuple(dict.fromkeys([*table.features, *split.vocabularies]))
            for name, result in _baselines(split).items():
                table.add((name, "", ""), seed, result)
            for variant in rows:
                bar.set_description(" · ".join(_key(variant)))
                result = measure_variant(variant, split, _fit_options(options, seed), accelerator)
                table.add(_key(variant), seed, result)
                bar.update()
            if options.output is not None:
                write_atomically(options.output, json.dumps(table.report(), indent=2) + "\n")
            bar.set_description("embedding and pretraining" if options.pretrain else "embedding")
    return table


def _key(variant: "Variant") -> Key:
    return variant.name, "yes" if variant.use_context else "no", _MARKS[variant.features]


def _fit_options(options: Options, seed: int) -> FitOptions:
    values = load_recipe(FitOptions, "demo")
    values |= {"data": options.data, "views": options.views, "seed": seed, "device": "cpu"}
    if options.epochs:
        values["epochs"] = options.epochs
    return from_mapping(FitOptions, values, "ablation")


def ablation_splits(
    options: Options, dataset: PhotoDataset
) -> Iterator[tuple["AblationSplit", int]]:
    """Splits to measure on, with the seed of their weights."""
    from geoclip_core.training.distributed import build_accelerator
    from geoclip_core.training.fit_bank import random_folds

    accelerator = build_accelerator(_fit_options(options, 0))
    for seed in range(options.seeds):
        if not options.folds:
            yield _prepared(options, dataset, seed, accelerator), seed
            continue
        fold_of = random_folds(len(dataset), options.folds, seed)
        for fold in range(options.folds):
            labels = np.where(fold_of == fold, "test", "train").astype(object)
            rest = np.flatnonzero(fold_of != fold)
            chance = np.random.default_rng([seed, fold])
            chosen = chance.permutation(rest)[: max(10, round(VAL_SHARE * len(rest)))]
            labels[chosen] = "val"
            table = dataset.table.assign(split=labels)
            yield (
                _prepared(options, dataclasses.replace(dataset, table=table), seed, accelerator),
                seed,
            )


def _prepared(
    options: Options, dataset: PhotoDataset, seed: int, accelerator: "Accelerator"
) -> "AblationSplit":
    """A split with its embeddings, those of a pretraining on its training photos included."""
    from geoclip_core.model.backbones import build_backbone
    from geoclip_core.training.fit import fit_backbone, learnable_vocabularies
    from geoclip_core.training.inputs import Embedder
    from geoclip_core.training.session import RunSession

    fitting = _fit_options(options, seed)
    vocabularies, _ = learnable_vocabularies(dataset.split("train"), _features(dataset))
    backbones, embeddings, photos = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="ablation-") as scratch:
        changes: dict[str, dict[str, Any]] = {"plain": {}}
        if options.pretrain:
            run = _pretrained(options, dataset, seed, accelerator, Path(scratch))
            changes["pretrained"] = {"backbone": str(run)}
            changes["projected"] = {"backbone": str(run), "projection": True, "depths": ()}
        for kind, change in changes.items():
            chosen = dataclasses.replace(fitting, **change)
            backbones[kind] = build_backbone(fit_backbone(chosen))
            embedder = Embedder(chosen, RunSession(None), accelerator, backbones[kind])
            # what a pretraining of this run gives, no other run will ask for
            own = Path(scratch) / "embeddings" if kind != "plain" else options.cache_dir
            splits = embedder.splits(dataset, cache_dir=own)
            embeddings[kind] = {s: np.array(part.embeddings) for s, part in splits.items()}
            photos = {name: part.photos for name, part in splits.items()}
    return AblationSplit(
        photos["train"], photos["val"], photos["test"], embeddings, backbones, vocabularies
    )


def _features(dataset: PhotoDataset) -> tuple[str, ...]:
    """Features that a few hundred photos can teach: large vocabularies need more of them."""
    if dataset.table["country"].nunique() > 1:
        return ("climate", "country")
    return ("climate", "month", "state", "county", "city")


def _pretrained(
    options: Options,
    dataset: PhotoDataset,
    seed: int,
    accelerator: "Accelerator",
    scratch: Path,
) -> Path:
    from geoclip_core.training.pretrain import PretrainRun, pretrain
    from geoclip_core.training.session import RunSession

    values = load_recipe(PretrainOptions, "demo")
    values |= {"data": options.data, "views": options.views, "seed": seed, "device": "cpu"}
    if dataset.table["country"].nunique() > 1:
        values["features"] = ("climate", "country", "state", "city")
    if options.pretrain_epochs:
        values["epochs"] = options.pretrain_epochs
    chosen = from_mapping(PretrainOptions, values, "ablation")
    folder = scratch / "pretrained"
    folder.mkdir()
    pretrain(PretrainRun(chosen, RunSession(None), accelerator, folder, "pretrained"), dataset)
    return folder / "checkpoint"


def _baselines(split: "AblationSplit") -> dict[str, "AblationResult"]:
    from geoclip_core.evaluation.baselines import baseline_guesses, baseline_title

    embeddings = split.embeddings["plain"]
    guesses: Mapping[str, NDArray[np.float64]] = baseline_guesses(
        split.train.table,
        split.test.table,
        train_embeddings=embeddings["train"],
        embeddings=embeddings["test"],
    )
    majority = {}
    for feature in split.vocabularies:
        known = split.train.labels(split.vocabularies)[feature]
        common = np.bincount(known[known != IGNORE_INDEX]).argmax()
        truth = split.test.labels(split.vocabularies)[feature]
        labelled = split.test.keys(feature).notna().to_numpy()
        majority[feature] = (int((truth[labelled] == common).sum()), int(labelled.sum()))
    return {
        baseline_title(name): AblationResult(
            haversine_km(guess, split.test.coordinates),
            majority if name == "constant" else {},
        )
        for name, guess in guesses.items()
    }
