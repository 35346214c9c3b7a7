"""Make a dataset of geotagged photos, in the layout of OSV-Mini-129k.

The photos are copied (or hard-linked) into the dataset; the originals are never moved or changed.
An id is a hash of the file's bytes, so importing twice changes nothing and duplicates count once.
The dataset is built in a temporary folder and swapped in at the end.
"""

import contextlib
import dataclasses
import hashlib
import lzma
import os
import re
import shutil
import stat
import tempfile
import unicodedata
import urllib.parse
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from geoclip_core.data.dataset import (
    ATTRIBUTION,
    FILE_SPLITS,
    REQUIRED,
    check_output,
    csv_path,
    photo_paths,
    write_description,
)
from geoclip_core.data.metadata import parse_moment, valid_position
from geoclip_core.data.photos import (
    CHECK_DRAFT,
    MAX_BYTES,
    PHOTO_SUFFIXES,
    SKIPPED_FOLDERS,
    Photo,
    is_photo_name,
    open_photo,
    photo_files,
    printable,
    read_source,
    with_sidecars,
)
from geoclip_core.data.splits import MIN_DISTANCE_KM, nearest_km, spatial_split
from geoclip_core.data.tables import (
    MISSING_NUMBER,
    Problems,
    parse_numbers,
    read_csv,
    write_csv,
)
from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import OFFSHORE_KM, REMOTE_KM, Gazetteer
from geoclip_core.errors import DatasetError, PhotoError
from geoclip_core.files import (
    DISK_RESERVE,
    atomic_folder,
    escaped,
    free_bytes,
    readable,
    restore,
)
from geoclip_core.processes import Progress

MADE_BY = "import-photos"
NOT_IMPORTED_FILE = "not_imported.csv"
JPEG_QUALITY = 95
MAX_DOUBTFUL = 100  # photos that are named of those that a row may name
MAX_PARTS = 30  # last parts of a path that are compared with a CSV
MAX_ENTRIES = 500_000  # files in a ZIP
MAX_UNPACKED = 64 * 2**30  # bytes of the photos in a ZIP
SIDECAR_SUFFIXES = (".xmp", ".json")  # files beside photos that can hold their positions
_ZIP_ENTRY = b"PK\x01\x02"
_ESCAPE = re.compile(r"\\u(d[cC][89a-fA-F][0-9a-fA-F])")
IMPORT_COLUMNS = (
    *("id", "latitude", "longitude", "country", "captured_at", "region", "sub-region", "city"),
    *("climate", "unique_country", "unique_region", "unique_sub-region", "unique_city"),
    *("source_file", "position_source"),
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
    sources: dict[str, int]  # photos whose position is from EXIF, XMP, Google Takeout, CSV


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
    left_out: Mapping[str, str] | None = None,
) -> ImportReport:
    """Import a folder of photos, or add it to a dataset that was imported before.

    Args:
        folder: Searched for photos, including its subfolders. A ZIP is unpacked first.
        output: The dataset to make or to add to.
        positions: A CSV as `read_positions` reads it, which takes precedence over metadata.
        link: Whether to hard-link the photos instead of copying them, where the disk allows it.
        test_fraction: Share of the new photos that becomes test, by spatial blocks, 0 to 0.5.
        seed: Determines which blocks become test.
        workers: Threads that read; by default one per core.
        progress: Called with the number of steps done and the total.
        left_out: Photos that are known not to be in the folder -> why; they are reported.

    Raises:
        ValueError: there are no photos, `output` contains something else, or the CSV is wrong.
    """
    folder, output = Path(folder).absolute(), Path(output).absolute()
    if folder.is_file():
        output.parent.mkdir(parents=True, exist_ok=True)
        # named as `remove_left_overs` expects it
        with tempfile.TemporaryDirectory(
            ".part", f".{output.name}.{os.getpid()}-", output.parent
        ) as unpacked:
            with folder.open("rb") as archive:
                left_out = unpack_photos(archive, folder.name, Path(unpacked))
            return import_photos(
                unpacked,
                output,
                positions=positions,
                link=True,
                test_fraction=test_fraction,
                seed=seed,
                workers=workers,
                progress=progress,
                left_out=left_out,
            )
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder or ZIP")
    if not 0 <= test_fraction <= 0.5:
        raise ValueError(f"the share of test must be between 0 and 0.5, not {test_fraction}")
    restore(output)
    check_output(output, MADE_BY)
    table = None if positions is None else read_positions(Path(positions))
    paths = {path.relative_to(folder).as_posix(): path for path in photo_files(folder, output)}
    if not paths:
        raise ValueError(f"{folder}: no photos here ({', '.join(sorted(PHOTO_SUFFIXES)[:6])}, ...)")
    matches = None if table is None else table.match(list(paths), folder)
    old = _old_rows(output)
    steps = 2 * len(paths)
    sources: dict[str, SourcePhoto] = {}
    skipped: list[tuple[str, str]] = []
    copies = 0
    known_ids = set(old["id"])
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(lambda file: read_photo(paths[file], file, matches, known_ids), paths)
        for done, source in enumerate(results, start=1):
            if source.reason:
                skipped.append((source.file, source.reason))
            elif source.photo_id in sources:
                copies += 1
            else:
                sources[source.photo_id] = source
            if progress:
                progress(done, steps)
    skipped += (left_out or {}).items()
    if matches is not None:
        skipped += matches.unused.items()
    skipped = [(escaped(file), escaped(reason)) for file, reason in skipped]
    # A photo that the dataset already has and the CSV does not list has no position: its row stays.
    rows = imported_rows(
        [
            (s.photo_id, escaped(s.file), s.position)
            for s in sources.values()
            if s.position is not None
        ]
    )
    frame = with_splits(old, rows, test_fraction, seed)
    same = list(frame.columns) == list(old.columns) and frame.equals(old.astype("str"))
    changed = not same or skipped != _old_skipped(output)
    if not len(frame):
        file, reason = skipped[0]
        hint = ""
        if matches is not None and not matches.found and matches.unused:
            row = next(iter(matches.unused))
            hint = (
                f". None of the {len(matches.unused):,} rows of {positions} names a photo below "
                f"the folder: the first is {escaped(row)}; write {escaped(next(iter(paths)))}"
            )
        raise ValueError(
            f"{folder}: none of {len(paths):,} photos can be imported; the first: {file} "
            f"{reason}{hint}"
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
        sources=dict(
            Counter(s.position.source for s in sources.values() if s.position is not None)
        ),
    )


@dataclasses.dataclass(frozen=True)
class Position:
    """Where and when a photo was taken."""

    latitude: float | None  # degrees; both are None if the CSV leaves one empty, or has 0, 0
    longitude: float | None
    captured_at: int | None  # milliseconds since 1970, UTC
    source: str = "CSV"  # or "EXIF", "XMP", "Google Takeout"


class _Fit(NamedTuple):
    """Which photo a row of a CSV names."""

    files: tuple[str, ...] = ()  # more than one: it is not clear which
    strength: int = 0  # of two rows that name one photo, the stronger one is right
    reason: str = ""  # why there is none


class Positions:
    """Positions of a CSV by the names of its rows."""

    def __init__(self, rows: dict[str, Position]) -> None:
        self.rows = rows

    def match(self, files: Sequence[str], folder: Path) -> "Matches":
        """Find the one photo that each row names.

        A row names a photo by its path below the folder, by a path that ends in it (from another
        folder or another computer), or by its end: without a folder, if no other photo and no other
        row has the same name. Names are compared as composed characters (NFC), then without regard
        to case, then to how other programs write them (an address, spaces), at last without suffix.

        Args:
            files: the photos, as paths below the folder with "/".
            folder: the folder, as an absolute path.
        """
        matches = Matches({}, {}, {})
        waiting = list(self.rows)
        for key in (_composed, _folded, _from_windows, _plain, _stem):
            rows = [row for row in waiting if key is not _stem or _stem(row) == _plain(row)]
            fits = dict.fromkeys(waiting, _Fit()) | self._fits(rows, files, folder, key)
            claims: dict[str, list[str]] = {}
            for row, fit in fits.items():
                if len(fit.files) == 1:
                    claims.setdefault(fit.files[0], []).append(row)
                elif fit.files:
                    shown = " and ".join(fit.files[:3])
                    matches.unused[row] = (
                        f"fits several photos ({shown}); write the path below the folder"
                    )
                    matches.doubtful.update(dict.fromkeys(fit.files, row))
                elif fit.reason:
                    matches.unused[row] = fit.reason
            for file, rows in claims.items():
                best = max(fits[row].strength for row in rows)
                winners = [row for row in rows if fits[row].strength == best]
                if file not in matches.found and len(winners) == 1:
                    matches.found[file] = self.rows[winners[0]]
                    rows.remove(winners[0])
                elif file not in matches.found:
                    matches.doubtful[file] = winners[0]
                for row in rows:
                    matches.unused[row] = f"names the same photo as another row: {file}"
            waiting = [row for row in waiting if not fits[row].files and row not in matches.unused]
        matches.unused.update(dict.fromkeys(waiting, "is in the CSV but not in the folder"))
        return matches

    def _fits(
        self, rows: Sequence[str], files: Sequence[str], folder: Path, key: Callable[[str], str]
    ) -> dict[str, _Fit]:
        """Return for each row the photos that it may name, with names compared by their `key`."""
        above = _parts(folder.as_posix())
        exact: dict[str, list[str]] = {}
        ends: dict[str, list[str]] = {}  # last parts of absolute paths -> files
        for file in files:
            exact.setdefault(key(file), []).append(file)
            parts = _parts(key("/".join([*above, file])))
            for number in range(1, min(len(parts), MAX_PARTS) + 1):
                ends.setdefault("/".join(parts[-number:]), []).append(file)
        names = Counter(part for row in self.rows for part in _parts(key(_slashes(row)))[-1:])
        return {row: _fit(row, key, exact, ends, names) for row in rows}


@dataclasses.dataclass(frozen=True)
class Matches:
    """What the rows of a CSV say about the photos of a folder."""

    found: dict[str, Position]  # by the path of the photo below the folder
    doubtful: dict[str, str]  # photos that a row might name -> that row
    unused: dict[str, str]  # rows that name no photo -> why


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _from_windows(name: str) -> str:
    """Return a folded name, with bytes that are not UTF-8 in the code page of western Windows."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("cp1252", "replace")
    return _folded(name)


def _plain(name: str) -> str:
    """Return a folded name from an address, without quotes and odd spaces."""
    name = urllib.parse.unquote(name.removeprefix("file://"), errors="surrogateescape")
    name = re.sub(r"\s+", " ", _from_windows(name.strip().lstrip("'").strip('"')))
    return "/".join(part.strip() for part in _slashes(name).split("/"))


def _stem(name: str) -> str:
    """Return a plain name without the suffix of a photo."""
    name = _plain(name)
    return os.path.splitext(name)[0] if is_photo_name(name.rpartition("/")[2]) else name


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _fit(
    row: str,
    key: Callable[[str], str],
    exact: dict[str, list[str]],
    ends: dict[str, list[str]],
    names: Counter[str],
) -> _Fit:
    for text in (row, _slashes(row)):
        if files := exact.get(key(text.removeprefix("./"))):
            return _Fit(tuple(files), 4)
    parts = _parts(key(_slashes(row)))
    known = (n for n in range(min(len(parts), MAX_PARTS), 0, -1) if "/".join(parts[-n:]) in ends)
    number = next(known, 0)
    if not number:
        return _Fit()
    end = "/".join(parts[-number:])
    files = ends[end]
    is_whole, depth = number == len(parts), len(_parts(files[0]))
    if len(files) > 1:
        # Without these the row names another folder than all of them.
        return _Fit(tuple(files[:MAX_DOUBTFUL])) if is_whole or end in exact else _Fit()
    if number > depth:  # the folder above has the same name as well
        return _Fit(tuple(files), 3)
    if is_whole and number == 1 and names[end] > 1:
        return _Fit(reason="names no folder, and another row has the same name with one")
    if is_whole:
        return _Fit(tuple(files), 2)
    if number == depth:  # below another folder
        others = ends[parts[-1]] if depth == 1 else files
        return _Fit(tuple(others[:MAX_DOUBTFUL]), 1)
    return _Fit()


def _slashes(row: str) -> str:
    """Return the path of a row with "/", also if it comes from Windows."""
    return row.replace("\\", "/")


def _unescaped(name: str) -> str:
    r"""Return a name with the bytes that `escaped` wrote as ``\udce9``."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)


def read_positions(path: Path) -> Positions:
    """Read a CSV of positions.

    Its columns are file, latitude, longitude and, if given, captured_at: ISO 8601 (UTC without a
    zone) or milliseconds since 1970. Other names and separators are read as `tables.read_csv` does.

    Raises:
        DatasetError: the file is not such a CSV, or a value is wrong (column and row are named).
    """
    required = ("file", "latitude", "longitude")
    columns = (*required, "captured_at", "latitude_ref", "longitude_ref")
    frame = read_csv(path, columns, required, errors="surrogateescape")
    # A row that is there twice says nothing new.
    same = pd.Series(list(frame.itertuples(index=False, name=None)), dtype=object).duplicated()
    frame = frame[~same.to_numpy(dtype=bool)]
    files = [_unescaped(str(file).strip()).removeprefix("./") for file in frame["file"]]
    problems = Problems(frame, str(path))
    problems.add("file", np.array([not file for file in files], dtype=bool), "is not a file name")
    twice = pd.Series([_slashes(file) for file in files], dtype=object).duplicated()
    problems.add("file", twice.to_numpy(), "is also in an earlier row")
    latitudes = problems.degrees("latitude", 90, required=False)
    longitudes = problems.degrees("longitude", 180, required=False)
    times = _times(problems)
    problems.raise_first("Correct the CSV and import again")
    rows = {}
    for file, latitude, longitude, time in zip(files, latitudes, longitudes, times, strict=True):
        position = valid_position(float(latitude), float(longitude)) or (None, None)
        captured_at = None if np.isnan(time) else int(time)
        rows[file] = Position(position[0], position[1], captured_at)
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
    milliseconds = dates.dt.as_unit("ms").astype("int64").where(dates.notna())
    times = np.where(np.isnan(number), milliseconds.to_numpy(np.float64, na_value=np.nan), number)
    unread = np.isnan(times) & ~text.isin(MISSING_NUMBER).to_numpy()
    for row in np.flatnonzero(unread):  # as EXIF and exiftool write times
        if moment := parse_moment(text.iloc[row]):
            times[row] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e3
    reason = "is not a time; write 2024-07-31T14:05:00Z, or milliseconds since 1970"
    problems.add("captured_at", unread & np.isnan(times), reason)
    return times


def unpack_photos(archive: BinaryIO, name: str, folder: Path) -> dict[str, str]:
    """Unpack the photos of a ZIP, and the files beside them, below a folder.

    Hidden files and everything but photos, `.xmp` and `.json` is passed over.

    Args:
        archive: The ZIP, opened for reading.
        name: Its name, for messages.
        folder: Where to write; it may exist.

    Returns:
        Photo that was left out -> why.

    Raises:
        DatasetError: It is no ZIP, damaged, encrypted or without photos, holds too many files or
            bytes, or names a file outside itself; nothing is unpacked then.
    """
    name = printable(name)
    # Every entry takes memory as soon as the ZIP is opened, so they are counted before.
    if _count(archive, _ZIP_ENTRY) > MAX_ENTRIES:
        raise DatasetError(f"{name} holds more than {MAX_ENTRIES:,} files: import a part at a time")
    left_out: dict[str, str] = {}
    try:
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                info.filename = _utf8_name(info)
            wanted = [info for info in opened.infolist() if _is_wanted(info, name)]
            if not any(is_photo_name(info.filename) for info in wanted):
                raise DatasetError(f"{name} holds no photos")
            if any(info.flag_bits & 1 for info in wanted):
                raise DatasetError(f"{name} has a password: unpack it, then import its folder")
            _check_size(sum(min(info.file_size, MAX_BYTES) for info in wanted), name, folder)
            for info in wanted:
                if reason := _unpack(opened, info, folder):
                    left_out[info.filename] = reason
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{name} is no ZIP, or is damaged: {error}") from error
    return left_out


def _count(stream: BinaryIO, wanted: bytes) -> int:
    """Return how often a few bytes occur in a file, which is rewound."""
    found, end = 0, b""
    stream.seek(0)
    while block := stream.read(2**20):
        found += (end + block).count(wanted)
        end = (end + block)[1 - len(wanted) :]
    stream.seek(0)
    return found


def _utf8_name(info: zipfile.ZipInfo) -> str:
    """Return the name of an entry, also where UTF-8 is not declared, as by macOS."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _is_wanted(info: zipfile.ZipInfo, name: str) -> bool:
    """Return whether an entry is a photo or may lie beside one.

    Raises:
        DatasetError: its path leads out of the folder of the ZIP.
    """
    path = _slashes(info.filename)
    parts = _parts(path)
    if path.startswith("/") or ".." in parts or re.match("[A-Za-z]:", path):
        raise DatasetError(
            f"{name} names a file outside itself, {printable(info.filename)}: it is not unpacked"
        )
    kind = stat.S_IFMT(info.external_attr >> 16)
    return (
        not info.is_dir()
        and kind in (0, stat.S_IFREG)
        and not any(part.startswith(".") or part.lower() in SKIPPED_FOLDERS for part in parts)
        and (is_photo_name(path) or path.lower().endswith(SIDECAR_SUFFIXES))
    )


def _check_size(needed: int, name: str, folder: Path) -> None:
    if needed > MAX_UNPACKED:
        raise DatasetError(
            f"{name} unpacks to {readable(needed)}, more than {readable(MAX_UNPACKED)}: unpack it, "
            "then import its folders"
        )
    free = free_bytes(folder)
    if free < needed + DISK_RESERVE:
        raise DatasetError(
            f"{name} unpacks to {readable(needed)}, and the disk has {readable(free)} free: free "
            "some space"
        )


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> str | None:
    """Unpack one file; return why it was left out, or None."""
    if info.file_size > MAX_BYTES:
        return f"is larger than {readable(MAX_BYTES)}"
    try:
        place = folder.joinpath(*_parts(_slashes(info.filename)))
        place.parent.mkdir(parents=True, exist_ok=True)
        # "x": what is there, such as another file of the same name, is not replaced.
        with archive.open(info) as packed, place.open("xb") as file:
            shutil.copyfileobj(packed, file)
    except FileExistsError:
        return "is in the ZIP twice"
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        place.unlink(missing_ok=True)
        return f"is damaged in the ZIP: {error}"
    except OSError as error:
        return f"cannot be unpacked: {error.strerror or error}"
    return None


@dataclasses.dataclass(frozen=True)
class SourcePhoto:
    """One file of the imported folder."""

    path: Path
    file: str  # path below the folder, with "/" as separator
    photo_id: str = ""  # hash of its bytes
    is_jpeg: bool = True  # whether it can be copied without conversion
    position: Position | None = None  # None if the dataset already has the photo
    reason: str | None = None  # why it cannot be imported


def read_photo(path: Path, file: str, matches: Matches | None, known_ids: set[str]) -> SourcePhoto:
    """Read one file of the imported folder; a photo that the dataset has is not decoded again."""
    given = matches.found.get(file) if matches is not None else None
    try:
        content, _ = read_source(path, path.name)
    except PhotoError as error:
        return SourcePhoto(path, file, reason=str(error))
    digest = hashlib.blake2b(content, digest_size=8).digest()
    # Sixteen digits, as the ids of OSV-5M have.
    photo_id = str(10**15 + int.from_bytes(digest, "big") % (9 * 10**15))
    if photo_id in known_ids and given is None:
        return SourcePhoto(path, file, photo_id)
    try:
        photo = open_photo(content, name=path.name, draft_size=CHECK_DRAFT)
    except PhotoError as error:
        return SourcePhoto(path, file, reason=str(error))
    position = _position(with_sidecars(photo, path), given)
    if position is None:
        reason = "has no position: none in its EXIF, its XMP, a file beside it or a CSV"
        if given is not None:
            reason = "has no position: the CSV has none, or 0, 0"
        elif matches is not None and file in matches.doubtful:
            reason = f"has no position: the row {matches.doubtful[file]!r} of the CSV is not clear"
        return SourcePhoto(path, file, reason=reason)
    return SourcePhoto(path, file, photo_id, photo.format in ("JPEG", "MPO"), position)


def _position(photo: Photo, given: Position | None) -> Position | None:
    """Return the position in the CSV, completed from the metadata; None if neither has one."""
    latitude, longitude = photo.position or (None, None)
    source = re.split(r" in | \(", photo.source or "")[0]
    captured_at = None
    if given is not None:
        captured_at = given.captured_at
        if given.latitude is not None:
            latitude, longitude, source = given.latitude, given.longitude, given.source
    if latitude is None or longitude is None:
        return None
    if captured_at is None and photo.captured_at is not None:
        moment = photo.captured_at
        if moment.tzinfo is None:
            # Without a time zone, local time is taken as solar time: correct to an hour or two.
            moment = moment.replace(tzinfo=UTC) - timedelta(hours=longitude / 15)
        captured_at = round(moment.timestamp() * 1000)
    return Position(latitude, longitude, captured_at, source)


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
    frame["position_source"] = [position.source for _, _, position in photos]
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
    merged = merged[old.columns]
    if not fresh.any():  # so that a dataset of an earlier version keeps its columns
        return merged.astype("str")
    joined = pd.concat([merged, rows[fresh]], ignore_index=True)
    return joined.fillna("").astype("str")


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
    try:
        frame = read_csv(path, required=("file", "reason"))
    except DatasetError:  # it is written again
        return []
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
                write_csv(part, csv_path(folder, split))
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
        write_csv(listed, folder / NOT_IMPORTED_FILE)
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
