"""What heads, context, pretraining and smoothing are worth, measured on one dataset."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geoclip_core.atomic_writes import write_atomically
from geoclip_core.data.table import PhotoDataset, read_dataset
from geoclip_core.data.vocabulary import IGNORE_INDEX
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.loops.fit_options import FitOptions
from geoclip_core.loops.pretrain_options import PretrainOptions
from train.benchmarks.ablation_table import AblationTable, Key, markdown
from train.command_line import load_recipe
from train.options import build

if TYPE_CHECKING:
    from accelerate import Accelerator

    from geoclip_core.loops.ablation import AblationResult, AblationSplit, Variant

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
    from geoclip_core.loops.ablation import measure_variant, variants
    from geoclip_core.loops.acceleration import build_accelerator

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
    return build(FitOptions, values, "ablation")


def ablation_splits(
    options: Options, dataset: PhotoDataset
) -> Iterator[tuple["AblationSplit", int]]:
    """Splits to measure on, with the seed of their weights."""
    from geoclip_core.loops.acceleration import build_accelerator
    from geoclip_core.loops.bank_validation import random_folds

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
    from geoclip_core.loops.ablation import AblationSplit
    from geoclip_core.loops.fit import fit_backbone
    from geoclip_core.loops.fit_data import Embedder
    from geoclip_core.loops.fit_model import learnable_vocabularies
    from geoclip_core.loops.run_session import RunSession
    from geoclip_core.model.backbones import build_backbone

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
    from geoclip_core.loops.pretrain import PretrainRun, pretrain
    from geoclip_core.loops.run_session import RunSession

    values = load_recipe(PretrainOptions, "demo")
    values |= {"data": options.data, "views": options.views, "seed": seed, "device": "cpu"}
    if dataset.table["country"].nunique() > 1:
        values["features"] = ("climate", "country", "state", "city")
    if options.pretrain_epochs:
        values["epochs"] = options.pretrain_epochs
    chosen = build(PretrainOptions, values, "ablation")
    folder = scratch / "pretrained"
    folder.mkdir()
    pretrain(PretrainRun(chosen, RunSession(None), accelerator, folder, "pretrained"), dataset)
    return folder / "checkpoint"


def _baselines(split: "AblationSplit") -> dict[str, "AblationResult"]:
    from geoclip_core.loops.ablation import AblationResult
    from geoclip_core.loops.baselines import baseline_guesses, baseline_title

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
