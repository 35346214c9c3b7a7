"""Write files and folders atomically, and find the cache folders.

An unfinished file or folder is named `.NAME.PID-NUMBER.part` and lies beside its target. A process
that is killed leaves it behind; the next write to the same target removes it.
"""

import contextlib
import glob
import hashlib
import itertools
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from geoclip_core.errors import DownloadError
from geoclip_core.processes import is_running

CACHE_VARIABLE = "GEOCLIP_CACHE"
"""Environment variable: one folder for everything in :class:`CacheFolders`."""
OFFLINE_VARIABLE = "GEOCLIP_OFFLINE"
MANIFEST = "download.json"
"""File in the folder of every downloaded model that lists the other files."""
DISK_RESERVE = 50_000_000
"""Bytes that must stay free on the disk after a download."""
_NAME_LENGTH = 60
_APPLICATION = "geoclip-core"
_YES = {"1", "true", "yes", "on"}
_numbers = itertools.count()  # two threads of one process may write the same file


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, and rename it to `path` when the block ends without an error.

    Readers see the old content or the new, never a part of it. After an exception the old content
    remains. The parent folder is created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step, as UTF-8 and with the line ends that `text` has."""
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, and swap it in when the block ends without an error.

    Until then, and after an exception, `target` is unchanged. If the machine stops between the two
    renames of the swap, the next call restores the old folder.
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
    """Rename a finished folder to `target`, on the same disk, and remove the old one.

    Raises:
        OSError: The folder cannot be moved; the old one has been restored.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    restore(target)
    old = _old(target)
    if target.exists():
        target.rename(old)
    try:
        finished.rename(target)
    except OSError:
        restore(target)
        raise
    with contextlib.suppress(OSError):  # the next swap removes it
        _remove(old)


def restore(target: Path) -> None:
    """Undo a swap that was interrupted: put the old folder back if there is no new one."""
    old = _old(target.absolute())
    if old.is_dir() and not target.exists():
        old.rename(target)
    elif old.is_dir():
        _remove(old)


def remove_left_overs(path: Path) -> None:
    """Remove the unfinished files of a target whose processes no longer run."""
    prefix = f".{path.name}."
    for left_over in path.parent.glob(f"{glob.escape(prefix)}*-*.part"):
        owner = left_over.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not is_running(int(owner)):
            with contextlib.suppress(OSError):
                _remove(left_over)


def _unfinished(path: Path) -> Path:
    remove_left_overs(path)
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.part")


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _remove(path: Path) -> None:
    """Remove a file, a folder, or a link (but not what it points to)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class CacheFolders:
    """Folders for what is downloaded or computed once; they need not exist."""

    models: Path
    """One folder for each downloaded model, complete or absent."""
    partial: Path
    """Downloads that are running or were interrupted; on the same disk as `models`."""
    jobs: Path
    """Status of downloads, one folder per model."""
    embeddings: Path
    """Embeddings of datasets; may be deleted at any time."""
    networks: Path
    """Backbones exported for ONNX Runtime, one folder each; may be deleted at any time."""
    galleries: Path
    """Encoded galleries of models; may be deleted at any time."""
    calibrations: Path
    """Temperatures and radii fitted on the user's own photos, one file per model."""


def cache_folders(root: Path | str | None = None) -> CacheFolders:
    """Return the folders below `root`, else below `GEOCLIP_CACHE`, else the platform's own.

    The platform's folder for calibrations is the data folder: they cannot be downloaded again.
    """
    chosen = str(root) if root is not None else os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen:
        cache = data = Path(chosen).expanduser().absolute()
    else:
        cache = platformdirs.user_cache_path(_APPLICATION, appauthor=False)
        data = platformdirs.user_data_path(_APPLICATION, appauthor=False)
    return CacheFolders(
        models=cache / "models",
        partial=cache / "partial",
        jobs=cache / "jobs",
        embeddings=cache / "embeddings",
        networks=cache / "networks",
        galleries=cache / "galleries",
        calibrations=data / "calibrations",
    )


def downloaded_folder(name: str) -> Path | None:
    """Return the folder of a downloaded model "user/name", or None."""
    folder = cache_folders().models / name.replace("/", "--")
    return folder if name and (folder / MANIFEST).is_file() else None


def is_offline() -> bool:
    """Return whether `GEOCLIP_OFFLINE` or `HF_HUB_OFFLINE` forbids network access."""
    return any(
        os.environ.get(name, "").strip().lower() in _YES
        for name in (OFFLINE_VARIABLE, "HF_HUB_OFFLINE")
    )


def safe_name(text: str) -> str:
    """Return a file name of ASCII letters, digits, ``.``, ``_`` and ``-``, at most 60 characters.

    Accents are dropped: "São Tomé" becomes "Sao-Tome", and "../../etc" becomes "etc". The result
    may be empty.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    plain = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", plain))
    return plain.strip("-._")[:_NAME_LENGTH].rstrip("-._")


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of a folder, which need not exist, has room for a download.

    `needed` is in bytes; `what` names the download in the error.

    Raises:
        DownloadError: Fewer than `needed` + `DISK_RESERVE` bytes are free.
    """
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed + DISK_RESERVE:
        raise DownloadError(
            f"{what} needs {readable(needed)}, but the disk of {folder} has {readable(free)} free: "
            "free some space, or choose another folder with GEOCLIP_CACHE"
        )


def readable(size: int) -> str:
    """Return a size in bytes as "12 kB", "41 MB" or "1.71 GB"."""
    if size < 1_000_000:
        return f"{max(1, round(size / 1000))} kB"
    if size < 1_000_000_000:
        return f"{round(size / 1_000_000)} MB"
    return f"{size / 1_000_000_000:.2f} GB"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
