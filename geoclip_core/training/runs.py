"""Run folders: everything a training says about itself, on disk, so that a crash loses nothing.

`runs/{time}-{name}/` holds config.yaml, status.json, metrics.jsonl, log.txt, checkpoint/,
predictions.parquet, metrics.json and TensorBoard events. One process writes it; any number read it.
"""

import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

import psutil
import yaml

from geoclip_core.files import write_atomically
from geoclip_core.jobs import console_tail, is_running

State = Literal["queued", "running", "finished", "stopped", "failed"]
DIED = (
    "The process ended without saying why: it was killed, or the computer went down. "
    "Its last lines are in log.txt; --resume continues it."
)


@dataclass(frozen=True)
class RunStatus:
    """What status.json holds. Times are seconds since 1970."""

    state: State
    task: str
    """"pretrain" or "fit"."""
    progress: float = 0.0
    """0 to 1 over the whole run."""
    phase: str = ""
    """What is going on, in words: "embedding", "training", "evaluating"."""
    step: int = 0
    total_steps: int = 0
    pid: int | None = None
    pid_started_at: float | None = None
    """When that process began, by which a number that was given again is told apart."""
    host: str = ""
    error: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    updated_at: float = 0.0
    eta_seconds: float | None = None
    best: dict[str, float] = field(default_factory=dict)
    """Validation numbers of the best step so far."""


def is_alive(status: RunStatus) -> bool:
    """Whether the process of a run is there. A zombie is dead; a process of another computer
    cannot be looked up and counts as alive.
    """
    if status.host and status.host != socket.gethostname():
        return True
    return is_running(status.pid, status.pid_started_at)


def this_process() -> dict[str, Any]:
    """The fields of a status that say which process runs it."""
    return {
        "pid": os.getpid(),
        "pid_started_at": psutil.Process().create_time(),
        "host": socket.gethostname(),
    }


STATUS, CONFIG, METRICS, LOG, STOP = (
    "status.json",
    "config.yaml",
    "metrics.jsonl",
    "log.txt",
    "stop-requested",
)
_RESERVE, _RESERVED_BYTES = ".reserve", 64 * 1024


class RunError(ValueError):
    """A run that cannot be made, read or changed; the message says why and what to do."""


class Run:
    """One run folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(
        cls,
        root: str | Path,
        name: str,
        config: Mapping[str, Any],
        task: str,
        folder: str | Path | None = None,
    ) -> Self:
        """Make the folder of a new run, whole or not at all.

        Args:
            root: where runs are kept; the run becomes `root/{time}-{name}`.
            name: what to call it.
            config: the options (JSON types), kept as config.yaml in the form of a recipe.
            task: "pretrain" or "fit".
            folder: the very folder instead, which must not exist or be empty.

        Raises:
            RunError: the folder is already used.
        """
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        target = Path(folder) if folder else _unused(Path(root) / f"{stamp}-{_slug(name)}")
        if (target / STATUS).exists():
            raise RunError(
                f"{target} already holds a run: continue it with --resume {target}, "
                "or choose another folder"
            )
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise RunError(f"{target} exists and is not empty: choose another folder")
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
            run._write_status(RunStatus("queued", task, created_at=now, updated_at=now))
            work.chmod(0o755)
            os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return cls(target)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """A run that exists, by its folder.

        Raises:
            RunError: there is no run.
        """
        run = cls(Path(path).expanduser())
        if not (run.folder / STATUS).is_file():
            raise RunError(f"{run.folder} is no run folder: it has no {STATUS}")
        return run

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def checkpoint(self) -> Path:
        """Folder of the trained model; there when the run has finished or was stopped."""
        return self.folder / "checkpoint"

    @property
    def config(self) -> dict[str, Any]:
        """The options that the run was started with."""
        try:
            recipe = yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))
            return dict(recipe[recipe["command"]])
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
            raise RunError(f"{self.folder / CONFIG} cannot be read: {error}") from error

    @property
    def recorded_status(self) -> RunStatus:
        """What status.json says, true or not."""
        path = self.folder / STATUS
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {f.name for f in fields(RunStatus)}
            status = RunStatus(**{k: v for k, v in values.items() if k in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if status.state not in get_args(State):
            raise RunError(f"{path}: there is no state {status.state!r}")
        return status

    @property
    def status(self) -> RunStatus:
        """What status.json says, but "failed" where the process is gone."""
        status = self.recorded_status
        if not _needs_a_process(status) or is_alive(status):
            return status
        status = self.recorded_status  # it may have ended between the two looks
        if not _needs_a_process(status):
            return status
        return replace(status, state="failed", error=DIED, eta_seconds=None)

    def update(self, **changes: Any) -> RunStatus:
        """Change fields of status.json, atomically."""
        status = replace(self.recorded_status, updated_at=time.time(), **changes)
        try:
            self._write_status(status)
        except OSError:
            # a full disk must not hide why the run failed: some bytes were kept for this
            (self.folder / _RESERVE).unlink(missing_ok=True)
            self._write_status(status)
        return status

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; `values` should hold "step"."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that is half written is left out."""
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
        """Drop lines of later steps: a resumed run writes them again."""
        rows = [row for row in self.metrics() if row.get("step", 0) <= step]
        write_atomically(self.folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def log_tail(self, lines: int = 20) -> list[str]:
        """The last lines of log.txt."""
        return console_tail(self.folder / LOG, lines)

    def request_stop(self) -> None:
        """Ask the run to end after its current step; it leaves a checkpoint and can be resumed."""
        (self.folder / STOP).touch()

    def stop_requested(self) -> bool:
        """Whether somebody asked the run to stop."""
        return (self.folder / STOP).exists()

    def clear_stop(self) -> None:
        """Forget an older request."""
        (self.folder / STOP).unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove the folder.

        Raises:
            RunError: the run is still going.
        """
        if self.status.state == "running":
            raise RunError(f"{self.name} is running: stop it before deleting it")
        shutil.rmtree(self.folder)

    def _write_status(self, status: RunStatus) -> None:
        write_atomically(self.folder / STATUS, json.dumps(asdict(status), indent=2) + "\n")


def list_runs(root: str | Path = "runs") -> list[Run]:
    """The runs in a folder, newest first; folders that are no runs are passed over."""
    found = []
    try:
        children = [child for child in Path(root).iterdir() if child.is_dir()]
    except OSError:
        return []
    for child in children:
        if child.name.startswith(".") or not (child / STATUS).is_file():
            continue
        try:
            found.append((Run(child).recorded_status.created_at, child.name, Run(child)))
        except RunError:
            continue
    return [run for _, _, run in sorted(found, key=lambda item: item[:2], reverse=True)]


def _needs_a_process(status: RunStatus) -> bool:
    # a queued run has none until its process has started
    return status.state == "running" or (status.state == "queued" and status.pid is not None)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
