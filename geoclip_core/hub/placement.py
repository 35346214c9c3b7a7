"""Putting files where they belong: names that stay inside, room on the disk, all or nothing."""

import hashlib
import shutil
from pathlib import Path, PurePosixPath

DISK_RESERVE = 50_000_000
"""Bytes that stay free: a disk filled to the brim harms more than our download."""


class DownloadError(ValueError):
    """Something could not be fetched; the message is one plain sentence that says what to do."""


def safe_path(folder: Path, name: str) -> Path:
    """The path of a remote name inside a folder.

    Raises:
        DownloadError: if the name leads out of the folder.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DownloadError(f"the source names a file {name!r}, which leads out of its folder")
    return folder.joinpath(*path.parts)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse before anything is written when the disk cannot hold it.

    Raises:
        DownloadError: saying how much is missing and how to use another disk.
    """
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed + DISK_RESERVE:
        raise DownloadError(
            f"{what} needs {readable(needed)}, the disk of {folder} has {readable(free)} free: "
            "make room, or choose another folder with GEOCLIP_CACHE"
        )


def readable(size: int) -> str:
    """A size as a person says it: "41 MB", "1.7 GB"."""
    if size < 1_000_000:
        return f"{max(1, round(size / 1000))} kB"
    if size < 1_000_000_000:
        return f"{round(size / 1_000_000)} MB"
    return f"{size / 1_000_000_000:.2f} GB"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
