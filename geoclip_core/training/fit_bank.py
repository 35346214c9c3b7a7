"""Fit a model whose coordinate head is a bank of photos, from embeddings to a checkpoint."""

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from geoclip_core.data.dataset import LEAST_PHOTOS, PhotoDataset, too_small
from geoclip_core.data.splits import MIN_DISTANCE_KM
from geoclip_core.data.vocabulary import IGNORE_INDEX, Vocabulary
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import haversine_km, pairwise_km
from geoclip_core.errors import TrainingError
from geoclip_core.evaluation.baselines import baseline_guesses, with_baselines
from geoclip_core.evaluation.evaluate import PREDICTIONS
from geoclip_core.evaluation.metrics import claim_metrics, mean_geoscore, summarise, with_places
from geoclip_core.evaluation.predictions import predictions_frame, write_predictions
from geoclip_core.model.backbone import Backbone, BackboneConfig
from geoclip_core.model.bank_heads import (
    MAX_RIDGE_BANK,
    BankHead,
    KernelContextHeads,
    KernelContextJoin,
    cosine_kernel,
    leave_one_out,
)
from geoclip_core.model.calibration import MAX_RANKS, Calibration, fit_calibration, rounded_ranks
from geoclip_core.model.checkpoint import save_checkpoint
from geoclip_core.model.domain import Domain, cell_density, grid_cells
from geoclip_core.model.geolocation import Estimate, GeolocationModel, ModelConfig
from geoclip_core.processes import Progress
from geoclip_core.training.cards import bank_card
from geoclip_core.training.inputs import learnable_vocabularies
from geoclip_core.training.options import BankOptions, FitOptions

CHOICES: dict[str, Any] = {"gammas": (1.0, 1.5, 2.0), "ridges": (0.03, 0.1)}
"""Candidates when every fold chooses its own kernel and ridge."""
TEMPERATURE = 0.2
"""Temperature of the softmax over votes before calibration."""
AGREEMENT = 0.8
"""Weight of bank photos whose context agrees with that of the photo to locate."""
GROUP_KM = 50.0
"""In the spatially blocked cross-validation, photos closer than this share a fold."""
NOT_HELD_OUT = -1
"""Fold of photos that every model of a cross-validation is fitted on."""


def fit_bank(
    dataset: PhotoDataset,
    embeddings: NDArray[np.floating],
    backbone: Backbone,
    options: FitOptions,
    folder: str | Path,
    *,
    name: str,
    command: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit a bank model, evaluate it by cross-validation, and write its checkpoint.

    Args:
        dataset: n photos; the bank takes those of train and val, or with `options.bank.all_rows`
            all of them.
        embeddings: (n, D) embeddings of the photos; rows of NaN (unreadable photos) are left out.
        backbone: backbone of the embeddings.
        options: options of the fit.
        folder: checkpoint folder; the predictions of the cross-validation are written there too.
        name: name of the model.
        command: command line of the fit, for the model card.
        progress: called with (folds done, all folds).

    Returns:
        The content of the checkpoint's metrics.json.

    Raises:
        ValueError: too few or too many photos, or embeddings that do not fit the dataset or the
            backbone.
    """
    if embeddings.shape != (len(dataset), backbone.embedding_width):
        raise ValueError(
            f"embeddings of shape {embeddings.shape}, but {len(dataset)} photos and width "
            f"{backbone.embedding_width}"
        )
    used = np.isfinite(embeddings).all(axis=1)
    if not options.bank.all_rows:
        used &= dataset.learnable
    if sentence := too_small(int(used.sum())):
        unreadable = int((~np.isfinite(embeddings).all(axis=1)).sum())
        raise TrainingError(f"{dataset.root}: {sentence} ({unreadable} cannot be read)")
    photos = dataset.select(used)
    # cross-validation replaces the test split, so all of these photos are training photos
    photos.table["split"] = "train"
    vocabularies: dict[str, Vocabulary] = {}
    if options.use_context:
        # so many labels that no fold holds all of them
        seeds = range(options.seed, options.seed + options.bank.repeats)
        partitions = [cross_validation_folds(photos, options.bank.folds, seed) for seed in seeds]
        least = max(int(np.bincount(fold_of).max()) for fold_of in partitions) + 1
        vocabularies, _ = learnable_vocabularies(photos, options.features, least)
    data = BankData(
        torch.from_numpy(np.asarray(embeddings[used], dtype=np.float32)),
        photos.coordinates,
        photos.labels(vocabularies),
    )
    inputs = BankInputs(data, vocabularies, options, backbone.config, backbone.block_widths)
    measured = measure(inputs, photos, progress)
    metrics = measured.metrics
    model = fit_bank_model(inputs, name)
    model.calibration = measured.calibration
    model.domain = Domain.of(photos, measured.unlikeness)
    model.attach_backbone(backbone)
    metrics |= {
        "name": name,
        "dataset": dataset.name,
        "photos": len(photos),
        "unreadable": int((~np.isfinite(embeddings).all(axis=1)).sum()),
        "measured_by": (
            f"{options.bank.folds}-fold cross-validation, {options.bank.repeats} times, "
            f"seeds from {options.seed}"
        ),
        "note": options.bank.note,
        "command": command,
    }
    card = bank_card(model, metrics, photos, options, command)
    with tempfile.TemporaryDirectory() as scratch:
        about = {
            "model": name,
            "dataset": dataset.name,
            "split": "cross-validation",
            "note": "each photo was located by a model that was not trained on it; the first of "
            f"{options.bank.repeats} repeats with other folds",
            "use_context": bool(vocabularies),
        }
        path = write_predictions(measured.frame, Path(scratch) / PREDICTIONS, about)
        save_checkpoint(folder, model, metrics, card, files={PREDICTIONS: path})
    return metrics


@dataclass(frozen=True)
class BankData:
    """The n embedded and labelled photos of a bank."""

    embeddings: Tensor
    """(n, D) raw backbone embeddings."""
    coordinates: NDArray[np.float64]
    """(n, 2) degrees."""
    labels: dict[str, NDArray[np.int64]]
    """Feature -> (n,) class indices, −100 where unknown."""

    def __post_init__(self) -> None:
        rows = {len(self.embeddings), len(self.coordinates), *map(len, self.labels.values())}
        if len(rows) != 1:
            raise ValueError(f"embeddings, coordinates and labels differ in length: {sorted(rows)}")
        if len(self.embeddings) < 2:
            raise ValueError(f"a bank needs at least 2 photos, got {min(rows)}")
        if not torch.isfinite(self.embeddings).all():
            raise ValueError("an embedding has numbers that are not finite")

    def take(self, rows: NDArray[np.int64]) -> "BankData":
        """Return the photos at `rows`."""
        labels = {feature: values[rows] for feature, values in self.labels.items()}
        return BankData(self.embeddings[rows], self.coordinates[rows], labels)


@dataclass(frozen=True)
class BankInputs:
    """What a bank model is fitted from: photos, vocabularies, options, and their backbone."""

    data: BankData
    vocabularies: Mapping[str, Vocabulary]
    options: FitOptions
    backbone_config: BackboneConfig
    block_widths: tuple[int, ...]
    base: GeolocationModel | None = None
    """Bank model whose normaliser and options of the heads are kept; None: statistics of `data`,
    heads as in `options`."""


def fit_bank_model(inputs: BankInputs, name: str = "") -> GeolocationModel:
    """Return an uncalibrated model whose bank is the photos of `inputs`.

    Raises:
        ValueError: there are too many photos for kernel ridge, or a feature has no labels.
    """
    data, options = inputs.data, inputs.options
    count = len(data.embeddings)
    if count > MAX_RIDGE_BANK and options.bank.vote == "kernel-ridge":
        raise TrainingError(
            f"kernel ridge is for up to {MAX_RIDGE_BANK} photos, not {count}: set bank.vote to "
            "cosine"
        )
    if count > MAX_RIDGE_BANK and inputs.vocabularies:
        raise TrainingError(
            f"the context heads of a bank are for up to {MAX_RIDGE_BANK} photos, not {count}: "
            "turn use_context off, or choose another coordinate head"
        )
    model = _empty_model(inputs, name)
    head, normaliser = model.coordinate_head, model.normaliser
    assert isinstance(head, BankHead)
    if inputs.base is None:
        normaliser.fit(data.embeddings.float())
    else:
        normaliser.load_state_dict(inputs.base.normaliser.state_dict())
    normalised = normaliser(data.embeddings.float())
    joined, context_options = normalised, {}
    with torch.no_grad():
        heads, join = model.context_heads, model.context_join
        if isinstance(heads, KernelContextHeads) and isinstance(join, KernelContextJoin):
            blank = normalised.new_zeros(len(normalised), join.output_width)
            head.fit(torch.cat([normalised, blank], dim=1), data.coordinates)
            _choose_context(heads, data, options)
            left_out = heads.left_out_logits()
            joined = torch.cat([normalised, join.fit(left_out)(left_out)], dim=1)
            head.set_known_context(*join.known(data.labels))
            context_options = heads.options
        head.fit(joined, data.coordinates)
        if options.bank.vote == "kernel-ridge":
            _, choice = choose_field(head, options.bank)
            head.configure(**choice)
    head_options = {**model.config.head_options, **head.options}
    model.config = replace(model.config, head_options=head_options, context_options=context_options)
    return model.eval()


def _empty_model(inputs: BankInputs, name: str) -> GeolocationModel:
    config = _new_config(inputs) if inputs.base is None else _kept_config(inputs, inputs.base)
    vocabularies = dict(inputs.vocabularies)
    return GeolocationModel(
        config, inputs.backbone_config, inputs.block_widths, vocabularies, name=name
    )


def _kept_config(inputs: BankInputs, base: GeolocationModel) -> ModelConfig:
    """Return the config of a model with another bank, and with those features that have labels."""
    size, features = len(inputs.data.embeddings), tuple(inputs.vocabularies)
    head = {**base.config.head_options, "bank_size": size}
    if base.features and not features:
        head["agreement"] = 0.0
        if head.get("block_weights") is not None:
            head["block_weights"] = head["block_weights"][:-1]
    return replace(
        base.config,
        features=features,
        use_context=bool(features),
        head_options=head,
        context_options={**base.config.context_options, "bank_size": size} if features else {},
    )


def _new_config(inputs: BankInputs) -> ModelConfig:
    options, blocks = inputs.options, len(inputs.block_widths)
    size, features = len(inputs.data.embeddings), tuple(inputs.vocabularies)
    head: dict[str, Any] = {
        "bank_size": size,
        "vote": options.bank.vote,
        "field_scales": list(options.bank.field_scales),
        "temperature": TEMPERATURE,
    }
    if features:
        share = options.bank.context_share
        head["block_weights"] = [(1 - share) / blocks] * blocks + [share]
        head["agreement"] = AGREEMENT
    return ModelConfig(
        features=features,
        use_context=bool(features),
        coordinate_head="bank",
        head_options=head,
        context_heads="kernel-ridge",
        context_options={"bank_size": size} if features else {},
        join_options={"width": options.context.join_width} if features else {},
    )


def _choose_context(heads: KernelContextHeads, data: BankData, options: FitOptions) -> None:
    """Set kernel width, ridge and sharpness of the context heads by left-out log likelihood."""
    heads.fit(data.labels)
    names = ("gamma", "ridge", "sharpness")
    best = (-np.inf, {name: heads.options[name] for name in names})
    for gamma, ridge in itertools.product(options.bank.context_gammas, options.bank.context_ridges):
        heads.configure(gamma=gamma, ridge=ridge, sharpness=dict.fromkeys(heads.vocabularies, 1.0))
        shares = heads.left_out_logits()
        total, sharpness = 0.0, {}
        for feature in heads.vocabularies:
            known = data.labels[feature] != IGNORE_INDEX
            scores = shares[feature][torch.from_numpy(known)].double()
            labels = torch.from_numpy(data.labels[feature][known])
            fits = {
                factor: float(-torch.nn.functional.cross_entropy(scores * factor, labels))
                for factor in np.geomspace(2.0, 40.0, 25).tolist()
            }
            sharpness[feature] = max(fits, key=fits.__getitem__)
            total += fits[sharpness[feature]]
        if total > best[0]:
            best = (total, {"gamma": gamma, "ridge": ridge, "sharpness": sharpness})
    heads.configure(**best[1])


def choose_field(head: BankHead, options: BankOptions) -> tuple[float, dict[str, float]]:
    """Choose kernel width, ridge and readout of the score field by the left-out mean GeoScore.

    Args:
        head: fitted head.
        options: the candidates `gammas`, `ridges` and `readout_temperatures`.

    Returns:
        The mean GeoScore (0 to 1) of the bank's photos, each left out; and the choice, as keyword
        arguments of `BankHead.configure`.
    """
    similarity = head.bank_similarity().double()
    targets, field = head.target_field(), head.score_field()
    best: tuple[float, dict[str, float]] = (-np.inf, {})
    for gamma, ridge in itertools.product(options.gammas, options.ridges):
        votes = leave_one_out(cosine_kernel(similarity, gamma), targets, ridge)
        # a photo must not be located at its own coordinates
        votes = votes.masked_fill(torch.eye(len(votes), dtype=torch.bool), -torch.inf)
        for temperature in options.readout_temperatures:
            expected = (votes / temperature).softmax(dim=1) @ field
            answer = expected.masked_fill(votes.isinf(), -torch.inf).argmax(dim=1)
            score = float(field[torch.arange(len(field)), answer].mean())
            if score > best[0]:
                choice = {"gamma": gamma, "ridge": ridge, "readout_temperature": temperature}
                best = (score, choice)
    return best


@dataclass(frozen=True)
class CrossValidation:
    """Estimates of n photos, each by a model that was fitted without the photo."""

    uncalibrated: list[Estimate]
    estimates: list[Estimate]
    """Calibrated, each fold on the estimates of the other folds."""
    fold_of: NDArray[np.int64]
    """(n,) fold of each photo."""
    ranks: NDArray[np.float64]
    """(n,) `Posterior.misfit` of each photo's true place, calibrated."""
    unlikeness: NDArray[np.float64]
    """(n,) how unlike the other folds each photo is."""


def hold_out(
    inputs: BankInputs, fold_of: NDArray[np.int64], progress: Progress | None = None
) -> tuple[list[Estimate], NDArray[np.float64]]:
    """Return uncalibrated estimates, each fold by a model that is fitted on the others.

    And the unlikeness (n,) of each photo to the training photos of that model. Photos of the fold
    `NOT_HELD_OUT` are always trained on: they have no estimate, and their unlikeness is NaN.
    """
    found: dict[int, Estimate] = {}
    unlikeness = np.full(len(fold_of), np.nan)
    folds = np.unique(fold_of[fold_of != NOT_HELD_OUT])
    for done, fold in enumerate(folds, start=1):
        rest, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        model = fit_bank_model(_part(inputs, rest))
        estimates = model.predict(inputs.data.embeddings[held])
        unlikeness[held] = model.unlikeness(inputs.data.embeddings[held])
        found |= dict(zip(held.tolist(), estimates, strict=True))
        if progress:
            progress(done, len(folds))
    return [found[row] for row in sorted(found)], unlikeness


def held_out_errors(
    inputs: BankInputs, fold_of: NDArray[np.int64], progress: Progress | None = None
) -> NDArray[np.float64]:
    """Return the errors (n,) in km of `hold_out`; NaN for photos that are not held out."""
    held = fold_of != NOT_HELD_OUT
    errors = np.full(len(fold_of), np.nan)
    estimates, _ = hold_out(inputs, fold_of, progress)
    errors[held] = errors_km(estimates, inputs.data.coordinates[held])
    return errors


def _part(inputs: BankInputs, rows: NDArray[np.int64]) -> BankInputs:
    """Return the inputs of some photos, without features that none of them has a label of."""
    data = inputs.data.take(rows)
    known = {f: v for f, v in inputs.vocabularies.items() if (data.labels[f] >= 0).any()}
    return replace(inputs, data=data, vocabularies=known)


def cross_validate(
    inputs: BankInputs,
    fold_of: NDArray[np.int64],
    progress: Progress | None = None,
    calibrations: int | None = None,
) -> CrossValidation:
    """Return held-out estimates, without and with a calibration on the other folds.

    Args:
        inputs: n photos and options.
        fold_of: (n,) fold of each photo.
        progress: called with (folds done, all folds).
        calibrations: parts of the folds that share a calibration on the other parts, which saves
            time; None: each fold has its own.
    """
    raw, unlikeness = hold_out(inputs, fold_of, progress)
    coordinates = inputs.data.coordinates
    estimates = list(raw)
    part_of = fold_of if calibrations is None else fold_of % calibrations
    if not can_be_held_out(part_of):
        part_of = fold_of
    for part in np.unique(part_of):
        rest = np.flatnonzero(part_of != part)
        calibration = fit_calibration(
            [raw[row].posterior for row in rest], coordinates[rest], measure_coverage=False
        )
        priors = {
            # the places of the fold are not in it, as those of new photos are not
            fold: cell_density(grid_cells(coordinates[fold_of != fold]), calibration.bandwidth_km)
            for fold in np.unique(fold_of[part_of == part])
        }
        for row in np.flatnonzero(part_of == part):
            posterior = replace(calibration.apply(raw[row].posterior), prior=priors[fold_of[row]])
            estimates[row] = replace(raw[row], posterior=posterior)
    ranks = np.array(
        [
            float(estimate.posterior.misfit(place[None])[0])
            for estimate, place in zip(estimates, coordinates, strict=True)
        ]
    )
    for fold in np.unique(fold_of):
        others = np.sort(ranks[fold_of != fold])
        for row in np.flatnonzero(fold_of == fold):
            judged = replace(estimates[row].posterior, held_out_ranks=others)
            estimates[row] = replace(estimates[row], posterior=judged)
    return CrossValidation(raw, estimates, fold_of, ranks, unlikeness)


def random_folds(count: int, folds: int, seed: int) -> NDArray[np.int64]:
    """Return random folds (n,) of nearly equal size."""
    fold_of = np.empty(count, dtype=np.int64)
    fold_of[np.random.default_rng(seed).permutation(count)] = np.arange(count) % folds
    return fold_of


def spatial_folds(
    coordinates: NDArray[np.float64],
    folds: int,
    seed: int,
    group_km: float,
    sequences: "pd.Series[str] | None" = None,
) -> NDArray[np.int64]:
    """Return folds (n,) in which photos connected by steps below `group_km` stay together.

    Photos of one sequence (n,) do too.
    """
    group: NDArray[np.int64]
    linked = pairwise_km(coordinates, coordinates) < group_km
    if sequences is not None:
        codes = pd.factorize(sequences)[0]
        linked |= (codes[:, None] == codes) & (codes >= 0)
    _, group = connected_components(linked)
    members = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(members))
    sizes, fold_of_group = np.zeros(folds), np.empty(len(members), dtype=np.int64)
    # largest groups first, each into the fold that is smallest so far
    for index in order[np.argsort(-members[order], kind="stable")]:
        fold_of_group[index] = int(sizes.argmin())
        sizes[fold_of_group[index]] += members[index]
    folded: NDArray[np.int64] = fold_of_group[group]
    return folded


def cross_validation_folds(dataset: PhotoDataset, folds: int, seed: int) -> NDArray[np.int64]:
    """Return folds (n,) of the cross-validation that measures and calibrates.

    No photo is held out while another of the same spot or sequence is learned from, as in val; only
    where nearly all photos are of one spot the folds are random.
    """
    places, sequences = dataset.coordinates, dataset.table["sequence"]
    if not sequences.dropna().duplicated().any():
        near = pairwise_km(places, places) < MIN_DISTANCE_KM
        if near.sum() == len(dataset):  # none but each photo to itself
            return random_folds(len(dataset), folds, seed)
    fold_of = spatial_folds(places, folds, seed, MIN_DISTANCE_KM, sequences)
    return fold_of if can_be_held_out(fold_of) else random_folds(len(dataset), folds, seed)


def can_be_held_out(fold_of: NDArray[np.int64]) -> bool:
    """Return whether enough photos are left to learn from and to calibrate on without any fold."""
    return len(fold_of) - int(np.bincount(fold_of).max()) >= LEAST_PHOTOS // 2


def errors_km(
    estimates: Sequence[Estimate], coordinates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the errors (n,) of n estimates against coordinates (n, 2)."""
    answers = np.array([estimate.posterior.mode() for estimate in estimates])
    distances: NDArray[np.float64] = haversine_km(answers, coordinates)
    return distances


@dataclass(frozen=True)
class Measurement:
    """Results of the cross-validation."""

    frame: pd.DataFrame
    """Predictions table of the first repeat."""
    metrics: dict[str, Any]
    """`evaluation.metrics.summarise` over all repeats, and under "cross_validation" the GeoScore of
    each repeat, of spatially blocked folds, and of folds that choose their own kernel and ridge."""
    calibration: Calibration
    """Calibration for the model that is fitted on all photos."""
    unlikeness: NDArray[np.float64]
    """(repeats × n,) how unlike the other folds each photo is."""
    errors_km: NDArray[np.float64]
    """(repeats, n) errors of all photos, each held out."""
    partitions: list[NDArray[np.int64]]
    """(n,) fold of each photo, for each repeat."""


def measure(
    inputs: BankInputs,
    dataset: PhotoDataset,
    progress: Progress | None = None,
    reported: NDArray[np.bool_] | None = None,
    calibrations: int | None = None,
) -> Measurement:
    """Cross-validate a bank model and baselines on the same training folds.

    The bootstrap draws photos, so that the repeats of a photo do not count as several photos.

    Args:
        inputs: n photos and options.
        dataset: the same photos.
        progress: called with (folds done, all folds).
        reported: (n,) the photos to which table and metrics are limited; the calibration is fitted
            on all of them.
        calibrations: see `cross_validate`.
    """
    shown = np.ones(len(dataset), dtype=bool) if reported is None else reported
    rows = np.flatnonzero(shown)
    options, coordinates = inputs.options, inputs.data.coordinates
    tick = _ticker(progress, options)
    seeds = range(options.seed, options.seed + options.bank.repeats)
    partitions = [cross_validation_folds(dataset, options.bank.folds, seed) for seed in seeds]
    repeats = [cross_validate(inputs, fold_of, tick, calibrations) for fold_of in partitions]
    gazetteer, frames, every = Gazetteer.load(), [], []
    for repeat in repeats:
        frame = predictions_frame(dataset, repeat.estimates, inputs.vocabularies, repeat.fold_of)
        every.append(frame)
        frame = with_baselines(frame, _baselines(inputs, dataset, repeat.fold_of))
        frames.append(with_places(frame[shown].reset_index(drop=True), gazetteer))
    pooled = pd.concat(frames, ignore_index=True)
    photo = pooled["id"].astype(str)
    pooled["sequence"] = pooled["sequence"].fillna(photo) if "sequence" in pooled else photo
    metrics = summarise(pooled)
    _count_photos_once(metrics, options.bank.repeats)
    # of one repeat: the test of uniformity takes rows to be independent photos
    metrics["claims"] = claim_metrics(frames[0])
    metrics["cross_validation"] = {
        "folds": options.bank.folds,
        "geoscore_of_repeats": [
            mean_geoscore(errors_km([r.estimates[row] for row in rows], coordinates[rows]))
            for r in repeats
        ],
        "group_km": GROUP_KM,
    }
    blocked = spatial_folds(coordinates, options.bank.folds, options.seed, GROUP_KM)
    # photos of one trip may all be in one group, and a fold needs others to learn from
    if can_be_held_out(blocked):
        # only folds with a photo that is reported need to be located
        needed = np.where(np.isin(blocked, np.unique(blocked[shown])), blocked, NOT_HELD_OUT)
        far = mean_geoscore(held_out_errors(inputs, needed, tick)[shown])
        metrics["cross_validation"]["geoscore_spatially_blocked"] = far
    if options.bank.nested and options.bank.vote == "kernel-ridge":
        free = replace(inputs, options=replace(options, bank=replace(options.bank, **CHOICES)))
        scores = [
            mean_geoscore(held_out_errors(free, fold_of, tick)[shown]) for fold_of in partitions
        ]
        metrics["cross_validation"]["geoscore_chosen_inside_folds"] = float(np.mean(scores))
    calibration = fit_calibration(
        [estimate.posterior for repeat in repeats for estimate in repeat.uncalibrated],
        np.tile(coordinates, (options.bank.repeats, 1)),
        source=f"{len(dataset)} photos, each held out in {options.bank.folds}-fold "
        "cross-validation",
        measure_coverage=False,
    )
    ranks = np.concatenate([repeat.ranks for repeat in repeats])
    calibration = replace(
        calibration,
        n=len(dataset),
        coverage=metrics["coverage"] if reported is None else _coverage(every),
        # the repeats of a photo do not count as several photos
        ranks=rounded_ranks(ranks.tolist(), min(len(dataset), MAX_RANKS)),
        ranks_of="ratio",
    )
    unlikeness = np.concatenate([repeat.unlikeness for repeat in repeats])
    errors = np.stack([frame["error_km"].to_numpy(np.float64) for frame in every])
    return Measurement(frames[0], metrics, calibration, unlikeness, errors, partitions)


def _coverage(frames: Sequence[pd.DataFrame]) -> dict[str, float]:
    """Return percentage -> share of all rows inside that circle."""
    pooled = pd.concat(frames, ignore_index=True)
    return {
        mass: float((pooled["error_km"] <= pooled[f"radius_{mass}_km"]).mean())
        for mass in ("50", "90")
    }


def _ticker(progress: Progress | None, options: FitOptions) -> Progress:
    """Return a callback that counts folds over all rounds instead of within one."""
    nested = options.bank.nested and options.bank.vote == "kernel-ridge"
    rounds = options.bank.repeats * (2 if nested else 1) + 1
    done = 0

    def tick(_done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, rounds * options.bank.folds)

    return tick


def _count_photos_once(metrics: dict[str, Any], repeats: int) -> None:
    metrics["n"] //= repeats
    for numbers in metrics["levels"].get("by_level", {}).values():
        numbers["n"] //= repeats
    for level in metrics["place_n"]:
        metrics["place_n"][level] //= repeats
    for numbers in metrics["context"].values():
        numbers["n"] //= repeats
        numbers["unseen"] //= repeats


def _baselines(
    inputs: BankInputs, dataset: PhotoDataset, fold_of: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    embeddings = inputs.data.embeddings.numpy()
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
