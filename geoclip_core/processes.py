"""Check whether a process runs, give memory back, and spread work over a pool of processes."""

import contextlib
import ctypes
import gc
import multiprocessing
import sys
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import psutil

A = TypeVar("A")
B = TypeVar("B")
Progress = Callable[[int, int], None]
"""Takes the number of units that are done, and of all."""
_CLOCK_SECONDS = 2.0
"""Largest difference between two readings of one process's start time."""


def is_running(pid: int | None, started_at: float | None = None) -> bool:
    """Return whether a process runs on this computer; a zombie does not.

    Args:
        pid: process id.
        started_at: start time of the process in seconds since 1970. If given, a later process with
            the same id does not count.
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


def give_back_memory() -> bool:
    """Return freed memory to the system, where the C library can do so (glibc).

    Threads keep what they freed for later, so that after a burst of photos a server would stay as
    large as at its peak.

    Returns:
        Whether any was given back.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library; Windows
        return False
    return bool(trim(0))


def in_processes(
    function: Callable[[A], B], items: Sequence[A], workers: int | None = None
) -> Generator[B, None, None]:
    """Yield `function(item)` for every item, in order, computed by a pool of processes.

    Closing the iterator drops the items that no process has started. The calling program needs no
    ``if __name__ == "__main__"``. One or two items are computed in this process, because starting
    others takes longer.

    Args:
        function: a function at the top level of an importable module; it is pickled.
        items: its arguments; they are pickled.
        workers: number of processes; by default one per core.

    Raises:
        OSError: the operating system killed a worker process.
    """
    if len(items) <= 2:
        yield from map(function, items)
        return
    # A forked process may inherit a lock that a thread of the parent holds; a spawned one cannot.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        with without_main():
            results = pool.map(function, items)
        yield from results
    except BrokenProcessPool as error:
        raise OSError(
            "the system killed a worker process, probably for lack of memory: use fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Hide the main module while processes are started.

    A process that is spawned, or forked from a fork server, imports the main module again, which
    would run a script or a Streamlit page a second time.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
