"""Progress of a command: a bar in the terminal, and a file that the dataset page can watch."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from geoclip_core.files import write_atomically

_EVERY_SECONDS = 0.2


class ProgressBar:
    """Shows how far a command is, and writes it to a status file if one is wanted.

    The file is JSON: state ("running", "finished", "failed"), title, done, total, unit, message,
    pid, updated_at (seconds since 1970). It is replaced whole, so a reader never sees a part.
    """

    def __init__(self, title: str, unit: str, status: Path | None = None) -> None:
        self._title, self._unit, self._path = title, unit, status
        self._bar: tqdm | None = None
        self._written = 0.0
        self._done, self._total = 0, 0
        self.message = ""

    def __enter__(self) -> Self:
        self._write("running")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if error is not None:
            self.message = str(error) or kind.__name__
        self._write("failed" if error is not None else "finished")

    def update(self, done: int, total: int) -> None:
        """Say that `done` of `total` units are done."""
        self._done, self._total = done, total
        if self._bar is None:
            self._bar = tqdm(desc=self._title, unit=f" {self._unit}", total=total, mininterval=0.5)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if time.monotonic() - self._written > _EVERY_SECONDS:
            self._write("running")

    def _write(self, state: str) -> None:
        if self._path is None:
            return
        content: dict[str, Any] = {
            "state": state,
            "title": self._title,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "message": self.message,
            "pid": os.getpid(),
            "updated_at": time.time(),
        }
        write_atomically(self._path, json.dumps(content))
        self._written = time.monotonic()
