"""The photo files of an import: which there are, and what each says about itself."""

import dataclasses
import hashlib
import os
from datetime import UTC, timedelta
from pathlib import Path

from geoclip_core.data.photos import PHOTO_SUFFIXES, Photo, PhotoError, open_photo
from geoclip_core.data.positions import Position, Positions

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
