"""How a download is getting on, on disk, so that a page can show it across reloads and tabs."""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from geoclip_core.atomic_writes import write_atomically
from geoclip_core.cache_folders import cache_folders
from geoclip_core.processes import is_running, start_detached

State = Literal["running", "finished", "failed"]


@dataclass(frozen=True)
class DownloadStatus:
    """A download that was started at some time, by any process."""

    state: State
    what: str = ""
    """File or step at hand."""
    done: int = 0
    """Bytes of it so far."""
    total: int | None = None
    """Bytes of it in all, where they are known."""
    error: str = ""
    pid: int = 0

    @property
    def share(self) -> float | None:
        """Share of the file at hand, 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else None


class StatusWriter:
    """Writes the status of one download, at most twice a second."""

    def __init__(self, name: str, root: Path | str | None = None) -> None:
        self._path = status_path(name, root)
        self._written = 0.0
        self._what = ""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """To be handed to `downloads.download` as its `progress`."""
        now = time.monotonic()
        if now - self._written >= 0.5 or what != self._what:
            self._written, self._what = now, what
            self.write(DownloadStatus("running", what, done, total, pid=os.getpid()))

    def write(self, status: DownloadStatus) -> None:
        """Write a status, whole or not at all; a full disk hides the status, no more."""
        try:
            write_atomically(self._path, json.dumps(asdict(status)))
        except OSError as error:
            print(f"the progress cannot be written down: {error}", file=sys.stderr)


def status_path(name: str, root: Path | str | None = None) -> Path:
    """The file of a download's status."""
    return cache_folders(root).partial / f"{name.replace('/', '--')}.json"


def read_status(name: str, root: Path | str | None = None) -> DownloadStatus | None:
    """The last status of a download, or None. One whose process is gone has failed."""
    try:
        status = DownloadStatus(**json.loads(status_path(name, root).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        # None there, or not ours: either way there is nothing to show.
        return None
    if status.state == "running" and not is_running(status.pid):
        return DownloadStatus("failed", status.what, error="it was interrupted: start it again")
    return status


def start_download(name: str, root: Path | str | None = None) -> None:
    """Download in a process of its own that outlives the page; `read_status` tells how it goes."""
    command = [sys.executable, "-m", "geoclip_core", "download", name, "--yes"]
    if root is not None:
        command += ["--cache-dir", str(root)]
    path = status_path(name, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_suffix(".log")
    log.unlink(missing_ok=True)
    process = start_detached(command, log)
    StatusWriter(name, root).write(DownloadStatus("running", "starting", pid=process["pid"]))
