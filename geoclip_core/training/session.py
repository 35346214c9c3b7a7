"""What surrounds the work of a run: its status, its log, its TensorBoard events, its end."""

import contextlib
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from geoclip_core.jobs import JobError, this_process
from geoclip_core.training.runs import LOG, Run

logger = logging.getLogger("geoclip_core.run")
_STATUS_SECONDS = 0.5


class StopRequestedError(Exception):
    """The run was asked to stop, by its stop file, SIGTERM or SIGINT."""


class RunSession:
    """The hand with which a loop writes into its run folder.

    Args:
        run: the folder; None in the helper processes of a distributed run, which write nothing.
    """

    def __init__(self, run: Run | None) -> None:
        self.run = run
        self._stopped = False
        self._written = 0.0
        self._phase, self._phase_began, self._phase_share = "", 0.0, 0.0
        self._board: Any = None

    def stop_requested(self) -> bool:
        """Whether to end after the current step."""
        return self._stopped or (self.run is not None and self.run.stop_requested())

    def raise_if_stopped(self) -> None:
        """Leave work that has nothing of its own to save.

        Raises:
            StopRequestedError: if the run shall stop.
        """
        if self.stop_requested():
            raise StopRequestedError

    def progress(
        self, phase: str, share: float, until: float = 1.0, now: bool = False, **changes: Any
    ) -> None:
        """Say what is going on and how much of the run (0 to 1) is done.

        Written at most twice a second unless `now`. The time left is what this phase, which lasts
        until the share `until`, still needs at the pace at which it has gone in this process.
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

    def embedding_progress(self, start: float, end: float) -> Callable[[int, int], None]:
        """A callback (done, total) for embedding, between two shares of the run; it may stop."""

        def report(done: int, total: int) -> None:
            self.raise_if_stopped()
            self.progress("embedding", start + (end - start) * done / max(total, 1))

        return report

    def log(self, text: str) -> None:
        """A line for log.txt and the terminal."""
        if self.run is not None:
            logger.info(text)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, for metrics.jsonl and TensorBoard."""
        if self.run is None:
            return
        self.run.log_metrics({"step": step, "time": round(time.time(), 3), **values})
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.run.folder / "tensorboard"), purge_step=step)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Bring TensorBoard events to the disk."""
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """End the TensorBoard events."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def stop(self) -> None:
        """Ask for the end from inside the process."""
        self._stopped = True


def execute(run: Run | None, work: Callable[[RunSession], None]) -> int:
    """Do the work of a run and record how it ended.

    Args:
        run: the run folder; None in the helper processes of a distributed run.
        work: the loop. Leaving it with `StopRequestedError` is a clean stop.

    Returns:
        Exit status: 0 if it finished or was stopped, 1 if it failed.

    Raises:
        JobError: another process is at work on this run.
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
        state="running", error=None, started_at=time.time(), eta_seconds=None, **this_process()
    )
    with _log_file(run), _signals(session):
        try:
            work(session)
        except StopRequestedError:
            session.log("stopped as asked; --resume continues")
            run.update(state="stopped", eta_seconds=None)
            return 0
        except KeyboardInterrupt:
            session.log("interrupted; --resume continues from the last saved step")
            run.update(state="stopped", eta_seconds=None)
            raise
        except Exception as error:
            sentence = describe(error)
            logger.error("%s\n%s", sentence, traceback.format_exc())
            run.update(state="failed", error=sentence, eta_seconds=None)
            return 1
        finally:
            session.close()
        run.update(state="finished", progress=1.0, phase="", eta_seconds=None)
    return 0


def describe(error: BaseException) -> str:
    """One sentence for a person who was not there."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == 28:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"The disk is full{place}: free some space, then continue with --resume."
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"Out of memory: take a smaller batch size or image size. ({text})"
    if isinstance(error, ValueError | OSError | ArithmeticError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _log_file(run: Run) -> Iterator[None]:
    """Send the project's log lines to log.txt and to the terminal."""
    root = logging.getLogger("geoclip_core")
    handlers: list[logging.Handler] = [
        logging.FileHandler(run.folder / LOG, encoding="utf-8"),
        logging.StreamHandler(),
    ]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
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
    """Take SIGTERM and the first SIGINT as requests to stop after the current step."""
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
