"""Detached jobs: start, follow, stop and queue processes that outlive the app.

A job is a folder with its ``status.json`` and ``console.txt``, the output of its process. All state
is on disk, so a second tab, a reload and a restarted app see the same. Until the process id is in
the status, only the code that starts the job writes the status; afterwards only the process does,
until it has ended.

``python -m geoclip_core.jobs [--in-turn] FOLDER MODULE [ARGUMENT...]`` is the process of a job.
With ``--in-turn`` it first waits until no older job in the same parent folder is active. Then it
runs ``python -m MODULE ARGUMENT...`` in the same process.
"""

import argparse
import contextlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Self, TypedDict, TypeVar

import psutil
from annotated_types import Interval, Len

from geoclip_core.checks import Finite, checked
from geoclip_core.errors import FileError
from geoclip_core.files import read_end, read_json, saving, write_json
from geoclip_core.processes import is_running

if TYPE_CHECKING:
    from tqdm import tqdm

STATUS, CONSOLE = "status.json", "console.txt"
POLL_SECONDS = 1.0
_ROOT = Path(__file__).resolve().parents[1]
_HANDSHAKE_SECONDS = 30.0
_INTERRUPT_SECONDS = 5.0
_WRITE_SECONDS = 0.25

MAX_STATUS = 10**6
"""Bytes of the largest status.json."""
Moment = Annotated[float, Interval(ge=0, le=1e11)]
"""Seconds since 1970, up to the year 5138."""
Count = Annotated[int, Interval(ge=0, le=10**15)]
Text = Annotated[str, Len(0, 20_000)]

State = Literal["queued", "running", "finished", "stopped", "failed"]


class JobError(ValueError):
    """A job that cannot be started, read or changed; the message says why and what to do."""


@dataclass(frozen=True)
class JobStatus:
    """The fields of every status.json. Times are seconds since 1970."""

    state: State
    _: KW_ONLY
    pid: Annotated[int, Interval(ge=1, lt=2**31)] | None = None
    pid_started_at: Finite | None = None
    """Start time of that process, because ids are reused."""
    host: Text = ""
    error: Text | None = None
    """Why the job failed, in one sentence."""
    created_at: Moment = 0.0
    started_at: Moment | None = None
    updated_at: Moment = 0.0

    @property
    def active(self) -> bool:
        """Whether the job should have a live process: one that works, or waits for its turn."""
        return self.state == "running" or (self.state == "queued" and self.pid is not None)


@dataclass(frozen=True)
class WorkStatus(JobStatus):
    """Status of a download or of work on a dataset."""

    title: Text = ""
    """The current step or file."""
    done: Count = 0
    total: Count = 0
    """0 if unknown."""
    unit: Text = ""
    """What `done` and `total` count."""
    message: Text = ""
    """The result, or why the job failed."""
    about: Annotated[dict[str, Text], Len(0, 100)] = field(default_factory=dict)
    """Facts about the job from the code that started it."""

    @property
    def share(self) -> float:
        """Share of the current step that is done, 0 to 1; 0 if the total is unknown."""
        return min(self.done / self.total, 1.0) if self.total else 0.0


class ProcessIdentity(TypedDict):
    """The fields of a status that identify a process."""

    pid: int
    pid_started_at: float | None
    host: str


S = TypeVar("S", bound=JobStatus)


class Job(Generic[S]):
    """The folder of one job. Subclasses set the class of the status."""

    status_class: type[S]
    ended_unexpectedly = "The process ended unexpectedly: it was killed, or the computer went down."
    """The error of an active job whose process no longer runs."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def status_path(self) -> Path:
        """Path of status.json."""
        return self.folder / STATUS

    @property
    def recorded_status(self) -> S:
        """The content of status.json, even if the process no longer runs.

        Raises:
            JobError: status.json cannot be read.
        """
        return read_status(self.status_path, self.status_class)

    @property
    def status(self) -> S:
        """The content of status.json, but "failed" if its process no longer runs.

        Raises:
            JobError: status.json cannot be read.
        """
        for _ in range(2):  # the process may end between reading the file and the check
            status = self.recorded_status
            if not status.active or is_alive(status):
                return status
        return replace(status, state="failed", error=self.ended_unexpectedly)

    def update(self, **changes: object) -> S:
        """Change fields of status.json atomically and return the new status.

        Raises:
            JobError: status.json cannot be read.
        """
        content = _read_json(self.status_path) | {"updated_at": time.time()} | changes
        status = _parse(content, self.status_class, self.status_path)
        self._write(content)
        return status

    def launch(self, module: str, arguments: Sequence[str], *, in_turn: bool = False) -> None:
        """Start ``python -m module arguments...`` in its own session, so that it outlives this one.

        Paths in the arguments must be absolute. With ``in_turn``, the process first waits for older
        jobs in the same parent folder.

        Raises:
            JobError: the process cannot be started.
        """
        self.update(state="queued", error=None, pid=None, pid_started_at=None)
        own = [sys.executable, "-m", "geoclip_core.jobs", *(["--in-turn"] if in_turn else [])]
        try:
            with saving(self.folder / CONSOLE), (self.folder / CONSOLE).open("ab") as console:
                process = subprocess.Popen(
                    [*own, str(self.folder.absolute()), module, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    cwd=_ROOT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
                )
        except OSError as error:
            sentence = f"The process cannot be started: {error}"
            self.update(state="failed", error=sentence)
            raise JobError(sentence) from error
        # Without a waiting parent, the process would stay a zombie after its end.
        threading.Thread(target=process.wait, daemon=True).start()
        self.update(**_identity(process.pid))

    def interrupt(self) -> None:
        """Ask the process to end, and wait up to 5 seconds for it.

        If the process ends without updating its status, the status becomes "stopped". A process
        that is still busy after 5 seconds updates it later.

        Raises:
            JobError: the process belongs to another computer or may not be this job's.
        """
        process = self._process()
        if process is not None:
            self._ask_to_end(process, _INTERRUPT_SECONDS)
        self._record_end("")

    def kill(self, reason: str = "", *, after_seconds: float = 0.0) -> None:
        """Kill the process and its children, and record the state "stopped".

        Args:
            reason: the error to record.
            after_seconds: if positive, interrupt the process first so that it can clean up, and
                kill it after this time.

        Raises:
            JobError: the process belongs to another computer or may not be this job's.
        """
        process = self._process()
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [*process.children(recursive=True), process]
                if after_seconds:
                    self._ask_to_end(process, after_seconds)
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
                psutil.wait_procs(family, timeout=_INTERRUPT_SECONDS)
        self._record_end(reason)

    def console_tail(self, lines: int = 20) -> list[str]:
        """Return the last lines that the process printed."""
        return tail(self.folder / CONSOLE, lines)

    def _process(self) -> psutil.Process | None:
        """Return the live process of the job, or None; raise JobError if it may not be ended."""
        status = self.recorded_status
        if status.pid is None or not (status.active and is_alive(status)):
            return None
        if status.host not in ("", socket.gethostname()):
            raise JobError(f"It runs on {status.host} and can only be ended there")
        if status.pid == os.getpid() or status.pid_started_at is None:
            raise JobError(f"Process {status.pid} may not belong to this job: it is not ended")
        try:
            return psutil.Process(status.pid)
        except psutil.NoSuchProcess:
            return None

    def _ask_to_end(self, process: psutil.Process, seconds: float) -> None:
        """Ask the process to end, and wait up to `seconds` for it."""
        with contextlib.suppress(psutil.Error):
            if self.recorded_status.state == "running" and os.name == "posix":
                process.send_signal(signal.SIGINT)  # lets the work clean up
            else:
                process.terminate()
            process.wait(seconds)

    def _record_end(self, reason: str) -> None:
        """Write "stopped" if the process has ended with the state "queued" or "running"."""
        status = self.recorded_status
        if status.state in ("queued", "running") and not (status.active and is_alive(status)):
            self.update(state="stopped", error=reason or None, pid=None)

    def _write(self, status: dict[str, Any]) -> None:
        write_json(self.status_path, status)


class Work(Job[WorkStatus]):
    """A download or work on a dataset."""

    status_class = WorkStatus

    @classmethod
    def create(cls, folder: str | Path, about: dict[str, str]) -> Self:
        """Create the folder of a job, or reset an existing one.

        Raises:
            OSError: the folder cannot be written.
        """
        work = cls(folder)
        with saving(work.folder):
            work.folder.mkdir(parents=True, exist_ok=True)
            (work.folder / CONSOLE).unlink(missing_ok=True)
        now = time.time()
        status = WorkStatus("queued", created_at=now, updated_at=now, about=about)
        work._write(asdict(status))
        return work


class StatusWriter:
    """Updates a status file from inside the process that does the work.

    Inside the ``with`` block the state is "running"; afterwards it is "finished", "stopped" after
    Ctrl-C, or "failed" with the reason. A file that cannot be written is reported once on stderr
    and does not stop the work.

    Args:
        path: the status file, whose `created_at` and `about` are kept; None: write nothing.
        title: name of the work or of its first step.
        unit: what is counted.
    """

    def __init__(self, path: Path | None, title: str, unit: str) -> None:
        self.message = ""
        """The result to show when the work has finished."""
        self._path = path
        self._written = 0.0
        self._reported = False
        now = time.time()
        status = WorkStatus("running", created_at=now)
        if path is not None and path.is_file():
            with contextlib.suppress(JobError):  # damaged: replaced
                status = read_status(path, WorkStatus)
        self._status = WorkStatus(
            "running",
            **this_process(),
            created_at=status.created_at,
            started_at=now,
            title=title,
            unit=unit,
            about=status.about,
        )

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._write("finished")
        elif isinstance(error, KeyboardInterrupt):
            self._write("stopped")
        else:
            self.message = str(error) or type(error).__name__
            self._write("failed", error=self.message)

    def update(self, done: int, total: int, title: str | None = None) -> None:
        """Record that `done` of `total` units are done (0: unknown), at most four times a second.

        `title` is the current step; a new step is recorded at once.
        """
        new = title is not None and title != self._status.title
        self._status = replace(self._status, done=done, total=total)
        if title is not None:
            self._status = replace(self._status, title=title)
        if new or time.monotonic() - self._written > _WRITE_SECONDS:
            self._write()

    def _write(self, state: State = "running", error: str | None = None) -> None:
        self._status = replace(
            self._status, state=state, error=error, message=self.message, updated_at=time.time()
        )
        self._written = time.monotonic()
        if self._path is None:
            return
        try:
            write_json(self._path, asdict(self._status))
        except OSError as error:
            if not self._reported:
                print(f"progress is not recorded: {error}", file=sys.stderr)
            self._reported = True


class ProgressBar(StatusWriter):
    """A status writer that also shows a bar in the terminal."""

    def __init__(self, title: str, unit: str, path: Path | None = None) -> None:
        super().__init__(path, title, unit)
        self._bar: tqdm | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        super().__exit__(kind, error, trace)

    def update(self, done: int, total: int, title: str | None = None) -> None:
        """Show and record that `done` of `total` units are done."""
        if self._bar is None:
            from tqdm import tqdm  # a job without a terminal needs no bar

            status = self._status
            self._bar = tqdm(
                desc=status.title, unit=f" {status.unit}", total=total, mininterval=0.5
            )
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        super().update(done, total, title)


def read_status(path: Path, status_class: type[S]) -> S:
    """Return the status in a file; unknown keys are ignored.

    Raises:
        JobError: the file cannot be read.
    """
    return _parse(_read_json(path), status_class, path)


def is_alive(status: JobStatus) -> bool:
    """Return whether the process of a job runs.

    A zombie does not. A process on another computer cannot be checked and counts as running.
    """
    if status.host and status.host != socket.gethostname():
        return True
    return is_running(status.pid, status.pid_started_at)


def this_process() -> ProcessIdentity:
    """Return the fields of a status that identify the current process."""
    return _identity(os.getpid())


def tail(path: Path, lines: int = 20) -> list[str]:
    """Return the last lines of a text file; none if it cannot be read.

    If a progress bar has rewritten a line, only its last version is returned.
    """
    try:
        text = read_end(path, 400 * lines).decode("utf-8", errors="replace")
    except FileError:
        return []
    if not text:
        return []
    shown = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    return [line.rsplit("\r", 1)[-1] for line in shown][-lines:]


def job_folders(root: Path) -> list[Path]:
    """Return the folders in `root` that hold a job, readable or not, except hidden ones."""
    try:
        children = sorted(root.iterdir())
    except (OSError, ValueError):  # a zero byte in its name
        return []
    return [c for c in children if c.name[0] != "." and os.path.lexists(c / STATUS)]


def waits_for(folder: Path) -> Path | None:
    """Return the job that a queued job has to wait for, or None if it is its turn.

    These are a running job in the same parent folder and jobs that were queued earlier, unless they
    are on another computer that shares the folder.
    """
    mine = (_AnyJob(folder).recorded_status.updated_at, folder.name)
    waiting = None
    for other in job_folders(folder.parent):
        if other.name == folder.name:
            continue
        try:
            status = _AnyJob(other).status
        except JobError:
            continue  # unreadable, or deleted in the meantime
        if status.host not in ("", socket.gethostname()):
            continue
        if status.state == "running":
            return other
        ahead = status.state == "queued" and (status.updated_at, other.name) < mine
        if ahead and status.active:
            waiting = other
    return waiting


class _AnyJob(Job[JobStatus]):
    status_class = JobStatus


def _wait(job: Job[JobStatus], in_turn: bool) -> bool:
    """Wait until this process may start the job; return False if the job was withdrawn."""
    deadline = time.monotonic() + _HANDSHAKE_SECONDS
    while True:
        try:
            status = job.recorded_status
            if status.pid is None and time.monotonic() < deadline:
                time.sleep(0.02)  # the code that started this process is about to write its id
                continue
            if status.state != "queued" or status.pid != os.getpid():
                return False
            if not in_turn or waits_for(job.folder) is None:
                return True
        except JobError:
            return False  # the folder was deleted
        time.sleep(POLL_SECONDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Wait for the turn of a job, run its module, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m geoclip_core.jobs", description=__doc__)
    parser.add_argument("--in-turn", action="store_true", help="wait for older jobs beside it")
    parser.add_argument("folder", type=Path, help="folder of the job")
    parser.add_argument("module", help="module to run with its arguments")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    # A shell that starts the app in the background makes it and its children ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = _AnyJob(options.folder)
    if not _wait(job, options.in_turn):
        return 0
    # The pages of the app go before a job, so that they stay quick beside a training.
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if psutil.WINDOWS else 10)
    sys.argv = [options.module, *options.arguments]
    try:
        runpy.run_module(options.module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    if job.recorded_status.state == "queued":
        if code:
            job.update(state="failed", error="It could not begin: see the end of its output.")
        else:
            job.update(state="finished")
    return code


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return checked(dict[str, Any], read_json(path, MAX_STATUS), path)
    except FileError as error:
        raise JobError(str(error)) from error


def _parse(content: dict[str, Any], status_class: type[S], path: Path) -> S:
    try:
        return checked(status_class, content, path)
    except FileError as error:
        raise JobError(str(error)) from error


def _identity(pid: int) -> ProcessIdentity:
    began = None
    with contextlib.suppress(psutil.Error):
        began = psutil.Process(pid).create_time()
    return {"pid": pid, "pid_started_at": began, "host": socket.gethostname()}


if __name__ == "__main__":
    sys.exit(main())
