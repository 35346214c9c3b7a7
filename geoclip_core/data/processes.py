"""Work that is spread over processes, and that stops when it is told to."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_processes(
    function: Callable[[A], B], items: Iterable[A], workers: int | None = None
) -> Iterator[B]:
    """The results of a function of module level, in the order of the items.

    When the iterator is closed or interrupted, work that has not begun is given up.

    Args:
        function: What to do with an item; it and the items are pickled.
        items: What to work on.
        workers: Processes; by default one a core.

    Raises:
        OSError: a process was ended from outside.
    """
    # A forked child may inherit a lock that a thread of the parent held; a spawned one cannot.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(function, items)
    except BrokenProcessPool as error:
        raise OSError(
            "a helper process was ended by the system, most likely for lack of memory; try fewer "
            "workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
