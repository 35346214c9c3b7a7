"""Run a training: write its status, log and metrics, and handle stop requests and errors."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from geoclip_core.errors import is_plain, sentence
from geoclip_core.jobs import JobError, this_process
from geoclip_core.processes import Progress
from geoclip_core.training.options import TrainingOptions
from geoclip_core.training.runs import LOG, Run

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.tensorboard import SummaryWriter

O = TypeVar("O", bound=TrainingOptions)  # noqa: E741  options
logger = logging.getLogger("geoclip_core.run")
_STATUS_SECONDS = 0.5


class StopRequestedError(Exception):
    """The run was stopped by its stop file, SIGTERM or SIGINT."""


class RunSession:
    """Writes the status, log and metrics of a training into its run folder.

    Args:
        run: the run; None in the other processes of a distributed run, which write nothing.
    """

    def __init__(self, run: Run | None) -> None:
        self.run = run
        self._stopped = False
        self._written = 0.0
        self._phase, self._phase_began, self._phase_share = "", 0.0, 0.0
        self._board: SummaryWriter | None = None

    def stop_requested(self) -> bool:
        """Return whether training must end after the current step."""
        return self._stopped or (self.run is not None and self.run.stop_requested())

    def raise_if_stopped(self) -> None:
        """Leave work that has no state to save if a stop was requested.

        Raises:
            StopRequestedError: a stop was requested.
        """
        if self.stop_requested():
            raise StopRequestedError

    def progress(
        self, phase: str, share: float, until: float = 1.0, now: bool = False, **changes: Any
    ) -> None:
        """Write the phase, the share of the run that is done (0 to 1), and other status fields.

        The status is written at most twice a second unless `now`. The time left is estimated from
        the pace of this phase in this process; the phase ends at the share `until`.
        """
        if self.run is None:
            return
        clock = time.monotonic()
        kind = phase.partition(",")[0]
        if kind != self._phase:
            self._phase, self._phase_began, self._phase_share = kind, clock, share
            now = True
        if not now and clock - self._written < _STATUS_SECONDS:
            return
        self._written = clock
        done, seconds = share - self._phase_share, clock - self._phase_began
        eta = seconds * max(until - share, 0.0) / done if done > 0 and seconds > 1 else None
        self.run.update(phase=phase, progress=min(max(share, 0.0), 1.0), eta_seconds=eta, **changes)

    def embedding_progress(self, start: float, end: float) -> Progress:
        """Return a progress callback (done, total) for embedding between two shares of the run.

        It raises `StopRequestedError` if a stop was requested.
        """

        def report(done: int, total: int) -> None:
            self.raise_if_stopped()
            self.progress("embedding", start + (end - start) * done / max(total, 1))

        return report

    def log(self, text: str) -> None:
        """Write a line to log.txt and the terminal."""
        if self.run is not None:
            logger.info(text)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step to metrics.jsonl and TensorBoard."""
        if self.run is None:
            return
        self.run.log_metrics({"step": step, "time": round(time.time(), 3), **values})
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # torch takes seconds to import

            self._board = SummaryWriter(str(self.run.folder / "tensorboard"), purge_step=step)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def stop(self) -> None:
        """Request a stop from inside the process."""
        self._stopped = True


@dataclass(frozen=True)
class TrainingRun(Generic[O]):
    """The arguments of `fit` and `pretrain`."""

    options: O
    session: RunSession
    accelerator: "Accelerator"
    folder: Path
    """Run folder, shared by all processes."""
    name: str
    """Name of the model."""


def execute(run: Run | None, work: Callable[[RunSession], None]) -> int:
    """Do the work of a run and record how it ended.

    Args:
        run: the run; None in the other processes of a distributed run.
        work: function that trains; it may raise `StopRequestedError` to stop.

    Returns:
        The exit status: 0 if the work finished or was stopped, 1 if it failed.

    Raises:
        JobError: another process is working on this run.
    """
    session = RunSession(run)
    if run is None:
        with _signals(session), contextlib.suppress(StopRequestedError):
            work(session)
        return 0
    if run.status.state == "running":
        raise JobError(f"{run.name} is running already, as process {run.recorded_status.pid}")
    run.clear_stop()
    run.update(
        state="running",
        error=None,
        mistake=False,
        started_at=time.time(),
        eta_seconds=None,
        **this_process(),
    )
    with _log_file(run), _signals(session):
        try:
            work(session)
        except StopRequestedError:
            session.log("stopped as requested: press Resume, or use --resume, to continue")
            run.update(state="stopped", eta_seconds=None)
            return 0
        except KeyboardInterrupt:
            session.log(
                "interrupted: press Resume, or use --resume, to continue from the last saved step"
            )
            run.update(state="stopped", eta_seconds=None)
            raise
        except Exception as error:
            sentence = describe(error)
            logger.error("error: %s", sentence, exc_info=None if is_plain(error) else error)
            mistake = is_plain(error) and isinstance(error, ValueError)
            run.update(state="failed", error=sentence, mistake=mistake, eta_seconds=None)
            return 1
        finally:
            session.close()
        run.update(state="finished", progress=1.0, phase="", eta_seconds=None)
    return 0


def describe(error: BaseException) -> str:
    """Return one sentence for the user about an error."""
    text = " ".join(sentence(error).split())
    if isinstance(error, OSError) and error.errno == 28:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"The disk is full{place}: free some space, then continue with --resume."
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"Out of memory: use a smaller batch size or image size. ({text})"
    if isinstance(error, ValueError | OSError | ArithmeticError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}"


class _Sentences(logging.Formatter):
    """Leaves tracebacks to log.txt and says that they are there."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for the terminal."""
        more = f" (the traceback is in {LOG} of the run folder)" if record.exc_info else ""
        return f"{self.formatTime(record, self.datefmt)} {record.getMessage()}{more}"


@contextlib.contextmanager
def _log_file(run: Run) -> Iterator[None]:
    """Write the log of geoclip_core to log.txt and to the terminal."""
    root = logging.getLogger("geoclip_core")
    handlers: list[logging.Handler] = [
        logging.FileHandler(run.folder / LOG, encoding="utf-8"),
        logging.StreamHandler(),
    ]
    formatters = (logging.Formatter, _Sentences)
    for handler, formatter in zip(handlers, formatters, strict=True):
        handler.setFormatter(formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


@contextlib.contextmanager
def _signals(session: RunSession) -> Iterator[None]:
    """Treat SIGTERM and the first SIGINT as requests to stop after the current step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and session.stop_requested():
            raise KeyboardInterrupt
        session.stop()

    previous = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
