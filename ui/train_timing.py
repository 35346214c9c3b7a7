"""The time of a training from that of a small one: what is counted, and how it grows."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from geoclip_core.data.osv_mini import csv_path
from geoclip_core.loops.run_status import RunStatus

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
    started: float, statuses: Sequence[tuple[float, RunStatus]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Seconds to start, per embedded photo, per step, and per validation, as far as measured.

    Args:
        started: when the process was started.
        statuses: (time, status) as seen while it ran.
        rows: its metrics, one line a step and one a validation, with the time of each.
    """
    first = {}
    for moment, status in statuses:
        phase = status.phase.partition(",")[0]
        if phase:
            first.setdefault(phase, moment)
    if not first:
        return {}
    found = {"start": min(first.values()) - started}
    phases = sorted(first, key=first.__getitem__)
    if "embedding" in first:
        after = phases[phases.index("embedding") + 1 :]
        if after:
            found["embedding"] = first[after[0]] - first["embedding"]
    times = [(row["time"], any(name.startswith("val/") for name in row)) for row in rows]
    steps = [b - a for (a, _), (b, val) in itertools.pairwise(times) if not val]
    checks = [b - a for (a, was), (b, val) in itertools.pairwise(times) if val and not was]
    if steps:
        found["step"] = median(steps)
    if checks:
        found["validation"] = median(checks)
    return found


def scale_up(
    seconds: Mapping[str, float],
    sample: Counts,
    whole: Counts,
    options: Mapping[str, Any],
    complete: bool,
) -> Estimate:
    """The whole training from the sample: photos and validations in proportion, steps by number."""
    frozen = options.get("train") == "backbone=none"
    per_photo = seconds.get("embedding", 0.0) / max(sample.every - _FIRST_BATCH, 1)
    # A backbone that learns embeds twice: a sample for the statistics, and everything at the end.
    photos = whole.every if frozen else whole.every + min(whole.train, _STATISTICS)
    batch = int(options["batch_size"])
    growth = min(batch, whole.train) / min(batch, sample.train)
    steps = math.ceil(whole.train / batch)
    epoch = steps * seconds.get("step", 0.0) * growth
    epoch += seconds.get("validation", 0.0) * whole.val / max(sample.val, 1)
    return Estimate(
        start=seconds.get("start", 0.0),
        embedding=per_photo * photos,
        learning=int(options["epochs"]) * epoch,
        photos=sample.every,
        complete=complete,
    )
