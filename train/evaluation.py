"""The commands that evaluate models: evaluate, calibrate, report.

Torch, pandas, scipy and plotly take seconds to load, so they are imported inside the functions:
``--help`` does not need them.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Interval, MaxLen
from tyro.conf import Positional

from geoclip_core.training.options import options_class

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from geoclip_core.data.dataset import PhotoDataset
    from geoclip_core.evaluation.calibrate import CalibrationResult
    from geoclip_core.evaluation.report import ReportTable
    from geoclip_core.hub.models import LoadedModel

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "geoclip_core" / "checkpoints"
_SHOWN = 5
"""Number of unreadable photos that are named on the terminal."""


@options_class
class MeasuringOptions:
    """Options of both `evaluate` and `calibrate`."""

    data: Path
    """dataset folder (OSV-Mini-129k, a demo set, imported photos)"""
    split_seed: Annotated[int, Ge(0)] = 0
    """seed of the val split, as in training"""
    batch_size: Annotated[int, Ge(1)] = 32
    """photos that go through the backbone together"""
    workers: Annotated[int, Ge(1)] = 2
    """threads that read photos"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute; auto takes a GPU if there is one"""
    cache_dir: Path | None = None
    """where embeddings are kept; by default the platform's cache folder"""


@options_class
class EvaluateOptions(MeasuringOptions):
    """Options of `evaluate`."""

    model: str = "mini"
    """bundled name, run or checkpoint folder, downloaded name, or hub id"""
    split: Literal["test", "val", "train"] = "test"
    """photos to predict; train only shows how much the model has memorised"""
    output: Path | None = None
    """folder of the results; by default evaluations/MODEL-on-DATASET-SPLIT"""
    predictions: Path | None = None
    """CSV (id, latitude, longitude) of another system to evaluate instead of a model"""
    compare: tuple[str, ...] = ()
    """models, evaluation folders, predictions.parquet files or CSVs to compare with on the same
    photos; a model trained without context shows what context is worth"""
    neighbours: bool = True
    """also evaluate nearest neighbours, which embeds the training photos"""
    val_fraction: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """share of the training photos that is val, as in training"""
    resamples: Annotated[int, Ge(0)] = 1000
    """bootstrap resamples of the 95 % intervals"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the bootstrap"""


class Evaluation(NamedTuple):
    """The evaluation of a model, or of a CSV of another system."""

    folder: Path
    """Folder of the results."""
    frame: "pd.DataFrame"
    """The predictions table."""
    report: dict[str, Any]
    """The content of metrics.json."""
    about: dict[str, Any]
    """Model, dataset, split and notes."""


def evaluate(options: EvaluateOptions) -> int:
    """Predict the photos of a dataset and measure the errors.

    Writes predictions.parquet and metrics.json, which the Evaluation page lists. An interrupted
    command continues where it stopped when it is run again.
    """
    from geoclip_core.data.dataset import read_dataset
    from geoclip_core.evaluation.evaluate import METRICS, PREDICTIONS, compare

    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output: {options.output} is a file; choose a folder")
    dataset = read_dataset(options.data, val_fraction=options.val_fraction, seed=options.split_seed)
    photos = dataset.split(options.split)
    if not len(photos):
        raise ValueError(f"{dataset.name} has no photo in its {options.split} split")
    if options.predictions is not None:
        result = _evaluate_csv(options.predictions, options, dataset, photos)
    else:
        result = _evaluate_model(options.model, options, dataset, photos, options.output)
    result.report["comparisons"] = {}
    for other in options.compare:
        name, table = _other(other, options, dataset, photos)
        result.report["comparisons"][name] = compare(
            result.frame, table, resamples=options.resamples, seed=options.seed
        )
    _save(result)
    print(headline(result.about["model"], result.report))
    print(f"\n{result.folder / METRICS}\n{result.folder / PREDICTIONS}", file=sys.stderr)
    return 0


def _evaluate_model(
    name: str,
    options: EvaluateOptions,
    dataset: "PhotoDataset",
    photos: "PhotoDataset",
    output: Path | None = None,
) -> Evaluation:
    from geoclip_core.evaluation.baselines import baseline_guesses, with_baselines
    from geoclip_core.evaluation.evaluate import SHARDS, predict_in_shards
    from geoclip_core.jobs import ProgressBar

    choice = _load(name, options)
    folder = output or _default_folder(choice.name, options, dataset)
    readable, embeddings = _embed(choice, photos, options, options.split)
    with ProgressBar("predicting", "photos") as bar:
        frame = predict_in_shards(
            choice.model, readable, embeddings, folder / SHARDS, progress=bar.update
        )
    train = dataset.split("train")
    if len(train) and options.split != "train":
        known: NDArray[np.floating] | None = None
        if options.neighbours:
            train, known = _embed(choice, train, options, "train")
        guesses = baseline_guesses(
            train.table,
            readable.table,
            train_embeddings=known,
            embeddings=embeddings if options.neighbours else None,
        )
        frame = with_baselines(frame, guesses)
    about = _about(choice.name, options, dataset)
    about["use_context"] = bool(choice.model.vocabularies)
    about["calibrated"] = choice.model.calibration is not None
    about["unreadable"] = len(photos) - len(readable)
    return _measured(folder, frame, about, options)


def _evaluate_csv(
    path: Path, options: EvaluateOptions, dataset: "PhotoDataset", photos: "PhotoDataset"
) -> Evaluation:
    from geoclip_core.evaluation.baselines import baseline_guesses, with_baselines
    from geoclip_core.evaluation.predictions import imported_predictions, read_guesses

    frame = imported_predictions(read_guesses(path), photos.table)
    train = dataset.split("train")
    if len(train) and options.split != "train":
        answered = photos.select(photos.table["id"].isin(frame["id"]).to_numpy())
        frame = with_baselines(frame, baseline_guesses(train.table, answered.table))
    about = _about(path.stem, options, dataset)
    about |= {"note": "imported CSV", "unanswered": len(photos) - len(frame), "use_context": None}
    folder = options.output or _default_folder(path.stem, options, dataset)
    return _measured(folder, frame, about, options)


def _measured(
    folder: Path, frame: "pd.DataFrame", about: dict[str, Any], options: EvaluateOptions
) -> Evaluation:
    from geoclip_core.earth.gazetteer import Gazetteer
    from geoclip_core.evaluation.metrics import seen_before, summarise, with_places

    frame = with_places(frame, Gazetteer.load())
    numbers = summarise(frame, resamples=options.resamples, seed=options.seed)
    if options.split != "train":
        about["warning"] = seen_before(frame["error_km"].to_numpy())
        if about["warning"]:
            print(f"warning: {about['warning']}", file=sys.stderr)
    return Evaluation(folder, frame, numbers, about)


def _other(
    name: str, options: EvaluateOptions, dataset: "PhotoDataset", photos: "PhotoDataset"
) -> tuple[str, "pd.DataFrame"]:
    """Return the name and the predictions table of one entry of --compare."""
    from geoclip_core.evaluation.evaluate import describe, predictions_of
    from geoclip_core.evaluation.predictions import (
        imported_predictions,
        read_guesses,
        read_predictions,
    )

    if name.lower().endswith(".csv"):
        return Path(name).stem, imported_predictions(read_guesses(name), photos.table)
    path = predictions_of(name)
    if path is not None and (about := describe(path)).get("split") == options.split:
        return str(about["model"]), read_predictions(path, candidates=False)
    result = _evaluate_model(name, options, dataset, photos)
    _save(result)
    return str(result.about["model"]), result.frame


def _save(result: Evaluation) -> None:
    from geoclip_core.evaluation.evaluate import SHARDS, save_evaluation

    save_evaluation(result.folder, result.frame, result.report, result.about)
    shutil.rmtree(result.folder / SHARDS, ignore_errors=True)


def _about(model: str, options: EvaluateOptions, dataset: "PhotoDataset") -> dict[str, Any]:
    return {
        "model": model,
        "dataset": dataset.name,
        "split": options.split,
        "root": str(dataset.root.resolve()),
        "synthetic": dataset.synthetic,
        "note": "synthetic photos: the numbers say nothing about real ones"
        if dataset.synthetic
        else "",
    }


def _default_folder(model: str, options: EvaluateOptions, dataset: "PhotoDataset") -> Path:
    """Return the folder of a model's results, always the same, so that work can be resumed."""
    name = f"{model}-on-{dataset.name}-{options.split}"
    return Path("evaluations") / re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


def headline(model: str, report: dict[str, Any]) -> str:
    """Return the main metrics as a table for the terminal."""
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


@options_class
class CalibrateOptions(MeasuringOptions):
    """Options of `calibrate`."""

    model: str
    """run or checkpoint folder, or geoclip; a bundled model needs --output"""
    output: Path | None = None
    """folder for a calibrated copy of the checkpoint; by default the checkpoint is changed"""
    val_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """share of the training photos that is val, as in training; only val photos are used"""


def calibrate(options: CalibrateOptions) -> int:
    """Fit the temperature and radii of a model on validation photos, which it was not trained on.

    The calibration and a diagram of before and after are saved in the checkpoint and its card.
    """
    from geoclip_core.data.dataset import read_dataset
    from geoclip_core.evaluation import calibrate as calibration
    from geoclip_core.jobs import ProgressBar

    dataset = read_dataset(options.data, val_fraction=options.val_fraction, seed=options.split_seed)
    choice = _load(options.model, options)
    _check_target(choice, options.output)
    photos, embeddings = _embed(choice, dataset.split("val"), options, "val")
    with ProgressBar("calibrating", "steps") as bar:
        result = calibration.calibrate(choice.model, photos, embeddings, progress=bar.update)
    print(_calibration_table(calibration.summary(result)))
    print(_save_calibration(choice, options.output, result), file=sys.stderr)
    return 0


def _check_target(choice: "LoadedModel", output: Path | None) -> None:
    """Raise ValueError if the result cannot be written."""
    from geoclip_core.geoclip.model import GeoClip

    if output is not None and output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty: choose another folder")
    if isinstance(choice.model, GeoClip):
        return
    if choice.folder is None:
        raise ValueError(f"{choice.name} has no checkpoint folder to write to")
    if output is None and choice.folder.resolve().is_relative_to(BUNDLED):
        raise ValueError(
            f"{choice.name} ships with the package and is not changed: give --output FOLDER for a "
            "calibrated copy"
        )


def _save_calibration(
    choice: "LoadedModel", output: Path | None, result: "CalibrationResult"
) -> Path:
    from geoclip_core.evaluation.calibrate import save_calibration
    from geoclip_core.geoclip.model import GeoClip

    if isinstance(choice.model, GeoClip):
        return choice.model.keep_calibration(result.calibration)
    assert choice.folder is not None
    if output is not None:
        shutil.copytree(choice.folder, output, dirs_exist_ok=True)
    return save_calibration(output or choice.folder, result)


def _calibration_table(numbers: dict[str, Any]) -> str:
    lines = [
        f"{numbers['n']:,} validation photos{'':<11}{'before':>10}{'after':>10}{'held out':>10}"
    ]
    for mass in ("50", "90"):
        crossed = numbers["cross_validated_coverage"].get(mass)
        lines.append(
            f"truth inside the {mass} % radius    "
            f"{numbers['before']['coverage'][mass]:>10.1%}{numbers['after']['coverage'][mass]:>10.1%}"
            + (f"{crossed:>10.1%}" if crossed is not None else "")
        )
    lines.append(
        f"log density at the truth       {numbers['before']['log_density']:>10.2f}"
        f"{numbers['after']['log_density']:>10.2f}"
    )
    lines.append("held out: each photo judged by a calibration on the others")
    return "\n".join(lines)


def _load(name: str, options: MeasuringOptions) -> "LoadedModel":
    """Load a model by name on the chosen device."""
    import torch

    from geoclip_core.hub.models import load_model

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(name, device)


def _embed(
    choice: "LoadedModel", photos: "PhotoDataset", options: MeasuringOptions, split: str
) -> tuple["PhotoDataset", "NDArray[np.floating]"]:
    """Return the n readable photos and their embeddings (n, D)."""
    from geoclip_core.jobs import ProgressBar
    from geoclip_core.training.embeddings import embed_dataset

    backbone = choice.model.backbone
    assert backbone is not None  # `load_model` attaches it
    with ProgressBar(f"embedding {split}", "photos") as bar:
        embedded = embed_dataset(
            backbone,
            photos,
            options.cache_dir,
            batch_size=options.batch_size,
            workers=options.workers,
            progress=bar.update,
        )
    failures = embedded.failures
    for row, reason in list(failures.items())[:_SHOWN]:
        print(f"left out {photos.table['path'].iloc[row]}: {reason}", file=sys.stderr)
    if len(failures) > _SHOWN:
        print(f"left out {len(failures):,} unreadable photos in total", file=sys.stderr)
    if not failures:
        return photos, embedded.values
    if len(failures) == len(photos):
        raise ValueError(f"none of the {len(photos):,} photos of {photos.name} can be read")
    return photos.select(embedded.readable), embedded.values[embedded.readable]


@options_class
class ReportOptions:
    """Options of `report`."""

    evaluation: Positional[str]
    """run or evaluation folder, predictions.parquet, or the name of a bundled model"""
    output: Path = Path("report.html")
    """the HTML file; an existing file is replaced"""
    beside: Annotated[tuple[str, ...], MaxLen(3)] = ()
    """up to three others on the same photos, for the same figures"""
    photos: bool = False
    """embed thumbnails of the best and worst photos; mind their licence and privacy"""
    data: Path | None = None
    """folder of the photos to embed; without it, the one that the evaluation names, if it is a
    dataset that you have opened on this computer"""


def report(options: ReportOptions) -> int:
    """Write an evaluation as one HTML file that opens without a server or the internet."""
    from geoclip_core.evaluation.report import report_html
    from geoclip_core.files import write_atomically
    from geoclip_core.jobs import ProgressBar

    tables = report_tables((options.evaluation, *options.beside))
    root = _photo_folder(tables[0].about, options) if options.photos else ""
    with ProgressBar("writing", "parts") as bar:
        text = report_html(tables, ROOT / "static", root, bar.update)
    write_atomically(options.output, text)
    print(f"{options.output} ({len(text.encode()) / 1e6:.1f} MB)", file=sys.stderr)
    return 0


def report_tables(names: Sequence[str]) -> list["ReportTable"]:
    """Return the tables of a report: of an evaluation, and of others on the same photos."""
    from geoclip_core.evaluation.report import ReportTable

    tables: list[ReportTable] = []
    for name in names:
        path, frame, about = _read_evaluation(name)
        if tables:
            frame = frame[frame["id"].isin(set(tables[0].frame["id"]))].reset_index(drop=True)
            if frame.empty:
                raise ValueError(f"{name} has no photo in common with {names[0]}")
        model = str(about["model"])
        if model in {table.name for table in tables}:
            model = f"{model} ({name})"
        tables.append(ReportTable(model, frame, about, path))
    return tables


def _photo_folder(about: Mapping[str, Any], options: ReportOptions) -> str:
    """Return the folder of the photos that may be embedded; "" if there is none."""
    from geoclip_core.files import was_opened

    if options.data is not None:
        if not options.data.is_dir():
            raise ValueError(f"{options.data}: no such folder")
        return str(options.data)
    root = str(about.get("root") or "")
    if root and not was_opened(root):
        raise ValueError(
            f"the evaluation names {root} as the folder of its photos, which is no dataset that "
            "you have opened here: name the folder yourself with --data, or leave out --photos"
        )
    return root


def _read_evaluation(name: str) -> tuple[Path, "pd.DataFrame", dict[str, Any]]:
    from geoclip_core.earth.gazetteer import Gazetteer
    from geoclip_core.evaluation.evaluate import describe, predictions_of
    from geoclip_core.evaluation.metrics import with_places
    from geoclip_core.evaluation.predictions import read_predictions

    path = predictions_of(name) or predictions_of(BUNDLED / name)
    if path is None:
        raise ValueError(
            f"{name} has no predictions.parquet: give a run or evaluation folder, or make one "
            "with python -m train evaluate"
        )
    frame = read_predictions(path, candidates=False)
    if frame.empty:
        raise ValueError(f"{path} holds no photo")
    if "country_key" in frame and "predicted_country_key" not in frame:
        frame = with_places(frame, Gazetteer.load())
    return path, frame, describe(path)
