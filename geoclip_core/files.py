"""Read files with a limit, write files and folders atomically, and find the cache folders.

A file may come from a stranger: it may be a pipe that never ends, larger than the memory, or nested
deeper than Python can follow. Every reader goes through `open_file`.

An unfinished file or folder is named `.NAME.PID-NUMBER.part` and lies beside its target. A process
that is killed leaves it behind; the next write to the same target removes it.
"""

import contextlib
import errno
import glob
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import platformdirs

from geoclip_core.errors import DownloadError, FileError, SaveError, first_line
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

MAX_TEXT = 16 * 2**20
"""Bytes of the largest JSON or text file that is read; those of a model have a few hundred kB."""
MAX_YAML = 2**15
"""Bytes of the largest YAML file that is read: its parser may take a second for 15 kB."""
MAX_OPENED = 1000
"""Folders of datasets that are remembered."""
MAX_DEPTH = 32
"""Levels of lists and objects in a JSON or YAML file; ours have up to 6."""
MAX_VALUES = 2_000_000
"""Values in a JSON or YAML file, those of an alias counted at each use."""


@contextlib.contextmanager
def open_file(path: str | Path, limit: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most `limit` bytes to read. Links are followed.

    The file may grow while it is read: read at most `limit` bytes.

    Raises:
        FileError: There is no such file, it is a folder, a device or a pipe, it is larger, or it
            cannot be read.
    """
    path = Path(path)
    try:
        stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise _file_error(path, error) from error
    with stream:
        _check_status(path, os.fstat(stream.fileno()), limit)
        try:
            yield stream
        except OSError as error:
            raise _file_error(path, error) from error


def check_file(path: str | Path, limit: int) -> int:
    """Check a file like `open_file`, for a library that opens it itself; return its bytes.

    Raises:
        FileError: As `open_file`, except that the permissions are not checked.
    """
    path = Path(path)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise _file_error(path, error) from error
    _check_status(path, status, limit)
    return status.st_size


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        FileError: As `open_file`.
    """
    with open_file(path, limit) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:  # it has grown
        raise FileError(path, _too_large(limit))
    return content


def read_end(path: str | Path, size: int) -> bytes:
    """Return the last `size` bytes of a regular file, which may be of any length.

    Raises:
        FileError: As `open_file`.
    """
    with open_file(path, sys.maxsize) as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - size))
        return stream.read(size)


def read_text(path: str | Path, limit: int = MAX_TEXT) -> str:
    """Return the text of a regular file in UTF-8.

    Raises:
        FileError: As `open_file`, or it is not UTF-8.
    """
    content = read_bytes(path, limit)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at position {error.start}"
        raise FileError(path, f"is not UTF-8 text ({byte})") from error


def read_json(path: str | Path, limit: int = MAX_TEXT) -> object:
    """Return the content of a JSON file. NaN and Infinity are read; the caller checks values.

    Raises:
        FileError: As `read_text`, it is not JSON, or it is nested deeper than `MAX_DEPTH`.
    """
    return parse_json(read_text(path, limit), path)


def parse_json(text: str, path: str | Path) -> object:
    """Return the value of JSON text; `path` names its file in the error.

    Raises:
        FileError: It is not JSON, nested deeper than `MAX_DEPTH`, or holds half a character.
    """
    try:
        value: object = json.loads(text)
    except RecursionError as error:
        raise FileError(path, _too_deep()) from error
    except ValueError as error:  # also a number of thousands of digits
        raise FileError(path, f"is not JSON: {error}") from error
    _check_values(value, path)
    return value


def read_yaml(path: str | Path) -> object:
    """Return the content of a YAML file of at most `MAX_YAML` bytes.

    Raises:
        FileError: As `read_text`, it is not YAML, or it is nested deeper than `MAX_DEPTH`.
    """
    import yaml  # only the extra "train" of the package brings it

    text = read_text(path, MAX_YAML)
    try:
        value: object = yaml.safe_load(text)
    except RecursionError as error:
        raise FileError(path, _too_deep()) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FileError(path, f"is not YAML: line {line}, {error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        # constructors of dates, numbers and pairs raise errors of any of these kinds
        raise FileError(path, f"is not YAML: {first_line(error)}") from error
    _check_values(value, path)
    return value


def _without_waiting(path: str, flags: int) -> int:
    # opening a pipe without a writer would wait for ever
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_status(path: Path, status: os.stat_result, limit: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise FileError(path, "is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise FileError(path, "is a device or a pipe, not a file")
    if status.st_size > limit:
        raise FileError(path, _too_large(limit))


def _file_error(path: Path, error: OSError | ValueError) -> FileError:
    """Return what is wrong with a file that could not be opened."""
    if isinstance(error, FileNotFoundError):
        return FileError(path, "does not exist")
    if isinstance(error, IsADirectoryError):
        return FileError(path, "is a folder, not a file")
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        return FileError(path, f"cannot be read: {reason}")
    return FileError(path, f"is not a file name: {error}")  # a zero byte


def _check_values(value: object, path: str | Path) -> None:
    """Check depth, number and characters of the values of a file; aliases may form circles."""
    count, level = 0, [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                if not is_unicode(item):
                    raise FileError(path, "holds half a character, which is not Unicode text")
            elif isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list | tuple | set):
                below += item
            if count + len(below) > MAX_VALUES:
                raise FileError(path, f"holds more than {MAX_VALUES:,} values")
        if not below:
            return
        count, level = count + len(below), below
    raise FileError(path, _too_deep())


def is_unicode(text: str) -> bool:
    """Return whether a text can be shown and written.

    JSON can spell half of a pair of surrogates, and the name of a file can be any bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    r"""Return a name with escapes for bytes that are not UTF-8: ``caf\udce9.jpg``."""
    return name.encode("utf-8", "backslashreplace").decode()


def _too_large(limit: int) -> str:
    return f"is larger than {readable(limit)}, the limit for such a file"


def _too_deep() -> str:
    return f"is nested deeper than {MAX_DEPTH} levels"


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn an error while a file or folder is written into a sentence that says what to do.

    Errors that name a file elsewhere, which the block only reads, stay as they are.

    Raises:
        SaveError: The disk is full, the folder is gone, or writing is not permitted.
    """
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else str(path)
        if not Path(named).absolute().is_relative_to(path.absolute().parent):
            raise
        raise save_error(path, error) from error
    except Exception as error:
        # safetensors and arrow report the system's errors in their own classes
        number = re.search(r"os error (\d+)|errno (\d+)", str(error))
        if number is None:
            raise
        code = int(number[1] or number[2])
        raise _save_error(path, code, os.strerror(code)) from error


def save_error(path: Path, error: OSError) -> SaveError:
    """Return a sentence about why a file or folder cannot be written."""
    return (
        error
        if isinstance(error, SaveError)
        else _save_error(path, error.errno, error.strerror or str(error))
    )


def _save_error(path: Path, code: int | None, reason: str) -> SaveError:
    if code in (errno.ENOSPC, errno.EDQUOT):
        why = f"the disk of {path.parent} is full: make room and try again"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = f"writing in {path.parent} is not permitted: choose another folder"
    elif code in (errno.ENOTDIR, errno.EEXIST) and (file := _file_above(path)):
        why = f"{file} is a file: choose another folder"
    elif not path.parent.exists():
        why = f"the folder {path.parent} does not exist any more"
    else:
        why = reason[:1].lower() + reason[1:]
    return SaveError(code or 0, f"{path} cannot be written: {why}")


def _file_above(path: Path) -> Path | None:
    """Return what should be a folder above a path, and is a file; None if there is none."""
    return next((above for above in path.parents if above.is_file()), None)


def _make_folder(folder: Path, path: Path) -> None:
    """Make a folder for a path, and those above it.

    Raises:
        SaveError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # which names a folder above
        raise save_error(path, error) from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, and rename it to `path` when the block ends without an error.

    Readers see the old content or the new, never a part of it. After an exception the old content
    remains. The parent folder is created if needed.

    Raises:
        SaveError: The file cannot be written.
    """
    with saving(path):
        _make_folder(path.parent, path)
        unfinished = _unfinished(path)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step, as UTF-8 and with the line ends that `text` has."""
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, content: object) -> None:
    """Write an indented JSON file in one step."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, and swap it in when the block ends without an error.

    Until then, and after an exception, `target` is unchanged. If the machine stops between the two
    renames of the swap, the next call restores the old folder.

    Raises:
        SaveError: The folder cannot be written.
    """
    target = target.absolute()
    with saving(target):
        _make_folder(target.parent, target)
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
    opened: Path
    """File with the folders of the datasets that this user has opened."""


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
        opened=data / "opened-datasets.json",
    )


def remember_opened(folder: Path) -> None:
    """Remember the folder of a dataset that this user opened; see `was_opened`."""
    known, path = _opened_folders(), folder.resolve()
    if path in known:
        return
    folders = [str(item) for item in (*known, path)][-MAX_OPENED:]
    with contextlib.suppress(OSError, UnicodeEncodeError):  # photos are then not shown, that is all
        write_atomically(cache_folders().opened, json.dumps(folders, indent=1) + "\n")


def was_opened(folder: str | Path) -> bool:
    """Return whether a folder is that of a dataset that this user has opened, or lies below one.

    A table of predictions names the folder of its photos. That of a stranger may name any folder;
    its photos must not be shown, nor embedded in a report.
    """
    try:
        path = Path(folder).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):  # no such user, a circle of links, a zero byte
        return False
    return any(path.is_relative_to(known) for known in _opened_folders())


def _opened_folders() -> list[Path]:
    try:
        content = read_json(cache_folders().opened, MAX_TEXT)
    except FileError:
        return []
    folders = content if isinstance(content, list) else []
    return [Path(item) for item in folders if isinstance(item, str) and Path(item).is_absolute()]


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


def free_bytes(folder: Path) -> int:
    """Return how many bytes are free on the disk of a folder, which need not exist yet."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of a folder, which need not exist, has room for a download.

    `needed` is in bytes; `what` names the download in the error.

    Raises:
        DownloadError: Fewer than `needed` + `DISK_RESERVE` bytes are free.
    """
    free = free_bytes(folder)
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
