"""The end of a fit: calibration, evaluation, checkpoint, model card."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from geoclip_core.data.table import PhotoDataset
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.loops.baselines import baseline_guesses, with_baselines
from geoclip_core.loops.calibrate import calibrate, save_calibration, summary
from geoclip_core.loops.evaluate import SHARDS, drop_shards, predict_in_shards, save_evaluation
from geoclip_core.loops.fit_card import fit_card
from geoclip_core.loops.fit_data import EmbeddedSplit
from geoclip_core.loops.fit_options import FitOptions
from geoclip_core.loops.metrics import summarise, with_places
from geoclip_core.loops.run_session import RunSession
from geoclip_core.model.backbones import public_name
from geoclip_core.model.checkpoint import save_checkpoint
from geoclip_core.model.geolocation import GeolocationModel


def write_result(
    model: GeolocationModel,
    options: FitOptions,
    dataset: PhotoDataset,
    splits: Mapping[str, EmbeddedSplit],
    session: RunSession,
    folder: Path,
    best: Mapping[str, float],
) -> None:
    """Calibrate on val, evaluate on test (val where there is none), write the checkpoint.

    Args:
        model: trained, with its backbone attached.
        options: of the fit.
        dataset: all photos, with their splits.
        splits: "train", "val", "test" embedded with the model's backbone.
        session: of the run.
        folder: of the run.
        best: validation values of the chosen step.
    """
    session.progress("calibrating", 0.96)
    calibration = calibrate(model, splits["val"].photos, splits["val"].embeddings)
    model.calibration = calibration.calibration
    split = "test" if len(splits["test"]) else "val"
    measured = splits[split]

    def report_progress(done: int, total: int) -> None:
        session.raise_if_stopped()
        session.progress("evaluating", 0.97 + 0.02 * done / total)

    shards = folder / SHARDS
    frame = predict_in_shards(
        model, measured.photos, measured.embeddings, shards, progress=report_progress
    )
    guesses = baseline_guesses(
        splits["train"].photos.table,
        measured.photos.table,
        train_embeddings=splits["train"].embeddings,
        embeddings=measured.embeddings,
    )
    frame = with_places(with_baselines(frame, guesses), Gazetteer.load())
    report = summarise(frame, seed=options.seed)
    report["calibration"] = summary(calibration)
    report["validation"] = dict(best)
    about = {
        "model": model.name,
        "dataset": dataset.name,
        "split": split,
        "root": str(dataset.root),
        "synthetic": dataset.synthetic,
    }
    session.progress("writing the checkpoint", 0.99, now=True)
    own = keep_backbone(model, options)
    card = fit_card(model, options, dataset, split, report)
    save_checkpoint(
        folder / "checkpoint",
        model,
        {"about": about, **report},
        card,
        save_backbone=own,
    )
    save_calibration(folder / "checkpoint", calibration)
    save_evaluation(folder, frame, report, about)
    drop_shards(shards)
    shutil.rmtree(folder / "resume", ignore_errors=True)
    session.log(
        f"{split}: median {report['median_km']:.1f} km, GeoScore {report['geoscore']:.0f}, "
        f"best constant guess {report['baselines']['constant']['median_km']:.1f} km"
    )


def write_stopped(
    model: GeolocationModel,
    options: FitOptions,
    dataset: PhotoDataset,
    val: EmbeddedSplit,
    folder: Path,
    where: str,
    best: Mapping[str, float],
) -> None:
    """The checkpoint of a run that was stopped: usable and calibrated, but not evaluated."""
    calibration = calibrate(model, val.photos, val.embeddings)
    model.calibration = calibration.calibration
    own = keep_backbone(model, options)
    values: dict[str, Any] = {"stopped": where, "validation": dict(best)}
    save_checkpoint(
        folder / "checkpoint",
        model,
        values,
        fit_card(model, options, dataset, "val", None, stopped=where),
        save_backbone=own,
    )
    save_calibration(folder / "checkpoint", calibration)


def keep_backbone(model: GeolocationModel, options: FitOptions) -> bool:
    """Whether the backbone's weights belong into the checkpoint, and its name made fit for it.

    They do if they were trained here, or come from a folder that need not stay where it is. The
    checkpoint then needs that folder no more, and does not tell where on this computer it was.
    """
    config = model.backbone_config
    model.backbone_config = replace(config, name=public_name(config.name))
    return not options.frozen or Path(config.name).is_dir()
