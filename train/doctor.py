"""Check a dataset: files, coordinates, labels and splits. Exits 1 when something must be fixed."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from geoclip_core.data.doctor import REPORT_FILE, examine, write_clean, write_report
from train.progress import ProgressBar


@dataclasses.dataclass(frozen=True)
class Options:
    """What to check."""

    COMMAND: ClassVar[str] = "doctor"
    POSITIONAL: ClassVar[tuple[str, ...]] = ("dataset",)

    dataset: Path
    """folder in the layout of OSV-Mini-129k"""
    photos: bool = True
    """open every photo; --no-photos checks the tables only, in seconds"""
    report: Path | None = None
    """JSON report to write (by default doctor.json in the dataset folder)"""
    write_clean: Path | None = None
    """empty folder for a copy of the CSVs without what must be fixed"""
    drop_near_test: bool = False
    """leave training rows closer than 1 km to a test photo out of the cleaned copy too"""
    workers: int | None = None
    """processes that open photos (one a core if not given)"""
    status: Path | None = None
    """file to keep writing the progress to, as JSON"""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError("workers must be at least 1")


def run(options: Options) -> int:
    """Check, print and write the report; 1 when something must be fixed."""
    with ProgressBar("checking", "photos", options.status) as bar:
        report = examine(
            options.dataset,
            photos=options.photos,
            drop_near_test=options.drop_near_test,
            workers=options.workers,
            progress=bar.update,
        )
        path = options.report or options.dataset / REPORT_FILE
        write_report(report, path)
        bar.message = f"{len(report.findings)} findings in {path}"
    print(report.text())
    print(f"report: {path}")
    if options.write_clean is not None:
        for file, rows in write_clean(options.dataset, report, options.write_clean).items():
            print(f"cleaned copy: {options.write_clean / file}, {rows:,} rows")
    return 1 if report.must_fix else 0
