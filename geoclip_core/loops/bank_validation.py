"""Cross-validation of retrieval models: each photo is judged by a model that never saw it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from geoclip_core.data.table import PhotoDataset
from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import geoscore, haversine_km, pairwise_km
from geoclip_core.loops.bank_model import BankData, BankOptions, Progress, fit_bank_model
from geoclip_core.loops.baselines import baseline_guesses, with_baselines
from geoclip_core.loops.metrics import summarise, with_places
from geoclip_core.loops.predictions import predictions_frame
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.calibration import Calibration, fit_calibration
from geoclip_core.model.geolocation import Estimate

CHOICES: dict[str, Any] = {"gammas": (1.0, 1.5, 2.0), "ridges": (0.03, 0.1)}
"""What folds that choose for themselves choose from."""


@dataclass(frozen=True)
class BankSubject:
    """What is validated: photos, what they were embedded with, and how a model is fitted."""

    data: BankData
    vocabularies: Mapping[str, Vocabulary]
    options: BankOptions
    backbone_config: BackboneConfig
    block_widths: tuple[int, ...]


@dataclass(frozen=True)
class CrossValidation:
    """Predictions for every photo by models that had not seen it."""

    raw: list[Estimate]
    """n estimates, uncalibrated."""
    estimates: list[Estimate]
    """n estimates, each calibrated on the predictions of the other folds."""
    fold_of: NDArray[np.int64]
    """(n,) fold of each photo."""


def hold_out(
    subject: BankSubject, fold_of: NDArray[np.int64], progress: Progress | None = None
) -> list[Estimate]:
    """Uncalibrated estimates (n), each fold by a model fitted on the other folds."""
    found: dict[int, Estimate] = {}
    folds = np.unique(fold_of)
    for done, fold in enumerate(folds, start=1):
        rest, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        model = fit_bank_model(
            subject.data.take(rest),
            subject.vocabularies,
            subject.options,
            subject.backbone_config,
            subject.block_widths,
        )
        estimates = model.predict(subject.data.embeddings[held])
        found |= dict(zip(held.tolist(), estimates, strict=True))
        if progress:
            progress(done, len(folds))
    return [found[row] for row in range(len(fold_of))]


def cross_validate(
    subject: BankSubject, fold_of: NDArray[np.int64], progress: Progress | None = None
) -> CrossValidation:
    """Held-out estimates, calibrated so that no photo takes part in its own calibration."""
    raw, coordinates = hold_out(subject, fold_of, progress), subject.data.coordinates
    estimates = list(raw)
    for fold in np.unique(fold_of):
        rest = np.flatnonzero(fold_of != fold)
        calibration = fit_calibration(
            [raw[row].posterior for row in rest], coordinates[rest], folds=0
        )
        for row in np.flatnonzero(fold_of == fold):
            posterior = calibration.apply(raw[row].posterior)
            estimates[row] = replace(raw[row], posterior=posterior)
    return CrossValidation(raw, estimates, fold_of)


def random_folds(count: int, folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) folds of nearly equal size."""
    fold_of = np.empty(count, dtype=np.int64)
    fold_of[np.random.default_rng(seed).permutation(count)] = np.arange(count) % folds
    return fold_of


def spatial_folds(
    coordinates: NDArray[np.float64], folds: int, seed: int, group_km: float
) -> NDArray[np.int64]:
    """(n,) folds in which photos that are chained by less than `group_km` stay together."""
    _, group = connected_components(pairwise_km(coordinates, coordinates) < group_km)
    members = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(members))
    sizes, fold_of_group = np.zeros(folds), np.empty(len(members), dtype=np.int64)
    # the largest groups first, each into the fold that is smallest so far
    for index in order[np.argsort(-members[order], kind="stable")]:
        fold_of_group[index] = int(sizes.argmin())
        sizes[fold_of_group[index]] += members[index]
    return fold_of_group[group]


def mean_score(estimates: list[Estimate], coordinates: NDArray[np.float64]) -> float:
    """Mean GeoScore of the answers."""
    answers = np.array([estimate.posterior.mode() for estimate in estimates])
    return float(geoscore(haversine_km(answers, coordinates)).mean())


@dataclass(frozen=True)
class Measurement:
    """What cross-validation says of a model."""

    frame: pd.DataFrame
    """Predictions table of the first repeat."""
    metrics: dict[str, Any]
    """Numbers of :func:`geoclip_core.loops.metrics.summarise` over all repeats, and under
    "cross_validation" the GeoScore of each repeat, of spatially blocked folds, and of folds that
    choose kernel and ridge for themselves."""
    calibration: Calibration
    """For the model that is fitted on all photos."""


def measure(
    subject: BankSubject, dataset: PhotoDataset, progress: Progress | None = None
) -> Measurement:
    """Cross-validate, with baselines that are fitted on the same training folds.

    Intervals are drawn by photo, so that a photo which every repeat predicts counts once.
    """
    options, coordinates = subject.options, subject.data.coordinates
    tick = _ticker(progress, options)
    seeds = range(options.seed, options.seed + options.repeats)
    partitions = [random_folds(len(dataset), options.folds, seed) for seed in seeds]
    repeats = [cross_validate(subject, fold_of, tick) for fold_of in partitions]
    gazetteer, frames = Gazetteer.load(), []
    for repeat in repeats:
        frame = predictions_frame(dataset, repeat.estimates, subject.vocabularies)
        frame = with_baselines(frame, _baselines(subject, dataset, repeat.fold_of))
        frames.append(with_places(frame, gazetteer))
    pooled = pd.concat(frames, ignore_index=True)
    photo = pooled["id"].astype(str)
    pooled["sequence"] = pooled["sequence"].fillna(photo) if "sequence" in pooled else photo
    metrics = summarise(pooled)
    _count_photos_once(metrics, options.repeats)
    blocked = spatial_folds(coordinates, options.folds, options.seed, options.group_km)
    metrics["cross_validation"] = {
        "folds": options.folds,
        "geoscore_of_repeats": [mean_score(r.estimates, coordinates) for r in repeats],
        "geoscore_spatially_blocked": mean_score(hold_out(subject, blocked, tick), coordinates),
        "group_km": options.group_km,
    }
    if options.vote == "kernel-ridge":
        free = replace(subject, options=replace(options, **CHOICES))
        scores = [mean_score(hold_out(free, fold_of, tick), coordinates) for fold_of in partitions]
        metrics["cross_validation"]["geoscore_chosen_inside_folds"] = float(np.mean(scores))
    calibration = fit_calibration(
        [estimate.posterior for repeat in repeats for estimate in repeat.raw],
        np.tile(coordinates, (options.repeats, 1)),
        source=f"{len(dataset)} photos, each held out in {options.folds}-fold cross-validation",
        folds=0,
    )
    calibration = replace(calibration, n=len(dataset), coverage=metrics["coverage"])
    return Measurement(frames[0], metrics, calibration)


def _ticker(progress: Progress | None, options: BankOptions) -> Progress:
    """Counts folds over all rounds, whatever the round itself counts."""
    rounds = options.repeats * (2 if options.vote == "kernel-ridge" else 1) + 1
    done = 0

    def tick(_done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, rounds * options.folds)

    return tick


def _count_photos_once(metrics: dict[str, Any], repeats: int) -> None:
    metrics["n"] //= repeats
    for level in metrics["place_n"]:
        metrics["place_n"][level] //= repeats
    for numbers in metrics["context"].values():
        numbers["n"] //= repeats
        numbers["unseen"] //= repeats


def _baselines(
    subject: BankSubject, dataset: PhotoDataset, fold_of: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    embeddings = subject.data.embeddings.numpy()
    guesses: dict[str, NDArray[np.float64]] = {}
    for fold in np.unique(fold_of):
        rest, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        found = baseline_guesses(
            dataset.table.iloc[rest],
            dataset.table.iloc[held],
            train_embeddings=embeddings[rest],
            embeddings=embeddings[held],
        )
        for name, places in found.items():
            guesses.setdefault(name, np.full((len(fold_of), 2), np.nan))[held] = places
    return guesses
