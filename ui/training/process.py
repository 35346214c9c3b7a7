"""Starting, stopping, continuing and deleting trainings as processes of their own.

Nothing is remembered here: what runs is known from the run folders alone, so a reload, a second tab
and a restarted app see the same.
"""

import contextlib
import os
import re
import shutil
import socket
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from geoclip_core.jobs import start_detached
from geoclip_core.training.runs import Run, RunError, RunStatus, is_alive

CONSOLE = "console.txt"
"""What the process printed, in its run folder: the last words of one that died unlogged."""

QUEUE: tuple[str, ...] = (sys.executable, "-m", "ui.training.queue")
_NAME_LENGTH = 60
_END_SECONDS = 5.0


def safe_name(text: str) -> str:
    """A file name of ASCII letters, digits, ``.``, ``_`` and ``-``, 60 characters at most.

    Accents are dropped ("São Tomé" becomes "Sao-Tome"); what remains of "../../etc" is "etc". Empty
    if nothing remains.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    plain = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", plain))
    return plain.strip("-._")[:_NAME_LENGTH].rstrip("-._")


def start(
    root: Path,
    task: str,
    options: Mapping[str, Any],
    name: str,
    command: Sequence[str] | None = None,
) -> Run:
    """Make a run folder and start its process, which waits while another run is at work.

    Args:
        root: where runs are kept.
        task: "fit" or "pretrain".
        options: all options, as plain values.
        name: what to call it; made safe as a file name.
        command: the process, to which the run folder is handed; by default the queue.

    Raises:
        RunError: the folder cannot be written or the process cannot be started.
    """
    try:
        run = Run.create(root, safe_name(name) or task, options, task)
    except OSError as error:
        raise RunError(f"The run cannot be written to {root}: {error.strerror or error}") from error
    _launch(run, command)
    return run


def resume(run: Run, command: Sequence[str] | None = None) -> None:
    """Continue a run that stopped or failed, from its last saved state.

    Raises:
        RunError: it is at work, has finished, or its process cannot be started.
    """
    status = run.status
    if status.state in ("running", "finished") or (
        status.state == "queued" and status.pid is not None
    ):
        raise RunError(f"{run.name} is {status.state}: there is nothing to continue")
    run.clear_stop()
    _launch(run, command)


def stop(run: Run) -> None:
    """Ask a run to end after its current step; one that has not begun is taken from the queue.

    Raises:
        RunError: it runs on another computer and has not begun, so nobody here can reach it.
    """
    status = run.status
    if status.state == "running":
        run.request_stop()
    elif status.state == "queued":
        # While it waits or imports it reads no stop file yet: end the process itself.
        run.request_stop()
        _end(status, force=False)
        _record_end(run, "")


def end_now(run: Run) -> None:
    """End the process at once; what it did since its last saved state is lost.

    Raises:
        RunError: it runs on another computer.
    """
    status = run.status
    if status.state in ("running", "queued"):
        _end(status, force=True)
        _record_end(run, "Ended at once, before the current step was done.")


def delete(root: Path, run: Run) -> None:
    """Remove a run's folder, and nothing that lies elsewhere.

    A run that is a symbolic link loses the link; its target, and the targets of links inside the
    folder, stay. A run that waits in the queue is withdrawn first.

    Raises:
        RunError: it is at work, or its folder is not directly in `root`.
    """
    folder = run.folder.absolute()
    if folder.name in ("", ".", "..") or folder.parent.resolve() != root.resolve():
        raise RunError(f"{run.folder} does not lie in {root}: it is not deleted from here")
    if folder.is_symlink():
        folder.unlink()
        return
    if (status := run.status).state == "running":
        raise RunError(f"{run.name} is running: stop it before deleting it")
    if status.state == "queued":
        stop(run)
    try:
        # Gone from every list at once, even if removing gigabytes takes a while.
        aside = folder.with_name(f".deleted-{folder.name}-{time.time_ns()}")
        folder.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise RunError(f"{run.name} cannot be deleted: {error}") from error


def _launch(run: Run, command: Sequence[str] | None) -> None:
    run.update(state="queued", error=None, eta_seconds=None, pid=None, pid_started_at=None)
    try:
        began = detached(command or QUEUE, run.folder, run.folder / CONSOLE)
    except OSError as error:
        sentence = f"The process cannot be started: {error}"
        run.update(state="failed", error=sentence)
        raise RunError(sentence) from error
    run.update(**began)


def detached(command: Sequence[str], folder: Path, console: Path) -> dict[str, Any]:
    """Start a process that outlives this app.

    Args:
        command: what to run; the folder is added as its last argument.
        folder: handed to the process.
        console: file to which it prints.

    Returns:
        The fields of a status that say which process it is.

    Raises:
        OSError: it cannot be started.
    """
    process = start_detached([*command, str(folder.absolute())], console)
    return {**process, "host": socket.gethostname()}


def _end(status: RunStatus, *, force: bool) -> None:
    if status.host not in ("", socket.gethostname()):
        raise RunError(f"It runs on {status.host} and can only be ended there")
    if status.pid is None or not is_alive(status):
        return
    if status.pid == os.getpid() or status.pid_started_at is None:
        raise RunError(f"Process {status.pid} is not known to be this training: it is not ended")
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(status.pid)
        # A training ends its own helpers; at once, nobody does that for it.
        family = [*process.children(recursive=True), process] if force else [process]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill() if force else member.terminate()
    limit = time.monotonic() + _END_SECONDS
    while is_alive(status) and time.monotonic() < limit:
        time.sleep(0.05)


def _record_end(run: Run, reason: str) -> None:
    """Write "stopped" where a process that has ended left "queued" or "running" behind."""
    status = run.recorded_status
    if status.state not in ("queued", "running"):
        return
    if status.pid is not None and is_alive(status):
        return  # it took the request and will write its own end
    run.update(state="stopped", error=reason or None, eta_seconds=None, pid=None)
