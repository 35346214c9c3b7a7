"""Make a dataset of your own geotagged photos. The originals are never moved or changed."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from geoclip_core.data.importing import NOT_IMPORTED_FILE, import_photos
from train.progress import ProgressBar

_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Options:
    """What to import."""

    COMMAND: ClassVar[str] = "import-photos"
    POSITIONAL: ClassVar[tuple[str, ...]] = ("folder",)

    folder: Path
    """folder of photos, searched with all its subfolders"""
    output: Path
    """dataset to make; one that was imported before is added to"""
    positions: Path | None = None
    """CSV with file, latitude, longitude, captured_at; goes before what the EXIF says"""
    link: bool = False
    """make hard links instead of copies (same disk only)"""
    test_fraction: float = 0.15
    """share of the photos that is kept for testing, in blocks of the map"""
    seed: int = 0
    """which blocks are kept for testing"""
    workers: int | None = None
    """threads that read (one a core if not given)"""
    status: Path | None = None
    """file to keep writing the progress to, as JSON"""

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction <= 0.5:
            raise ValueError("test_fraction must lie between 0 and 0.5")
        if self.workers is not None and self.workers < 1:
            raise ValueError("workers must be at least 1")


def run(options: Options) -> int:
    """Import and say what was done and what was not."""
    with ProgressBar("importing", "steps", options.status) as bar:
        report = import_photos(
            options.folder,
            options.output,
            positions=options.positions,
            link=options.link,
            test_fraction=options.test_fraction,
            seed=options.seed,
            workers=options.workers,
            progress=bar.update,
        )
        bar.message = (
            f"{report.added:,} photos added, {report.known:,} already there, "
            f"{report.copies:,} copies, {len(report.skipped):,} not imported"
        )
    print(f"{report.found:,} photos found: {bar.message}")
    sizes = ", ".join(f"{split} {count:,}" for split, count in sorted(report.total.items()))
    print(f"{options.output}: {sizes}" + ("" if report.changed else " (unchanged)"))
    for file, reason in report.skipped[:_SHOWN]:
        print(f"  not imported: {file}: {reason}")
    if report.skipped:
        print(f"  all of them: {options.output / NOT_IMPORTED_FILE}")
    return 0
