"""Make a dataset of geotagged photos, in the layout of OSV-Mini-129k.

The photos are copied (or hard-linked) into the dataset; the originals are never moved or changed.
An id is a hash of the file's bytes, so importing twice changes nothing and duplicates count once.
The dataset is built in a temporary folder and swapped in at the end.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from geoclip_core.data.dataset import (
    ATTRIBUTION,
    FILE_SPLITS,
    MISSING_TEXT,
    REQUIRED,
    Problems,
    Progress,
    check_output,
    csv_path,
    parse_numbers,
    photo_paths,
    read_csv,
    write_description,
)
from geoclip_core.data.photos import CHECK_DRAFT, PHOTO_SUFFIXES, Photo, open_photo
from geoclip_core.data.splits import MIN_DISTANCE_KM, nearest_km, spatial_split
from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import OFFSHORE_KM, REMOTE_KM, Gazetteer
from geoclip_core.errors import PhotoError
from geoclip_core.files import atomic_folder, restore

MADE_BY = "import-photos"
NOT_IMPORTED_FILE = "not_imported.csv"
JPEG_QUALITY = 95
IMPORT_COLUMNS = (
    *("id", "latitude", "longitude", "country", "captured_at", "region", "sub-region", "city"),
    *("climate", "unique_country", "unique_region", "unique_sub-region", "unique_city"),
    "source_file",
)


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What `import_photos` did."""

    found: int  # photo files in the folder
    added: int  # photos that are new in the dataset
    known: int  # photos that were in the dataset before
    copies: int  # files with the same bytes as another in the folder
    skipped: tuple[tuple[str, str], ...]  # (file, reason); also in `NOT_IMPORTED_FILE`
    total: dict[str, int]  # photos in the dataset now, by split
    changed: bool  # whether the dataset on disk was written


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
        folder: Searched for photos, including its subfolders.
        output: The dataset to make or to add to.
        positions: A CSV as `read_positions` reads it, which takes precedence over EXIF.
        link: Whether to hard-link the photos instead of copying them, where the disk allows it.
        test_fraction: Share of the new photos that becomes test, by spatial blocks, 0 to 0.5.
        seed: Determines which blocks become test.
        workers: Threads that read; by default one per core.
        progress: Called with the number of steps done and the total.

    Raises:
        ValueError: there are no photos, `output` contains something else, or the CSV is wrong.
    """
    folder, output = Path(folder).absolute(), Path(output).absolute()
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not 0 <= test_fraction <= 0.5:
        raise ValueError(f"the share of test must be between 0 and 0.5, not {test_fraction}")
    restore(output)
    check_output(output, MADE_BY)
    table = None if positions is None else read_positions(Path(positions))
    paths = photo_files(folder, output)
    if not paths:
        raise ValueError(f"{folder}: no photos here ({', '.join(sorted(PHOTO_SUFFIXES)[:6])}, ...)")
    old = _old_rows(output)
    steps = 2 * len(paths)
    sources: dict[str, SourcePhoto] = {}
    skipped: list[tuple[str, str]] = []
    copies = 0
    known_ids = set(old["id"])
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(lambda path: read_photo(path, folder, table, known_ids), paths)
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
    # A photo that the dataset already has and the CSV does not list has no position: its row stays.
    rows = imported_rows(
        [(s.photo_id, s.file, s.position) for s in sources.values() if s.position is not None]
    )
    frame = with_splits(old, rows, test_fraction, seed)
    same = list(frame.columns) == list(old.columns) and frame.equals(old.astype("str"))
    changed = not same or skipped != _old_skipped(output)
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


@dataclasses.dataclass(frozen=True)
class Position:
    """Where and when a photo was taken."""

    latitude: float | None  # degrees; both are None if the CSV leaves one empty
    longitude: float | None
    captured_at: int | None  # milliseconds since 1970, UTC


class Positions:
    """Positions of a CSV, found by a photo's path below the imported folder, or by its name."""

    def __init__(self, rows: dict[str, Position]) -> None:
        self._rows = rows
        counts = Counter(Path(file).name for file in rows)
        # Rows without a folder, unless another row has the same name with one.
        self._names = {file for file in rows if counts[file] == 1}
        self._used: set[str] = set()

    def find(self, file: str) -> Position | None:
        """Return the position of a photo, given its path below the folder."""
        key = file if file in self._rows else Path(file).name
        if key != file and key not in self._names:
            return None
        self._used.add(key)
        return self._rows[key]

    def unused(self) -> list[str]:
        """Return the files in the CSV for which no photo was found, in its order."""
        return [file for file in self._rows if file not in self._used]


def read_positions(path: Path) -> Positions:
    """Read a CSV of positions.

    Its columns are file, latitude, longitude and, if given, captured_at: ISO 8601 (UTC without a
    zone) or milliseconds since 1970.

    Raises:
        DatasetError: the file is not such a CSV, or a value is wrong (column and row are named).
    """
    frame = read_csv(path, required=("file", "latitude", "longitude"))
    problems = Problems(frame, str(path))
    files = frame["file"].str.strip().str.replace("\\", "/").str.removeprefix("./")
    problems.add("file", files.eq("").to_numpy(), "is not a file name")
    problems.add("file", files.duplicated().to_numpy(), "is also in an earlier row")
    latitudes = problems.degrees("latitude", 90, required=False)
    longitudes = problems.degrees("longitude", 180, required=False)
    times = _times(problems)
    problems.raise_first("Correct the CSV and import again")
    rows = {}
    for file, latitude, longitude, time in zip(files, latitudes, longitudes, times, strict=True):
        known = not (np.isnan(latitude) or np.isnan(longitude))
        rows[file] = Position(
            float(latitude) if known else None,
            float(longitude) if known else None,
            None if np.isnan(time) else int(time),
        )
    return Positions(rows)


def _times(problems: Problems) -> np.ndarray:
    """Return captured_at (n,) in milliseconds, NaN where it is missing or wrong."""
    if "captured_at" not in problems.frame:
        return np.full(len(problems.frame), np.nan)
    text = problems.frame["captured_at"].str.strip()
    number, _ = parse_numbers(text)
    number = problems.milliseconds(number)
    dates = pd.to_datetime(
        text.where(np.isnan(number)), utc=True, errors="coerce", format="ISO8601"
    )
    unreadable = (dates.isna() & ~text.isin(MISSING_TEXT)).to_numpy() & np.isnan(number)
    reason = "is not a time; write 2024-07-31T14:05:00Z, or milliseconds since 1970"
    problems.add("captured_at", unreadable, reason)
    milliseconds = dates.dt.as_unit("ms").astype("int64").where(dates.notna())
    of_dates = milliseconds.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isnan(number), of_dates, number)


@dataclasses.dataclass(frozen=True)
class SourcePhoto:
    """One file of the imported folder."""

    path: Path
    file: str  # path below the folder, with "/" as separator
    photo_id: str = ""  # hash of its bytes
    is_jpeg: bool = True  # whether it can be copied without conversion
    position: Position | None = None  # None if the dataset already has the photo
    reason: str | None = None  # why it cannot be imported


def photo_files(folder: Path, output: Path) -> list[Path]:
    """Return all photos below a folder but hidden ones and those in `output`, sorted by path."""
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


def read_photo(
    path: Path, folder: Path, table: Positions | None, known_ids: set[str]
) -> SourcePhoto:
    """Read one file of the imported folder; a photo that the dataset has is not decoded again."""
    file = path.relative_to(folder).as_posix()
    given = table.find(file) if table is not None else None
    try:
        content = path.read_bytes()
    except OSError as error:
        return SourcePhoto(path, file, reason=f"cannot be read: {error.strerror or error}")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    # Sixteen digits, as the ids of OSV-5M have.
    photo_id = str(10**15 + int.from_bytes(digest, "big") % (9 * 10**15))
    if photo_id in known_ids and given is None:
        return SourcePhoto(path, file, photo_id)
    try:
        photo = open_photo(content, name=path.name, draft_size=CHECK_DRAFT)
    except PhotoError as error:
        return SourcePhoto(path, file, reason=str(error))
    position = _position(photo, given)
    if position is None:
        reason = "has no position, neither in its EXIF nor in a CSV"
        return SourcePhoto(path, file, reason=reason)
    return SourcePhoto(path, file, photo_id, photo.format in ("JPEG", "MPO"), position)


def _position(photo: Photo, given: Position | None) -> Position | None:
    """Return the position in the CSV, completed from the EXIF; None if neither has one."""
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
        if moment.tzinfo is None:
            # Without a time zone, local time is taken as solar time: correct to an hour or two.
            moment = moment.replace(tzinfo=UTC) - timedelta(hours=longitude / 15)
        captured_at = round(moment.timestamp() * 1000)
    return Position(latitude, longitude, captured_at)


def imported_rows(photos: Sequence[tuple[str, str, Position]]) -> pd.DataFrame:
    """Return a table of `IMPORT_COLUMNS` as text for n photos given as (id, file, position).

    Place columns are empty far from any place, as in OSV-5M.
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
        # Seven decimals (1 cm) give the same text at every import.
        frame[column] = [f"{value:.7f}" for value in coordinates[:, axis]]
    times = [position.captured_at for _, _, position in photos]
    frame["captured_at"] = ["" if time is None else str(time) for time in times]
    frame["climate"] = [str(code) for code in codes]
    return frame[list(IMPORT_COLUMNS)].astype("str")


def with_splits(
    old: pd.DataFrame, new: pd.DataFrame, test_fraction: float, seed: int
) -> pd.DataFrame:
    """Update the old rows of a dataset, append the new ones, and assign those a split.

    Old photos stay in their split. New photos get the split of their neighbours within 1 km; the
    others are split by spatial blocks, and photos that are then close to both sides become
    "buffer".
    """
    split_of = dict(zip(old["id"], old["split"], strict=True))
    rows = new.assign(split=[split_of.get(photo_id, "") for photo_id in new["id"]])
    fresh = (rows["split"] == "").to_numpy()
    kept = old[~old["id"].isin(rows["id"])]
    known = pd.concat([kept, rows[~fresh]], ignore_index=True)
    rows.loc[fresh, "split"] = _fresh_splits(rows[fresh], known, test_fraction, seed)
    if not len(old):
        return rows.astype("str").reset_index(drop=True)
    # Old rows keep their order, so that importing again gives the same file.
    merged = known.set_index("id").loc[old["id"]].reset_index()
    return pd.concat([merged[old.columns], rows[fresh]], ignore_index=True).astype("str")


def _fresh_splits(new: pd.DataFrame, known: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Return the split (n,) of the `new` rows, given the rows that have one."""
    fresh = _coordinates(new)
    at_test = _coordinates(known[known["split"] == "test"])
    at_train = _coordinates(known[known["split"] == "train"])
    near_test = np.isfinite(nearest_km(fresh, at_test, MIN_DISTANCE_KM))
    near_train = np.isfinite(nearest_km(fresh, at_train, MIN_DISTANCE_KM))
    split = np.full(len(fresh), "train", dtype=object)
    free = ~near_test & ~near_train
    if fraction > 0 and free.any():
        parts = spatial_split(fresh[free], fraction, seed=seed)
        split[free] = np.where(parts == "val", "test", parts)
    split[near_test] = "test"
    split[near_test & near_train] = "buffer"
    for side, other, known_other in (("train", "test", at_test), ("test", "train", at_train)):
        against = np.concatenate([fresh[split == other], known_other])
        close = np.isfinite(nearest_km(fresh, against, MIN_DISTANCE_KM))
        split[close & (split == side)] = "buffer"
    return split


def _coordinates(rows: pd.DataFrame) -> np.ndarray:
    return rows[["latitude", "longitude"]].astype("float64").to_numpy()


def _old_rows(output: Path) -> pd.DataFrame:
    """Return all rows of a dataset as text, with their split; none if it does not exist."""
    parts = []
    for split in FILE_SPLITS:
        path = csv_path(output, split)
        if path.is_file():
            parts.append(read_csv(path, required=REQUIRED).assign(split=split))
    empty = pd.DataFrame(columns=[*REQUIRED, "split"], dtype="str")
    return pd.concat(parts, ignore_index=True) if parts else empty


def _old_skipped(output: Path) -> list[tuple[str, str]]:
    path = output / NOT_IMPORTED_FILE
    if not path.is_file():
        return []
    frame = read_csv(path, required=("file", "reason"))
    return list(zip(frame["file"], frame["reason"], strict=True))


def _write(
    output: Path,
    frame: pd.DataFrame,
    old: pd.DataFrame,
    sources: dict[str, SourcePhoto],
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
                part.to_csv(csv_path(folder, split), index=False, lineterminator="\n")
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
        write_description(
            folder,
            {"name": output.name, "synthetic": False, "made_by": MADE_BY, "note": ATTRIBUTION},
        )


def _paths(frame: pd.DataFrame) -> dict[str, str]:
    """Return the path of each photo id, relative to the dataset folder."""
    paths: dict[str, str] = {}
    for split, part in frame.groupby("split"):
        region = part["region"].mask(part["region"] == "")
        relative = photo_paths(str(split), region, part["id"])
        paths |= dict(zip(part["id"], relative, strict=True))
    return paths


def _place(source: Path, target: Path, *, link: bool) -> None:
    if link:
        # Links fail across disks and on some file systems; the file is then copied.
        with contextlib.suppress(OSError):
            target.hardlink_to(source)
            return
    shutil.copy2(source, target)
