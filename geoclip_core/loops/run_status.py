"""What a run is doing, and whether the process that does it is still there."""

import os
import socket
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil

from geoclip_core.processes import is_running

State = Literal["queued", "running", "finished", "stopped", "failed"]
DIED = (
    "The process ended without saying why: it was killed, or the computer went down. "
    "Its last lines are in log.txt; --resume continues it."
)


@dataclass(frozen=True)
class RunStatus:
    """What status.json holds. Times are seconds since 1970."""

    state: State
    task: str
    """"pretrain" or "fit"."""
    progress: float = 0.0
    """0 to 1 over the whole run."""
    phase: str = ""
    """What is going on, in words: "embedding", "training", "evaluating"."""
    step: int = 0
    total_steps: int = 0
    pid: int | None = None
    pid_started_at: float | None = None
    """When that process began, by which a number that was given again is told apart."""
    host: str = ""
    error: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    updated_at: float = 0.0
    eta_seconds: float | None = None
    best: dict[str, float] = field(default_factory=dict)
    """Validation numbers of the best step so far."""


def is_alive(status: RunStatus) -> bool:
    """Whether the process of a run is there. A zombie is dead; a process of another computer
    cannot be looked up and counts as alive.
    """
    if status.host and status.host != socket.gethostname():
        return True
    return is_running(status.pid, status.pid_started_at)


def this_process() -> dict[str, Any]:
    """The fields of a status that say which process runs it."""
    return {
        "pid": os.getpid(),
        "pid_started_at": psutil.Process().create_time(),
        "host": socket.gethostname(),
    }
