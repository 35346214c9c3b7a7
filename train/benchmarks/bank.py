"""Measure banks of reference photos: photos that are added, and settings that are chosen.

`extend`: for each area (a continent, country or state) a base model is fitted to photos from
elsewhere, and the photos of the area are added. They are located by the base, by the extended bank
without them, and by a model of the area's other photos alone, on the same folds; and the photos of
the base by both banks without them.

`selection`: views, depths, kernel, ridge, readout and targets of the bundled models were chosen on
the photos that cross-validation then scores. Here every fold chooses them from its training photos
alone (nested cross-validation); the difference is the optimism of the choice. The candidates were
also chosen with knowledge of these photos, which is not corrected.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from geoclip_core.data.dataset import PhotoDataset, read_dataset
from geoclip_core.data.vocabulary import class_name
from geoclip_core.earth.gazetteer import part_of_the_world
from geoclip_core.earth.sphere import geoscore
from geoclip_core.evaluation.intervals import mean_intervals
from geoclip_core.evaluation.metrics import distance_metrics
from geoclip_core.files import write_json
from geoclip_core.jobs import ProgressBar
from geoclip_core.model.backbone import Backbone, BackboneConfig
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.bank_heads import BankHead
from geoclip_core.model.geolocation import GeolocationModel
from geoclip_core.processes import Progress
from geoclip_core.training.distributed import build_accelerator
from geoclip_core.training.extend import Comparison, compared, extended_inputs
from geoclip_core.training.fit import fit_backbone
from geoclip_core.training.fit_bank import (
    BankData,
    BankInputs,
    choose_field,
    cross_validation_folds,
    errors_km,
    fit_bank_model,
    held_out_errors,
    random_folds,
)
from geoclip_core.training.inputs import Embedder, learnable_vocabularies
from geoclip_core.training.options import FitOptions, Views, options_class
from geoclip_core.training.session import RunSession
from train.recipes import recipe_options

Array = NDArray[np.float64]
Chosen = tuple["Features", tuple[float, ...]]
Errors = dict[str, Array]

FIELD_SCALES = ((1492.7,), (1492.7, 4000.0), (750.0, 1492.7, 4000.0))
GAMMAS, RIDGES, READOUTS = (1.0, 1.5, 2.0), (0.03, 0.05, 0.1), (0.02, 0.03, 0.05)


@options_class
class CrossValidationOptions:
    """Options of both benchmarks."""

    data: Path
    """dataset folder; all its photos take part"""
    folds: Annotated[int, Ge(2)] = 10
    """folds of the cross-validation that is measured"""
    repeats: Annotated[int, Ge(1)] = 1
    """repeats with other folds"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of folds and draws"""
    cache_dir: Path | None = None
    """where embeddings are kept; by default the platform's cache folder"""
    output: Path | None = None
    """JSON file for every number"""


@options_class
class ExtendOptions(CrossValidationOptions):
    """Options of `benchmark extend`."""

    by: Literal["continent", "country", "state"] = "continent"
    """what an area is"""
    least: Annotated[int, Ge(10)] = 20
    """fewest photos of an area"""
    base_photos: Annotated[int, Ge(20)] = 200
    """most photos of a base model, drawn at random"""
    recipe: str = "small"
    """recipe of the base model"""


@options_class
class SelectionOptions(CrossValidationOptions):
    """Options of `benchmark selection`."""

    views: Views = ("260x260", "380x380", "320x512")
    """HEIGHTxWIDTH of the views to choose from; every subset is tried"""
    repeats: Annotated[int, Ge(1)] = 3
    """repeats with other folds"""


@dataclass(frozen=True)
class Embedded:
    """The readable photos of a dataset, as a bank of reference photos sees them."""

    fitting: FitOptions
    backbone: Backbone
    photos: PhotoDataset
    values: torch.Tensor
    """(n, D) float32."""


def _embedded(options: CrossValidationOptions, recipe: str, **changes: Any) -> Embedded:
    """Embed a dataset with the options of a recipe, some of them changed."""
    changes |= {"data": options.data, "device": "cpu", "seed": options.seed}
    changes |= {"bank.folds": options.folds, "bank.repeats": options.repeats}
    fitting = recipe_options(FitOptions, recipe, changes)
    dataset = read_dataset(options.data)
    backbone = build_backbone(fit_backbone(fitting))
    embedder = Embedder(fitting, RunSession(None), build_accelerator(fitting), backbone)
    embedded = embedder.every(dataset, cache_dir=options.cache_dir)
    values = np.asarray(embedded.values[embedded.readable], dtype=np.float32)
    photos = dataset.select(embedded.readable)
    return Embedded(fitting, backbone, photos, torch.from_numpy(values))


def extend(options: ExtendOptions) -> int:
    """Measure what the photos of one area add to a bank of others."""
    embedded = _embedded(options, options.recipe)
    photos = embedded.photos
    photos.table["split"] = "train"
    areas, added, before = {}, [], []
    print("| area | photos | base alone | added alone | extended | base photos before | after |")
    print("|---|---|---|---|---|---|---|")
    for name, inside in _areas(photos, options):
        on_added, on_base = _measured(embedded, inside, options)
        areas[name] = _both(on_added, on_base)
        added.append(on_added)
        before.append(on_base)
        _print_row(name, areas[name], int(inside.sum()))
    numbers = {"areas": areas, "all": _both(_joined(added), _joined(before))}
    _print_row("all", numbers["all"], sum(errors["extended"].shape[1] for errors in added))
    if options.output is not None:
        write_json(options.output, numbers)
    return 0


def _areas(photos: PhotoDataset, options: ExtendOptions) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the name and the mask (n,) of each area with enough photos, the largest first."""
    if options.by == "continent":
        parts = [part_of_the_world(str(code)) for code in photos.table["country_key"]]
        area = pd.Series([part and part[0] for part in parts])
    else:
        keys = photos.table[f"{options.by}_key"]
        area = keys.map(lambda key: class_name(options.by, key), na_action="ignore")
    for name, count in area.value_counts().items():
        if options.least <= count <= len(photos) - options.least:
            yield str(name), (area == name).to_numpy(dtype=bool)


def _measured(
    embedded: Embedded, inside: NDArray[np.bool_], options: ExtendOptions
) -> tuple[Errors, Errors]:
    """Return model -> (repeats, photos) errors on the photos of an area, and on those of a base."""
    photos, raw, fitting = embedded.photos, embedded.values, embedded.fitting
    outside = np.flatnonzero(~inside)
    drawn = np.random.default_rng(options.seed).permutation(outside)[: options.base_photos]
    rows = np.sort(drawn)
    elsewhere, area = photos.select(rows), photos.select(inside)
    words, _ = learnable_vocabularies(elsewhere, fitting.features)
    data = BankData(raw[rows], elsewhere.coordinates, elsewhere.labels(words))
    backbone = embedded.backbone
    base = fit_bank_model(
        BankInputs(data, words, fitting, backbone.config, backbone.block_widths), "base"
    )
    own = raw[np.flatnonzero(inside)]
    inputs, every, is_new = extended_inputs(base, area, own, fitting)
    seeds = range(options.seed, options.seed + options.repeats)
    partitions = [cross_validation_folds(every, options.folds, seed) for seed in seeds]
    errors = np.stack([held_out_errors(inputs, fold_of) for fold_of in partitions])
    return Comparison(inputs, area, own, is_new, partitions, errors).errors()


def _joined(parts: list[Errors]) -> Errors:
    shared = [key for key in parts[0] if all(key in part for part in parts)]
    return {key: np.concatenate([part[key] for part in parts], axis=1) for key in shared}


def _both(on_added: Errors, on_base: Errors) -> dict[str, Any]:
    return {"on_added": compared(on_added), "on_base": compared(on_base)}


def _print_row(name: str, found: dict[str, Any], photos: int) -> None:
    on_added, on_base = found["on_added"], found["on_base"]
    cells = [on_added.get(key) for key in ("base_alone", "added_alone", "extended")]
    cells += [on_base["base_alone"], on_base["extended"]]
    # areas take a minute each
    print(f"| {name} | {photos} | {' | '.join(map(_cell, cells))} |", flush=True)


def _cell(numbers: dict[str, Any] | None) -> str:
    if numbers is None:
        return "–"
    low, high = numbers["interval"]
    return f"{numbers['geoscore']:,.0f} [{low:,.0f}–{high:,.0f}]"


def selection(options: SelectionOptions) -> int:
    """Score the recipe mini-plain with settings chosen within each fold."""
    result = _measure(options)
    numbers = summary(result)
    low, high = numbers["geoscore_interval"]
    print(
        f"GeoScore {numbers['geoscore']:,.0f} [{low:,.0f}–{high:,.0f}], median "
        f"{numbers['median_km']:,.0f} km, {numbers['within_750_km']:.1%} within 750 km: "
        f"{options.folds}-fold cross-validation, {options.repeats} times, each fold choosing from "
        f"{result.settings:,} settings"
    )
    for (features, scales), count in result.chosen.most_common(5):
        views = " + ".join(options.views[view] for view in features.views)
        print(f"  {count} × views {views}, {len(features.depths)} depths, scales {scales} km")
    if options.output is not None:
        write_json(options.output, numbers)
    return 0


def _measure(options: SelectionOptions) -> "SelectionResult":
    embedded = _embedded(options, "mini-plain", views=options.views)
    nested = NestedSelection(
        BankData(embedded.values, embedded.photos.coordinates, {}),
        candidate_features(len(options.views), len(embedded.fitting.depths)),
        embedded.fitting,
        embedded.backbone.config,
        embedded.backbone.view_block_widths,
    )
    with ProgressBar("choosing", "folds") as bar:
        return nested.measure(bar.update)


def summary(result: "SelectionResult") -> dict[str, Any]:
    """Return the GeoScore with its 95 % bootstrap interval over photos, median km, and shares."""
    errors = result.errors_km
    distances = distance_metrics(errors.ravel())
    (interval,) = mean_intervals(geoscore(errors).mean(axis=0)[:, None])
    return {
        "geoscore": distances["geoscore"],
        "geoscore_interval": list(interval),
        "median_km": distances["median_km"],
        **{f"within_{km}_km": distances["accuracy_at_km"][str(km)] for km in (200, 750, 2500)},
        "settings": result.settings,
        "photos": int(errors.shape[1]),
        "repeats": int(errors.shape[0]),
    }


@dataclass(frozen=True)
class Features:
    """A choice of columns of an embedding: some views, with final features and some depths."""

    views: tuple[int, ...]
    """Indices of the views."""
    depths: tuple[int, ...]
    """Indices of the inner blocks, in the order of the embedding."""

    def blocks(self, per_view: int) -> list[int]:
        """Return the indices of the chosen blocks of features; a view has `per_view` blocks."""
        of_view = (0, *(depth + 1 for depth in self.depths))
        return [view * per_view + block for view in self.views for block in of_view]


@dataclass(frozen=True)
class SelectionResult:
    """Result of a nested cross-validation."""

    errors_km: Array
    """(repeats, n) errors of n photos."""
    settings: int
    """Number of settings that each fold chose from."""
    chosen: Counter[Chosen]
    """Features and field scales -> how often they were chosen."""


def candidate_features(views: int, depths: int) -> list[Features]:
    """Return every subset of views with none, the first, the first half, or all of the depths."""
    subsets = [
        chosen
        for size in range(1, views + 1)
        for chosen in itertools.combinations(range(views), size)
    ]
    counts = sorted({0, min(1, depths), (depths + 1) // 2, depths})
    return [Features(chosen, tuple(range(count))) for chosen in subsets for count in counts]


class NestedSelection:
    """Nested cross-validation of a bank model without context.

    Args:
        data: n photos, embedded with every view and depth.
        features: candidate columns.
        options: folds, repeats, seed, and all settings that are not chosen.
        backbone: config of the backbone of the embeddings.
        view_blocks: widths of the feature blocks of a view.
    """

    def __init__(
        self,
        data: BankData,
        features: Sequence[Features],
        options: FitOptions,
        backbone: BackboneConfig,
        view_blocks: Sequence[int],
    ) -> None:
        self.features, self.backbone, self.view_blocks = list(features), backbone, list(view_blocks)
        self.data = data
        views, rest = divmod(data.embeddings.shape[1], sum(self.view_blocks))
        if rest:
            raise ValueError(
                f"the embedding width {data.embeddings.shape[1]} is not a multiple of the view "
                f"width {sum(self.view_blocks)}"
            )
        self._all_widths = self.view_blocks * views
        self.options = _with_bank(
            replace(options, use_context=False),
            vote="kernel-ridge",
            gammas=GAMMAS,
            ridges=RIDGES,
            readout_temperatures=READOUTS,
        )

    def measure(self, progress: Progress | None = None) -> SelectionResult:
        """Return the errors of n photos, each by a model chosen and fitted without the photo."""
        count = len(self.data.embeddings)
        errors = np.full((self.options.bank.repeats, count), np.nan)
        chosen: Counter[Chosen] = Counter()
        rounds = self.options.bank.repeats * self.options.bank.folds
        for repeat, fold in itertools.product(
            range(self.options.bank.repeats), range(self.options.bank.folds)
        ):
            fold_of = random_folds(count, self.options.bank.folds, self.options.seed + repeat)
            held = fold_of == fold
            features, options = self.choose(np.flatnonzero(~held))
            chosen[features, options.bank.field_scales] += 1
            model = self._fit(features, options, np.flatnonzero(~held))
            estimates = model.predict(self._columns(features)[np.flatnonzero(held)])
            errors[repeat, held] = errors_km(estimates, self.data.coordinates[held])
            if progress:
                progress(repeat * self.options.bank.folds + fold + 1, rounds)
        grids = (self.features, FIELD_SCALES, GAMMAS, RIDGES, READOUTS)
        return SelectionResult(errors, math.prod(map(len, grids)), chosen)

    def choose(self, rows: NDArray[np.int64]) -> tuple[Features, FitOptions]:
        """Return the settings with the best left-out GeoScore on the photos at `rows`."""
        best: tuple[float, Features, FitOptions] | None = None
        for features, scales in itertools.product(self.features, FIELD_SCALES):
            options = _with_bank(self.options, field_scales=scales)
            head = self._fit(features, options, rows).coordinate_head
            assert isinstance(head, BankHead)
            fixed = _with_bank(
                options,
                gammas=(head.gamma,),
                ridges=(head.ridge,),
                readout_temperatures=(head.readout_temperature,),
            )
            score, _ = choose_field(head, fixed.bank)
            if best is None or score > best[0]:
                best = (score, features, fixed)
        assert best is not None
        return best[1], best[2]

    def _fit(
        self, features: Features, options: FitOptions, rows: NDArray[np.int64]
    ) -> GeolocationModel:
        data = BankData(self._columns(features)[rows], self.data.coordinates[rows], {})
        widths = tuple(self._all_widths[i] for i in features.blocks(len(self.view_blocks)))
        return fit_bank_model(BankInputs(data, {}, options, self.backbone, widths))

    def _columns(self, features: Features) -> torch.Tensor:
        blocks = self.data.embeddings.split(self._all_widths, dim=1)
        return torch.cat([blocks[i] for i in features.blocks(len(self.view_blocks))], dim=1)


def _with_bank(options: FitOptions, **changes: Any) -> FitOptions:
    return replace(options, bank=replace(options.bank, **changes))
