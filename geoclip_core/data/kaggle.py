"""Getting OSV-Mini-129k from Kaggle, or from an archive that was fetched by hand, into its layout.

Photos are put in place first and the tables last, each in one step: what is half there is no
dataset yet, and running again goes on where it stopped.
"""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from geoclip_core.data.dataset import csv_path, parse, photo_paths, raise_first, read_text
from geoclip_core.data.photos import PHOTO_SUFFIXES

KAGGLE_HANDLE = "josht000/osv-mini-129k"
KAGGLE_PAGE = f"https://www.kaggle.com/datasets/{KAGGLE_HANDLE}"
_TABLES = ("train_mini.csv", "test_mini.csv")
_FOLDERS = ("train_images", "test_images")
Progress = Callable[[int, int], None]


class DownloadError(ValueError):
    """The data could not be fetched; the message says why and what to do instead."""


def by_hand(output: Path) -> str:
    """How to place the files without this program reaching Kaggle."""
    return (
        f"By hand: on a machine with internet, open {KAGGLE_PAGE} and download the archive. Then "
        f"run\n  python -m train download osv-mini --output {output} --archive ARCHIVE.zip\n"
        f"or unpack it so that {output} holds train_mini.csv, test_mini.csv, train_images/ and "
        "test_images/ (a folder for each state, in it ID.jpg)."
    )


def download_osv_mini(
    output: Path | str, *, archive: Path | str | None = None, progress: Progress | None = None
) -> dict[str, int]:
    """Fetch OSV-Mini-129k and put it into place.

    Args:
        output: The dataset folder.
        archive: A ZIP, or a folder, that was fetched by hand; without it kagglehub is asked, with
            the credentials that it finds, and an interrupted transfer goes on.
        progress: Called with files placed and to place.

    Returns:
        Photos that each table lists, and under "missing" how many of them are not there.

    Raises:
        DownloadError: no connection, no permission, a damaged archive, or no such data in it.
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
    """Read the tables and look for the photos; see `download_osv_mini`.

    Raises:
        DatasetError: a table cannot be read.
    """
    counts = {"missing": 0}
    for split in ("train", "test"):
        path = csv_path(output, split)
        table, problems = parse(read_text(path), path.name)
        raise_first(problems)
        there = _listing(output / f"{split}_images")
        wanted = photo_paths(split, table["state"], table["id"])
        counts[split] = len(table)
        counts["missing"] += sum(path not in there for path in wanted)
    return counts


def _listing(folder: Path) -> set[str]:
    found = set()
    for parent, _, names in os.walk(folder):
        relative = Path(parent).relative_to(folder.parent).as_posix()
        found |= {f"{relative}/{name}" for name in names}
    return found


def _from_kaggle(output: Path) -> Path:
    try:
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
                f"Kaggle refuses the download (HTTP {status}). Accept the terms on {KAGGLE_PAGE} "
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
            "kaggle.com cannot be reached: there is no internet connection here, or it broke off "
            f"(then run the command again, it goes on).\n{by_hand(output)}"
        ) from error


def _target(name: str) -> PurePosixPath | None:
    """Where a file of the data belongs below the dataset folder, None for what is not wanted.

    Kaggle wraps folders into folders of the same name; the innermost one counts.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if ".." in path.parts:
        return None
    if path.name in _TABLES:
        return PurePosixPath(path.name)
    below = [i for i, part in enumerate(path.parts[:-1]) if part in _FOLDERS]
    if below and path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith("."):
        return PurePosixPath(*path.parts[below[-1] :])
    return None


def _in_order(pairs: Iterator[tuple[PurePosixPath, object]]) -> list[tuple[PurePosixPath, object]]:
    """Photos first, tables last; the tables must be there.

    Raises:
        DownloadError: a table is missing.
    """
    ordered = sorted(pairs, key=lambda pair: (pair[0].name in _TABLES, str(pair[0])))
    found = {str(target) for target, _ in ordered}
    missing = [name for name in _TABLES if name not in found]
    if missing:
        raise DownloadError(f"{' and '.join(missing)} not found; this is not OSV-Mini-129k")
    return ordered


def _place_folder(source: Path, output: Path, progress: Progress | None) -> None:
    if source.resolve() == output.resolve():
        return
    files = (path for path in source.rglob("*") if path.is_file())
    pairs = ((_target(path.relative_to(source).as_posix()), path) for path in files)
    ordered = _in_order((target, path) for target, path in pairs if target is not None)
    for done, (target, path) in enumerate(ordered, start=1):
        place = output / target
        if not place.is_file() or place.stat().st_size != path.stat().st_size:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_name(f".{place.name}.part")
            partial.unlink(missing_ok=True)
            try:
                partial.hardlink_to(path)
            except OSError:
                # Another disk than kagglehub's cache, or one without links.
                shutil.copyfile(path, partial)
            partial.replace(place)
        if progress:
            progress(done, len(ordered))


def _place_archive(source: Path, output: Path, progress: Progress | None) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            pairs = ((_target(info.filename), info) for info in archive.infolist())
            ordered = _in_order((target, info) for target, info in pairs if target is not None)
            needed = sum(info.file_size for _, info in ordered)
            output.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(output).free
            have = sum((output / t).stat().st_size for t, _ in ordered if (output / t).is_file())
            if needed - have > free:
                raise DownloadError(
                    f"{output}: the data needs {(needed - have) / 1e9:.1f} GB, only "
                    f"{free / 1e9:.1f} GB are free"
                )
            for done, (target, info) in enumerate(ordered, start=1):
                place = output / target
                if not place.is_file() or place.stat().st_size != info.file_size:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    partial = place.with_name(f".{place.name}.part")
                    # ZipFile checks the CRC while it reads.
                    with archive.open(info) as packed, partial.open("wb") as file:
                        shutil.copyfileobj(packed, file)
                    partial.replace(place)
                if progress:
                    progress(done, len(ordered))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DownloadError(
            f"{source}: not a ZIP archive, or a damaged one ({error}); download it again"
        ) from error
