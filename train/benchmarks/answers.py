"""Measure what answers claim: levels, claims of places, hints, and pictures unlike the photos."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from geoclip_core.data.dataset import PhotoDataset, read_dataset
from geoclip_core.data.photos import PHOTO_SUFFIXES
from geoclip_core.data.splits import nearest_km
from geoclip_core.data.vocabulary import FIXED_VOCABULARIES
from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import coordinates_of
from geoclip_core.evaluation.evaluate import PREDICTIONS
from geoclip_core.evaluation.metrics import (
    claim_metrics,
    distance_metrics,
    level_metrics,
    paired_difference,
)
from geoclip_core.evaluation.predictions import (
    CLAIM_COLUMNS,
    LEVEL_COLUMNS,
    predictions_frame,
    read_about,
    read_predictions,
    write_predictions,
)
from geoclip_core.evaluation.radii import radius_check
from geoclip_core.files import write_atomically, write_json
from geoclip_core.jobs import ProgressBar
from geoclip_core.locator import Geolocator
from geoclip_core.model.calibration import MAX_RANKS, fit_level_map, rounded_ranks
from geoclip_core.model.checkpoint import BUNDLED, CALIBRATION, CARD, DOMAIN, METRICS
from geoclip_core.model.domain import Domain
from geoclip_core.model.geolocation import Estimate, GeolocationModel
from geoclip_core.model.map_context import MAP_FEATURES, Region, inside_region
from geoclip_core.model.posterior import HALF_CIRCUMFERENCE_KM, Posterior
from geoclip_core.prediction import SIGNIFICANT
from geoclip_core.training.cards import answer_lines
from geoclip_core.training.embeddings import embed_dataset, embed_images
from geoclip_core.training.fit_bank import (
    BankData,
    BankInputs,
    CrossValidation,
    cross_validate,
    errors_km,
    fit_bank_model,
    random_folds,
)
from geoclip_core.training.options import FitOptions, options_class
from train.benchmarks.pictures import pictures
from train.recipes import recipe_options

OTHER_PLACES = 20
"""Other places, of photos and on land, that each photo is compared with."""
_BEGIN, _END = "<!-- answers -->", "<!-- /answers -->"
Floats = NDArray[np.float64]


@options_class
class AnswersOptions:
    """Options of `benchmark answers`."""

    data: Path
    """dataset folder: for a bundled model the photos of its bank, else one with a test split"""
    model: str = "mini"
    """bundled name, run or checkpoint folder"""
    pictures: Annotated[int, Ge(1)] = 40
    """pictures of each kind (noise, screenshot, document, map, portrait) that are drawn"""
    others: Path | None = None
    """folder of further pictures that are unlike the training photos"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of folds and pictures"""
    cache_dir: Path | None = None
    """where embeddings are kept; by default the platform's cache folder"""
    write: bool = False
    """for a bundled model: write ranks, domain and these numbers into its JSON files and card"""
    output: Path | None = None
    """JSON file for every number"""


def answers(options: AnswersOptions) -> int:
    """Measure what answers claim: levels, claims of places, hints, and unlike pictures.

    A bundled model is cross-validated on the photos of its bank; another model is measured on the
    test split.
    """
    locator = Geolocator.load(options.model)
    model = locator.model
    if not isinstance(model, GeolocationModel):
        raise ValueError(f"{locator.name} has no heads that could be measured")
    locator.accelerate()
    dataset = read_dataset(options.data)
    with ProgressBar("embedding", "photos") as bar:
        embedded = embed_dataset(locator.backbone, dataset, options.cache_dir, progress=bar.update)
    photos = dataset.select(embedded.readable)
    values = np.asarray(embedded.values[embedded.readable], dtype=np.float32)
    bundled = locator.folder is not None and locator.folder.parent == BUNDLED
    if bundled:
        photos.table["split"] = "train"
        measured = _cross_validated(model, photos, values, options)
        how = f"{len(photos)} photos, each held out in 10-fold cross-validation"
    else:
        test = (photos.table["split"] == "test").to_numpy()
        measured = _tested(model, photos.select(test), values[test])
        how = f"{int(test.sum())} photos of the test split"
    unlike = _unlike(locator, measured, options)
    apart = {} if bundled else {"nearest_training_photo": nearest_training_photo(photos)}
    numbers: dict[str, Any] = {
        "command": f"python -m train benchmark answers --model {Path(options.model).name} "
        f"--data {dataset.name}",
        "model": locator.name,
        "dataset": dataset.name,
        "photos": how,
        **apart,
        "levels": level_metrics(measured.frame),
        "claims": claim_metrics(measured.frame),
        "misfits": compare_misfits(
            [estimate.posterior for estimate in measured.estimates],
            measured.photos.coordinates,
            measured.fold_of,
            options.seed,
        ),
        "radius_check": radius_check(measured.frame),
        "hints": measured.hints,
        "unlike": unlike,
    }
    if bundled and options.write and locator.folder is not None:
        _write(locator.folder, model, measured, numbers, options)
    print(_text(numbers))
    if options.output is not None:
        write_json(options.output, numbers)
    return 0


@dataclass(frozen=True)
class Measured:
    """What a model answers for photos that it was not trained on."""

    photos: PhotoDataset
    """Those of the first repeat."""
    frame: pd.DataFrame
    """Predictions of the first repeat."""
    estimates: Sequence[Estimate]
    """What the predictions were made from."""
    fold_of: NDArray[np.int64]
    """(n,) fold of each photo; all the same without cross-validation."""
    hints: dict[str, Any]
    """GeoScore with and without hints."""
    ranks: Floats
    """`Posterior.misfit` of the true places, of every repeat."""
    unlikeness: Floats
    """How unlike the training photos they are, of every repeat."""
    domain: Domain | None
    """With held-out scores."""
    level_map: tuple[float, float] = (1.0, 0.0)
    """Fitted on the held-out photos of the first repeat."""


def _cross_validated(
    model: GeolocationModel,
    photos: PhotoDataset,
    values: NDArray[np.float32],
    options: AnswersOptions,
) -> Measured:
    fitting = recipe_options(FitOptions, model.name, {"data": options.data, "device": "cpu"})
    data = BankData(torch.from_numpy(values), photos.coordinates, photos.labels(model.vocabularies))
    inputs = BankInputs(
        data, model.vocabularies, fitting, model.backbone_config, model.block_widths
    )
    repeats: list[CrossValidation] = []
    folds, count = fitting.bank.folds, fitting.bank.repeats
    with ProgressBar("cross-validating", "folds") as bar:
        for repeat in range(count):
            fold_of = random_folds(len(photos), folds, options.seed + repeat)
            repeats.append(cross_validate(inputs, fold_of))
            bar.update((repeat + 1) * folds, count * folds)
    first = repeats[0]
    frame = predictions_frame(photos, first.estimates, model.vocabularies, first.fold_of)
    held: dict[int, GeolocationModel] = {}
    for fold in np.unique(first.fold_of):
        rest = np.flatnonzero(first.fold_of != fold)
        part = fit_bank_model(dataclasses.replace(inputs, data=data.take(rest)))
        part.calibration = model.calibration
        held[int(fold)] = part
    models = [held[int(fold)] for fold in first.fold_of]
    unlikeness = np.concatenate([repeat.unlikeness for repeat in repeats])
    assert model.calibration is not None  # of a bundled model
    calibrated = [model.calibration.apply(estimate.posterior) for estimate in first.uncalibrated]
    return Measured(
        photos,
        frame,
        first.estimates,
        first.fold_of,
        hint_scores(models, photos, values, model.vocabularies),
        np.concatenate([repeat.ranks for repeat in repeats]),
        unlikeness,
        Domain.of(photos, unlikeness),
        fit_level_map(calibrated, photos.coordinates),
    )


def _tested(model: GeolocationModel, photos: PhotoDataset, values: NDArray[np.float32]) -> Measured:
    if not len(photos):
        raise ValueError("the dataset has no test split to measure on")
    estimates = [e for at in range(0, len(values), 32) for e in model.predict(values[at : at + 32])]
    frame = predictions_frame(photos, estimates, model.vocabularies)
    models = [model] * len(photos)
    return Measured(
        photos,
        frame,
        estimates,
        np.zeros(len(photos), dtype=np.int64),
        hint_scores(models, photos, values, model.vocabularies),
        frame["truth_rank"].to_numpy(np.float64),
        model.unlikeness(values),
        model.domain,
    )


def nearest_training_photo(photos: PhotoDataset) -> dict[str, Any]:
    """Return how far the photos of the splits lie from the training photos.

    P-values are valid for photos like those of val, on which they are calibrated: a test split that
    lies nearer to the training photos than val is easier.

    Returns:
        "val" and "test" -> ``n``, ``sequences`` (None if no photo has one), ``median_km`` and
        ``beyond_12_km`` (share): the distance to the nearest training photo.
    """
    table, train = photos.table, photos.split("train").coordinates
    report = {}
    for split in ("val", "test"):
        inside = (table["split"] == split).to_numpy()
        if not inside.any() or not len(train):
            continue
        distances = nearest_km(photos.coordinates[inside], train, HALF_CIRCUMFERENCE_KM)
        sequences = int(table.loc[inside, "sequence"].nunique())
        report[split] = {
            "n": int(inside.sum()),
            "sequences": sequences or None,
            "median_km": float(np.median(distances)),
            "beyond_12_km": float((distances > 12).mean()),
        }
    return report


def compare_misfits(
    posteriors: Sequence[Posterior],
    truth: Floats,
    fold_of: NDArray[np.int64],
    seed: int = 0,
) -> dict[str, Any]:
    """Return the power of p-values from the mass of denser places and from the ratio to the prior.

    Each half of the photos is judged by the true places of the other half.

    Args:
        posteriors: of n photos that their models were not trained on.
        truth: (n, 2) degrees.
        fold_of: (n,) of a cross-validation; the other places of a photo are of its own fold, as
            the model knows the places of the other folds.
        seed: of the other places.

    Returns:
        "mass" and, if the posteriors have a prior, "ratio" -> ``rejected`` (share of true places
        with a p-value of at most 0.05; valid: about 0.05), ``power`` against places of other
        photos, and ``power_on_land`` against places drawn evenly on land.
    """
    rng = np.random.default_rng(seed)
    names = {"mass": False} if posteriors[0].prior is None else {"mass": False, "ratio": True}
    misfits: dict[str, list[Floats]] = {name: [] for name in names}
    for row, posterior in enumerate(posteriors):
        others = np.setdiff1d(np.flatnonzero(fold_of == fold_of[row]), [row])
        if not len(others):
            return {}
        places = np.concatenate(
            [
                truth[row][None],
                truth[rng.choice(others, OTHER_PLACES)],
                _places_on_land(OTHER_PLACES, rng),
            ]
        )
        for name, with_prior in names.items():
            judged = posterior if with_prior else dataclasses.replace(posterior, prior=None)
            misfits[name].append(judged.misfit(places))
    report = {}
    half = rng.permutation(len(truth)) % 2
    for name, rows in misfits.items():
        values, low = np.stack(rows), np.zeros((len(truth), 1 + 2 * OTHER_PLACES), dtype=bool)
        for side in (0, 1):
            judge = dataclasses.replace(
                posteriors[0], held_out_ranks=np.sort(values[half != side, 0])
            )
            p_values = judge.p_values(values[half == side])
            assert p_values is not None  # it has ranks
            low[half == side] = p_values <= SIGNIFICANT
        report[name] = {
            "rejected": float(low[:, 0].mean()),
            "power": float(low[:, 1 : 1 + OTHER_PLACES].mean()),
            "power_on_land": float(low[:, 1 + OTHER_PLACES :].mean()),
        }
    return report


def _places_on_land(count: int, rng: np.random.Generator) -> Floats:
    """Return places (count, 2) drawn evenly from the land north of Antarctica."""
    found = np.empty((0, 2))
    while len(found) < count:
        drawn = coordinates_of(rng.normal(size=(8 * count, 3)))
        land = ClimateRaster.load().is_land(drawn) & (drawn[:, 0] > -60)
        found = np.concatenate([found, drawn[land]])
    return found[:count]


def hint_scores(
    models: Sequence[GeolocationModel],
    photos: PhotoDataset,
    values: NDArray[np.float32],
    features: Mapping[str, object],
) -> dict[str, Any]:
    """Return GeoScore and median with the truth of a feature given, and with context off.

    Args:
        models: for each photo, one that was not trained on it.
        photos: n photos with their labels.
        values: (n, D) embeddings.
        features: that the models have heads for; others are given to the map alone.

    Returns:
        "none" (no hint), each feature or pair of features, and "context off" ->
        `metrics.distance_metrics` of ``geoscore`` and ``median_km``, and the paired ``difference``
        from no hint. Features also have ``heads alone`` and ``map alone`` where both exist. Photos
        whose truth is not known keep their answer without a hint.
    """
    known = {
        feature: _truth(photos, feature) for feature in ("country", "state", "climate", "month")
    }
    variants: dict[str, tuple[tuple[str, ...], bool, bool]] = {}
    for feature in known:
        if feature in features and feature in MAP_FEATURES:
            variants[f"{feature}, heads alone"] = ((feature,), True, False)
            variants[f"{feature}, map alone"] = ((feature,), False, True)
        if feature in features or feature in MAP_FEATURES:
            variants[feature] = ((feature,), True, True)
    variants["country and climate"] = (("country", "climate"), True, True)
    rows = range(len(values))
    plain = [models[i].predict(values[i : i + 1])[0] for i in rows]
    truth = photos.coordinates
    before = errors_km(plain, truth)
    report: dict[str, Any] = {"none": _scores(before)}
    with ProgressBar("hints", "photos") as bar:
        for number, (name, (given, in_heads, on_map)) in enumerate(variants.items()):
            found = []
            for i in rows:
                truths = {f: known[f][i] for f in given if known[f][i] is not None}
                heads = _heads(models[i], truths) if in_heads else {}
                estimate = plain[i]
                if heads:
                    estimate = models[i].predict(values[i : i + 1], heads)[0]
                region = _region(truths) if on_map else None
                inside = None if region is None else inside_region(estimate.posterior, region)
                if inside is not None:
                    estimate = dataclasses.replace(estimate, posterior=inside)
                found.append(estimate)
            report[name] = _scores(errors_km(found, truth), before)
            bar.update(number + 1, len(variants))
    if features:
        off = [models[i].predict(values[i : i + 1], use_context=False)[0] for i in rows]
        report["context off"] = _scores(errors_km(off, truth), before)
    return report


def _truth(photos: PhotoDataset, feature: str) -> list[str | None]:
    return [None if pd.isna(key) else str(key) for key in photos.keys(feature)]


def _heads(model: GeolocationModel, truths: Mapping[str, str | None]) -> dict[str, int]:
    words = model.vocabularies
    return {
        feature: words[feature].keys.index(key)
        for feature, key in truths.items()
        if feature in words and key is not None and key in words[feature].keys
    }


def _region(truths: Mapping[str, str | None]) -> Region | None:
    units, climate = [], None
    for feature, key in truths.items():
        if feature == "climate" and key is not None:
            climate = FIXED_VOCABULARIES["climate"]().keys.index(key)
        elif feature in MAP_FEATURES and key is not None:
            keys = Gazetteer.load().units(feature).keys
            if key in keys:
                units.append((feature, keys.index(key)))
    return Region(tuple(units), climate) if units or climate is not None else None


def _scores(errors: Floats, before: Floats | None = None) -> dict[str, Any]:
    numbers = distance_metrics(errors)
    report: dict[str, Any] = {key: numbers[key] for key in ("geoscore", "median_km")}
    if before is not None:
        report["difference"] = paired_difference(errors, before, measures=("geoscore", "median_km"))
    return report


def _unlike(locator: Geolocator, measured: Measured, options: AnswersOptions) -> dict[str, Any]:
    """Return the shares of held-out photos and of drawn pictures that are called unlike."""
    domain = measured.domain
    if domain is None or domain.threshold is None:
        return {}
    kinds: dict[str, Sequence[Any]] = dict(pictures(options.pictures, options.seed))
    if options.others is not None:
        files = sorted(p for p in options.others.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
        kinds["others"] = files
    caught = {}
    with ProgressBar("unlike pictures", "kinds") as bar:
        for number, (kind, images) in enumerate(kinds.items(), 1):
            embedded = embed_images(locator.backbone, images, 8, engine=locator.engine)
            readable = embedded.values[embedded.readable].astype(np.float32)
            scores = locator.model.unlikeness(readable)
            assert scores is not None  # a GeolocationModel
            caught[kind] = {
                "n": len(scores),
                "caught": float((scores > domain.threshold).mean()),
                "lowest_score": float(scores.min()),
            }
            bar.update(number, len(kinds))
    drawn = [row for kind, row in caught.items() if kind != "others"]
    return {
        "threshold": domain.threshold,
        "held_out_photos": len(measured.photos),
        "false_alarms": _false_alarms(measured, domain.threshold),
        "caught": float(np.mean([row["caught"] for row in drawn])),
        "kinds": caught,
    }


def _false_alarms(measured: Measured, threshold: float) -> float:
    """Return the share of photos that are called unlike.

    In cross-validation each half of the photos is judged by the threshold of the other half.
    """
    scores = measured.unlikeness[: len(measured.photos)]
    if measured.domain is None or len(scores) != measured.domain.photos:
        return float((scores > threshold).mean())
    alarms = []
    for half in (0, 1):
        here, there = scores[half::2], scores[1 - half :: 2]
        limit = Domain.of(measured.photos, there).threshold
        alarms += list(here > limit) if limit is not None else []
    return float(np.mean(alarms))


def _write(
    folder: Path,
    model: GeolocationModel,
    measured: Measured,
    numbers: Mapping[str, Any],
    options: AnswersOptions,
) -> None:
    """Add ranks, domain, numbers and columns to the files of a bundled model; weights stay."""
    assert model.calibration is not None  # of a bundled model
    assert measured.domain is not None  # of a cross-validated one
    most = min(len(measured.photos), MAX_RANKS)
    calibration = dataclasses.replace(
        model.calibration,
        ranks=rounded_ranks(measured.ranks.tolist(), most),
        ranks_of="ratio",
        level_map=measured.level_map,
    )
    write_atomically(folder / CALIBRATION, calibration.to_json())
    write_atomically(folder / DOMAIN, measured.domain.to_json())
    keys = ("levels", "claims", "misfits", "radius_check", "hints", "unlike")
    added = {key: numbers[key] for key in keys}
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8")) | added
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / METRICS, text + "\n")
    table = read_predictions(folder / PREDICTIONS)
    columns = measured.frame.set_index("id")[[*LEVEL_COLUMNS, *CLAIM_COLUMNS]]
    about = read_about(folder / PREDICTIONS)
    table = table.drop(columns=[c for c in columns if c in table])
    write_predictions(table.join(columns, on="id"), folder / PREDICTIONS, about)
    card = (folder / CARD).read_text(encoding="utf-8")
    command = f"python -m train benchmark answers --model {model.name} --data DIR --write"
    section = "\n".join(
        [
            _BEGIN,
            "## What the answers claim",
            "",
            f"The model {measured.domain.words}.",
            *answer_lines(numbers),
            "",
            f"Measured by cross-validation as above: `{command}`.",
            _END,
        ]
    )
    start, end = card.find(_BEGIN), card.find(_END)
    if 0 <= start < end:
        card = card[:start] + section + card[end + len(_END) :]
    else:
        card = card.replace("## Limits", f"{section}\n\n## Limits", 1)
    write_atomically(folder / CARD, card)


def _text(numbers: Mapping[str, Any]) -> str:
    lines = [f"{numbers['model']} on {numbers['photos']}", *answer_lines(numbers)]
    return "\n".join(lines)
