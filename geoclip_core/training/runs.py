"""Run folders: the files of a training, written by its process and read by others.

`runs/{time}-{name}/` holds config.yaml, status.json, metrics.jsonl, log.txt, checkpoint/,
predictions.parquet, metrics.json and TensorBoard events.
"""

import itertools
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from annotated_types import Len

from geoclip_core.checks import NotNegative, checked, shown
from geoclip_core.errors import FileError
from geoclip_core.files import atomic_file, is_unicode, read_bytes, read_yaml, safe_name, saving
from geoclip_core.jobs import STATUS, Count, Job, JobError, JobStatus, Text, job_folders, tail

CONFIG, METRICS, LOG, STOP = "config.yaml", "metrics.jsonl", "log.txt", "stop-requested"
_RESERVE, _RESERVED_BYTES = ".reserve", 64 * 1024


MAX_METRICS = 512 * 2**20
"""Bytes of the largest metrics.jsonl; a day of training writes about 10 MB."""
MAX_LINE, MAX_NAMES, MAX_STEP = 2**20, 300, 10**15
"""Bytes of a line of metrics.jsonl, metrics in a run, and the last step."""
Task = Literal["pretrain", "fit"]
_STAMPED = re.compile(r"^\d{8}-\d{6}-(.+)$")
MAX_TITLE = 200


@dataclass(frozen=True)
class MetricsTable:
    """The content of a metrics.jsonl."""

    rows: list[dict[str, float]]
    """One per line: name -> number, with "step"."""
    problem: str
    """Which line cannot be read, and why; "" if all can."""


@dataclass(frozen=True)
class _Recipe:
    """The part of config.yaml that names the options: `command`, under whose name they stand."""

    command: Task


@dataclass(frozen=True)
class RunStatus(JobStatus):
    """The fields of the status.json of a training. Times are seconds since 1970."""

    task: Task
    progress: NotNegative = 0.0
    """Share of the whole run, 0 to 1."""
    phase: Text = ""
    """"embedding", "training, epoch 2 of 9", "evaluating", ..."""
    step: Count = 0
    total_steps: Count = 0
    eta_seconds: NotNegative | None = None
    """Estimated seconds until the phase ends."""
    title: Annotated[str, Len(0, MAX_TITLE)] = ""
    """The name that the user gave the run; "" in runs of older versions."""
    mistake: bool = False
    """Whether it failed because of its data or options, so that it would fail in the same way."""
    best: Annotated[dict[str, float], Len(0, 1000)] = field(default_factory=dict)
    """Validation metrics of the best step so far."""


class Run(Job[RunStatus]):
    """One run folder."""

    status_class = RunStatus
    ended_unexpectedly = (
        "The training process ended unexpectedly: it was killed, or the computer went down. "
        "Resume it to continue from its last saved state."
    )

    @property
    def status(self) -> RunStatus:
        """The content of status.json, but "failed" if its process no longer runs.

        Raises:
            JobError: status.json cannot be read.
        """
        status = super().status
        return replace(status, eta_seconds=None) if status.state == "failed" else status

    @classmethod
    def create(
        cls,
        root: str | Path,
        name: str,
        config: Mapping[str, Any],
        task: str,
        folder: str | Path | None = None,
    ) -> Self:
        """Create the folder of a new run, atomically.

        Args:
            root: folder of all runs; the run becomes `root/{time}-{name}`.
            name: name of the run. If another run in `root` has it, a number is added.
            config: the options (JSON types), written to config.yaml as a recipe.
            task: "pretrain" or "fit".
            folder: replaces `root/{time}-{name}`; must be empty or not exist.

        Raises:
            JobError: the folder is not empty.
            SaveError: it cannot be written.
        """
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        name = "".join(c for c in " ".join(name.split()) if c.isprintable())[: MAX_TITLE - 10]
        title = Path(folder).name[:MAX_TITLE] if folder else _free_title(Path(root), name or "run")
        new = Path(root) / f"{stamp}-{safe_name(title) or 'run'}"
        target = Path(folder) if folder else _unused(new)
        if (target / STATUS).exists():
            raise JobError(
                f"{target} already holds a run: continue it with --resume {target}, "
                "or choose another folder"
            )
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise JobError(f"{target} exists and is not empty: choose another folder")
        with saving(target):
            cls._create(target, config, task, title)
        return cls(target)

    @classmethod
    def _create(cls, target: Path, config: Mapping[str, Any], task: str, title: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rmdir()
        work = Path(tempfile.mkdtemp(prefix=".new-run-", dir=target.parent))
        try:
            recipe = {"command": task, task: dict(config)}
            text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
            (work / CONFIG).write_text(text, encoding="utf-8")
            (work / _RESERVE).write_bytes(b"\0" * _RESERVED_BYTES)
            run = cls(work)
            now = time.time()
            status = RunStatus(
                "queued", cast(Task, task), created_at=now, updated_at=now, title=title
            )
            run._write(asdict(status))
            work.chmod(0o755)
            os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the run in a folder.

        Raises:
            JobError: the folder holds no run.
        """
        run = cls(Path(path).expanduser())
        if not (run.folder / STATUS).is_file():
            raise JobError(f"{run.folder} is not a run folder: it has no {STATUS}")
        return run

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """The name that the user gave it; of a run that cannot be read, from its folder's name."""
        try:
            return self.recorded_status.title or title_of(self.name)
        except JobError:
            return title_of(self.name)

    @property
    def checkpoint(self) -> Path:
        """Folder of the trained model, written when the run finishes or is stopped."""
        return self.folder / "checkpoint"

    @property
    def config(self) -> dict[str, Any]:
        """The options of the run, from config.yaml.

        Raises:
            JobError: config.yaml cannot be read.
        """
        path = self.folder / CONFIG
        try:
            recipe = checked(dict[str, Any], read_yaml(path), path)
            task = checked(_Recipe, recipe, path).command
            return checked(dict[str, Any], recipe.get(task), path, task)
        except FileError as error:
            raise JobError(str(error)) from error

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; `values` should hold "step".

        Raises:
            SaveError: it cannot be written.
        """
        path = self.folder / METRICS
        with saving(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl; one that is half written is left out."""
        return self.metrics_table().rows

    def metrics_table(self, most_rows: int | None = None) -> MetricsTable:
        """Return the lines of metrics.jsonl that can be read, and what is wrong with the others.

        Args:
            most_rows: lines to return of training and of validation each, evenly chosen; None: all.
        """
        path = self.folder / METRICS
        if not os.path.lexists(path):
            return MetricsTable([], "")
        try:
            *lines, last = read_bytes(path, MAX_METRICS).split(b"\n")
        except FileError as error:
            return MetricsTable([], str(error))
        if not _metrics_row(last)[1]:  # otherwise it is empty, or half written
            lines.append(last)
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if most_rows is not None:
            validated = [item for item in numbered if b'"val/' in item[1]]
            others = [item for item in numbered if b'"val/' not in item[1]]
            numbered = sorted(_thinned(validated, most_rows) + _thinned(others, most_rows))
        rows: list[dict[str, float]] = []
        problems: list[str] = []
        names: set[str] = set()
        for number, line in numbered:
            row, problem = _metrics_row(line)
            names.update(list(row)[: MAX_NAMES - len(names)])
            names.update(list(row)[: MAX_NAMES - len(names)])
            known = {name: value for name, value in row.items() if name in names}
            if known:
                rows.append(known)
            if problem:
                problems.append(f"line {number}: {problem}")
            elif len(known) < len(row):
                problems.append(f"line {number}: more than {MAX_NAMES} metrics")
        more = f", and {len(problems) - 1:,} more lines" if len(problems) > 1 else ""
        return MetricsTable(rows, f"{path} in part: {problems[0]}{more}" if problems else "")

    def forget_metrics_after(self, step: int) -> None:
        """Remove the lines of later steps from metrics.jsonl; a resumed run writes them again.

        Raises:
            JobError: metrics.jsonl cannot be read.
            SaveError: it cannot be written.
        """
        path = self.folder / METRICS
        if not os.path.lexists(path):
            return
        try:
            lines = read_bytes(path, MAX_METRICS).splitlines()
        except FileError as error:
            raise JobError(str(error)) from error
        kept = [line for line in lines if (row := _metrics_row(line)[0]) and row["step"] <= step]
        with atomic_file(path) as unfinished:
            unfinished.write_bytes(b"".join(line + b"\n" for line in kept))

    def log_tail(self, lines: int = 20) -> list[str]:
        """Return the last lines of log.txt."""
        return tail(self.folder / LOG, lines)

    def request_stop(self) -> None:
        """Ask the run to write a checkpoint and stop after its step, so that it can be resumed."""
        with saving(self.folder / STOP):
            (self.folder / STOP).touch()

    def stop_requested(self) -> bool:
        """Return whether a stop was requested."""
        return (self.folder / STOP).exists()

    def clear_stop(self) -> None:
        """Remove an earlier stop request."""
        (self.folder / STOP).unlink(missing_ok=True)

    def _write(self, status: dict[str, Any]) -> None:
        try:
            super()._write(status)
        except OSError:
            # the disk may be full: free the reserved bytes for the status
            (self.folder / _RESERVE).unlink(missing_ok=True)
            super()._write(status)


def title_of(folder_name: str) -> str:
    """Return the name of a run in the name of its folder: that behind the time."""
    found = _STAMPED.match(folder_name)
    return found.group(1) if found else folder_name


def _free_title(root: Path, name: str) -> str:
    """Return a name that no run in `root` has: "ctx", "ctx 2", "ctx 3"."""
    taken = {run.title.casefold() for run in list_runs(root)}
    titles = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
    return next(title for title in titles if title.casefold() not in taken)


def list_runs(root: str | Path = "runs") -> list[Run]:
    """Return the runs in a folder, newest first; what cannot be read is left out."""
    return find_runs(root)[0]


def find_runs(root: str | Path = "runs") -> tuple[list[Run], list[str]]:
    """Return the runs in a folder, newest first, and a sentence for each that cannot be read."""
    found, problems = [], []
    for folder in job_folders(Path(root)):
        run = Run(folder)
        try:
            if not is_unicode(str(folder)):
                raise JobError(str(FileError(folder, "is no name of a run: it is not UTF-8")))
            found.append((run.recorded_status.created_at, folder.name, run))
        except JobError as error:
            if folder.exists():  # otherwise deleted in the meantime
                problems.append(str(error))
    runs = [run for _, _, run in sorted(found, key=lambda item: item[:2], reverse=True)]
    return runs, problems


def _metrics_row(line: bytes) -> tuple[dict[str, float], str]:
    """Return the numbers in a line of metrics.jsonl, with its step, and what is wrong with it."""
    try:
        row = json.loads(line) if len(line) <= MAX_LINE else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return {}, "no JSON object"
    numbers: dict[str, float] = {}
    wrong = ""
    for name, value in row.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # a loss may be NaN or infinite; a number without end is none
        number = number and (isinstance(value, float) or abs(value) <= MAX_STEP)
        if number and len(name) <= 200 and is_unicode(name):
            numbers[name] = value
        elif value is not None:
            wrong = wrong or f"{shown(name)} is {shown(value)}"
    step = numbers.pop("step", math.nan)
    if not 0 <= step <= MAX_STEP:
        return {}, f"step is {shown(row.get('step'))}"
    return {"step": step, **numbers}, wrong


def _thinned(items: list[tuple[int, bytes]], most: int) -> list[tuple[int, bytes]]:
    stride = -(-len(items) // most)
    return items[::stride] if stride > 1 else items


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
