"""Measure `fit --extend`: photos of one area are added to a bank that has none of it.

For each area (a continent, country or state) a base model is fitted to photos from elsewhere, and
the photos of the area are added. They are located by the base, by the extended bank without them,
and by a model of the area's other photos alone, on the same folds; and the photos of the base by
both banks without them.
"""

import json
from collections.abc import Iterator
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
from geoclip_core.files import write_atomically
from geoclip_core.model.backbone import Backbone
from geoclip_core.model.backbones import build_backbone
from geoclip_core.training.distributed import build_accelerator
from geoclip_core.training.extend import Comparison, compared, extended_inputs
from geoclip_core.training.fit import fit_backbone
from geoclip_core.training.fit_bank import (
    BankData,
    BankInputs,
    cross_validation_folds,
    fit_bank_model,
    held_out_errors,
)
from geoclip_core.training.inputs import Embedder, learnable_vocabularies
from geoclip_core.training.options import FitOptions, options_class
from geoclip_core.training.session import RunSession
from train.recipes import recipe_options

Errors = dict[str, NDArray[np.float64]]


@options_class
class ExtendOptions:
    """Options of `benchmark extend`."""

    data: Path
    """dataset folder; all its photos take part"""
    by: Literal["continent", "country", "state"] = "continent"
    """what an area is"""
    least: Annotated[int, Ge(10)] = 20
    """fewest photos of an area"""
    base_photos: Annotated[int, Ge(20)] = 200
    """most photos of a base model, drawn at random"""
    recipe: str = "small"
    """recipe of the base model"""
    folds: Annotated[int, Ge(2)] = 10
    """folds of the cross-validation"""
    repeats: Annotated[int, Ge(1)] = 1
    """repeats with other folds"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of folds and draws"""
    cache_dir: Path | None = None
    """where embeddings are kept; by default the platform's cache folder"""
    output: Path | None = None
    """JSON file for every number"""


def extend(options: ExtendOptions) -> int:
    """Measure what the photos of one area add to a bank of others."""
    changes = {"data": options.data, "device": "cpu", "seed": options.seed}
    changes |= {"bank.folds": options.folds, "bank.repeats": options.repeats}
    fitting = recipe_options(FitOptions, options.recipe, changes)
    dataset = read_dataset(options.data)
    backbone = build_backbone(fit_backbone(fitting))
    embedder = Embedder(fitting, RunSession(None), build_accelerator(fitting), backbone)
    embedded = embedder.every(dataset, cache_dir=options.cache_dir)
    photos = dataset.select(embedded.readable)
    photos.table["split"] = "train"
    raw = torch.from_numpy(np.asarray(embedded.values[embedded.readable], dtype=np.float32))
    areas, added, before = {}, [], []
    print("| area | photos | base alone | added alone | extended | base photos before | after |")
    print("|---|---|---|---|---|---|---|")
    for name, inside in _areas(photos, options):
        on_added, on_base = _measured(photos, raw, inside, fitting, backbone, options)
        areas[name] = _both(on_added, on_base)
        added.append(on_added)
        before.append(on_base)
        _print_row(name, areas[name], int(inside.sum()))
    numbers = {"areas": areas, "all": _both(_joined(added), _joined(before))}
    _print_row("all", numbers["all"], sum(errors["extended"].shape[1] for errors in added))
    if options.output is not None:
        write_atomically(options.output, json.dumps(numbers, indent=2) + "\n")
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
    photos: PhotoDataset,
    raw: torch.Tensor,
    inside: NDArray[np.bool_],
    fitting: FitOptions,
    backbone: Backbone,
    options: ExtendOptions,
) -> tuple[Errors, Errors]:
    """Return model -> (repeats, photos) errors on the photos of an area, and on those of a base."""
    outside = np.flatnonzero(~inside)
    drawn = np.random.default_rng(options.seed).permutation(outside)[: options.base_photos]
    rows = np.sort(drawn)
    elsewhere, area = photos.select(rows), photos.select(inside)
    words, _ = learnable_vocabularies(elsewhere, fitting.features)
    data = BankData(raw[rows], elsewhere.coordinates, elsewhere.labels(words))
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
