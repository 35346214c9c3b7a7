"""The doctor's checks of the photo files: missing, cut off, not images, twice, in no table."""

import collections
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from geoclip_core.data import osv_mini
from geoclip_core.data.doctor_findings import EXAMPLES, Finding, Findings
from geoclip_core.data.photos import PHOTO_SUFFIXES, PhotoError, open_photo
from geoclip_core.data.processes import in_processes

Progress = Callable[[int, int], None]
_CHUNK = 64
_DECODED_SIDE = 64  # enough to read every block of a JPEG, and much faster than all its pixels


@dataclasses.dataclass(frozen=True)
class FileResult:
    """What one photo file is: missing, wrong (with the reason), or fine with its digest."""

    missing: bool = False
    error: str | None = None
    digest: bytes | None = None


def check_files(
    paths: Sequence[Path], workers: int | None = None, progress: Progress | None = None
) -> list[FileResult]:
    """Open every file; the results are in the order of the paths.

    Args:
        paths: The photo files.
        workers: Processes; by default one a core. 0 works in this process.
        progress: Called with photos done and to do.
    """
    chunks = [list(paths[start : start + _CHUNK]) for start in range(0, len(paths), _CHUNK)]
    results: list[FileResult] = []

    def collect(parts: Iterator[list[FileResult]]) -> None:
        for part in parts:
            results.extend(part)
            if progress:
                progress(len(results), len(paths))

    if workers == 0 or len(chunks) <= 2:
        collect(map(_check_chunk, chunks))
        return results
    checking = in_processes(_check_chunk, chunks, workers)
    with contextlib.closing(checking):
        collect(checking)
    return results


def check_photos(
    findings: Findings, root: Path, workers: int | None, progress: Progress | None
) -> int:
    """Check the files of all rows; returns how many were opened."""
    listed = [
        (split, row, path)
        for split, table in findings.tables.items()
        for row, path in enumerate(osv_mini.photo_paths(split, table["state"], table["id"]))
        if _inside(path)
    ]
    results = check_files([root / path for _, _, path in listed], workers, progress)
    checked = {(s, r): result for (s, r, _), result in zip(listed, results, strict=True)}
    if results and all(result.missing for result in results):
        message = (
            "none of the photos is here, only the tables; put the photos at "
            f"{listed[0][2].split('/')[0]}/STATE/ID.jpg"
        )
        findings.found.append(Finding("photos-absent", "error", message, len(results)))
        return 0
    for check, missing, message in (
        ("file-missing", True, "photos that a table lists but the folder does not have"),
        ("file-unreadable", False, "photos that are cut off, damaged or not images"),
    ):
        masks = {s: np.zeros(len(t), dtype=bool) for s, t in findings.tables.items()}
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
    leaks = {s: np.zeros(len(t), dtype=bool) for s, t in findings.tables.items()}
    twice = {s: np.zeros(len(t), dtype=bool) for s, t in findings.tables.items()}
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
        for folder, _, names in os.walk(root / f"{split}_images"):
            relative = Path(folder).relative_to(root).as_posix()
            orphans += [
                f"{relative}/{name}"
                for name in names
                if Path(name).suffix.lower() in PHOTO_SUFFIXES
                and f"{relative}/{name}" not in listed
            ]
    if orphans:
        message = "photo files that no table lists; they are not used"
        examples = tuple({"file": path} for path in sorted(orphans)[:EXAMPLES])
        findings.found.append(Finding("file-unlisted", "warning", message, len(orphans), examples))


def _inside(path: str) -> bool:
    """Whether a relative path stays in its folder: a hostile id could lead out of it."""
    return "\0" not in path and ".." not in Path(path).parts and not Path(path).is_absolute()


def _check_chunk(paths: list[Path]) -> list[FileResult]:
    return [_check_file(path) for path in paths]


def _check_file(path: Path) -> FileResult:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return FileResult(missing=True, error=f"{path.name} does not exist")
    except OSError as error:
        return FileResult(error=f"{path.name} cannot be read: {error.strerror or error}")
    try:
        open_photo(content, name=path.name, draft_size=_DECODED_SIDE)
    except PhotoError as error:
        return FileResult(error=str(error))
    return FileResult(digest=hashlib.blake2b(content, digest_size=16).digest())
