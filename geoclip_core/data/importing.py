"""A dataset of your own geotagged photos, in the layout of OSV-Mini-129k.

The photos are copied (or hard-linked) into the dataset; the originals are never moved or changed.
An id is a hash of the file's bytes, so importing twice changes nothing and a copy counts once. The
dataset is built beside its place and swapped in at the end.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from geoclip_core.data.dataset import (
    DESCRIPTION_FILE,
    FILE_SPLITS,
    csv_path,
    parse_numbers,
    photo_paths,
    read_csv_text,
    read_text,
)
from geoclip_core.data.photos import PHOTO_SUFFIXES, Photo, open_photo
from geoclip_core.data.splits import MIN_DISTANCE_KM, nearest_km, spatial_split
from geoclip_core.demo.dataset import check_output
from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import OFFSHORE_KM, REMOTE_KM, Gazetteer
from geoclip_core.errors import DatasetError, PhotoError
from geoclip_core.files import atomic_folder, restore


@dataclasses.dataclass(frozen=True)
class Position:
    """Where and when a photo was taken.

    Attributes:
        latitude: Degrees, or None when the CSV leaves it empty.
        longitude: Degrees, or None.
        captured_at: Milliseconds since 1970, UTC, or None.
    """

    latitude: float | None
    longitude: float | None
    captured_at: int | None


class Positions:
    """The rows of such a CSV, found by a photo's path below the imported folder, or by its name."""

    def __init__(self, rows: dict[str, Position]) -> None:
        self._rows = rows
        names = pd.Series([Path(file).name for file in rows], dtype="str")
        alone = names[~names.duplicated(keep=False)]
        self._by_name = {name: list(rows)[i] for i, name in alone.items()}
        self._used: set[str] = set()

    def find(self, file: str) -> Position | None:
        """The position of a photo, given its path below the folder with "/" between the parts."""
        key = file if file in self._rows else self._by_name.get(Path(file).name)
        # A row that names another folder is about another photo of the same name.
        if key is None or (key != file and "/" in key):
            return None
        self._used.add(key)
        return self._rows[key]

    def unused(self) -> list[str]:
        """Files of the CSV that no photo was found for, in its order."""
        return [file for file in self._rows if file not in self._used]


def read_positions(path: Path) -> Positions:
    """Read the CSV; captured_at may be missing, ISO 8601 (UTC without a zone) or milliseconds.

    Raises:
        DatasetError: not such a CSV, or a wrong value, with its column and row.
    """
    frame = read_csv_text(path, ("file", "latitude", "longitude", "captured_at"))
    missing = [name for name in ("file", "latitude", "longitude") if name not in frame]
    if missing:
        raise DatasetError(f"{path}: no column {', '.join(map(repr, missing))}")
    files = frame["file"].str.strip().str.replace("\\", "/").str.removeprefix("./")
    _refuse(path, "file", frame, files.eq("").to_numpy(), "is no file name")
    _refuse(path, "file", frame, files.duplicated().to_numpy(), "is in an earlier row too")
    values = {}
    for column, limit in (("latitude", 90), ("longitude", 180)):
        values[column], wrong = parse_numbers(frame[column])
        _refuse(path, column, frame, wrong, "is not a number; degrees are written like -97.7431")
        outside = np.abs(values[column]) > limit
        _refuse(path, column, frame, outside, f"is outside -{limit} to {limit} degrees")
    times = _times(path, frame)
    rows = {}
    for i, file in enumerate(files):
        latitude, longitude = (float(values[column][i]) for column in ("latitude", "longitude"))
        known = not (np.isnan(latitude) or np.isnan(longitude))
        rows[file] = Position(latitude if known else None, longitude if known else None, times[i])
    return Positions(rows)


def _times(path: Path, frame: pd.DataFrame) -> list[int | None]:
    if "captured_at" not in frame:
        return [None] * len(frame)
    text = frame["captured_at"].str.strip()
    number, _ = parse_numbers(text)
    dates = pd.to_datetime(
        text.where(np.isnan(number)), utc=True, errors="coerce", format="ISO8601"
    )
    wrong = (dates.isna() & ~text.isin(["", "nan", "NaN"])).to_numpy() & np.isnan(number)
    reason = "is not a time; write 2024-07-31T14:05:00Z, or milliseconds since 1970"
    _refuse(path, "captured_at", frame, wrong, reason)
    outside = (number < -4.6e12) | ((number >= 0) & (number < 31.6e9)) | (number >= 4.1e12)
    reason = "is not milliseconds since 1970; is it seconds or microseconds?"
    _refuse(path, "captured_at", frame, outside, reason)
    dates = dates.dt.as_unit("ms").astype("int64").where(dates.notna())
    merged = np.where(np.isnan(number), dates.to_numpy(dtype=np.float64, na_value=np.nan), number)
    return [None if np.isnan(value) else int(value) for value in merged]


def _refuse(path: Path, column: str, frame: pd.DataFrame, wrong: np.ndarray, reason: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = str(frame[column].iloc[row])[:60]
        raise DatasetError(f"{path}: column {column!r}, row {row + 2}: {value!r} {reason}")


_DECODED_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Source:
    """One photo file, read."""

    path: Path
    file: str
    photo_id: str = ""
    is_jpeg: bool = True
    position: Position | None = None
    reason: str | None = None


def photo_files(folder: Path, output: Path) -> list[Path]:
    """All photos below a folder in the order of their names, without hidden ones and `output`."""
    found = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and here / f != output)
        found += [
            here / name
            for name in sorted(names)
            if Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith(".")
        ]
    return found


def read_source(path: Path, folder: Path, table: Positions | None, known_ids: set[str]) -> Source:
    """Read one file; one that is known already is not decoded again.

    Args:
        path: The file.
        folder: The folder that is imported.
        table: Positions that go before the EXIF.
        known_ids: Ids that the dataset has.
    """
    file = path.relative_to(folder).as_posix()
    given = table.find(file) if table is not None else None
    try:
        content = path.read_bytes()
    except OSError as error:
        return Source(path, file, reason=f"cannot be read: {error.strerror or error}")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    # Sixteen digits, as the ids of OSV-5M have.
    photo_id = str(10**15 + int.from_bytes(digest, "big") % (9 * 10**15))
    if photo_id in known_ids and given is None:
        return Source(path, file, photo_id)
    try:
        photo = open_photo(content, name=path.name, draft_size=_DECODED_SIDE)
    except PhotoError as error:
        return Source(path, file, reason=str(error))
    position = _position(photo, given)
    if position is None:
        reason = "has no position, neither in its EXIF nor in a CSV"
        return Source(path, file, reason=reason)
    is_jpeg = photo.format in ("JPEG", "MPO")
    return Source(path, file, photo_id, is_jpeg, position)


def _position(photo: Photo, given: Position | None) -> Position | None:
    """What the CSV says, and from the EXIF what it does not say."""
    latitude, longitude = photo.position or (None, None)
    captured_at = None
    if given is not None:
        captured_at = given.captured_at
        if given.latitude is not None:
            latitude, longitude = given.latitude, given.longitude
    if latitude is None or longitude is None:
        return None
    if captured_at is None and photo.captured_at is not None:
        moment = photo.captured_at
        if not photo.captured_at_is_utc:
            # A camera without a time zone: local time is taken as the sun's, within an hour or two.
            moment = moment.replace(tzinfo=UTC) - timedelta(hours=longitude / 15)
        captured_at = round(moment.timestamp() * 1000)
    return Position(latitude, longitude, captured_at)


IMPORT_COLUMNS = (
    *("id", "latitude", "longitude", "country", "captured_at", "region", "sub-region", "city"),
    *("climate", "unique_country", "unique_region", "unique_sub-region", "unique_city"),
    "source_file",
)


def imported_rows(photos: Sequence[tuple[str, str, Position]]) -> pd.DataFrame:
    """Rows of new photos, all columns text as a CSV has it.

    Args:
        photos: id, file below the imported folder, and position of each.

    Returns:
        (n,) rows of `IMPORT_COLUMNS`. Far out at sea, where the nearest town means nothing, the
        place columns are empty.
    """
    coordinates = np.array([(p.latitude, p.longitude) for _, _, p in photos]).reshape(-1, 2)
    places = Gazetteer.load().frame(coordinates)
    codes = ClimateRaster.load().codes(coordinates).astype(int)
    distance = places.pop("distance_km")
    nowhere = (distance > REMOTE_KM) | ((codes == 0) & (distance > OFFSHORE_KM))
    frame = places.astype("str").mask(nowhere.to_numpy()[:, None] | places.isna(), "")
    frame["id"] = [photo_id for photo_id, _, _ in photos]
    frame["source_file"] = [file for _, file, _ in photos]
    for axis, column in enumerate(("latitude", "longitude")):
        # Seven decimals are a centimetre; the same text every time the same photo is imported.
        frame[column] = [f"{value:.7f}" for value in coordinates[:, axis]]
    times = [position.captured_at for _, _, position in photos]
    frame["captured_at"] = ["" if time is None else str(time) for time in times]
    frame["climate"] = [str(code) for code in codes]
    return frame[list(IMPORT_COLUMNS)].astype("str")


def with_splits(
    old: pd.DataFrame, new: pd.DataFrame, test_fraction: float, seed: int
) -> pd.DataFrame:
    """Old rows, updated by new ones of the same id, and the others with a split of their own.

    A photo stays in the split it has. A new photo goes where its neighbours within 1 km are, the
    rest is split in spatial blocks, and who is then too close to both sides goes to "buffer".

    Args:
        old: Rows with split, or an empty frame with an id column.
        new: Rows without split.
        test_fraction: Share of the unattached new photos in test.
        seed: Which blocks become test.
    """
    split_of = dict(zip(old["id"], old["split"], strict=True)) if len(old) else {}
    rows = new.assign(split=[split_of.get(photo_id, "") for photo_id in new["id"]])
    fresh = (rows["split"] == "").to_numpy()
    kept = old[~old["id"].isin(rows["id"])]
    known = pd.concat([kept, rows[~fresh]], ignore_index=True)
    split = _fresh_splits(_at(rows[fresh]), _at(known), known, test_fraction, seed)
    rows.loc[fresh, "split"] = split
    if not len(old):
        return rows.astype("str").reset_index(drop=True)
    # Old rows stay where they were, new ones come at the end: importing again gives the same file.
    merged = known.set_index("id").loc[old["id"]].reset_index()
    return pd.concat([merged[old.columns], rows[fresh]], ignore_index=True).astype("str")


def _fresh_splits(
    fresh: np.ndarray, known_at: np.ndarray, known: pd.DataFrame, fraction: float, seed: int
) -> np.ndarray:
    if not len(fresh):
        return np.empty(0, dtype=object)
    at_test = known_at[(known["split"] == "test").to_numpy()] if len(known) else known_at
    at_train = known_at[(known["split"] == "train").to_numpy()] if len(known) else known_at
    near_test = np.isfinite(nearest_km(fresh, at_test, MIN_DISTANCE_KM))
    near_train = np.isfinite(nearest_km(fresh, at_train, MIN_DISTANCE_KM))
    split = np.full(len(fresh), "train", dtype=object)
    free = ~near_test & ~near_train
    if fraction > 0 and free.any():
        parts = spatial_split(fresh[free], fraction, seed=seed)
        split[free] = np.where(parts == "val", "test", parts)
    split[near_test] = "test"
    split[near_test & near_train] = "buffer"
    for one, other, there in (("train", "test", at_test), ("test", "train", at_train)):
        against = np.concatenate([fresh[split == other], there])
        close = np.isfinite(nearest_km(fresh, against, MIN_DISTANCE_KM))
        split[close & (split == one)] = "buffer"
    return split


def _at(rows: pd.DataFrame) -> np.ndarray:
    if not len(rows):
        return np.empty((0, 2))
    return rows[["latitude", "longitude"]].astype("float64").to_numpy()


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
    for split in FILE_SPLITS:
        path = csv_path(output, split)
        if path.is_file():
            parts.append(read_text(path, columns=None).assign(split=split))
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
        for split in FILE_SPLITS:
            part = frame[frame["split"] == split].drop(columns="split")
            if len(part) or split != "buffer":
                path = csv_path(folder, split)
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
        (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def _paths(frame: pd.DataFrame) -> dict[str, str]:
    if not len(frame):
        return {}
    paths: dict[str, str] = {}
    for split, part in frame.groupby("split"):
        region = part["region"].mask(part["region"] == "")
        relative = photo_paths(str(split), region, part["id"])
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
