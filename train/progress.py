"""Show the progress of a command in the terminal and in a status file for the Dataset page."""

from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from geoclip_core.jobs import StatusWriter


class ProgressBar(StatusWriter):
    """A status writer that also shows a bar in the terminal."""

    def __init__(self, title: str, unit: str, status: Path | None = None) -> None:
        super().__init__(status, title, unit)
        self._title, self._unit = title, unit
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
            self._bar = tqdm(desc=self._title, unit=f" {self._unit}", total=total, mininterval=0.5)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        super().update(done, total, title)
