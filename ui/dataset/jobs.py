"""Long work of the Dataset page as processes of their own: drawing, importing, checking, fetching.

Everything is on disk, in one folder a job below ``datasets/.jobs``: a reload, a second tab and a
restarted app see the same, and closing the page stops nothing.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import psutil

from geoclip_core.files import remove_left_overs, write_atomically
from geoclip_core.jobs import console_tail, is_running, start_detached

State = Literal["running", "finished", "failed", "stopped"]
_JOB, _STATUS, _LOG = "job.json", "status.json", "log.txt"
_START_SECONDS = 10.0
_END_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        folder: Where its files are.
        command: The command of ``python -m train``.
        title: What it does, for the page.
        dataset: The dataset folder it makes or checks.
        state: Where it stands; "stopped" if its process ended without a word.
        done: Units done.
        total: Units to do, 0 while it is not known.
        unit: What is counted.
        message: What came out, or why it failed.
        started_at: Seconds since 1970.
    """

    folder: Path
    command: str
    title: str
    dataset: Path
    state: State
    done: int
    total: int
    unit: str
    message: str
    started_at: float


def start(root: Path, command: str, arguments: Sequence[str], title: str, dataset: Path) -> Path:
    """Start ``python -m train COMMAND ARGUMENTS``.

    Args:
        root: Where datasets are kept.
        command: The command.
        arguments: Its arguments, without ``--status``.
        title: What it does, for the page.
        dataset: The dataset folder it makes or checks.

    Raises:
        OSError: the job's folder cannot be written, or the process cannot be started.
    """
    for job in jobs(root):
        # Its outcome is out of date as soon as the same is begun again.
        if (job.command, job.dataset) == (command, dataset.absolute()):
            dismiss(job)
    folder = root.absolute() / ".jobs" / f"{time.time_ns()}-{command}"
    folder.mkdir(parents=True)
    line = [sys.executable, "-m", "train", command, *arguments, "--status", str(folder / _STATUS)]
    process = start_detached(line, folder / _LOG)
    record = {
        "command": command,
        "title": title,
        "dataset": str(dataset.absolute()),
        **process,
        "started_at": time.time(),
    }
    write_atomically(folder / _JOB, json.dumps(record))
    return folder


def jobs(root: Path) -> list[Job]:
    """All jobs that were not dismissed, the newest first."""
    found = [_read(path.parent) for path in (root / ".jobs").glob(f"*/{_JOB}")]
    return sorted((job for job in found if job), key=lambda job: -job.started_at)


def stop(job: Job) -> None:
    """End a job's process and its helpers; what it was building goes with it."""
    record = _json(job.folder / _JOB)
    if not is_running(record.get("pid"), record.get("pid_started_at")):
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(record["pid"])
        family = [*process.children(recursive=True), process]
        for member in family:
            # An interrupt lets the command clean up what is half built.
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGINT) if os.name == "posix" else member.terminate()
        psutil.wait_procs(family, timeout=_END_SECONDS)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=_END_SECONDS)
    # A helper that was still writing may have kept the command from cleaning up.
    remove_left_overs(job.dataset)
    if (job.folder / _JOB).is_file():
        write_atomically(job.folder / _JOB, json.dumps(record | {"stopped": True}))


def dismiss(job: Job) -> None:
    """Forget a job that has ended."""
    if job.state != "running":
        shutil.rmtree(job.folder, ignore_errors=True)


def log_tail(job: Job, lines: int = 12) -> str:
    """The last lines that the job printed."""
    return "\n".join(console_tail(job.folder / _LOG, lines))


def _read(folder: Path) -> Job | None:
    record, status = _json(folder / _JOB), _json(folder / _STATUS)
    if not {"command", "title", "dataset", "started_at"} <= set(record):
        return None
    state = status.get("state", "running")
    message = str(status.get("message", ""))
    if record.get("stopped"):
        state, message = "stopped", "Stopped."
    elif state == "running" and not is_running(record.get("pid"), record.get("pid_started_at")):
        # It may have ended between the two reads above.
        state = _json(folder / _STATUS).get("state", "running")
        if state == "running":
            state, message = "failed", "The process ended without a word; its last lines:"
    return Job(
        folder,
        record["command"],
        record["title"],
        Path(record["dataset"]),
        state,
        int(status.get("done", 0)),
        int(status.get("total", 0)),
        str(status.get("unit", "")),
        message,
        float(record["started_at"]),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
