"""Processes that outlive the app: trainings, downloads, and the long work on datasets."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
_CLOCK_SECONDS = 2.0
"""How far apart two readings of one process's start may lie."""


def start_detached(command: Sequence[str], console: Path) -> dict[str, Any]:
    """Start a process in a session of its own that finds the packages of this project.

    Args:
        command: what to run.
        console: file to which it prints, after what is there.

    Returns:
        "pid" and "pid_started_at" (seconds since 1970, or None), which together name the process
        even after its number was given to another.

    Raises:
        OSError: it cannot be started.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    with console.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    # A child that nobody waits for stays a zombie until this app ends.
    threading.Thread(target=process.wait, daemon=True).start()
    began = None
    with contextlib.suppress(psutil.Error):
        began = psutil.Process(process.pid).create_time()
    return {"pid": process.pid, "pid_started_at": began}


def is_running(pid: int | None, started_at: float | None = None) -> bool:
    """Whether a process of this computer runs. A zombie does not.

    Args:
        pid: its number.
        started_at: seconds since 1970; another process that was given the number does not count.
    """
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started_at is None or abs(process.create_time() - started_at) < _CLOCK_SECONDS
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def console_tail(path: Path, lines: int = 20) -> list[str]:
    """The last lines that a process printed; none where the file cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 400 * lines))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    if not text:
        return []
    # A progress bar rewrites its line: keep what a terminal would show.
    shown = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    return [line.rsplit("\r", 1)[-1] for line in shown][-lines:]
