"""The time of a training from that of a small one: what is counted, and how it grows."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from geoclip_core.data.dataset import csv_path
from geoclip_core.training.runs import RunStatus

_FIRST_BATCH = 32
"""Photos embedded before the first progress, so that building the network is not counted."""
_STATISTICS = 2000
"""Photos embedded beforehand for a backbone that learns."""


@dataclass(frozen=True)
class Counts:
    """Photos of a dataset by split."""

    train: int
    val: int
    every: int


@dataclass(frozen=True)
class Estimate:
    """Seconds that a training will take, and from how many photos that was measured."""

    start: float
    """Until the first photo: libraries, tables, weights."""
    embedding: float
    """Running every photo through the backbone; nothing if that was done before."""
    learning: float
    """All epochs with their validations, if none ends it early."""
    photos: int
    """Photos of the sample."""
    complete: bool = True
    """False if the sample itself took too long: then it takes at least this long."""

    @property
    def total(self) -> float:
        """All of it, in seconds."""
        return self.start + self.embedding + self.learning


def write_sample(source: Path, target: Path, rows: int, seed: int) -> int:
    """A dataset of some training photos of another, whose photos are linked, not copied.

    Returns:
        How many rows it has.
    """
    table = pd.read_csv(csv_path(source, "train"), dtype=str, keep_default_na=False)
    table = table.sample(min(rows, len(table)), random_state=seed)
    target.mkdir()
    table.to_csv(csv_path(target, "train"), index=False)
    (target / "train_images").symlink_to((source / "train_images").absolute())
    return len(table)


def measure_seconds(
    started: float,
    statuses: Sequence[tuple[float, RunStatus]],
    rows: Sequence[Mapping[str, Any]],
    photos: int,
) -> dict[str, float]:
    """Seconds to start, per embedded photo, per step, and around it per epoch, as far as measured.

    Args:
        started: when the process was started.
        statuses: (time, status) as seen while it ran.
        rows: its metrics, one line a step and one a validation, with the time of each.
        photos: how many it embedded.
    """
    first: dict[str, float] = {}
    for moment, status in statuses:
        if phase := status.phase.partition(",")[0]:
            first.setdefault(phase, moment)
    if not first:
        return {}
    found = {"start": min(first.values()) - started}
    if (seconds := _photo_seconds(statuses, first, photos)) is not None:
        found["photo"] = seconds
    times = [(row["time"], any(name.startswith("val/") for name in row)) for row in rows]
    gaps: dict[tuple[bool, bool], list[float]] = {}
    for (before, was_val), (after, is_val) in itertools.pairwise(times):
        gaps.setdefault((was_val, is_val), []).append(after - before)
    step, checked, resumed = (
        median(gaps[kind]) if kind in gaps else None
        for kind in ((False, False), (False, True), (True, False))
    )
    if checked is not None:
        found["validation"] = checked
    if step is None:
        step, resumed = resumed, None
    if step is not None:
        found["step"] = step
        found["saving"] = max(0.0, resumed - step) if resumed is not None else 0.0
    return found


def scale_up(
    seconds: Mapping[str, float],
    sample: Counts,
    whole: Counts,
    options: Mapping[str, Any],
    complete: bool,
) -> Estimate:
    """The whole training from the sample: photos and validations in proportion, steps by number.

    Args:
        seconds: of :func:`measure_seconds`.
        sample: photos of the sample.
        whole: photos of the dataset.
        options: of the training; the sample was cut into steps by :func:`sample_batch`.
        complete: whether the sample was trained to its end.
    """
    # A backbone that learns embeds twice: a sample for the statistics, and everything at the end.
    frozen = options.get("train") == "backbone=none"
    photos = whole.every if frozen else whole.every + min(whole.train, _STATISTICS)
    steps = math.ceil(whole.train / int(options["batch_size"]))
    growth = (whole.train / steps) / sample_batch(sample.train, int(options["batch_size"]))
    epoch = steps * growth * seconds.get("step", 0.0) + seconds.get("saving", 0.0)
    epoch += seconds.get("validation", 0.0) * whole.val / max(sample.val, 1)
    return Estimate(
        start=seconds.get("start", 0.0),
        embedding=seconds.get("photo", 0.0) * photos,
        learning=int(options["epochs"]) * epoch,
        photos=sample.every,
        complete=complete,
    )


def sample_batch(train: int, batch_size: int) -> int:
    """Photos of a step on the sample: it is cut into whole steps as near as can be to the real."""
    return math.ceil(train / max(1, round(train / batch_size)))


def _photo_seconds(
    statuses: Sequence[tuple[float, RunStatus]], first: Mapping[str, float], photos: int
) -> float | None:
    """Seconds per photo, without what comes before the first batch and after the last."""
    if "embedding" not in first:
        return None
    seen: dict[float, float] = {}
    for moment, status in statuses:
        if status.phase == "embedding" and status.progress > 0:
            seen.setdefault(status.progress, moment)
    if len(seen) > 1 and first["embedding"] == min(first.values()):
        # The run begins with it, so its first progress means the first batch.
        shares = list(seen)
        done = _FIRST_BATCH * (shares[-1] - shares[0]) / shares[0]
        return (seen[shares[-1]] - seen[shares[0]]) / done
    after = [moment for moment in first.values() if moment > first["embedding"]]
    if not after or photos <= _FIRST_BATCH:
        return None
    return (min(after) - first["embedding"]) / (photos - _FIRST_BATCH)
