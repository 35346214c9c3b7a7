"""Work that is spread over processes, and that stops when it is told to."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

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


A = TypeVar("A")
B = TypeVar("B")


def in_processes(
    function: Callable[[A], B], items: Iterable[A], workers: int | None = None
) -> Generator[B, None, None]:
    """The results of a function, in the order of the items.

    When the iterator is closed or interrupted, work that has not begun is given up. The caller's
    main program needs no ``if __name__ == "__main__"``.

    Args:
        function: What to do with an item; of a module that can be imported, since it and the items
            are pickled.
        items: What to work on.
        workers: Processes; by default one a core.

    Raises:
        OSError: a process was ended from outside.
    """
    # A forked child may inherit a lock that a thread of the parent held; a spawned one cannot.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        with _without_main():
            results = pool.map(function, items)
        yield from results
    except BrokenProcessPool as error:
        raise OSError(
            "a helper process was ended by the system, most likely for lack of memory; try fewer "
            "workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module while processes are started.

    A spawned process imports it again, which would run a notebook's script or a Streamlit page a
    second time; what is done here never needs it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
