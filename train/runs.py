"""List the training runs, newest first."""

import dataclasses
import json
import time
from pathlib import Path
from typing import ClassVar

from geoclip_core.jobs import JobError
from geoclip_core.training.runs import Run, list_runs


@dataclasses.dataclass(frozen=True)
class Options:
    """Which runs to list, and how."""

    COMMAND: ClassVar[str] = "runs"
    POSITIONAL: ClassVar[tuple[str, ...]] = ("runs",)

    runs: Path = Path("runs")
    """folder in which runs are kept"""
    json: bool = False
    """print one JSON object a line instead of a table"""


def run(options: Options) -> int:
    """Print the list."""
    rows = [row for run in list_runs(options.runs) if (row := _row(run)) is not None]
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    if not rows:
        print(f"no runs in {options.runs}: start one with python -m train fit --recipe demo")
        return 0
    print(f"{'run':<44} {'task':<9} {'state':<9} {'done':>5} {'left':>8} {'val median':>11}")
    for row in rows:
        left = "" if row["eta_seconds"] is None else _duration(row["eta_seconds"])
        best = row["best"].get("median_km")
        shown = "" if best is None else f"{best:.1f} km"
        print(
            f"{row['name']:<44} {row['task']:<9} {row['state']:<9} {row['progress']:>5.0%} "
            f"{left:>8} {shown:>11}"
        )
        if row["error"]:
            print(f"    {row['error']}")
    return 0


def _row(run: Run) -> dict[str, object] | None:
    try:
        status = run.status
    except JobError:
        return None  # deleted while we looked
    fields = ("task", "state", "progress", "phase", "step", "total_steps", "eta_seconds")
    row = {name: getattr(status, name) for name in fields}
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.created_at))
    about = {"name": run.name, "folder": str(run.folder), "created": created}
    return about | row | {"best": status.best, "error": status.error}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
