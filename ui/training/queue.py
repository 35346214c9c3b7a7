"""A training that waits for its turn: ``python -m ui.training.queue RUN``.

The page starts this process, not the page's server, does the waiting, so a queued training begins
even when no browser is open and the app has been restarted. When nothing older is running or
waiting in the same folder, the process becomes the training itself (``python -m train TASK --resume
RUN``): its number stays the one that status.json names.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from geoclip_core.training.runs import Run, RunError, RunStatus, list_runs

POLL_SECONDS = 1.0
_HANDSHAKE_SECONDS = 30.0


def goes_first(run: Run) -> Run | None:
    """The run of the same folder that a queued run has to wait for; None if it is its turn.

    Running ones come first, then whoever queued earlier. Runs of another computer that shares the
    folder are not waited for.
    """
    mine = (run.recorded_status.updated_at, run.name)
    waiting = None
    for other in list_runs(run.folder.parent):
        if other.name == run.name:
            continue
        try:
            status = other.status
        except RunError:
            continue  # deleted or replaced while we looked
        if status.host not in ("", socket.gethostname()):
            continue
        if status.state == "running":
            return other
        ahead = status.state == "queued" and (status.updated_at, other.name) < mine
        if ahead and status.pid is not None:
            waiting = other
    return waiting


def wait_for_turn(run: Run, poll_seconds: float = POLL_SECONDS) -> RunStatus | None:
    """Return the status when it is this run's turn; None if it was withdrawn meanwhile."""
    patience = time.monotonic() + _HANDSHAKE_SECONDS
    while True:
        try:
            status = run.recorded_status
            if status.pid is None and time.monotonic() < patience:
                # Whoever started this process has not yet written its number.
                time.sleep(0.05)
                continue
            if status.state != "queued" or status.pid != os.getpid() or run.stop_requested():
                return None
            if goes_first(run) is None:
                return status
        except RunError:
            return None  # the folder was deleted
        time.sleep(poll_seconds)


def main(
    argv: Sequence[str] | None = None, train: Callable[[Sequence[str]], int] | None = None
) -> int:
    """Wait, then train. Returns the exit status of the training."""
    parser = argparse.ArgumentParser(prog="python -m ui.training.queue", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a queued run")
    run = Run.open(parser.parse_args(argv).run)
    status = wait_for_turn(run)
    if status is None:
        return 0
    if train is None:
        from train.__main__ import main as train
    code = train([status.task, "--resume", str(run.folder)])
    if code and run.recorded_status.state == "queued":
        run.update(state="failed", error="It could not begin: its last lines say why.")
    return code


if __name__ == "__main__":
    sys.exit(main())
