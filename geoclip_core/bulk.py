"""Locate millions of photos: from a folder, or a table of paths, to Parquet files of predictions.

The photos are shared among the workers of `ray_workers`, each with a model of its own. This process
alone reads the list of photos and writes the parts of the output, each in one step. What is written
is not computed again: the command continues when it is repeated, also with more photos.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from geoclip_core.data.photos import PHOTO_SUFFIXES, Readable, walk_photos
from geoclip_core.data.tables import read_csv, renamed
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.errors import CheckpointError, DatasetError, FileError, first_line
from geoclip_core.evaluation.evaluate import model_fingerprint
from geoclip_core.files import (
    atomic_file,
    escaped,
    is_offline,
    open_file,
    read_json,
    write_atomically,
)
from geoclip_core.formats import Row, table_schema, to_table
from geoclip_core.locator import Geolocator
from geoclip_core.model.checkpoint import bundled_models
from geoclip_core.prediction import Failure
from geoclip_core.ray_workers import Pool, in_workers, part_rows, ray_pool
from geoclip_core.training.embeddings import MANY_PHOTOS

SETTINGS = "bulk.json"
"""File of the output folder that says what the predictions were computed with."""
MAX_NAME = 4096
"""Bytes of the longest path or address."""
MAX_TABLE = 8 * 2**30
"""Bytes of the largest Parquet file of paths."""
MAX_COLUMNS = 1000
REMOTE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hdfs", "webhdfs", "memory")
"""Kinds of addresses that are read. Not http(s): a table of a stranger could make this computer
fetch any page, also of its own network."""
_LOCAL = "file://"
_PART = re.compile(r"part-(\d+)\.parquet")
_CHUNK = 8192
_LOST = "Its worker process died each time it was tried: the photo may need too much memory."


@dataclass(frozen=True)
class BulkOptions:
    """What every photo is located with."""

    model: str = "mini"
    top_k: int = 5
    batch_size: int = 8
    given: Mapping[str, str | int] = field(default_factory=dict)
    use_context: bool = True
    claim: str | None = None
    """Name of a claimed place, or its coordinates."""


def locate_bulk(
    source: Path,
    output: Path,
    options: BulkOptions,
    workers: int | None = None,
    device: str = "auto",
) -> int:
    """Locate the photos of a folder or table that `output` does not hold yet.

    Args:
        source: a folder of photos, or a CSV or Parquet file with a column of paths, which are
            relative to the folder of the table, or addresses that fsspec knows (`REMOTE`, file://).
        output: folder of the parts, made if needed.
        options: what the photos are located with.
        workers: as in `ray_pool`.
        device: as in `ray_pool`.

    Returns:
        The number of photos that could not be read, of those that were located now.

    Raises:
        ValueError: the input cannot be used, or the output holds other predictions.
        SaveError: the output cannot be written.
    """
    say("reading the list of photos")
    folder = source if source.is_dir() else source.absolute().parent
    paths, hashes = listed(source)
    if not len(paths):
        raise ValueError(
            f"{source} holds no photo ({', '.join(sorted(PHOTO_SUFFIXES))})"
            if source.is_dir()
            else f"{source} names no photo"
        )
    if options.model not in bundled_models() and Path(options.model).exists():
        options = replace(options, model=os.fspath(Path(options.model).absolute()))
    locator = Geolocator.load(options.model)
    locator.check_hints(options.given, options.use_context)
    if options.claim is not None:
        Gazetteer.load().find(options.claim)
    schema = table_schema(locator.features, options.top_k)
    with _claimed(output):
        fingerprint = model_fingerprint(locator.model)
        _check_settings(output, {**asdict(options), "fingerprint": fingerprint})
        missing = ~np.isin(hashes, _finished(output, schema))
        rows = pa.table({"path": paths}).filter(pa.array(missing))
        done, total = len(paths) - len(rows), len(paths)
        if done:
            say(f"{done:,} of {total:,} photos are in {output} already")
        if not len(rows):
            return 0
        settings = {"options": options, "fingerprint": fingerprint}
        settings["folder"] = os.fspath(folder.absolute())
        say("starting Ray")
        with ray_pool(workers, device, rows.nbytes) as pool:
            many = len(rows) >= MANY_PHOTOS and not pool.on_gpu
            # workers on this computer find the exported network in the cache
            settings["accelerated"] = many and locator.accelerate()
            return _locate(pool, settings, rows, output, schema)


def _locate(
    pool: Pool, settings: Mapping[str, Any], rows: pa.Table, output: Path, schema: pa.Schema
) -> int:
    """Write the predictions of some photos; return how many could not be read."""
    cpus = "a GPU" if pool.on_gpu else "1 CPU" if pool.cpus == 1 else f"{pool.cpus} CPUs"
    workers = "1 worker" if pool.workers == 1 else f"{pool.workers:,} workers"
    say(f"{len(rows):,} photos; starting {workers}, each with {cpus}")
    progress = Progress(len(rows))
    number = _next_number(output)
    settings = {**settings, "device": pool.device, "threads": pool.cpus}
    results = in_workers(
        pool,
        PhotoWork,
        settings,
        rows,
        part_rows(len(rows), pool),
        lambda count: say(f"a worker died: {count:,} photos are tried again, in smaller parts"),
    )
    failed = 0
    with contextlib.closing(results):
        for positions, table in results:
            if table is None:
                names = [shown(path) for path in rows.column("path").take(positions).to_pylist()]
                table = to_table([Failure(name, _LOST) for name in names], schema)
            with atomic_file(output / f"part-{number:06d}.parquet") as unfinished:
                pq.write_table(table.cast(schema), unfinished, compression="zstd")
            number += 1
            failed += len(table) - table.column("error").null_count
            progress.add(len(table), failed)
    return failed


# The work of one process --------------------------------------------------------------------------


class PhotoWork:
    """Locates parts of the photos, with a model of its own."""

    def __init__(
        self,
        options: BulkOptions,
        fingerprint: str,
        folder: str,
        accelerated: bool,
        device: str,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self._options, self._folder = options, Path(folder)
        self._locator = Geolocator.load(options.model, device)
        if model_fingerprint(self._locator.model) != fingerprint:
            raise CheckpointError(
                f"the model {options.model} of a worker is not that of this computer: install the "
                "same version of this package and of the model on all computers"
            )
        if accelerated:
            self._locator.accelerate()
        self._schema = table_schema(self._locator.features, options.top_k)
        self._claim = None if options.claim is None else Gazetteer.load().find(options.claim)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the rows of `table_schema` of photos with the column `path`."""
        paths = rows.column("path").to_pylist()
        return to_table(self._rows(paths), self._schema)

    def _rows(self, paths: Sequence[bytes]) -> Iterator[Row]:
        options = self._options
        found = self._locator.locate_many(
            (photo_source(path, self._folder) for path in paths),
            batch_size=options.batch_size,
            top_k=options.top_k,
            errors="yield",
            given=options.given,
            use_context=options.use_context,
        )
        for path, row in zip(paths, found, strict=True):
            row = replace(row, file=shown(path))
            if self._claim is not None and not isinstance(row, Failure):
                row = replace(row, claim=row.check(self._claim))
            yield row


class RemotePhoto:
    """A photo at an address, which is read when it is located."""

    def __init__(self, address: str) -> None:
        self.name = address

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes.

        Raises:
            OSError: there is no such photo, or addresses of this kind are not read.
        """
        kind = self.name.partition("://")[0]
        if kind not in REMOTE or "::" in self.name:  # chains of addresses can name any other kind
            raise OSError(
                f"addresses of the kind {kind}:// are not read; download the photo, or use one of "
                f"{', '.join(REMOTE)}"
            )
        if kind != "memory" and is_offline():
            raise OSError("the network is switched off (GEOCLIP_OFFLINE)")
        try:
            with fsspec.open(self.name, "rb") as stream:
                content: bytes = stream.read(size)
        except FileNotFoundError as error:
            raise OSError("there is no such file") from error
        except Exception as error:  # every kind of storage has errors of its own
            raise OSError(first_line(error)) from error
        return content


def photo_source(path: bytes, folder: Path) -> Path | Readable:
    """Return what a path below a folder, an absolute path, or an address stands for."""
    text = os.fsdecode(path)
    if text.startswith(_LOCAL):
        return folder / text.removeprefix(_LOCAL)
    if "://" in text:
        return RemotePhoto(text)
    return folder / text


# Input --------------------------------------------------------------------------------------------


def listed(source: Path) -> tuple[pa.ChunkedArray, NDArray[np.uint64]]:
    """Return the paths (n,) of the photos of a folder or table, each once, and their hashes (n,).

    Paths are bytes: those of a folder relative to it, those of a table as they are written there.

    Raises:
        DatasetError: the table is missing, cannot be read, or has no column of paths.
    """
    names: Iterator[bytes]
    if source.is_dir():
        names = (os.fsencode(path.relative_to(source).as_posix()) for path in walk_photos(source))
    elif _is_parquet(source):
        names = _parquet_paths(source)
    else:
        frame = read_csv(source, ("file",), ("file",))
        names = (text.encode() for text in frame["file"])
    chunks, hashes, chunk = [], [], list[bytes]()
    for name in names:
        if len(name) > MAX_NAME:
            raise DatasetError(f"{source}: the path {shown(name[:60])}… has over {MAX_NAME} bytes")
        chunk.append(name)
        if len(chunk) == _CHUNK:
            chunks.append(pa.array(chunk, pa.large_binary()))
            hashes.append(_hashes(map(shown, chunk)))
            chunk = []
    chunks.append(pa.array(chunk, pa.large_binary()))
    hashes.append(_hashes(map(shown, chunk)))
    paths, known = pa.chunked_array(chunks), np.concatenate(hashes)
    _, first = np.unique(known, return_index=True)
    if len(first) < len(paths):
        first.sort()
        paths, known = paths.take(pa.array(first)), known[first]
    return paths, known


def _is_parquet(path: Path) -> bool:
    try:
        with open_file(path, sys.maxsize) as stream:
            return stream.read(4) == b"PAR1"
    except FileError as error:
        raise DatasetError(f"--bulk: {error}") from error


def _parquet_paths(path: Path) -> Iterator[bytes]:
    """Yield the paths in the column of a Parquet file that `read_csv` would take, too."""
    try:
        with open_file(path, MAX_TABLE) as stream:
            names = pq.ParquetFile(stream).schema_arrow.names
            if len(names) > MAX_COLUMNS:
                raise DatasetError(f"{path}: has more than {MAX_COLUMNS:,} columns")
            called = renamed(names, ("file",))
            if "file" not in called:
                raise DatasetError(
                    f"{path}: no column 'file' among {', '.join(names)[:300]}: name the column of "
                    "paths file or path"
                )
            column = names[called.index("file")]
            # As a dictionary, a text that is repeated a million times takes its length once.
            file = pq.ParquetFile(stream, read_dictionary=[column])
            kind = file.schema_arrow.field(column).type
            value = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(value) or pa.types.is_large_string(value)):
                raise DatasetError(f"{path}: the column {column!r} holds {value}, not paths")
            for batch in file.iter_batches(_CHUNK, columns=[column]):
                yield from _texts(batch.column(0), path)
    except (FileError, DatasetError):
        raise
    except Exception as error:  # the decoders raise errors of any kind on crafted bytes
        raise DatasetError(f"{path}: not a readable table ({first_line(error)})") from error


def _texts(column: pa.Array, path: Path) -> Iterator[bytes]:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column.validate(full=True)
    texts = column.dictionary.cast(pa.large_binary())
    longest = int(pc.max(pc.binary_length(texts)).as_py() or 0)
    if longest > MAX_NAME:
        raise DatasetError(f"{path}: a path has {longest:,} bytes; at most {MAX_NAME:,} are read")
    for name in texts.take(column.indices).to_pylist():
        yield name or b""


def shown(path: bytes) -> str:
    """Return a path as the output writes it; bytes that are not UTF-8 are escaped."""
    return escaped(os.fsdecode(path))


def _hashes(names: Iterator[str]) -> NDArray[np.uint64]:
    """Return a hash (n,) of each name: a hundredth of the memory of the names."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, np.uint64)


# Output -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _claimed(output: Path) -> Iterator[None]:
    """Make the output folder and keep other commands from writing to it until the block ends."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file, and --bulk writes a folder")
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another command is writing to {output}: wait for it") from error
    try:
        yield
    finally:
        lock.release()


def _check_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Write what the predictions are computed with, or check that it is the same as before."""
    path = output / SETTINGS
    settings = {name: value for name, value in settings.items() if name != "batch_size"}
    if not path.exists():
        if any(_PART.fullmatch(name) for name in os.listdir(output)):
            raise ValueError(f"{output} holds parts, but no {SETTINGS}: choose another folder")
        write_atomically(path, json.dumps(settings, indent=1) + "\n")
        return
    before = read_json(path)
    if not isinstance(before, dict):
        raise ValueError(f"{path} is damaged: choose another folder")
    for name, value in settings.items():
        if before.get(name) != value:
            what = "the weights of the model" if name == "fingerprint" else name.replace("_", "-")
            raise ValueError(
                f"{output} holds predictions with another setting of {what}: choose another folder"
            )


def _parts(output: Path) -> list[Path]:
    return sorted(output / name for name in os.listdir(output) if _PART.fullmatch(name))


def _next_number(output: Path) -> int:
    numbers = [int(match[1]) for name in os.listdir(output) if (match := _PART.fullmatch(name))]
    return max(numbers, default=-1) + 1


def _finished(output: Path, schema: pa.Schema) -> NDArray[np.uint64]:
    """Return the hashes of the photos that the parts of the output hold."""
    hashes = [np.empty(0, np.uint64)]
    for path in _parts(output):
        try:
            with open_file(path, sys.maxsize) as stream:
                file = pq.ParquetFile(stream)
                if file.schema_arrow.names != schema.names:
                    raise ValueError("it has other columns")
                hashes.append(_hashes(iter(file.read(["file"]).column(0).to_pylist())))
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read ({first_line(error)}): remove it, and its photos are "
                "located again"
            ) from error
    return np.concatenate(hashes)


# Progress -----------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line about the progress."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Says how many photos are done and how long the others will take.

    On a terminal after each part, else after each hundredth of the photos. Workers take a while to
    start, so their speed is measured from the first part on.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._said, self._first = total, 0, 0, 0
        self._started = 0.0

    def add(self, count: int, failed: int) -> None:
        """Count photos as done; `failed` of all could not be read."""
        now = time.monotonic()
        self._done += count
        if not self._first:
            self._first, self._started = self._done, now
        step = self._done * 100 // self._total
        if step == self._said and not sys.stderr.isatty():
            return
        self._said = step
        text = f"{self._done:,} of {self._total:,} photos ({self._done / self._total:.0%})"
        later = self._done - self._first
        if later and self._done < self._total:
            seconds = (now - self._started) / later
            left = _duration((self._total - self._done) * seconds)
            text += f", {1 / max(seconds, 1e-9):,.3g} a second, {left} left"
        say(text + (f", {failed:,} unreadable" if failed else ""))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
