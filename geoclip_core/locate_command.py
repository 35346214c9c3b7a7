"""``python -m geoclip_core locate PHOTO...``: photos in, rows out, as they are done."""

import argparse
import contextlib
import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from geoclip_core.data.photos import PHOTO_SUFFIXES
from geoclip_core.errors import PhotoError
from geoclip_core.files import atomic_file
from geoclip_core.formats import csv_header, csv_row, to_geojson, to_json_line, to_text
from geoclip_core.locator import MANY_PHOTOS, Geolocator
from geoclip_core.prediction import Failure, Prediction

FORMATS = ("text", "json", "csv", "geojson")
Row = Prediction | Failure


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of ``python -m geoclip_core``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "locate",
        help="estimate where photos were taken",
        description="Estimate where photos were taken. Nothing of a photo leaves the machine; a "
        "position in its EXIF is shown, never used. Exit status 1 if a photo cannot be read.",
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="photo files or folders of them")
    parser.add_argument(
        "--model",
        default="mini",
        help="bundled name, run or checkpoint folder, or hub id (default: %(default)s)",
    )
    parser.add_argument(
        "--top-k", type=int, default=5, help="candidates a photo (default: %(default)s)"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="JSON is one object a line (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write here instead of to the screen"
    )
    parser.add_argument(
        "--together", action="store_true", help="all photos show one place: one estimate from them"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        help="photos that pass the model together (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Locate the photos; 0 if every one could be read, else 1."""
    if arguments.top_k < 1 or arguments.batch_size < 1:
        raise ValueError("--top-k and --batch-size must be 1 or more")
    files = expand(arguments.photos)
    locator = Geolocator.load(arguments.model, arguments.device)
    with _opened(arguments.output) as out:
        write, finish = _writer(arguments, locator.features, out)
        failed = 0
        for row in _rows(locator, files, arguments):
            write(row)
            if isinstance(row, Failure):
                failed += 1
                if arguments.format != "text":
                    tqdm.write(f"{row.file}: {row.error}", file=sys.stderr)
        finish()
    return 1 if failed else 0


def expand(names: list[str]) -> list[Path]:
    """Files as they are given, folders replaced by the photos below them, sorted.

    Raises:
        ValueError: a folder holds no photo.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
        if not found:
            raise ValueError(f"{path} holds no photo ({', '.join(sorted(PHOTO_SUFFIXES))})")
        files += found
    return files


def _rows(locator: Geolocator, files: list[Path], arguments: argparse.Namespace) -> Iterator[Row]:
    if arguments.together:
        try:
            yield locator.locate(files, top_k=arguments.top_k)
        except PhotoError as error:
            yield Failure(" + ".join(file.name for file in files), str(error))
        return
    if len(files) >= MANY_PHOTOS:
        locator.accelerate()
    quiet = not sys.stderr.isatty() or len(files) == 1
    with tqdm(total=len(files), unit="photo", disable=quiet) as bar:
        for row in locator.locate_many(
            files, batch_size=arguments.batch_size, top_k=arguments.top_k, errors="yield"
        ):
            yield row
            bar.update()


def _writer(
    arguments: argparse.Namespace, features: tuple[str, ...], out: TextIO
) -> tuple[Callable[[Row], None], Callable[[], None]]:
    """What writes one row, and what ends the output; rows appear as soon as they are known."""
    if arguments.format == "csv":
        table = csv.DictWriter(out, csv_header(features, arguments.top_k), lineterminator="\n")
        table.writeheader()
        return (lambda row: _discard(table.writerow(csv_row(row)))), (lambda: None)
    if arguments.format == "geojson":
        rows: list[Row] = []
        return rows.append, (lambda: print(to_geojson(rows), file=out))
    line = to_json_line if arguments.format == "json" else to_text
    return (lambda row: print(line(row), file=out, flush=True)), (lambda: None)


def _discard(_: Any) -> None:
    """A csv writer returns a count that nobody reads."""


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """The screen, or a file that takes its place only when it is whole."""
    if path is None:
        yield sys.stdout
        return
    if not path.parent.is_dir():
        raise ValueError(f"--output: the folder {path.parent} does not exist")
    with atomic_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as out:
        yield out
