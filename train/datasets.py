"""The commands that make and check datasets: demo-data, import-photos, download, doctor.

What does the work is imported inside the commands: pandas and scipy take seconds to load, and
``--help`` needs neither.
"""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from tyro.conf import Positional

from geoclip_core.training.options import options_class

Workers = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0)]
TestFraction = Annotated[float, Interval(ge=0, le=0.5)]
_SHOWN = 10
"""How many photos that were not imported are named on the terminal."""


@options_class
class DemoData:
    """Options of `demo-data`."""

    output: Path
    """folder to write; an older demo set there is replaced when the new one is complete"""
    rows: Annotated[int, Ge(20)] = 2000
    """photos in train and test together"""
    seed: Seed = 0
    """seed of places, times and scenes; the same seed gives the same set"""
    test_fraction: TestFraction = 0.15
    """share of the photos in the test split"""
    metadata_only: bool = False
    """write the tables without photos, for trying large tables"""
    workers: Workers | None = None
    """processes that draw; by default one per core"""
    status: Path | None = None
    """JSON file in which the progress is kept up to date"""


def demo_data(options: DemoData) -> int:
    """Draw a synthetic OSV-Mini to try everything on, without a download."""
    from geoclip_core.demo.dataset import write_demo
    from geoclip_core.jobs import ProgressBar

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


@options_class
class ImportPhotos:
    """Options of `import-photos`."""

    folder: Positional[Path]
    """folder of photos, searched with all its subfolders, or a ZIP of them"""
    output: Path
    """dataset to make; photos are added to one that was imported before"""
    positions: Path | None = None
    """CSV with file, latitude, longitude, captured_at; takes precedence over metadata"""
    link: bool = False
    """make hard links instead of copies (same disk only)"""
    test_fraction: TestFraction = 0.15
    """share of the photos that is kept for testing, in blocks of the map"""
    seed: Seed = 0
    """seed of the choice of test blocks"""
    workers: Workers | None = None
    """threads that read photos; by default one per core"""
    status: Path | None = None
    """JSON file in which the progress is kept up to date"""


def import_photos(options: ImportPhotos) -> int:
    """Make a dataset from your own geotagged photos; the originals are not moved or changed."""
    from geoclip_core.data import importing
    from geoclip_core.jobs import ProgressBar

    with ProgressBar("importing", "steps", options.status) as bar:
        report = importing.import_photos(
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
    if report.sources:
        print("positions from " + ", ".join(f"{s}: {n:,}" for s, n in report.sources.items()))
    sizes = ", ".join(f"{split} {count:,}" for split, count in sorted(report.total.items()))
    print(f"{options.output}: {sizes}" + ("" if report.changed else " (unchanged)"))
    for file, reason in report.skipped[:_SHOWN]:
        print(f"  not imported: {file}: {reason}")
    if report.skipped:
        print(f"  full list: {options.output / importing.NOT_IMPORTED_FILE}")
    return 0


@options_class
class Download:
    """Options of `download`."""

    name: Positional[Literal["osv-mini"]]
    """the dataset to download"""
    output: Path
    """dataset folder to fill; running the command again continues where it stopped"""
    archive: Path | None = None
    """ZIP or folder that was downloaded by hand, instead of asking Kaggle"""
    status: Path | None = None
    """JSON file in which the progress is kept up to date"""


def download(options: Download) -> int:
    """Download OSV-Mini-129k from Kaggle, or unpack an archive of it.

    The exit status is 1 if photos of the tables are missing.
    """
    from geoclip_core.data.kaggle import download_osv_mini
    from geoclip_core.jobs import ProgressBar

    with ProgressBar("placing", "files", options.status) as bar:
        counts = download_osv_mini(options.output, archive=options.archive, progress=bar.update)
        bar.message = f"{counts['train']:,} train and {counts['test']:,} test photos"
    print(f"{options.output}: {bar.message}")
    if not counts["missing"]:
        return 0
    print(
        f"{counts['missing']:,} photos of the tables are not there; run the command again, or see "
        f"python -m train doctor {options.output}"
    )
    return 1


@options_class
class Doctor:
    """Options of `doctor`."""

    dataset: Positional[Path]
    """folder in the layout of OSV-Mini-129k"""
    photos: bool = True
    """open every photo; --no-photos checks the tables only, in seconds"""
    report: Path | None = None
    """JSON report to write; by default doctor.json in the dataset folder"""
    write_clean: Path | None = None
    """empty folder for a copy of the CSVs without the rows that must be fixed"""
    drop_near_test: bool = False
    """also leave training rows closer than 1 km to a test photo out of the cleaned copy"""
    workers: Workers | None = None
    """processes that open photos; by default one per core"""
    status: Path | None = None
    """JSON file in which the progress is kept up to date"""


def doctor(options: Doctor) -> int:
    """Check a dataset's files, coordinates, labels and splits, and write a cleaned copy.

    The exit status is 1 if something must be fixed.
    """
    from geoclip_core.data.doctor import REPORT_FILE, examine, write_clean, write_report
    from geoclip_core.jobs import ProgressBar

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
