"""Predict a dataset and measure the errors.

Writes predictions.parquet and metrics.json, which the Evaluation page finds by itself. A command
that was interrupted goes on where it was when it is given again.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from geoclip_core.data.dataset import PhotoDataset, read_dataset
from geoclip_core.evaluation import evaluate as loop
from geoclip_core.evaluation.baselines import baseline_guesses, with_baselines
from geoclip_core.evaluation.metrics import seen_before, summarise, with_places
from geoclip_core.evaluation.predictions import (
    PredictionsError,
    imported_predictions,
    read_guesses,
    read_predictions,
)
from train.measured_photos import Device, MeasuredPhotos, embed_split, load


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to evaluate, on what."""

    COMMAND: ClassVar[str] = "evaluate"

    model: str = "mini"
    """bundled name, run or checkpoint folder, downloaded name, or hub id"""
    data: Path
    """dataset folder (OSV-Mini-129k, a demo set, imported photos)"""
    split: Literal["test", "val", "train"] = "test"
    """photos to predict; train only to see how much was learnt by heart"""
    output: Path | None = None
    """folder for the results; by default evaluations/MODEL-on-DATASET-SPLIT"""
    predictions: Path | None = None
    """CSV (id, latitude, longitude) of another system to evaluate instead of a model"""
    compare: tuple[str, ...] = ()
    """what to pair it with on the same photos: models, evaluation folders, predictions.parquet
    files, or CSVs; give the same model trained without context to see what context is worth"""
    neighbours: bool = True
    """also measure nearest neighbours, for which the training photos are embedded once"""
    val_fraction: float = 0.1
    """share of the training photos that is val; as the model was trained"""
    split_seed: int = 0
    """chance of the val split; as the model was trained"""
    resamples: int = 1000
    """bootstrap resamples of the 95 % intervals"""
    seed: int = 0
    """chance of the bootstrap"""
    batch_size: int = 32
    """photos that go through the backbone together"""
    workers: int = 2
    """threads that read photos"""
    device: Device = "auto"
    """where to compute; auto takes a GPU if there is one"""
    cache_dir: Path | None = None
    """where embeddings are kept; by default the platform's cache folder"""

    def __post_init__(self) -> None:
        if self.resamples < 0 or self.batch_size < 1 or self.workers < 1:
            raise ValueError("resamples must be 0 or more, batch_size and workers 1 or more")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must lie in [0, 1), not {self.val_fraction}")


def run(options: Options) -> int:
    """Evaluate, compare, print the headline."""
    dataset = read_dataset(options.data, val_fraction=options.val_fraction, seed=options.split_seed)
    photos = dataset.split(options.split)
    if not len(photos):
        raise PredictionsError(f"{dataset.name} has no photo in its {options.split} split")
    if options.predictions is not None:
        folder, frame, report, about = _evaluate_csv(options, dataset, photos)
    else:
        folder, frame, report, about = _evaluate_model(options.model, options, dataset, photos)
    report["comparisons"] = {}
    for other in options.compare:
        name, table = _other(other, options, dataset, photos)
        report["comparisons"][name] = loop.compare(
            frame, table, resamples=options.resamples, seed=options.seed
        )
    loop.save_evaluation(folder, frame, report, about)
    loop.drop_shards(folder / loop.SHARDS)
    print(headline(about["model"], report))
    print(f"\n{folder / loop.METRICS}\n{folder / loop.PREDICTIONS}", file=sys.stderr)
    return 0


Result = tuple[Path, pd.DataFrame, dict[str, Any], dict[str, Any]]


def _evaluate_model(
    name: str, options: Options, dataset: PhotoDataset, photos: PhotoDataset
) -> Result:
    from train.progress import ProgressBar

    choice = load(name, options.device)
    folder = _folder(choice.name, options, dataset, own=name == options.model)

    def embed(part: PhotoDataset, title: str) -> MeasuredPhotos:
        return embed_split(
            choice.model,
            part,
            batch_size=options.batch_size,
            workers=options.workers,
            cache_dir=options.cache_dir,
            title=title,
        )

    measured = embed(photos, f"embedding {options.split}")
    with ProgressBar("predicting", "photos") as bar:
        frame = loop.predict_in_shards(
            choice.model,
            measured.photos,
            measured.embeddings,
            folder / loop.SHARDS,
            progress=bar.update,
        )
    train = dataset.split("train") if options.split != "train" else dataset.select(_none(dataset))
    bank = embed(train, "embedding train") if options.neighbours and len(train) else None
    if len(train):
        guesses = baseline_guesses(
            bank.photos.table if bank else train.table,
            measured.photos.table,
            train_embeddings=bank.embeddings if bank else None,
            embeddings=measured.embeddings if bank else None,
        )
        frame = with_baselines(frame, guesses)
    about = _about(choice.name, options, dataset)
    about["use_context"] = bool(choice.model.vocabularies)
    about["calibrated"] = choice.model.calibration is not None
    about["unreadable"] = len(measured.unreadable)
    return _measured(folder, frame, about, options)


def _evaluate_csv(options: Options, dataset: PhotoDataset, photos: PhotoDataset) -> Result:
    guesses = read_guesses(options.predictions)
    frame = imported_predictions(guesses, photos.table)
    name = options.predictions.stem
    train = dataset.split("train") if options.split != "train" else dataset.select(_none(dataset))
    if len(train):
        answered = photos.select(photos.table["id"].isin(frame["id"]).to_numpy())
        frame = with_baselines(frame, baseline_guesses(train.table, answered.table))
    about = _about(name, options, dataset)
    about |= {"note": "imported CSV", "unanswered": len(photos) - len(frame), "use_context": None}
    return _measured(_folder(name, options, dataset, own=True), frame, about, options)


def _measured(folder: Path, frame: pd.DataFrame, about: dict[str, Any], options: Options) -> Result:
    from geoclip_core.earth.gazetteer import Gazetteer

    frame = with_places(frame, Gazetteer.load())
    report = summarise(frame, resamples=options.resamples, seed=options.seed)
    if options.split != "train":
        about["warning"] = seen_before(frame["error_km"].to_numpy())
        if about["warning"]:
            print(f"warning: {about['warning']}", file=sys.stderr)
    return folder, frame, report, about


def _other(
    name: str, options: Options, dataset: PhotoDataset, photos: PhotoDataset
) -> tuple[str, pd.DataFrame]:
    """A name and a predictions table for one entry of --compare."""
    if name.lower().endswith(".csv"):
        return Path(name).stem, imported_predictions(read_guesses(name), photos.table)
    path = loop.predictions_of(name)
    if path is not None and loop.describe(path).get("split") == options.split:
        return str(loop.describe(path)["model"]), read_predictions(path, candidates=False)
    folder, frame, report, about = _evaluate_model(name, options, dataset, photos)
    loop.save_evaluation(folder, frame, report, about)
    loop.drop_shards(folder / loop.SHARDS)
    return str(about["model"]), frame


def _about(model: str, options: Options, dataset: PhotoDataset) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": dataset.name,
        "split": options.split,
        "root": str(dataset.root.resolve()),
        "synthetic": dataset.synthetic,
        "note": "synthetic photos: the numbers tell nothing about real ones"
        if dataset.synthetic
        else "",
    }


def _folder(model: str, options: Options, dataset: PhotoDataset, own: bool) -> Path:
    """Where the results of a model go; the same at every call, so that it can be resumed."""
    if own and options.output is not None:
        return options.output
    name = f"{model}-on-{dataset.name}-{options.split}"
    return Path("evaluations") / re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


def _none(dataset: PhotoDataset) -> Any:
    return (dataset.table["split"] == "no such split").to_numpy()


def headline(model: str, report: dict[str, Any]) -> str:
    """The numbers of a report as a table for the terminal."""
    lines = [f"{'':<28}{'GeoScore':>10}{'median km':>12}{'< 25 km':>10}{'< 200 km':>10}"]
    rows = {model: report} | report["baselines"]
    for name, numbers in rows.items():
        shares = numbers["accuracy_at_km"]
        lines.append(
            f"{name[:27]:<28}{numbers['geoscore']:>10,.0f}{numbers['median_km']:>12,.1f}"
            f"{shares['25']:>10.1%}{shares['200']:>10.1%}"
        )
    lines.append(f"{report['n']:,} photos")
    for level, share in report["place_accuracy"].items():
        lines.append(f"in the true {level:<14}{share:>8.1%}")
    for feature, numbers in report["context"].items():
        if numbers["n"]:
            lines.append(f"{feature} top-1 {'':<14}{numbers['top1']:>8.1%}")
    for mass, share in report["coverage"].items():
        if share is not None:
            lines.append(f"truth inside {mass} % radius {share:>8.1%}")
    for name, result in report["comparisons"].items():
        score = result["difference"]["geoscore"]
        low, high = score["low"], score["high"]
        interval = "" if low is None else f" [{low:+,.0f}, {high:+,.0f}]"
        lines.append(
            f"minus {name}: GeoScore {score['difference']:+,.0f}{interval}, {result['n']:,} photos"
        )
    return "\n".join(lines)
