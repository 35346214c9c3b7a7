"""Calibration of a trained model on the validation split, and its record in the checkpoint.

The mathematics is in :mod:`geoclip_core.model.calibration`; here is what surrounds it: which photos
may be used, what changed, where it is kept, and the picture of it in the model card.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.atomic_writes import write_atomically
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.loops import reliability
from geoclip_core.loops.predictions import predictions_frame
from geoclip_core.loops.reliability_diagram import coverage_diagram
from geoclip_core.model.calibration import MAX_FIT_PHOTOS, Calibration, fit_calibration

DIAGRAM, CALIBRATION, CARD = "calibration.svg", "calibration.json", "README.md"
_BEGIN, _END = "<!-- calibration -->", "<!-- /calibration -->"
_BATCH = 32


class CalibrationError(ValueError):
    """Photos that a calibration must not, or cannot, be fitted on."""


@dataclass(frozen=True)
class CalibrationResult:
    """A calibration and how the model answered the same photos without and with it."""

    calibration: Calibration
    before: pd.DataFrame
    """Predictions of the photos, uncalibrated."""
    after: pd.DataFrame
    """The same, calibrated. Its coverage is that of the photos it was fitted on; the honest one,
    across folds, is ``calibration.coverage``."""


def calibrate(
    model: Any,
    photos: Any,
    embeddings: np.ndarray,
    *,
    source: str | None = None,
    max_photos: int = MAX_FIT_PHOTOS,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationResult:
    """Fit temperature, bandwidth and radius factors on validation photos.

    The model is left with its calibration as it was; give it ``result.calibration`` to use it.

    Args:
        model: offers ``predict``, ``vocabularies`` and ``calibration``.
        photos: a ``PhotoDataset`` of validation rows.
        embeddings: (n, D), in the order of the photos.
        source: where the photos came from, in words; by default the dataset's name.
        max_photos: every k-th photo of a larger split: three numbers do not need more.
        progress: called with (photos predicted, photos in all).

    Raises:
        CalibrationError: a photo is not of the validation split, there are fewer than 10, or the
            model knows them by heart.
    """
    others = sorted(set(photos.table["split"]) - {"val"})
    if others:
        raise CalibrationError(
            f"calibration is fitted on the validation split alone, not on {others[0]!r} photos"
        )
    if len(photos) < 10:
        raise CalibrationError(
            f"calibration needs at least 10 validation photos, and {photos.name} has "
            f"{len(photos)}: give a larger dataset or a larger validation share"
        )
    if len(embeddings) != len(photos):
        raise CalibrationError(f"{len(embeddings)} embeddings for {len(photos)} photos")
    rows = np.arange(0, len(photos), -(-len(photos) // max_photos))
    photos = photos.select(rows)
    previous, model.calibration = model.calibration, None
    try:
        estimates = []
        for at in range(0, len(rows), _BATCH):
            estimates += model.predict(np.array(embeddings[rows[at : at + _BATCH]]))
            if progress:
                progress(len(estimates), len(rows))
    finally:
        model.calibration = previous
    answers = np.array([estimate.posterior.mode() for estimate in estimates])
    if learnt := reliability.seen_before(haversine_km(answers, photos.coordinates)):
        raise CalibrationError(f"{learnt}: calibrate on photos that it has not learnt from")
    calibration = fit_calibration(
        [estimate.posterior for estimate in estimates],
        photos.coordinates,
        source=source or f"validation split of {photos.name}",
    )
    before = predictions_frame(photos, estimates, model.vocabularies)
    calibrated = (_with(estimate, calibration) for estimate in estimates)
    return CalibrationResult(
        calibration, before, predictions_frame(photos, calibrated, model.vocabularies)
    )


def _with(estimate: Any, calibration: Calibration) -> Any:
    return type(estimate)(calibration.apply(estimate.posterior), estimate.context)


def summary(result: CalibrationResult) -> dict[str, Any]:
    """Before and after in numbers: coverage of both radii and mean log density at the truth."""
    rows: dict[str, Any] = {"n": len(result.before)}
    for name, frame in (("before", result.before), ("after", result.after)):
        inside = reliability.inside_radius(frame)
        rows[name] = {
            "coverage": {mass: float(np.nanmean(hits)) for mass, hits in inside.items()},
            "median_radius_km": {
                mass: float(frame[column].median())
                for mass, column in reliability.RADIUS_COLUMNS.items()
            },
            "log_density": float(frame["log_density"].mean()),
        }
    rows["cross_validated_coverage"] = dict(result.calibration.coverage)
    return rows


def save_calibration(folder: str | Path, result: CalibrationResult) -> Path:
    """Write a calibration into a checkpoint folder: the numbers, the diagram, the model card.

    The part of the model card between two comment lines is replaced, the rest is kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / DIAGRAM, coverage_diagram(result.before, result.after))
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    write_atomically(card, _with_section(text, _section(result)))
    write_atomically(folder / CALIBRATION, result.calibration.to_json())
    return folder


def _section(result: CalibrationResult) -> str:
    numbers, fitted = summary(result), result.calibration
    before, after = numbers["before"], numbers["after"]

    def row(name: str, *values: str) -> str:
        return f"| {name} | " + " | ".join(values) + " |"

    lines = [
        "## Calibration",
        "",
        f"Fitted on {fitted.n:,} photos ({fitted.source}): temperature {fitted.temperature:.3g}, "
        f"kernel {fitted.bandwidth_km:.3g} km, radius factors "
        + ", ".join(f"{mass} %: {scale:.3g}" for mass, scale in fitted.radius_scale.items())
        + ".",
        "",
        "| | before | after | after, each photo judged by the others' fit |",
        "|---|---|---|---|",
    ]
    for mass in ("50", "90"):
        crossed = numbers["cross_validated_coverage"].get(mass)
        lines.append(
            row(
                f"truth inside the {mass} % radius",
                f"{before['coverage'][mass]:.1%}",
                f"{after['coverage'][mass]:.1%}",
                "" if crossed is None else f"{crossed:.1%}",
            )
        )
    lines.append(
        row(
            "mean log density at the truth (per km²)",
            f"{before['log_density']:.2f}",
            f"{after['log_density']:.2f}",
            "",
        )
    )
    caption = "Share of photos inside the radius, were it scaled, before and after calibration"
    return "\n".join([*lines, "", f"![{caption}]({DIAGRAM})"])


def _with_section(card: str, section: str) -> str:
    block = f"{_BEGIN}\n{section}\n{_END}\n"
    start, end = card.find(_BEGIN), card.find(_END)
    if 0 <= start < end:
        return card[:start] + block + card[end + len(_END) :].lstrip("\n")
    return f"{card.rstrip()}\n\n{block}" if card.strip() else block
