"""Spread work over worker processes with Ray Data, on this computer or on a cluster.

A cluster is used if the environment variable RAY_ADDRESS names one. Without it, Ray is started for
this command alone: it listens on the loopback address only, behind a token that no other process
knows, sends no usage statistics, and leaves no files behind.

A worker that dies (killed, out of memory, crashed on a hostile file) is replaced. The rows that it
had are tried again, in smaller and smaller parts, so that only a row that kills its worker every
time is lost.
"""

import contextlib
import functools
import glob
import logging
import os
import secrets
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoclip_core.errors import first_line, is_plain
from geoclip_core.files import CACHE_VARIABLE, OFFLINE_VARIABLE
from geoclip_core.processes import is_running

if TYPE_CHECKING:  # for annotations alone: --help imports no pyarrow
    import pyarrow as pa

ADDRESS_VARIABLE = "RAY_ADDRESS"
DEVICES = ("auto", "cpu", "cuda")
WORKER_BYTES = 1_500_000_000
"""Memory that the default number of workers leaves for each: a model, and photos being decoded."""
PART_ROWS = 512
RETRIED_ROWS = (16, 1)
"""Rows of a part when rows are tried again because their worker died."""
_TRIES = 2
_STORE_BYTES = 300_000_000
"""Shared memory for results on their way, besides the rows themselves."""
_ROW, _STOPPED, _FAULT = "__row", "__stopped", "__fault"
_PREFIX = "geoclip-ray-"
_LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # what Ray calls its mode without a cluster: everything listens on 127.0.0.1
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
Work = Callable[["pa.Table"], "pa.Table"]
"""n rows -> n rows of results, in the same order."""


class WorkerError(ValueError):
    """Ray is missing or does not start, or its workers cannot do the work."""


@dataclass(frozen=True)
class Pool:
    """Workers that Ray has room for."""

    workers: int
    cpus: int
    """CPUs of each worker, and so its threads."""
    device: str
    """Torch device of each worker."""

    @property
    def on_gpu(self) -> bool:
        """Whether each worker has a GPU of its own."""
        return self.device == "cuda"


@contextlib.contextmanager
def ray_pool(
    workers: int | None = None, device: str = "auto", rows_bytes: int = 0
) -> Iterator[Pool]:
    """Start Ray, or join the cluster of RAY_ADDRESS, until the block ends.

    Args:
        workers: number of worker processes; None: one for each GPU if there are any and `device`
            allows it, else one for each CPU as far as the memory goes.
        device: "cpu", "cuda", or "auto": a GPU for each worker if Ray finds one.
        rows_bytes: memory of the rows that will be worked on.

    Raises:
        WorkerError: Ray is not installed, does not start, or has no room for so many workers.
    """
    address = os.environ.get(ADDRESS_VARIABLE, "").strip()
    with contextlib.ExitStack() as stack:
        if not address:
            stack.enter_context(_environment(_LOCAL | {"RAY_AUTH_TOKEN": _token()}))
        try:
            import ray.data
        except ImportError as error:
            raise WorkerError(
                'bulk work needs Ray, which is not installed: pip install "ray[data]"'
            ) from error
        _silence()
        if not ray.is_initialized():
            folder = None if address else stack.enter_context(_scratch())
            stack.callback(ray.shutdown)
            with _quiet():
                if folder is None:
                    _join(address)
                else:
                    _start(folder, rows_bytes)
        yield _room(workers, device)


@functools.cache
def _token() -> str:
    """Return the token of this process; Ray reads it once."""
    return secrets.token_hex(32)


def _silence() -> None:
    """Keep Ray's own messages off the terminal; what matters is said by whoever uses the pool."""
    from ray._private import worker

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # as Ray itself does at a breakpoint; log_to_driver leaves messages about workers that died
    worker._worker_logs_enabled = False


def _start(folder: str, rows_bytes: int) -> None:
    import ray

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=_STORE_BYTES + 2 * rows_bytes,
            _temp_dir=folder,
        )
    except Exception as error:  # Ray raises errors of many kinds
        raise WorkerError(f"Ray does not start on this computer: {first_line(error)}") from error


def _join(address: str) -> None:
    import ray

    names = (CACHE_VARIABLE, OFFLINE_VARIABLE, "HF_HUB_OFFLINE")
    variables = {name: os.environ[name] for name in names if name in os.environ}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env={"env_vars": variables} if variables else None,
        )
    except Exception as error:
        raise WorkerError(
            f"{ADDRESS_VARIABLE}={address}: no Ray cluster can be used there: {first_line(error)}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what is written to the standard error of the system: Ray's C++ says its log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the variables that are not set; processes started in the block inherit them."""
    own = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """Yield a folder for Ray's sockets and logs, and remove those of processes that were killed.

    Its path is short, because that of a socket may have about 100 characters. It lies in one that
    other users cannot enter: Ray opens its own to all.
    """
    home = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()  # nosec B108
    for old in glob.glob(f"{home}/{_PREFIX}*"):
        owner = Path(old).name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not is_running(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=home)
    try:
        yield os.path.join(folder, "r")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _room(workers: int | None, device: str) -> Pool:
    """Return the workers that fit on the nodes, each with as many CPUs as possible."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in found if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    on_gpu = device == "cuda" or (device == "auto" and any(gpus))

    def fitting(threads: int) -> int:
        places = [count // threads for count in cpus]
        return sum(map(min, places, gpus)) if on_gpu else sum(places)

    wanted = workers
    if wanted is None and on_gpu:
        wanted = fitting(1)
    elif wanted is None:
        memory = [int(node.get("memory", 0) // WORKER_BYTES) for node in nodes]
        wanted = max(1, sum(map(min, cpus, memory)))
    if not 1 <= wanted <= fitting(1):
        has = [_counted(sum(gpus), "GPU")] * on_gpu + [_counted(sum(cpus), "CPU")]
        verb = "does" if max(wanted, 1) == 1 else "do"
        raise WorkerError(
            f"{_counted(max(wanted, 1), 'worker')} {verb} not fit: Ray has {' and '.join(has)}"
        )
    threads = max(n for n in range(1, max(cpus) + 1) if fitting(n) >= wanted)
    return Pool(wanted, threads, "cuda" if on_gpu else "cpu")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def in_workers(
    pool: Pool,
    make: Callable[..., Work],
    settings: Mapping[str, Any],
    rows: "pa.Table",
    part_rows: int = PART_ROWS,
    retried: Callable[[int], None] | None = None,
) -> "Generator[tuple[NDArray[np.int64], pa.Table | None], None, None]":
    """Yield what the workers make of parts of some rows, in no particular order, each row once.

    Args:
        pool: of `ray_pool`.
        make: a class or function at the top level of an importable module: each worker calls it
            once, with `settings`, for the function that does the work.
        settings: keyword arguments, pickled.
        rows: n rows.
        part_rows: rows of a part.
        retried: called with the number of rows that are tried again because their worker died.

    Returns:
        Positions (k,) of rows and their k results; None for rows whose worker died every time.

    Raises:
        WorkerError: a worker raised an error whose message tells the user what to do.
        RuntimeError: a worker raised another error; its traceback is in the message.
    """
    left = np.ones(rows.num_rows, dtype=np.bool_)
    for size in (part_rows, *(count for count in RETRIED_ROWS if count < part_rows)):
        missing = np.flatnonzero(left)
        if not len(missing):
            return
        if retried and size != part_rows:
            retried(len(missing))
        for table in _results(pool, make, settings, rows, missing, size):
            found = table.column(_ROW).to_numpy()
            fresh = left[found]
            if not fresh.all():
                table, found = table.filter(fresh), found[fresh]
            left[found] = False
            yield found, table.drop_columns([_ROW])
    if left.any():
        yield np.flatnonzero(left), None


def _results(
    pool: Pool,
    make: Callable[..., Work],
    settings: Mapping[str, Any],
    rows: "pa.Table",
    positions: NDArray[np.int64],
    size: int,
) -> "Iterator[pa.Table]":
    import pyarrow as pa
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # parts whose worker died; errors are returned, see _Worker
    context.max_consecutive_actor_init_deaths = 3
    parts = []
    for start in range(0, len(positions), size):
        chosen = positions[start : start + size]
        whole = chosen[-1] - chosen[0] == len(chosen) - 1
        part = rows.slice(int(chosen[0]), len(chosen)) if whole else rows.take(pa.array(chosen))
        parts.append(part.append_column(_ROW, pa.array(chosen)))
    size_of_pool = min(pool.workers, len(parts))
    with warnings.catch_warnings():
        # Ray 2.64 replaces the way in which these two limits are given: pyproject.toml stays below
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        results = ray.data.from_arrow(parts).map_batches(
            _Worker,
            fn_constructor_args=(make, dict(settings)),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=size_of_pool, max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus,
            num_gpus=1 if pool.on_gpu else 0,
            max_restarts=-1,
            max_task_retries=_TRIES - 1,
        )
    try:
        tables: Iterable[Any] = results.iter_batches(batch_size=None, batch_format="pyarrow")
        for table in tables:
            if _STOPPED in table.column_names:
                raise WorkerError(table.column(_STOPPED)[0].as_py())
            if _FAULT in table.column_names:
                raise RuntimeError(f"a worker failed:\n{table.column(_FAULT)[0].as_py()}")
            yield table
    except ray.exceptions.RayError as error:
        raise WorkerError(f"Ray gave up: {first_line(error)}") from error


class _Worker:
    """One worker process.

    Errors are returned, because Ray would try again, or count them among the parts of dead workers.
    """

    def __init__(self, make: Callable[..., Work], settings: Mapping[str, Any]) -> None:
        self._work: Work | None = None
        self._error: BaseException | None = None
        try:
            self._work = make(**settings)
        except Exception as error:
            self._error = error

    def __call__(self, rows: "pa.Table") -> "pa.Table":
        if self._work is None:
            assert self._error is not None
            return _told(self._error)
        try:
            results = self._work(rows.drop_columns([_ROW]))
            return results.append_column(_ROW, rows.column(_ROW))
        except Exception as error:
            return _told(error)


def _told(error: BaseException) -> "pa.Table":
    import pyarrow as pa

    if is_plain(error):
        return pa.table({_STOPPED: [str(error)]})
    return pa.table({_FAULT: ["".join(traceback.format_exception(error))]})


def part_rows(count: int, pool: Pool, most: int = PART_ROWS) -> int:
    """Return rows of a part for some rows, so that every worker gets several parts."""
    return max(1, min(most, -(-count // (4 * pool.workers))))
