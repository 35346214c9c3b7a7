"""What the benchmarks share: times of alternating runs, processes and their memory, the machine."""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FULL_ROWS = 119_008
"""Rows of OSV-Mini-129k."""
LIBRARIES = ("torch", "onnxruntime", "numpy", "pandas", "streamlit")
_UNIT = 2**20 if sys.platform == "darwin" else 2**10
"""Units of `ru_maxrss` in a megabyte."""
_LAUNCH = """
import os, signal, sys, time
started = time.monotonic()
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
def stop(*_):
    os.kill(child, signal.SIGTERM)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command as well
_, status, used = os.wait4(child, 0)
numbers = time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss
os.write(int(sys.argv[1]), " ".join(map(str, numbers)).encode())
sys.exit(0 if status == 0 else 1)
"""
"""Starts a command and reports what it took. Linux counts the memory of the process that starts
another as that of the other, so this one must be small."""


@dataclass(frozen=True)
class Cost:
    """Wall time, CPU time of all threads and processes, and peak memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Most memory of the process so far; of a command, of its largest process."""


class Interrupted(KeyboardInterrupt):
    """A command was stopped; it took `cost` so far."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost


def measured(work: Callable[[], object]) -> Cost:
    """Do some work in this process and return its cost."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - started, time.process_time() - cpu, peak_mb())


def peak_mb() -> float:
    """Return the most memory in MB that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _UNIT


def alternated(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Cost]]:
    """Return the costs of each side in so many rounds, in which the sides take turns.

    Every side runs once before, unmeasured, so that nothing is loaded in a measured run.
    """
    for work in sides.values():
        work()
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            costs[name].append(measured(work))
    return costs


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return medians of both sides, and the median and extremes of the ratios of the rounds."""
    each = [a / max(b, 1e-9) for a, b in zip(ours, theirs, strict=True)]
    return {
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "ratio": statistics.median(each),
        "ratio_lowest": min(each),
        "ratio_highest": max(each),
    }


def run_measured(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Cost:
    """Run a command of this interpreter in a folder and return what it took.

    Its output is appended to the file log.txt in the folder.

    Args:
        command: what is typed after the name of the interpreter.
        folder: working folder; datasets and runs are kept in folders below it.
        environment: variables to set.

    Raises:
        Interrupted: Ctrl-C was pressed; the command was stopped.
        ValueError: it failed; its last lines are in the message.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    variables |= {"GEOCLIP_DATASETS": "datasets", "GEOCLIP_RUNS": "runs", **(environment or {})}
    reading, writing = os.pipe()
    try:
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH, str(writing), sys.executable, *command],
                cwd=folder,
                env=variables,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
            )
        stopped = False
        try:
            process.wait()
        except KeyboardInterrupt:
            stopped = True
            process.terminate()
            process.wait()
        os.close(writing)
        writing = -1
        with os.fdopen(os.dup(reading)) as report:
            numbers = report.read().split()
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if process.returncode and not stopped:
        last = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise ValueError(f"python {' '.join(command)} failed:\n{last}")
    seconds, cpu_seconds, most = map(float, numbers)
    cost = Cost(seconds, cpu_seconds, most / _UNIT)
    if stopped:
        raise Interrupted(cost)
    return cost


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that do the work."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
