"""Work that is spread over processes, and that stops when it is told to."""

import contextlib
import multiprocessing
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_processes(
    function: Callable[[A], B], items: Iterable[A], workers: int | None = None
) -> Iterator[B]:
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
