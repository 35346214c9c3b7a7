"""Health check of a dataset folder: what must be fixed, and what is worth knowing."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geoclip_core.atomic_writes import atomic_file, write_atomically
from geoclip_core.data import osv_mini
from geoclip_core.data.doctor_files import check_photos
from geoclip_core.data.doctor_findings import Finding, Findings
from geoclip_core.data.doctor_tables import (
    check_climates,
    check_labels,
    check_leaks,
    check_places,
)
from geoclip_core.data.osv_mini import DatasetError

REPORT_FILE = "doctor.json"
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        dataset: Name of the folder.
        rows: Rows of each CSV that could be read.
        photos_checked: How many files were opened.
        findings: Errors first.
        drop: For each split which rows (n,) a cleaned copy leaves out.
        blank: Split, column and rows of values that it empties.
        seconds: How long it took.
    """

    dataset: str
    rows: dict[str, int]
    photos_checked: int
    findings: tuple[Finding, ...]
    drop: dict[str, np.ndarray]
    blank: tuple[tuple[str, str, np.ndarray], ...]
    seconds: float

    @property
    def must_fix(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report as a mapping that ``json.dump`` takes."""
        return {
            "dataset": self.dataset,
            "must_fix": self.must_fix,
            "rows": self.rows,
            "photos_checked": self.photos_checked,
            "seconds": round(self.seconds, 1),
            "rows_a_cleaned_copy_drops": {s: int(mask.sum()) for s, mask in self.drop.items()},
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """The report for a terminal."""
        sizes = ", ".join(f"{file} {rows:,} rows" for file, rows in self.rows.items())
        lines = [f"{self.dataset}: {sizes}; {self.photos_checked:,} photos opened"]
        for finding in self.findings:
            word = "MUST FIX" if finding.severity == "error" else "note"
            lines.append(f"\n{word}: {finding.message} ({finding.count:,})")
            for example in finding.examples[:3]:
                where = f"{example['file']}" + (
                    f" row {example['row']}" if "row" in example else ""
                )
                value = f": {example['value']}" if "value" in example else ""
                photo = f" id {example['id']}" if "id" in example else ""
                lines.append(f"    {where}{photo}{value}")
            if finding.count > 3 and finding.examples:
                lines.append(f"    and {finding.count - min(3, len(finding.examples)):,} more")
        errors = sum(finding.severity == "error" for finding in self.findings)
        notes = len(self.findings) - errors
        kinds = "1 kind of error" if errors == 1 else f"{errors} kinds of errors"
        verdict = f"{kinds} to fix" if errors else "nothing must be fixed"
        lines.append(f"\n{verdict}; notes: {notes}")
        return "\n".join(lines)


def examine(
    root: Path | str,
    *,
    photos: bool = True,
    drop_near_test: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check the tables and photos of a dataset.

    Args:
        root: Folder in the layout of OSV-Mini-129k.
        photos: Also open every photo; without it only the tables are checked.
        drop_near_test: Leave training rows near test photos out of a cleaned copy too.
        workers: Processes that open photos; by default one a core.
        progress: Called with photos done and to do.

    Raises:
        DatasetError: the folder is missing or holds no CSV.
    """
    started = time.monotonic()
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    tables: dict[str, pd.DataFrame] = {}
    problems: list[tuple[str, osv_mini.Problem]] = []
    unreadable: list[Finding] = []
    for split in osv_mini.FILE_SPLITS:
        path = osv_mini.csv_path(root, split)
        if not path.is_file():
            continue
        try:
            frame = osv_mini.read_text(path)
        except DatasetError as error:
            unreadable.append(Finding("table-unreadable", "error", str(error), 1))
            continue
        tables[split], found = osv_mini.parse(frame, path.name)
        problems += [(split, problem) for problem in found]
    if not tables and not unreadable:
        raise DatasetError(f"{root}: neither train_mini.csv nor test_mini.csv is here")
    findings = Findings(tables)
    findings.found += unreadable
    for split, problem in problems:
        findings.problem(split, problem)
    opened = 0
    if tables:
        check_places(findings)
        check_climates(findings)
        check_labels(findings)
        check_leaks(findings, drop_near_test)
        if photos:
            opened = check_photos(findings, root, workers, progress)
    return Report(
        dataset=root.resolve().name,
        rows={osv_mini.csv_path(root, s).name: len(table) for s, table in tables.items()},
        photos_checked=opened,
        findings=tuple(sorted(findings.found, key=lambda found: found.severity != "error")),
        drop=findings.drop,
        blank=tuple(findings.blank),
        seconds=time.monotonic() - started,
    )


def write_report(report: Report, path: Path) -> None:
    """Write the report as JSON."""
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
    # Names from a hostile table may hold halves of characters, which UTF-8 cannot write.
    write_atomically(path, text.encode("utf-8", "replace").decode("utf-8"))


def write_clean(root: Path | str, report: Report, folder: Path | str) -> dict[str, int]:
    """Write the CSVs without the rows that must be fixed; photos and originals stay as they are.

    All columns are kept as they are written. Values that only spoil a label (a climate code of 99)
    are emptied, and their rows kept.

    Returns:
        Rows written for each CSV.

    Raises:
        DatasetError: `folder` is the dataset itself, or holds files already.
    """
    root, folder = Path(root), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(
            f"{folder}: is not an empty folder; the originals are never overwritten, so choose a "
            "new folder and copy the CSVs from there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, drop in report.drop.items():
        path = osv_mini.csv_path(root, split)
        frame = osv_mini.read_text(path, columns=None)
        if len(frame) != len(drop):
            raise DatasetError(f"{path}: has changed since it was checked; check it again")
        for where, column, rows in report.blank:
            if where == split:
                frame.loc[frame.index[rows], column] = ""
        frame = frame[~drop]
        with atomic_file(folder / path.name) as unfinished:
            frame.to_csv(unfinished, index=False, lineterminator="\n")
        written[path.name] = len(frame)
    if (root / osv_mini.DESCRIPTION_FILE).is_file():
        shutil.copy2(root / osv_mini.DESCRIPTION_FILE, folder)
    return written
