"""Putting files where they belong: names that stay inside, room on the disk, all or nothing."""

import contextlib
import glob
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import platformdirs

from geoclip_core.errors import DownloadError
from geoclip_core.jobs import is_running

# Two threads of one process may write the same file.
_numbers = itertools.count()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file beside its place and rename it when the block ends well.

    Yields the path to write to, on the same disk. Until the block has ended, `path` stays what it
    was; an exception leaves it so. Readers see the old content or the new, never a part.

    Args:
        path: The file to write or replace; its folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file (UTF-8, lines end as they do in `text`) in one step."""
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Build a folder beside its place and swap it in when the block ends well.

    Yields an empty folder on the same disk. Until the block has ended, `target` stays what it was;
    an exception leaves it so. If the machine stops between the two renames of the swap, the next
    call puts the old folder back.

    Args:
        target: The folder to write or replace.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    restore(target)
    unfinished = _unfinished(target)
    unfinished.mkdir()
    try:
        yield unfinished
        swap_in(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def swap_in(finished: Path, target: Path) -> None:
    """Put a finished folder in its place; the one that was there stays until the new one is in.

    Both must be on one disk: the moves are renames.

    Raises:
        OSError: the folder cannot be moved; the old one is in its place again.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    restore(target)
    old = _aside(target)
    if target.exists():
        target.rename(old)
    try:
        finished.rename(target)
    except OSError:
        restore(target)
        raise
    with contextlib.suppress(OSError):  # the new folder is in: what remains of the old may wait
        _discard(old)


def restore(target: Path) -> None:
    """Undo a swap that was cut short: put the old folder back where none is."""
    old = _aside(target.absolute())
    if old.is_dir() and not target.exists():
        old.rename(target)
    elif old.is_dir():
        _discard(old)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def remove_left_overs(path: Path) -> None:
    """Take away what dead processes had begun to write for a file or folder."""
    prefix = f".{path.name}."
    for left_over in path.parent.glob(f"{glob.escape(prefix)}*-*.part"):
        owner = left_over.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not is_running(int(owner)):
            with contextlib.suppress(OSError):
                _discard(left_over)


def _discard(path: Path) -> None:
    """Remove a file, a link (never what it leads to), or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    remove_left_overs(path)
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.part")


CACHE_VARIABLE = "GEOCLIP_CACHE"
OFFLINE_VARIABLE = "GEOCLIP_OFFLINE"
MANIFEST = "download.json"
"""Lies in the folder of every model that was placed whole."""
_APPLICATION = "geoclip-core"
_YES = {"1", "true", "yes", "on"}


@dataclass(frozen=True)
class CacheFolders:
    """The folders of one cache."""

    models: Path
    """One folder a downloaded model, each complete or not there at all."""
    partial: Path
    """Transfers under way or interrupted; beside `models`, so that a rename is atomic."""
    galleries: Path
    """Encoded galleries, derived from models: can be deleted at any time."""
    calibrations: Path
    """Temperatures and radii fitted on the user's photos, one file a model."""


def cache_folders(root: Path | str | None = None) -> CacheFolders:
    """The folders under `root`, else under `GEOCLIP_CACHE`, else where the platform keeps them."""
    chosen = str(root) if root is not None else os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen:
        cache = data = Path(chosen).expanduser().absolute()
    else:
        cache = platformdirs.user_cache_path(_APPLICATION, appauthor=False)
        data = platformdirs.user_data_path(_APPLICATION, appauthor=False)
    return CacheFolders(
        models=cache / "models",
        partial=cache / "partial",
        galleries=cache / "galleries",
        calibrations=data / "calibrations",
    )


def downloaded_folder(name: str) -> Path | None:
    """The folder of a model "user/name" that was downloaded and placed, or None."""
    folder = cache_folders().models / name.replace("/", "--")
    return folder if name and (folder / MANIFEST).is_file() else None


def is_offline(flag: bool = False) -> bool:
    """Whether the network must not be touched: by a flag, `GEOCLIP_OFFLINE` or `HF_HUB_OFFLINE`."""
    return flag or any(
        os.environ.get(name, "").strip().lower() in _YES
        for name in (OFFLINE_VARIABLE, "HF_HUB_OFFLINE")
    )


DISK_RESERVE = 50_000_000
"""Bytes that stay free: a disk filled to the brim harms more than our download."""


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
