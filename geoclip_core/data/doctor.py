"""Check a dataset folder for errors that must be fixed and for warnings.

`examine` reads the tables and opens the photos; `write_clean` writes the tables without the rows
that must be fixed. `leakage` counts the photos of a split that were taken near training photos.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_types import Interval, Len

from geoclip_core.checks import checked
from geoclip_core.data.dataset import (
    DESCRIPTION_FILE,
    FILE_SPLITS,
    REQUIRED,
    WANTED,
    PhotoDataset,
    check_folder,
    csv_path,
    parse,
    photo_paths,
    too_small,
)
from geoclip_core.data.photos import CHECK_DRAFT, open_photo, photo_files, read_source
from geoclip_core.data.splits import MIN_DISTANCE_KM, nearest_km
from geoclip_core.data.tables import Problem, read_csv, renamed, whole_ids, write_csv
from geoclip_core.earth.climate import UNKNOWN, ClimateRaster
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import destination
from geoclip_core.errors import DatasetError, PhotoError
from geoclip_core.files import atomic_file, escaped, read_json, write_atomically
from geoclip_core.processes import Progress, in_processes

REPORT_FILE = "doctor.json"
EXAMPLES = 20  # most examples of a finding
# Optional columns: a cleaned copy empties a wrong value and keeps the row.
BLANKED = ("captured_at", "climate", "country", "sub-region", "city", "sequence")
ENOUGH_CLIMATES = 30  # fewest known climates that can show that the whole column is wrong
BORDER_KM = 30.0  # two gazetteers may disagree on the state this close to its border
_CHUNK = 64  # files that a process opens between two reports of progress

Severity = Literal["error", "warning"]
_Count = Annotated[int, Interval(ge=0, le=10**12)]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of problem."""

    check: str  # a short name for programs, for example "file-missing"
    severity: Severity  # an "error" must be fixed, a "warning" need not be
    message: str  # the problem and what to do, in one sentence
    count: int  # affected rows or files
    examples: tuple[dict[str, Any], ...] = ()  # file, row (as a spreadsheet counts), id, value


@dataclasses.dataclass(frozen=True)
class Report:
    """What `examine` found."""

    dataset: str  # name of the folder
    rows: dict[str, int]  # number of rows of each CSV that could be read
    photos_checked: int  # files that were opened
    findings: tuple[Finding, ...]  # errors first
    drop: dict[str, np.ndarray]  # for each split the mask (n,) of rows that a cleaned copy drops
    blank: tuple[tuple[str, str, np.ndarray], ...]  # values that it empties: split, column, rows
    seconds: float  # duration of the check

    @property
    def must_fix(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a mapping that ``json.dump`` takes."""
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
        """Return the report as text for a terminal."""
        sizes = ", ".join(f"{file} {rows:,} rows" for file, rows in self.rows.items())
        lines = [f"{self.dataset}: {sizes}; {self.photos_checked:,} photos opened"]
        for finding in self.findings:
            word = "MUST FIX" if finding.severity == "error" else "note"
            lines.append(f"\n{word}: {finding.message} ({finding.count:,})")
            for example in finding.examples[:3]:
                row = f" row {example['row']}" if "row" in example else ""
                photo = f" id {example['id']}" if "id" in example else ""
                value = f": {example['value']}" if "value" in example else ""
                lines.append(f"    {example['file']}{row}{photo}{value}")
            if finding.count > 3 and finding.examples:
                lines.append(f"    and {finding.count - 3:,} more")
        errors = sum(finding.severity == "error" for finding in self.findings)
        notes = len(self.findings) - errors
        kinds = "1 kind of error" if errors == 1 else f"{errors} kinds of errors"
        verdict = f"{kinds} to fix" if errors else "no faults found"
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
        photos: Whether to open every photo; otherwise only the tables are checked.
        drop_near_test: Whether a cleaned copy also drops training rows near test photos.
        workers: Processes that open photos; by default one per core.
        progress: Called with the number of photos checked and the total.

    Raises:
        DatasetError: the folder is missing or has no CSV.
    """
    started = time.monotonic()
    root = Path(root)
    check_folder(root)
    tables: dict[str, pd.DataFrame] = {}
    problems: list[tuple[str, Problem]] = []
    unreadable: list[Finding] = []
    for split in FILE_SPLITS:
        path = csv_path(root, split)
        if not path.is_file():
            continue
        try:
            frame = read_csv(path, WANTED, REQUIRED)
        except DatasetError as error:
            unreadable.append(Finding("table-unreadable", "error", str(error), 1))
            continue
        tables[split], found = parse(frame, path.name)
        problems += [(split, problem) for problem in found.found]
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
        check_size(findings)
        if photos:
            opened = check_photos(findings, root, workers, progress)
    return Report(
        dataset=root.resolve().name,
        rows={csv_path(root, s).name: len(table) for s, table in tables.items()},
        photos_checked=opened,
        findings=tuple(sorted(findings.found, key=lambda found: found.severity != "error")),
        drop=findings.drop,
        blank=tuple(findings.blank),
        seconds=time.monotonic() - started,
    )


def write_report(report: Report, path: Path) -> None:
    """Write the report as JSON."""
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
    # Names in a damaged table may contain lone surrogates, which UTF-8 cannot encode.
    write_atomically(path, text.encode("utf-8", "replace").decode("utf-8"))


@dataclasses.dataclass(frozen=True)
class SavedExample:
    """A row or file that a saved finding is about."""

    file: str | None = None
    row: _Count | None = None
    id: str | None = None
    value: str | float | bool | None = None


@dataclasses.dataclass(frozen=True)
class SavedFinding:
    """One kind of problem in a saved report, as in `Finding`."""

    severity: Severity
    message: str
    count: _Count
    examples: Annotated[tuple[SavedExample, ...], Len(0, 100)] = ()


@dataclasses.dataclass(frozen=True)
class SavedReport:
    """What pages show of a report that `write_report` wrote."""

    rows: dict[str, _Count]
    photos_checked: _Count
    findings: Annotated[tuple[SavedFinding, ...], Len(0, 200)]
    must_fix: bool = False


def read_report(path: Path) -> SavedReport:
    """Return the report in a file, which may be that of a stranger.

    Raises:
        FileError: it cannot be read, or a value has another type; the field is named.
    """
    return checked(SavedReport, read_json(path), path)


def write_clean(root: Path | str, report: Report, folder: Path | str) -> dict[str, int]:
    """Write copies of the CSVs in `root` to `folder`, without the rows that must be fixed.

    All columns are copied as text, ids as they were before a spreadsheet changed them. A wrong
    value in one of the columns `BLANKED` (a climate code of 99) is emptied and its row kept. Photos
    are not copied.

    Returns:
        The number of rows written to each CSV.

    Raises:
        DatasetError: `folder` is not empty, or a CSV has changed since `report` was made.
    """
    root, folder = Path(root), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(
            f"{folder}: is not an empty folder; the originals are never overwritten, so choose a "
            "new folder and copy the CSVs from it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, drop in report.drop.items():
        path = csv_path(root, split)
        frame = read_csv(path)
        frame.columns = pd.Index(renamed(list(frame.columns), WANTED))
        frame["id"] = whole_ids(frame["id"])
        if len(frame) != len(drop):
            raise DatasetError(f"{path}: has changed since it was checked; check it again")
        for where, column, rows in report.blank:
            if where == split:
                frame.loc[frame.index[rows], column] = ""
        frame = frame[~drop]
        with atomic_file(folder / path.name) as unfinished:
            write_csv(frame, unfinished)
        written[path.name] = len(frame)
    if (root / DESCRIPTION_FILE).is_file():
        shutil.copy2(root / DESCRIPTION_FILE, folder)
    return written


@dataclasses.dataclass(frozen=True)
class Leakage:
    """How many photos of a held-out split were taken near training photos."""

    split: str
    photos: int  # photos of the split
    near: int  # those closer than `MIN_DISTANCE_KM` to a training photo
    same_sequence: int  # those of a sequence that also has training photos


def leakage(dataset: PhotoDataset, split: str) -> Leakage:
    """Compare a held-out split ("val" or "test") with the training photos.

    For the test split, val and buffer photos count as training photos: they were cut out of train.
    """
    held_out = (dataset.table["split"] == split).to_numpy()
    training_splits = ("train", "val", "buffer") if split == "test" else ("train",)
    against = dataset.table["split"].isin(training_splits).to_numpy()
    coordinates, sequences = dataset.coordinates, dataset.table["sequence"]
    near = nearest_km(coordinates[held_out], coordinates[against], MIN_DISTANCE_KM)
    same = sequences[held_out].isin(sequences[against].dropna()) & sequences[held_out].notna()
    return Leakage(split, int(held_out.sum()), int(np.isfinite(near).sum()), int(same.sum()))


class Findings:
    """Collects findings, and the rows that a cleaned copy drops and the values that it empties."""

    def __init__(self, tables: dict[str, pd.DataFrame]) -> None:
        self.tables = tables
        self.found: list[Finding] = []
        self.drop = self.empty_masks()
        self.blank: list[tuple[str, str, np.ndarray]] = []

    def rows(
        self,
        check: str,
        severity: Severity,
        message: str,
        masks: dict[str, np.ndarray],
        values: Callable[[str, int], Any] = lambda split, row: None,
        drop: bool | None = None,
    ) -> None:
        """Add a finding about rows, unless the masks are empty.

        Args:
            check: Short name of the finding.
            severity: "error" or "warning".
            message: The problem and what to do.
            masks: For each split the mask (n,) of affected rows.
            values: Returns the value to show for a split and row, or None.
            drop: Whether a cleaned copy drops the rows; by default it does for an error.
        """
        count = sum(int(mask.sum()) for mask in masks.values())
        if not count:
            return
        examples: list[dict[str, Any]] = []
        for split, mask in masks.items():
            for row in np.flatnonzero(mask)[: EXAMPLES - len(examples)].tolist():
                table = self.tables[split]
                photo, number = table["id"].iloc[row], int(table.index[row]) + 2
                file = csv_path(Path(), split).name
                value = values(split, row)
                shown = {} if value is None else {"value": value}
                examples.append({"file": file, "row": number, "id": str(photo)[:60]} | shown)
            if drop or (drop is None and severity == "error"):
                self.drop[split] |= mask
        self.found.append(Finding(check, severity, message, count, tuple(examples)))

    def empty_masks(self) -> dict[str, np.ndarray]:
        """Return an all-False mask (n,) for each split."""
        return {split: np.zeros(len(table), dtype=bool) for split, table in self.tables.items()}

    def problem(self, split: str, problem: Problem) -> None:
        """Add the wrong values of one column."""
        masks = self.empty_masks()
        masks[split][problem.rows] = True
        shown = dict(zip(problem.rows.tolist(), problem.values, strict=True))
        if problem.column in BLANKED:
            self.blank.append((split, problem.column, problem.rows))
        self.rows(
            f"{problem.column}-invalid",
            "error",
            f"{problem.column} {problem.reason}",
            masks,
            lambda _, row: shown[row],
            drop=problem.column not in BLANKED,
        )


def check_size(findings: Findings) -> None:
    """Find that there are too few photos to train a model."""
    photos = len(findings.tables.get("train", ()))
    if sentence := too_small(photos):
        findings.found.append(Finding("too-small", "warning", sentence, photos))


def check_places(findings: Findings) -> None:
    """Find states that contradict the coordinates."""
    wrong, border = findings.empty_masks(), findings.empty_masks()
    truth: dict[str, dict[int, str]] = {}
    for split, table in findings.tables.items():
        known = table[["latitude", "longitude", "state_key"]].notna().all(axis=1).to_numpy()
        coordinates = table.loc[known, ["latitude", "longitude"]].to_numpy()
        claimed = table.loc[known, "state_key"].to_numpy(dtype=object)
        found = Gazetteer.load().frame(coordinates)["unique_region"].to_numpy(dtype=object)
        differs = np.flatnonzero(found != claimed)
        near = np.zeros(len(differs), dtype=bool)
        for heading in range(0, 360, 45):
            around = destination(coordinates[differs], float(heading), BORDER_KM)
            there = Gazetteer.load().frame(around)["unique_region"].to_numpy(dtype=object)
            near |= there == claimed[differs]
        rows = np.flatnonzero(known)
        truth[split] = dict(zip(rows[differs].tolist(), found[differs].tolist(), strict=True))
        wrong[split][rows[differs[~near]]] = True
        border[split][rows[differs[near]]] = True

    def value(split: str, row: int) -> str:
        return f"{findings.tables[split]['state_key'].iloc[row]}, but lies in {truth[split][row]}"

    message = "the state does not match the coordinates; are latitude and longitude swapped?"
    findings.rows("state-mismatch", "error", message, wrong, value)
    message = "photos close to a state border that the gazetteer places on the other side"
    findings.rows("state-border", "warning", message, border, value)


def check_climates(findings: Findings) -> None:
    """Find climates that contradict the map."""
    differs, total, count = findings.empty_masks(), 0, 0
    for split, table in findings.tables.items():
        located = table[["latitude", "longitude"]].notna().all(axis=1)
        known = ((table["climate"] >= 0) & located).to_numpy()
        raster = ClimateRaster.load().indices(
            table.loc[known, ["latitude", "longitude"]].to_numpy()
        )
        off = (raster != UNKNOWN) & (raster != table.loc[known, "climate"].to_numpy())
        differs[split][np.flatnonzero(known)[off]] = True
        total, count = total + int(known.sum()), count + int(off.sum())
    if total >= ENOUGH_CLIMATES and count > 0.5 * total:
        message = (
            "most climates differ from the map of Beck et al. 2018; the column must hold its raw "
            "codes (14 is Cfa), not class indices or another map"
        )
        findings.rows("climate-mismatch", "error", message, differs, drop=False)
    else:
        message = "the climate differs from the map of Beck et al. 2018 at the coordinates"
        findings.rows("climate-mismatch", "warning", message, differs)


def check_labels(findings: Findings) -> None:
    """Find missing labels, and rows with the coordinates and time of an earlier one."""
    for column in ("state_key", "county_key", "city_key", "climate", "month"):
        masks = {}
        for split, table in findings.tables.items():
            missing = table[column] < 0 if column in ("climate", "month") else table[column].isna()
            masks[split] = missing.to_numpy()
        name = column.removesuffix("_key")
        message = f"photos without a known {name}; its training and metrics skip them"
        findings.rows(f"{name}-unknown", "warning", message, masks)
    masks = {
        split: table.duplicated(["latitude", "longitude", "captured_at"]).to_numpy()
        & table["captured_at"].notna().to_numpy()
        for split, table in findings.tables.items()
    }
    message = "photos with the coordinates and time of an earlier row"
    findings.rows("row-repeated", "warning", message, masks)


def check_leaks(findings: Findings, drop_near_test: bool = False) -> None:
    """Find test photos that are also in train, or were taken near a training photo."""
    if not {"train", "test"} <= set(findings.tables):
        return
    train, test = findings.tables["train"], findings.tables["test"]
    same = {"train": train["id"].isin(test["id"]).to_numpy()}
    message = "photos that are in both train and test; a cleaned copy keeps them in test only"
    findings.rows("split-same-id", "error", message, same)
    columns = ["latitude", "longitude"]
    known_train, known_test = (t[columns].notna().all(axis=1).to_numpy() for t in (train, test))
    at_train = train.loc[known_train, columns].to_numpy()
    at_test = test.loc[known_test, columns].to_numpy()
    near = findings.empty_masks()
    near["test"][known_test] = np.isfinite(nearest_km(at_test, at_train, MIN_DISTANCE_KM))
    message = (
        f"test photos closer than {MIN_DISTANCE_KM:g} km to a training photo; scores on them "
        "measure memorisation rather than unseen places"
    )
    findings.rows("split-near", "warning", message, near)
    if drop_near_test:
        close = np.isfinite(nearest_km(at_train, at_test, MIN_DISTANCE_KM))
        findings.drop["train"][np.flatnonzero(known_train)[close]] = True
    known = test["sequence"].notna() & test["sequence"].isin(train["sequence"].dropna())
    message = "test photos of a drive (sequence) that also has training photos"
    findings.rows("split-same-sequence", "warning", message, {"test": known.to_numpy()})


@dataclasses.dataclass(frozen=True)
class FileResult:
    """Result of opening one photo file."""

    missing: bool = False
    error: str | None = None  # why it cannot be used
    digest: bytes | None = None  # hash of the bytes of a usable photo


def check_files(
    paths: Sequence[Path], workers: int | None, progress: Progress | None
) -> list[FileResult]:
    """Open every file in several processes, and return the results in order."""
    chunks = [list(paths[start : start + _CHUNK]) for start in range(0, len(paths), _CHUNK)]
    results: list[FileResult] = []
    with contextlib.closing(in_processes(_check_chunk, chunks, workers)) as parts:
        for part in parts:
            results += part
            if progress:
                progress(len(results), len(paths))
    return results


def check_photos(
    findings: Findings, root: Path, workers: int | None, progress: Progress | None
) -> int:
    """Check the files of all rows, and return how many were opened."""
    listed = [
        (split, row, path)
        for split, table in findings.tables.items()
        for row, path in enumerate(photo_paths(split, table["state"], table["id"]))
        if _inside(path)
    ]
    results = check_files([root / path for _, _, path in listed], workers, progress)
    checked = {(s, r): result for (s, r, _), result in zip(listed, results, strict=True)}
    if results and all(result.missing for result in results):
        message = (
            "there are only tables and no photos; put the photos at "
            f"{listed[0][2].split('/')[0]}/STATE/ID.jpg"
        )
        findings.found.append(Finding("photos-absent", "error", message, len(results)))
        return 0
    for check, missing, message in (
        ("file-missing", True, "photos that a table lists but the folder does not contain"),
        ("file-unreadable", False, "photos that are cut off, damaged or not images"),
    ):
        masks = findings.empty_masks()
        for (split, row), result in checked.items():
            masks[split][row] = bool(result.error) and result.missing == missing
        findings.rows(check, "error", message, masks, lambda s, r: checked[s, r].error)
    _check_copies(findings, checked)
    _check_orphans(findings, root, {path for _, _, path in listed})
    return sum(not result.missing for result in results)


def _check_copies(findings: Findings, checked: dict[tuple[str, int], FileResult]) -> None:
    copies = collections.defaultdict(list)
    for (split, row), result in checked.items():
        if result.digest and not findings.drop[split][row]:
            copies[result.digest].append((split, row))
    leaks, twice = findings.empty_masks(), findings.empty_masks()
    for group in copies.values():
        in_test = any(split == "test" for split, _ in group)
        for position, (split, row) in enumerate(group):
            if split == "train" and in_test:
                leaks[split][row] = True
            elif position and split == group[position - 1][0]:
                twice[split][row] = True
    message = "training photos that are the same file as a test photo, under another id"
    findings.rows("split-same-photo", "error", message, leaks)
    message = "photos that are the same file as an earlier one, under another id"
    findings.rows("file-repeated", "warning", message, twice)


def _check_orphans(findings: Findings, root: Path, listed: set[str]) -> None:
    orphans = []
    for split in findings.tables:
        found = photo_files(root / f"{split}_images")
        names = [path.relative_to(root).as_posix() for path in found]
        orphans += [escaped(name) for name in names if name not in listed]
    if orphans:
        message = "photo files that no table lists; they are not used"
        examples = tuple({"file": path} for path in sorted(orphans)[:EXAMPLES])
        findings.found.append(Finding("file-unlisted", "warning", message, len(orphans), examples))


def _inside(path: str) -> bool:
    """Return whether a relative path stays inside its folder; a crafted id could escape it."""
    return "\0" not in path and ".." not in Path(path).parts and not Path(path).is_absolute()


def _check_chunk(paths: list[Path]) -> list[FileResult]:
    return [_check_file(path) for path in paths]


def _check_file(path: Path) -> FileResult:
    if not os.path.exists(path):  # also False for names that are too long
        return FileResult(missing=True, error=f"{path.name} does not exist")
    try:
        content, _ = read_source(path, path.name)
        open_photo(content, name=path.name, draft_size=CHECK_DRAFT)
    except PhotoError as error:
        return FileResult(error=str(error))
    return FileResult(digest=hashlib.blake2b(content, digest_size=16).digest())
