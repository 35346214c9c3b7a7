"""Calibrate a trained model on the validation split, and record it in the checkpoint.

The fit itself is in :mod:`geoclip_core.model.calibration`. This module checks the photos, measures
the effect, and writes the numbers, the diagram and the section of the model card.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.evaluation import metrics, radii
from geoclip_core.evaluation.predictions import core_frame
from geoclip_core.files import read_text, write_atomically
from geoclip_core.model.calibration import (
    CALIBRATED_BY,
    MAX_FIT_PHOTOS,
    Calibration,
    fit_calibration,
    identity_of,
)
from geoclip_core.model.geolocation import Locatable
from geoclip_core.model.posterior import Posterior
from geoclip_core.processes import Progress
from geoclip_core.results import read_results

DIAGRAM, CALIBRATION, CARD = "calibration.svg", "calibration.json", "README.md"
METRICS = "metrics.json"
_BEGIN, _END = "<!-- calibration -->", "<!-- /calibration -->"
_BATCH = 32
_WIDTH, _HEIGHT = 680, 300
_PANEL, _TOP, _LEFT, _GAP, _DEEP = 270, 54, 56, 60, 190
_LINES = (("50", "#e8710a", ""), ("90", "#2f6fde", "6 4"))
_TICKS = (0.1, 0.3, 1.0, 3.0, 10.0)


class CalibrationError(ValueError):
    """A calibration cannot be fitted on these photos; the message says why."""


@dataclass(frozen=True)
class CalibrationResult:
    """A calibration, and the predictions of the same photos without and with it."""

    calibration: Calibration
    before: pd.DataFrame
    """Core columns of the predictions of the photos, uncalibrated."""
    after: pd.DataFrame
    """The same, calibrated. Their coverage is too good, because the calibration was fitted on them;
    the cross-validated coverage is ``calibration.coverage``."""


def calibrate(
    model: Locatable,
    photos: PhotoDataset,
    embeddings: np.ndarray,
    progress: Progress | None = None,
) -> CalibrationResult:
    """Fit temperature, bandwidth and radius factors on validation photos.

    Of more than ``MAX_FIT_PHOTOS`` every k-th photo is used. The model keeps its own calibration;
    assign ``result.calibration`` to use the new one.

    Args:
        model: any model.
        photos: photos of the validation split.
        embeddings: (n, D), in the order of the photos.
        progress: called with (steps done, all steps); it may raise, to stop.

    Raises:
        CalibrationError: a photo is not of the validation split, there are fewer than 10, the
            embeddings do not fit, or the model was trained on the photos.
    """
    others = sorted(set(photos.table["split"]) - {"val"})
    if others:
        raise CalibrationError(
            f"calibration is fitted on the validation split only, not on {others[0]!r} photos"
        )
    if len(photos) < 10:
        raise CalibrationError(
            f"calibration needs at least 10 validation photos, and {photos.name} has "
            f"{len(photos)}: use a larger dataset or a larger validation share"
        )
    if len(embeddings) != len(photos):
        raise CalibrationError(f"{len(embeddings)} embeddings for {len(photos)} photos")
    rows = np.arange(0, len(photos), -(-len(photos) // MAX_FIT_PHOTOS))
    photos = photos.select(rows)
    total = 12 * len(rows)  # fitting takes most of the time

    def report(before: int, share: int) -> Progress:
        def part(done: int, of: int) -> None:
            if progress:
                progress(before * len(rows) + share * len(rows) * done // max(of, 1), total)

        return part

    predicted, fitted = report(0, 1), report(2, 9)
    previous, model.calibration = model.calibration, None
    try:
        posteriors: list[Posterior] = []
        for at in range(0, len(rows), _BATCH):
            estimates = model.predict(np.array(embeddings[rows[at : at + _BATCH]]))
            posteriors += [estimate.posterior for estimate in estimates]
            predicted(len(posteriors), len(rows))
    finally:
        model.calibration = previous
    before = core_frame(photos, posteriors, report(1, 1))
    if learnt := metrics.seen_before(before["error_km"].to_numpy(np.float64)):
        raise CalibrationError(f"{learnt}: calibrate on photos that it was not trained on")
    prior = None if model.domain is None else model.domain.prior
    calibration = fit_calibration(
        posteriors,
        photos.coordinates,
        source=f"validation split of {photos.name}",
        progress=fitted,
        prior=prior,
    )
    calibrated = (calibration.apply(posterior, prior) for posterior in posteriors)
    return CalibrationResult(calibration, before, core_frame(photos, calibrated, report(11, 1)))


def summary(result: CalibrationResult) -> dict[str, Any]:
    """Return coverage, median radii (km) and mean log density at the truth, before and after."""
    rows: dict[str, Any] = {"n": len(result.before)}
    for name, frame in (("before", result.before), ("after", result.after)):
        inside = radii.inside_radius(frame)
        rows[name] = {
            "coverage": {mass: float(np.nanmean(hits)) for mass, hits in inside.items()},
            "median_radius_km": {
                mass: float(frame[column].median()) for mass, column in radii.RADIUS_COLUMNS.items()
            },
            "log_density": float(frame["log_density"].mean()),
        }
    rows["cross_validated_coverage"] = dict(result.calibration.coverage)
    return rows


def save_calibration(folder: str | Path, result: CalibrationResult) -> Path:
    """Write a calibration, its diagram and its model card section to a checkpoint folder.

    An older section in the model card is replaced; the rest is kept, and so are the numbers in
    metrics.json, which then names the calibration that they were measured with.

    Raises:
        FileError: the model card, metrics.json or the earlier calibration cannot be read.
        SaveError: a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _measured_earlier(folder, result.calibration)
    write_atomically(folder / DIAGRAM, coverage_diagram(result.before, result.after))
    card = folder / CARD
    text = read_text(card) if card.exists() else ""
    write_atomically(card, _with_section(text, _section(result, earlier)))
    write_atomically(folder / CALIBRATION, result.calibration.to_json())
    return folder


def _measured_earlier(folder: Path, fitted: Calibration) -> bool:
    """Return whether metrics.json measures radii with another calibration, and record with which.

    Files of older versions do not name it: it is the one that is still in the folder.
    """
    path, before = folder / METRICS, folder / CALIBRATION
    if not path.exists():
        return False
    numbers = read_results(path)
    if "coverage" not in numbers:
        return False
    if CALIBRATED_BY not in numbers:
        numbers[CALIBRATED_BY] = identity_of(Calibration.read(before) if before.exists() else None)
        write_atomically(path, json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
    return bool(numbers[CALIBRATED_BY] != fitted.identity)


def _section(result: CalibrationResult, measured_earlier: bool) -> str:
    numbers, fitted = summary(result), result.calibration
    before, after = numbers["before"], numbers["after"]

    lines = [
        "## Calibration",
        "",
        f"Fitted on {fitted.n:,} photos ({fitted.source}): temperature {fitted.temperature:.3g}, "
        f"kernel {fitted.bandwidth_km:.3g} km, radius factors "
        + ", ".join(f"{mass} %: {scale:.3g}" for mass, scale in fitted.radius_scale.items())
        + ".",
        "",
        "| | before | after | after, cross-validated |",
        "|---|---|---|---|",
    ]
    for mass in ("50", "90"):
        crossed = numbers["cross_validated_coverage"].get(mass)
        last = "" if crossed is None else f"{crossed:.1%}"
        lines.append(
            f"| truth inside the {mass} % radius | {before['coverage'][mass]:.1%} | "
            f"{after['coverage'][mass]:.1%} | {last} |"
        )
    lines.append(
        f"| mean log density at the truth (per km²) | {before['log_density']:.2f} | "
        f"{after['log_density']:.2f} |  |"
    )
    if measured_earlier:
        lines += [
            "",
            "The other numbers of this card were measured with an earlier calibration: radii, "
            "levels and p-values are different now, and `python -m train evaluate` measures them.",
        ]
    caption = "Share of photos inside the scaled radius, before and after calibration"
    return "\n".join([*lines, "", f"![{caption}]({DIAGRAM})"])


def _with_section(card: str, section: str) -> str:
    block = f"{_BEGIN}\n{section}\n{_END}\n"
    start, end = card.find(_BEGIN), card.find(_END)
    if 0 <= start < end:
        return card[:start] + block + card[end + len(_END) :].lstrip("\n")
    return f"{card.rstrip()}\n\n{block}" if card.strip() else block


def coverage_diagram(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """Return an SVG of the coverage of scaled radii before and after calibration.

    Both panels have curves of the 50 % and the 90 % radius.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="system-ui, sans-serif" font-size="12" '
        'role="img" aria-label="Coverage before and after calibration">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="#ffffff"/>',
    ]
    for index, (title, frame) in enumerate((("Before", before), ("After calibration", after))):
        parts += _panel(_LEFT + index * (_PANEL + _GAP), title, frame, legend=index == 0)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: float, title: str, frame: pd.DataFrame, legend: bool) -> list[str]:
    bottom = _TOP + _DEEP
    curve = radii.coverage_at_scales(frame)

    def x(scale: float) -> float:
        return left + _PANEL * (math.log10(scale) + 1) / 2

    def y(share: float) -> float:
        return bottom - _DEEP * share

    parts = [_text(left, _TOP - 28, title, weight=600, size=14, colour="#1c2733")]
    for share in (0.0, 0.5, 0.9, 1.0):
        dashed = ' stroke-dasharray="2 3"' if share in (0.5, 0.9) else ""
        parts.append(f'<path d="M{left} {y(share):.1f}H{left + _PANEL}" stroke="#c3cdd7"{dashed}/>')
        parts.append(_text(left - 8, y(share) + 4, f"{share:.0%}", anchor="end"))
    for tick in _TICKS:
        parts.append(_text(x(tick), bottom + 18, f"{tick:g}×", anchor="middle"))
    parts.append(f'<path d="M{x(1):.1f} {_TOP}V{bottom}" stroke="#93a3b3"/>')
    axis = "radius multiplied by"
    parts.append(_text(left + _PANEL / 2, bottom + 38, axis, anchor="middle", size=12))
    for place, (mass, colour, dash) in enumerate(_LINES):
        shares = curve[f"coverage_{mass}"]
        if shares.isna().any():
            continue
        ends = zip(curve["scale"], shares, strict=True)
        points = " ".join(f"{x(scale):.1f},{y(share):.1f}" for scale, share in ends)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>'
        )
        if legend:
            at, name = _TOP + 14 + 16 * place, f"{mass} % radius"
            parts.append(_text(x(0.11), at, name, colour=colour, weight=600))
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 11,
    weight: int = 400,
    colour: str = "#5f6f80",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{colour}">{text}</text>'
    )
