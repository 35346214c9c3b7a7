"""A dataset of your own geotagged photos, in the layout of OSV-Mini-129k.

The photos are copied (or hard-linked) into the dataset; the originals are never moved or changed.
An id is a hash of the file's bytes, so importing twice changes nothing and a copy counts once. The
dataset is built beside its place and swapped in at the end.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from geoclip_core.atomic_writes import atomic_folder, restore
from geoclip_core.data import osv_mini
from geoclip_core.data.demo import check_output
from geoclip_core.data.import_rows import imported_rows, with_splits
from geoclip_core.data.import_sources import Source, photo_files, read_source
from geoclip_core.data.photos import PHOTO_SUFFIXES, open_photo
from geoclip_core.data.positions import read_positions

MADE_BY = "import-photos"
NOT_IMPORTED_FILE = "not_imported.csv"
JPEG_QUALITY = 95
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        found: Photo files in the folder.
        added: Photos that are new in the dataset.
        known: Photos that it had before.
        copies: Files with the same bytes as another in the folder.
        skipped: (file, reason) of those that were not imported; also in `NOT_IMPORTED_FILE`.
        total: Photos in the dataset now, by split.
        changed: Whether the dataset on disk was written.
    """

    found: int
    added: int
    known: int
    copies: int
    skipped: tuple[tuple[str, str], ...]
    total: dict[str, int]
    changed: bool


def import_photos(
    folder: Path | str,
    output: Path | str,
    *,
    positions: Path | str | None = None,
    link: bool = False,
    test_fraction: float = 0.15,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a folder of photos, or add it to a dataset that was imported before.

    Args:
        folder: Searched for photos with all its subfolders.
        output: The dataset to make or to add to.
        positions: A CSV (file, latitude, longitude, captured_at) that goes before the EXIF.
        link: Make hard links instead of copies, where the disk allows it.
        test_fraction: Share of the photos in test, in spatial blocks; photos that are in a split
            already stay there.
        seed: Which blocks become test.
        workers: Threads that read; by default one a core.
        progress: Called with steps done and to do.

    Raises:
        ValueError: no photos, an output that holds something else, a wrong CSV.
    """
    folder, output = Path(folder).absolute(), Path(output).absolute()
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not 0 <= test_fraction <= 0.5:
        raise ValueError(f"the share of test must lie between 0 and 0.5, not {test_fraction}")
    restore(output)
    check_output(output, MADE_BY)
    table = None if positions is None else read_positions(Path(positions))
    paths = photo_files(folder, output)
    if not paths:
        raise ValueError(f"{folder}: no photos here ({', '.join(sorted(PHOTO_SUFFIXES)[:6])}, ...)")
    old = _old_rows(output)
    steps = 2 * len(paths)
    sources: dict[str, Source] = {}
    skipped: list[tuple[str, str]] = []
    copies = 0
    known_ids = set(old["id"])
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(lambda path: read_source(path, folder, table, known_ids), paths)
        for done, source in enumerate(results, start=1):
            if source.reason:
                skipped.append((source.file, source.reason))
            elif source.photo_id in sources:
                copies += 1
            else:
                sources[source.photo_id] = source
            if progress:
                progress(done, steps)
    if table is not None:
        skipped += [(file, "is in the CSV but not in the folder") for file in table.unused()]
    new = [s for s in sources.values() if s.photo_id not in known_ids or s.position is not None]
    rows = imported_rows([(s.photo_id, s.file, s.position) for s in new])
    frame = with_splits(old, rows, test_fraction, seed)
    changed = not _same(frame, old) or skipped != _old_skipped(output)
    if not len(frame):
        raise ValueError(
            f"{folder}: none of {len(paths):,} photos can be imported; the first: "
            f"{skipped[0][0]} {skipped[0][1]}"
        )
    if changed:
        _write(output, frame, old, sources, skipped, link, progress, steps)
    added = sum(photo_id not in known_ids for photo_id in sources)
    return ImportReport(
        found=len(paths),
        added=added,
        known=len(sources) - added,
        copies=copies,
        skipped=tuple(skipped),
        total={str(s): int(n) for s, n in frame["split"].value_counts().items()},
        changed=changed,
    )


def _old_rows(output: Path) -> pd.DataFrame:
    parts = []
    for split in osv_mini.FILE_SPLITS:
        path = osv_mini.csv_path(output, split)
        if path.is_file():
            parts.append(osv_mini.read_text(path, columns=None).assign(split=split))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"id": []}, dtype="str")


def _old_skipped(output: Path) -> list[tuple[str, str]]:
    path = output / NOT_IMPORTED_FILE
    if not path.is_file():
        return []
    frame = pd.read_csv(path, dtype="str", na_filter=False)
    return list(zip(frame["file"], frame["reason"], strict=True))


def _same(frame: pd.DataFrame, old: pd.DataFrame) -> bool:
    return list(frame.columns) == list(old.columns) and frame.equals(old.astype("str"))


def _write(
    output: Path,
    frame: pd.DataFrame,
    old: pd.DataFrame,
    sources: dict[str, Source],
    skipped: list[tuple[str, str]],
    link: bool,
    progress: Progress | None,
    steps: int,
) -> None:
    old_paths = _paths(old)
    with atomic_folder(output) as folder:
        for split in osv_mini.FILE_SPLITS:
            part = frame[frame["split"] == split].drop(columns="split")
            if len(part) or split != "buffer":
                path = osv_mini.csv_path(folder, split)
                part.to_csv(path, index=False, lineterminator="\n")
        for done, (photo_id, path) in enumerate(_paths(frame).items(), start=1):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = output / old_paths[photo_id] if photo_id in old_paths else None
            if kept is not None and kept.is_file():
                _place(kept, target, link=True)
            elif photo_id not in sources:
                raise ValueError(f"{kept} is missing; import the folder it came from again")
            elif sources[photo_id].is_jpeg:
                _place(sources[photo_id].path, target, link=link)
            else:
                image = open_photo(sources[photo_id].path).image
                image.save(target, "JPEG", quality=JPEG_QUALITY)
            if progress:
                progress(steps // 2 + min(done, steps // 2), steps)
        listed = pd.DataFrame(skipped, columns=["file", "reason"])
        listed.to_csv(folder / NOT_IMPORTED_FILE, index=False, lineterminator="\n")
        description = {
            "name": output.name,
            "synthetic": False,
            "made_by": MADE_BY,
            "note": "Place names: GeoNames (CC BY 4.0). Climate: Beck et al. 2018 (CC BY 4.0).",
        }
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (folder / osv_mini.DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def _paths(frame: pd.DataFrame) -> dict[str, str]:
    if not len(frame):
        return {}
    paths: dict[str, str] = {}
    for split, part in frame.groupby("split"):
        region = part["region"].mask(part["region"] == "")
        relative = osv_mini.photo_paths(str(split), region, part["id"])
        paths |= dict(zip(part["id"], relative, strict=True))
    return paths


def _place(source: Path, target: Path, *, link: bool) -> None:
    if link:
        try:
            target.hardlink_to(source)
            return
        except OSError:
            # Another disk, or one without links: a copy is as good.
            shutil.copy2(source, target)
            return
    shutil.copy2(source, target)
