"""Draw a demo set: a synthetic OSV-Mini to try everything on, without a download."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from geoclip_core.demo.dataset import write_demo
from train.progress import ProgressBar


@dataclasses.dataclass(frozen=True)
class Options:
    """What to draw."""

    COMMAND: ClassVar[str] = "demo-data"

    output: Path
    """folder to write; an older demo set there is replaced when the new one is complete"""
    rows: int = 2000
    """photos in train and test together"""
    seed: int = 0
    """chance of places, times and scenes; the same seed gives the same set"""
    test_fraction: float = 0.15
    """share of the photos in the test split"""
    metadata_only: bool = False
    """write the tables without photos, for trying large tables"""
    workers: int | None = None
    """processes that draw (one a core if not given)"""
    status: Path | None = None
    """file to keep writing the progress to, as JSON"""

    def __post_init__(self) -> None:
        if self.rows < 20:
            raise ValueError("rows must be at least 20")
        if not 0 <= self.test_fraction <= 0.5:
            raise ValueError("test_fraction must lie between 0 and 0.5")
        if self.workers is not None and self.workers < 1:
            raise ValueError("workers must be at least 1")


def run(options: Options) -> int:
    """Write the set and say where it is."""
    what = "rows without photos" if options.metadata_only else "photos"
    with ProgressBar("drawing", "photos", options.status) as bar:
        write_demo(
            options.output,
            options.rows,
            seed=options.seed,
            test_fraction=options.test_fraction,
            metadata_only=options.metadata_only,
            workers=options.workers,
            progress=bar.update,
        )
        bar.message = f"{options.rows:,} synthetic {what} in {options.output}"
    print(bar.message)
    return 0
