"""Run folders: the files of a training, written by its process and read by others.

`runs/{time}-{name}/` holds config.yaml, status.json, metrics.jsonl, log.txt, checkpoint/,
predictions.parquet, metrics.json and TensorBoard events.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import yaml

from geoclip_core.files import safe_name, write_atomically
from geoclip_core.jobs import STATUS, Job, JobError, JobStatus, job_folders, tail

CONFIG, METRICS, LOG, STOP = "config.yaml", "metrics.jsonl", "log.txt", "stop-requested"
_RESERVE, _RESERVED_BYTES = ".reserve", 64 * 1024


@dataclass(frozen=True)
class RunStatus(JobStatus):
    """The fields of the status.json of a training. Times are seconds since 1970."""

    task: str
    """"pretrain" or "fit"."""
    progress: float = 0.0
    """Share of the whole run, 0 to 1."""
    phase: str = ""
    """"embedding", "training, epoch 2 of 9", "evaluating", ..."""
    step: int = 0
    total_steps: int = 0
    eta_seconds: float | None = None
    """Estimated seconds until the phase ends."""
    best: dict[str, float] = field(default_factory=dict)
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
            name: name of the run.
            config: the options (JSON types), written to config.yaml as a recipe.
            task: "pretrain" or "fit".
            folder: replaces `root/{time}-{name}`; must be empty or not exist.

        Raises:
            JobError: the folder is not empty.
        """
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        new = Path(root) / f"{stamp}-{safe_name(name) or 'run'}"
        target = Path(folder) if folder else _unused(new)
        if (target / STATUS).exists():
            raise JobError(
                f"{target} already holds a run: continue it with --resume {target}, "
                "or choose another folder"
            )
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise JobError(f"{target} exists and is not empty: choose another folder")
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
            status = RunStatus("queued", task, created_at=now, updated_at=now)
            run._write(json.dumps(asdict(status), indent=2) + "\n")
            work.chmod(0o755)
            os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return cls(target)

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
    def checkpoint(self) -> Path:
        """Folder of the trained model, written when the run finishes or is stopped."""
        return self.folder / "checkpoint"

    @property
    def config(self) -> dict[str, Any]:
        """The options of the run, from config.yaml.

        Raises:
            JobError: config.yaml cannot be read.
        """
        try:
            recipe = yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))
            return dict(recipe[recipe["command"]])
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
            raise JobError(f"{self.folder / CONFIG} cannot be read: {error}") from error

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; `values` should hold "step"."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl; one that is half written is left out."""
        try:
            text = (self.folder / METRICS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        rows = []
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def forget_metrics_after(self, step: int) -> None:
        """Remove the lines of later steps from metrics.jsonl; a resumed run writes them again."""
        rows = [row for row in self.metrics() if row.get("step", 0) <= step]
        write_atomically(self.folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def log_tail(self, lines: int = 20) -> list[str]:
        """Return the last lines of log.txt."""
        return tail(self.folder / LOG, lines)

    def request_stop(self) -> None:
        """Ask the run to write a checkpoint and stop after its step, so that it can be resumed."""
        (self.folder / STOP).touch()

    def stop_requested(self) -> bool:
        """Return whether a stop was requested."""
        return (self.folder / STOP).exists()

    def clear_stop(self) -> None:
        """Remove an earlier stop request."""
        (self.folder / STOP).unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        try:
            super()._write(text)
        except OSError:
            # the disk may be full: free the reserved bytes for the status
            (self.folder / _RESERVE).unlink(missing_ok=True)
            super()._write(text)


def list_runs(root: str | Path = "runs") -> list[Run]:
    """Return the runs in a folder, newest first; other folders are left out."""
    found = []
    for folder in job_folders(Path(root)):
        run = Run(folder)
        with contextlib.suppress(JobError):
            found.append((run.recorded_status.created_at, folder.name, run))
    return [run for _, _, run in sorted(found, key=lambda item: item[:2], reverse=True)]


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
