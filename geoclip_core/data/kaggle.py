"""Get OSV-Mini-129k from Kaggle, or from an archive that was downloaded by hand.

Photos are written first and the tables last, each file atomically: an interrupted download is not
yet a dataset, and running it again continues where it stopped.
"""

import dataclasses
import functools
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from geoclip_core.data.dataset import read_table
from geoclip_core.data.photos import is_photo_name
from geoclip_core.errors import DownloadError
from geoclip_core.processes import Progress

KAGGLE_HANDLE = "josht000/osv-mini-129k"
KAGGLE_PAGE = f"https://www.kaggle.com/datasets/{KAGGLE_HANDLE}"
_TABLES = ("train_mini.csv", "test_mini.csv")
_FOLDERS = ("train_images", "test_images")


def by_hand(output: Path) -> str:
    """Return instructions for users whose computer cannot reach Kaggle."""
    return (
        f"By hand: on a machine with internet, open {KAGGLE_PAGE} and download the archive. Then "
        f"run\n  python -m train download osv-mini --output {output} --archive ARCHIVE.zip\n"
        f"or unpack it so that {output} holds train_mini.csv, test_mini.csv, train_images/ and "
        "test_images/ (a folder for each state, in it ID.jpg)."
    )


def download_osv_mini(
    output: Path | str, *, archive: Path | str | None = None, progress: Progress | None = None
) -> dict[str, int]:
    """Write OSV-Mini-129k to a folder, from Kaggle or from an archive.

    Args:
        output: The dataset folder.
        archive: A ZIP or a folder that was downloaded by hand. Without it kagglehub downloads the
            data, with the credentials that it finds, and resumes an interrupted transfer.
        progress: Called with the number of files in place and the total.

    Returns:
        The number of rows under "train" and "test", and the number of missing photos as "missing".

    Raises:
        DownloadError: no connection, no permission, a damaged archive, too little disk space, or
            the archive contains other data.
        DatasetError: a table cannot be read.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise DownloadError(f"{output} is a file; choose a folder for the dataset")
    source = Path(archive) if archive is not None else None
    if source is None and all((output / name).is_file() for name in _TABLES):
        counts = verify(output)
        if not counts["missing"]:
            return counts
    if source is None:
        source = _from_kaggle(output)
    if source.is_dir():
        _place_folder(source, output, progress)
    elif source.is_file():
        _place_archive(source, output, progress)
    else:
        raise DownloadError(f"{source}: no such file or folder")
    return verify(output)


def verify(output: Path) -> dict[str, int]:
    """Count rows and missing photos; returns what `download_osv_mini` returns.

    Raises:
        DatasetError: a table cannot be read.
    """
    counts = {"missing": 0}
    for split in ("train", "test"):
        table = read_table(output, split)
        files = _listing(output / f"{split}_images")
        counts[split] = len(table)
        counts["missing"] += sum(path not in files for path in table["path"])
    return counts


def _listing(folder: Path) -> set[str]:
    """Return the files below a folder, relative to its parent."""
    found = set()
    for parent, _, names in os.walk(folder):
        relative = Path(parent).relative_to(folder.parent).as_posix()
        found |= {f"{relative}/{name}" for name in names}
    return found


def _from_kaggle(output: Path) -> Path:
    try:  # deferred: an optional dependency
        import kagglehub
        import requests
        from kagglehub.exceptions import DataCorruptionError
    except ImportError as error:
        raise DownloadError(
            f"kagglehub is not installed (pip install kagglehub).\n{by_hand(output)}"
        ) from error
    try:
        return Path(kagglehub.dataset_download(KAGGLE_HANDLE))
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise DownloadError(
                f"Kaggle refused the download (HTTP {status}). Accept the terms on {KAGGLE_PAGE} "
                "and put an API token where kagglehub looks for it (~/.kaggle/kaggle.json, or "
                f"KAGGLE_USERNAME and KAGGLE_KEY).\n{by_hand(output)}"
            ) from error
        raise DownloadError(f"Kaggle answered: {error}\n{by_hand(output)}") from error
    except DataCorruptionError as error:
        raise DownloadError(
            f"The transfer was damaged; run the command again. ({error})"
        ) from error
    except requests.RequestException as error:
        raise DownloadError(
            "kaggle.com cannot be reached: there is no internet connection, or it was interrupted "
            f"(then run the command again; it resumes).\n{by_hand(output)}"
        ) from error


def _target(name: str) -> PurePosixPath | None:
    """Return the path of a file below the dataset folder, None if it is not part of the dataset.

    Kaggle nests folders in folders of the same name; the innermost one counts.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if ".." in path.parts:
        return None
    if path.name in _TABLES:
        return PurePosixPath(path.name)
    below = [i for i, part in enumerate(path.parts[:-1]) if part in _FOLDERS]
    if below and is_photo_name(path.name):
        return PurePosixPath(*path.parts[below[-1] :])
    return None


@dataclasses.dataclass(frozen=True)
class _File:
    """A file of the source."""

    target: PurePosixPath  # its path below the dataset folder
    size: int  # bytes
    write: Callable[[Path], object]  # writes its content to a path


def _place_folder(source: Path, output: Path, progress: Progress | None) -> None:
    if source.resolve() == output.resolve():
        return
    _place(
        [
            _File(target, path.stat().st_size, functools.partial(_link_or_copy, path))
            for path in source.rglob("*")
            if path.is_file()
            and (target := _target(path.relative_to(source).as_posix())) is not None
        ],
        output,
        progress,
    )


def _link_or_copy(path: Path, place: Path) -> None:
    try:
        place.hardlink_to(path)
    except OSError:  # a different disk from kagglehub's cache, or a file system without links
        shutil.copyfile(path, place)


def _place_archive(source: Path, output: Path, progress: Progress | None) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            files = [
                _File(target, info.file_size, functools.partial(_extract, archive, info))
                for info in archive.infolist()
                if (target := _target(info.filename)) is not None
            ]
            _check_tables(files)
            output.mkdir(parents=True, exist_ok=True)
            needed = sum(file.size for file in files if not _is_in_place(file, output))
            free = shutil.disk_usage(output).free
            if needed > free:
                raise DownloadError(
                    f"{output}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free"
                )
            _place(files, output, progress)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DownloadError(
            f"{source}: not a ZIP archive, or a damaged one ({error}); download it again"
        ) from error


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: Path) -> None:
    with archive.open(info) as packed, place.open("wb") as file:
        shutil.copyfileobj(packed, file)


def _check_tables(files: Sequence[_File]) -> None:
    found = {str(file.target) for file in files}
    missing = [name for name in _TABLES if name not in found]
    if missing:
        raise DownloadError(f"{' and '.join(missing)} not found; this is not OSV-Mini-129k")


def _is_in_place(file: _File, output: Path) -> bool:
    place = output / file.target
    return place.is_file() and place.stat().st_size == file.size


def _place(files: Sequence[_File], output: Path, progress: Progress | None) -> None:
    """Write the files that are missing, photos first and tables last, each atomically."""
    _check_tables(files)
    ordered = sorted(files, key=lambda file: (file.target.name in _TABLES, str(file.target)))
    for done, file in enumerate(ordered, start=1):
        if not _is_in_place(file, output):
            place = output / file.target
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_name(f".{place.name}.part")
            partial.unlink(missing_ok=True)
            file.write(partial)
            partial.replace(place)
        if progress:
            progress(done, len(ordered))
