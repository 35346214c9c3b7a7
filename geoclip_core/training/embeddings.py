"""Compute the embeddings of many photos and cache them on disk.

They are computed in shards; an interrupted computation continues at the first missing shard.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from geoclip_core.checks import checked
from geoclip_core.data.photos import READING_VERSION, open_photo
from geoclip_core.errors import PhotoError
from geoclip_core.files import atomic_file, cache_folders, parse_json, read_json
from geoclip_core.model.backbone import Backbone, BackboneConfig
from geoclip_core.model.backbones import build_backbone
from geoclip_core.ray_workers import Pool, in_workers

if TYPE_CHECKING:  # for annotations alone
    import pyarrow as pa

if TYPE_CHECKING:  # imports pandas, which takes a second
    from geoclip_core.data.dataset import PhotoDataset

logger = logging.getLogger(__name__)
Engine = Callable[[Sequence[Tensor]], Tensor]
"""Views (b, 3, height, width) -> embeddings (b, D)."""
EngineName = Literal["auto", "torch", "onnx"]
Progress = Callable[[int, int], None]

SHARD_PHOTOS = 512
_ARRAY, _FAILURES, _PHOTOS = "embeddings.npy", "failures.json", "photos.npy"
MOST_PARAMETERS = 250_000_000
"""Larger networks run in torch: an export needs several times the memory of the network."""
MANY_PHOTOS = 40
"""Number of photos from which ONNX Runtime saves more time than the export takes."""
KEPT_NETWORKS = 10
"""Number of backbones whose exports stay in the cache."""
_LOST = "Its worker process died each time it was tried: the photo may need too much memory."
TOLERANCE = 1e-3
"""Largest accepted difference from torch, relative to the largest value of the embeddings."""


class EmbeddingError(ValueError):
    """Photos cannot be embedded, or the backbone returns unusable numbers."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of n photos in the order of their dataset."""

    values: NDArray[np.float16]
    """(n, D), a memory map if read from disk; rows of unreadable photos are NaN."""
    failures: dict[int, str]
    """Row -> why its photo cannot be read."""

    @property
    def readable(self) -> NDArray[np.bool_]:
        """(n,) whether each photo could be read."""
        mask = np.ones(len(self.values), dtype=bool)
        mask[list(self.failures)] = False
        return mask


class EmbeddingCache:
    """The embeddings of one dataset by one backbone, on disk.

    The key is made of the backbone's config, weights and preprocessing, of the way in which photos
    are read (`READING_VERSION`), and of the path, position and file size of each photo.
    """

    def __init__(
        self, backbone: Backbone, dataset: "PhotoDataset", folder: Path | str | None = None
    ) -> None:
        self.width = backbone.embedding_width
        self._photos = _photo_hashes(dataset)
        root = Path(folder or cache_folders().embeddings).expanduser()
        self._home = root / _backbone_key(backbone)
        self.place = self._home / hashlib.sha256(self._photos.tobytes()).hexdigest()[:16]

    def find(self) -> Embeddings | None:
        """Return the embeddings if they, or those of a larger dataset, are complete; else None."""
        return _complete(self.place) or _part_of_larger(self._home, self._photos)

    def has_shard(self, start: int) -> bool:
        """Return whether the shard that starts at a row exists; an existing one is complete."""
        return self._shard(start).exists()

    def write_shard(self, start: int, part: Embeddings) -> None:
        """Write the shard that starts at a row, atomically."""
        self._write(self._shard(start), part)
        self._begun(start).unlink(missing_ok=True)

    @staticmethod
    def _write(path: Path, part: Embeddings) -> None:
        failures = np.frombuffer(json.dumps(part.failures).encode(), np.uint8)
        with atomic_file(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, values=part.values, failures=failures)

    def begun(self, start: int, count: int) -> Embeddings:
        """Return the first rows of an interrupted shard, which has `count` rows; possibly none."""
        path = self._begun(start)
        nothing = Embeddings(np.empty((0, self.width), dtype=np.float16), {})
        if not path.exists():
            return nothing
        try:
            with np.load(path, allow_pickle=False) as shard:
                values, text = shard["values"], shard["failures"].tobytes().decode()
            failures = checked(dict[int, str], parse_json(text, str(path)), path)
        except (OSError, ValueError, KeyError, EOFError) as error:
            logger.warning("damaged embeddings in %s are computed again: %s", path, error)
            return nothing
        fits = values.ndim == 2 and values.shape[1] == self.width and len(values) <= count
        return Embeddings(values, failures) if fits and values.dtype == np.float16 else nothing

    def write_begun(self, start: int, part: Embeddings) -> None:
        """Keep the first rows of an interrupted shard, atomically."""
        self._write(self._begun(start), part)

    def join(self) -> None:
        """Join all shards to one array, written atomically, and remove them."""
        shape = (len(self._photos), self.width)
        failures: dict[int, str] = {}
        description = {"descr": "<f2", "fortran_order": False, "shape": shape}
        with atomic_file(self.place / _ARRAY) as unfinished:
            # not through a memory map: on a full disk, writing to one kills the process
            with unfinished.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, description)
                for start in range(0, len(self._photos), SHARD_PHOTOS):
                    with np.load(self._shard(start), allow_pickle=False) as shard:
                        file.write(np.ascontiguousarray(shard["values"], dtype="<f2").tobytes())
                        wrong = json.loads(shard["failures"].tobytes().decode())
                    failures |= {start + int(row): text for row, text in wrong.items()}
            np.save(self.place / _PHOTOS, self._photos)
            (self.place / _FAILURES).write_text(json.dumps(failures), encoding="utf-8")
        for pattern in ("shard-*.npz", "begun-*.npz", ".shard-*.part", ".begun-*.part"):
            for shard in self.place.glob(pattern):
                shard.unlink(missing_ok=True)

    def _begun(self, start: int) -> Path:
        return self.place / f"begun-{start:09d}.npz"

    def _shard(self, start: int) -> Path:
        return self.place / f"shard-{start:09d}.npz"


def _backbone_key(backbone: Backbone) -> str:
    config = _keyed(asdict(backbone.config))
    del config["name"]
    preprocessing = _keyed(asdict(backbone.preprocessing))
    facts = [config, preprocessing, backbone.weights_hash(), READING_VERSION]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(backbone.config.name).name).strip("-.")
    return f"{name or 'backbone'}-{digest}"


def _keyed(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description with the keys of earlier versions, so that old caches stay valid."""
    return {"fit" if key == "framing" else key: value for key, value in description.items()}


def _photo_hashes(dataset: "PhotoDataset") -> NDArray[np.uint64]:
    """Return a hash (n,) of each photo's path, position and file size.

    The size makes a replaced file count as another photo.
    """
    hashes = np.empty(len(dataset), dtype=np.uint64)
    rows = zip(dataset.table["path"], dataset.coordinates, dataset.paths, strict=True)
    for row, (path, (latitude, longitude), file) in enumerate(rows):
        try:
            size = os.stat(file).st_size
        except OSError:
            size = -1
        text = f"{path}|{latitude!r}|{longitude!r}|{size}"
        hashes[row] = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return hashes


def _complete(place: Path) -> Embeddings | None:
    if not (place / _ARRAY).exists():
        return None
    try:
        values = np.load(place / _ARRAY, mmap_mode="r", allow_pickle=False)
        failures = checked(dict[int, str], read_json(place / _FAILURES), place / _FAILURES)
    except (OSError, ValueError) as error:
        logger.warning("damaged embeddings in %s are computed again: %s", place, error)
        with contextlib.suppress(OSError):
            shutil.rmtree(place)
        return None
    return Embeddings(values, failures)


def _part_of_larger(home: Path, photos: NDArray[np.uint64]) -> Embeddings | None:
    """Return these photos' rows of a larger dataset that the same backbone has embedded."""
    for place in sorted(home.glob("*/")):
        if not (place / _PHOTOS).exists():
            continue
        whole, known = _complete(place), np.load(place / _PHOTOS, allow_pickle=False)
        if whole is None or len(known) < len(photos):
            continue
        order = np.argsort(known)
        at = np.minimum(np.searchsorted(known, photos, sorter=order), len(known) - 1)
        rows = order[at]
        if np.array_equal(known[rows], photos):
            where = {int(r): i for i, r in enumerate(rows)}
            failures = {where[r]: t for r, t in whole.failures.items() if r in where}
            return Embeddings(whole.values[rows], failures)
    return None


def embed_images(
    backbone: Backbone,
    sources: Sequence[Path | str | Image.Image],
    batch_size: int = 32,
    progress: Progress | None = None,
    engine: Engine | None = None,
    workers: int = 2,
    into: Embeddings | None = None,
) -> Embeddings:
    """Embed photos without a cache.

    Args:
        backbone: backbone, on its device.
        sources: n paths or PIL images.
        batch_size: photos that go through the network together.
        progress: called with (photos done, all photos) after each batch.
        engine: replaces `backbone.embed`.
        workers: threads that read photos.
        into: filled in and returned. If `progress` raises, it holds what is done.

    Raises:
        EmbeddingError: the backbone returns numbers that are not finite or exceed float16.
    """
    if into is None:
        into = Embeddings(np.full((len(sources), backbone.embedding_width), np.nan, np.float16), {})
    run = engine or backbone.embed
    was_training = backbone.training
    backbone.eval()
    try:
        for rows, views, wrong in _batches(backbone, sources, batch_size, workers):
            into.failures.update(wrong)
            if rows:
                with torch.inference_mode():
                    embedding = run(views).float().cpu().numpy()
                if not np.isfinite(embedding).all() or np.abs(embedding).max() > 65000:
                    raise EmbeddingError(
                        f"{backbone.config.name} returns numbers that float16 cannot hold"
                    )
                into.values[rows] = embedding
            if progress:
                done = max([*rows, *wrong], default=-1) + 1
                progress(done, len(sources))
    finally:
        backbone.train(was_training)
    return into


def _embed_shard(
    cache: EmbeddingCache,
    start: int,
    backbone: Backbone,
    sources: Sequence[Path],
    batch_size: int,
    progress: Progress | None,
    engine: Engine | None,
    workers: int,
) -> Embeddings:
    """Embed a shard from where it was interrupted; if it is interrupted again, keep what is done.

    Photos of which `progress` heard are never computed again.
    """
    begun = cache.begun(start, len(sources))
    first = done = len(begun.values)
    values = np.full((len(sources), backbone.embedding_width), np.nan, dtype=np.float16)
    values[:first] = begun.values
    rest = Embeddings(values[first:], {})

    def report(count: int, _total: int) -> None:
        nonlocal done
        done = first + count
        if progress:
            progress(done, len(sources))

    def so_far() -> Embeddings:
        later = {first + row: reason for row, reason in rest.failures.items()}
        failures = {**begun.failures, **later}
        return Embeddings(values[:done], {r: text for r, text in failures.items() if r < done})

    try:
        embed_images(backbone, sources[first:], batch_size, report, engine, workers, rest)
    except BaseException:  # a stop is one too
        if done > first:
            with contextlib.suppress(OSError):  # the interruption matters more
                cache.write_begun(start, so_far())
        raise
    done = len(sources)
    return so_far()


def embed_dataset(
    backbone: Backbone,
    dataset: "PhotoDataset",
    cache_dir: Path | str | None = None,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    engine: EngineName = "auto",
    workers: int = 2,
    share: tuple[int, int] = (0, 1),
    barrier: Callable[[], None] | None = None,
) -> Embeddings:
    """Return the embeddings of a dataset, from the cache or computed.

    A stop loses nothing, a crash at most the current shard.

    Args:
        backbone: backbone, on its device.
        dataset: n photos.
        cache_dir: folder of the cache; None: the platform's.
        batch_size: photos that go through the network together.
        progress: called with (photos done, all photos).
        engine: "onnx", "torch", or "auto": ONNX Runtime on a CPU if it agrees with torch and
            there are at least `MANY_PHOTOS`.
        workers: threads that read photos.
        share: (process, processes) of a distributed run, which share the shards.
        barrier: waits for all processes of a distributed run.

    Raises:
        EmbeddingError: no photo can be read, the backbone returns numbers that are not finite, or
            ONNX Runtime is asked for and cannot run the backbone.
    """
    if not len(dataset):
        return Embeddings(np.zeros((0, backbone.embedding_width), dtype=np.float16), {})
    cache = EmbeddingCache(backbone, dataset, cache_dir)
    found = cache.find()
    if found is not None:
        return found
    starts = list(range(share[0] * SHARD_PHOTOS, len(dataset), share[1] * SHARD_PHOTOS))
    ends = [min(start + SHARD_PHOTOS, len(dataset)) for start in starts]
    total = sum(ends) - sum(starts)
    missing = [not cache.has_shard(start) for start in starts]
    if engine == "auto" and len(dataset) < MANY_PHOTOS:
        engine = "torch"
    run = _engine_named(engine, backbone) if any(missing) else None
    sources, done = dataset.paths, 0
    for start, end, absent in zip(starts, ends, missing, strict=True):
        if absent:
            report = _shifted(progress, done, total)
            photos = sources[start:end]
            part = _embed_shard(cache, start, backbone, photos, batch_size, report, run, workers)
            cache.write_shard(start, part)
        done += end - start
        if progress:
            progress(done, total)
    if barrier:
        barrier()
    if share[0] == 0:
        cache.join()
    if barrier:
        barrier()
    return _found(cache, dataset)


def _found(cache: EmbeddingCache, dataset: "PhotoDataset") -> Embeddings:
    """Return the joined embeddings of a dataset, of which at least one photo must be readable."""
    joined = cache.find()
    if joined is None:
        raise EmbeddingError(f"the embeddings in {cache.place} were removed during the run")
    if len(joined.failures) == len(dataset):
        raise EmbeddingError(
            f"none of the {len(dataset)} photos of {dataset.name} can be read, for example: "
            f"{joined.failures[0]}"
        )
    return joined


def embed_with_workers(
    pool: Pool,
    backbone: Backbone,
    dataset: "PhotoDataset",
    cache_dir: Path | str | None = None,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    engine: EngineName = "auto",
    readers: int = 2,
) -> Embeddings:
    """Return what `embed_dataset` returns, computed by Ray's workers.

    The workers must find the photos, and a local backbone, at the same paths as this process, which
    alone writes the cache. Finished shards are not computed again. A photo whose worker dies each
    time that it is tried counts as unreadable.

    Args:
        pool: of `ray_pool`.
        backbone: backbone, on a CPU; each worker builds its own.
        dataset: n photos.
        cache_dir: as in `embed_dataset`.
        batch_size: photos that go through a worker's network together.
        progress: called with (photos done, all photos).
        engine: as in `embed_dataset`.
        readers: threads of each worker that read photos.

    Raises:
        EmbeddingError: as `embed_dataset`.
        WorkerError: a worker cannot do the work.
    """
    import pyarrow as pa  # here, since a single photo needs none

    cache = EmbeddingCache(backbone, dataset, cache_dir)
    if (found := cache.find()) is not None:
        return found
    if engine == "auto" and len(dataset) < MANY_PHOTOS:
        engine = "torch"
    if not pool.on_gpu:
        _engine_named(engine, backbone)  # workers on this computer find the export in the cache
    config, folder = backbone.config, Path(backbone.config.name).expanduser()
    settings = {
        "config": replace(config, name=str(folder.absolute())) if folder.exists() else config,
        "key": _backbone_key(backbone),
        "device": pool.device,
        "threads": pool.cpus,
        "readers": readers,
        "batch_size": batch_size,
        "engine": engine,
    }
    ends = {
        start: min(start + SHARD_PHOTOS, len(dataset))
        for start in range(0, len(dataset), SHARD_PHOTOS)
        if not cache.has_shard(start)
    }
    # a part is a shard, unless its worker died
    photos = np.concatenate([np.arange(*shard) for shard in ends.items()] or [np.arange(0)])
    files = [os.fsencode(dataset.root.absolute() / dataset.table["path"].iloc[i]) for i in photos]
    rows = pa.table({"path": pa.array(files, pa.large_binary())})
    begun: dict[int, tuple[Embeddings, list[int]]] = {}
    done = len(dataset) - len(photos)
    results = in_workers(pool, PhotoEmbedder, settings, rows, SHARD_PHOTOS)
    with contextlib.closing(results):
        for positions, table in results:
            for start, part in _by_shard(photos[positions], table):
                end = ends[start]
                if start not in begun:
                    values = np.full((end - start, cache.width), np.nan, np.float16)
                    begun[start] = Embeddings(values, {}), [end - start]
                whole, left = begun[start]
                for row, values_of_row, reason in part:
                    if reason is None:
                        whole.values[row] = values_of_row
                    else:
                        whole.failures[row] = reason
                left[0] -= len(part)
                if not left[0]:
                    cache.write_shard(start, begun.pop(start)[0])
            done += len(positions)
            if progress:
                progress(done, len(dataset))
    cache.join()
    return _found(cache, dataset)


def _by_shard(
    photos: NDArray[np.int64], table: "pa.Table | None"
) -> Iterator[tuple[int, list[tuple[int, NDArray[np.float16] | None, str | None]]]]:
    """Yield the start of each shard, and (row in it, values, why there are none) of its photos."""
    shards: dict[int, list[tuple[int, NDArray[np.float16] | None, str | None]]] = {}
    contents = [None] * len(photos) if table is None else table.column("values").to_pylist()
    reasons = [_LOST] * len(photos) if table is None else table.column("error").to_pylist()
    for photo, content, reason in zip(photos.tolist(), contents, reasons, strict=True):
        values = None if content is None else np.frombuffer(content, np.float16)
        row = photo % SHARD_PHOTOS
        shards.setdefault(photo - row, []).append((row, values, reason))
    yield from shards.items()


class PhotoEmbedder:
    """What a worker of `embed_with_workers` does, with a backbone of its own."""

    def __init__(
        self,
        config: BackboneConfig,
        key: str,
        device: str,
        threads: int,
        readers: int,
        batch_size: int,
        engine: EngineName,
    ) -> None:
        torch.set_num_threads(threads)
        self._backbone = build_backbone(config, device)
        if _backbone_key(self._backbone) != key:
            raise EmbeddingError(
                f"the backbone {config.name} of a worker is not that of this computer: install the "
                "same version of this package and of the backbone on all computers"
            )
        self._engine = _engine_named(engine, self._backbone)
        self._readers, self._batch_size = readers, batch_size

    def __call__(self, rows: "pa.Table") -> "pa.Table":
        """Return the bytes of the float16 embedding, or an error, of photos with a path."""
        import pyarrow as pa

        paths = [Path(os.fsdecode(path)) for path in rows.column("path").to_pylist()]
        found = embed_images(
            self._backbone, paths, self._batch_size, engine=self._engine, workers=self._readers
        )
        contents = [
            None if row in found.failures else values.tobytes()
            for row, values in enumerate(found.values)
        ]
        reasons = [found.failures.get(row) for row in range(len(paths))]
        columns = {
            "values": pa.array(contents, pa.binary()),
            "error": pa.array(reasons, pa.string()),
        }
        return pa.table(columns)


def _batches(
    backbone: Backbone, sources: Sequence[Any], batch_size: int, workers: int
) -> Iterator[tuple[list[int], list[Tensor], dict[int, str]]]:
    """Yield rows, views and failures (row -> reason) of each batch; threads read two ahead."""
    preprocessing = backbone.preprocessing

    def read(row: int) -> list[Tensor] | str:
        try:
            photo = open_photo(sources[row], draft_size=preprocessing.draft_size)
        except PhotoError as error:
            return str(error)
        return preprocessing.pixels(photo.image)

    with ThreadPoolExecutor(max(workers, 1)) as pool:

        def submit(start: int) -> dict[int, Future[list[Tensor] | str]]:
            end = min(start + batch_size, len(sources))
            return {row: pool.submit(read, row) for row in range(start, end)}

        starts = range(0, len(sources), batch_size)
        ahead = [submit(start) for start in starts[:2]]
        for number in range(len(starts)):
            pending = ahead.pop(0)
            if number + 2 < len(starts):
                ahead.append(submit(starts[number + 2]))
            results = {row: future.result() for row, future in pending.items()}
            failures = {row: r for row, r in results.items() if isinstance(r, str)}
            rows = [row for row in results if row not in failures]
            views = [torch.stack(v) for v in zip(*(results[r] for r in rows), strict=True)]
            yield rows, views, failures


def _engine_named(name: EngineName, backbone: Backbone) -> Engine | None:
    run = None if name == "torch" else chosen_engine(backbone)
    if run is None and name == "onnx":
        raise EmbeddingError(f"ONNX Runtime cannot run {backbone.config.name}: use engine torch")
    return run


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


class _Features(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone.features(pixels)


def chosen_engine(backbone: Backbone, export: bool = True) -> Engine | None:
    """Return an ONNX engine for a small enough backbone on a CPU; None if torch must be used.

    `export` is that of `onnx_engine`.
    """
    if backbone.device.type != "cpu":
        return None
    if sum(parameter.numel() for parameter in backbone.parameters()) > MOST_PARAMETERS:
        return None
    return onnx_engine(backbone, export)


def onnx_engine(backbone: Backbone, export: bool = True) -> Engine | None:
    """Return an engine that agrees with `backbone.embed` within `TOLERANCE`.

    The exported networks are kept in the cache, by the backbone's weights and the versions of torch
    and ONNX Runtime.

    Args:
        backbone: the network, on a CPU.
        export: whether to export networks that are not kept yet, which takes seconds.

    Returns:
        None if ONNX Runtime is not installed, cannot run the network, or disagrees (the last two
        are logged), or if there is no kept network and `export` is false.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    threads = torch.get_num_threads()

    def engine(networks: Mapping[tuple[int, int], bytes | str]) -> Engine:
        sessions = {size: _session(network) for size, network in networks.items()}

        def features(view: Tensor) -> NDArray[np.float32]:
            found: NDArray[np.float32]
            (found,) = sessions[view.shape[2], view.shape[3]].run(None, {"pixels": view.numpy()})
            return found

        def run(views: Sequence[Tensor]) -> Tensor:
            photos = [part.contiguous() for view in views for part in torch.split(view, 1)]
            if threads > 1 and len(photos) > 1:
                with ThreadPoolExecutor(threads) as pool:
                    rows = list(pool.map(features, photos))
            else:
                rows = [features(photo) for photo in photos]
            by_view = np.concatenate(rows).reshape(len(views), len(views[0]), -1)
            return torch.from_numpy(np.concatenate(by_view, axis=1))

        return run

    saved = network_files(backbone)
    # torch's exporter and the runtime raise exceptions of many kinds
    if all(file.is_file() for file in saved.values()):
        try:
            found = engine({size: str(file) for size, file in saved.items()})
            next(iter(saved.values())).parent.touch()
            return found
        except Exception as error:
            reason = str(error).splitlines()[:1]
            logger.warning("%s is exported again: %s", [*saved.values()], reason)
    if not export:
        return None
    try:
        exported = {size: _exported(backbone, *size) for size in saved}
        made = engine(exported)
    except Exception as error:
        logger.info("no ONNX for %s: %s", backbone.config.name, str(error).splitlines()[:1])
        return None
    if not _agrees(backbone, made):
        return None
    _save_networks({saved[size]: network for size, network in exported.items()})
    return made


def network_files(backbone: Backbone) -> dict[tuple[int, int], Path]:
    """Return where the exported network of each view (height, width) is kept, once it is."""
    versions = f"torch-{torch.__version__}-onnxruntime-{version('onnxruntime')}"
    folder = cache_folders().networks / f"{_backbone_key(backbone)}-{versions}"
    sizes = dict.fromkeys(backbone.preprocessing.views)
    return {(height, width): folder / f"{height}x{width}.onnx" for height, width in sizes}


def _session(network: bytes | str, optimised: Path | None = None) -> Any:
    """Return ONNX Runtime's session of an exported network or its file.

    With `optimised`, the network is also written there as the runtime simplifies it for any
    processor. Reading that back takes half the time.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # a thread for each photo and view, not several for one: these wait for each other, and spin
    options.intra_op_num_threads = 1
    if optimised is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _save_networks(files: dict[Path, bytes]) -> None:
    """Write the files of one folder and remove the oldest of the folders beside it."""
    try:
        for path, network in files.items():
            with atomic_file(path) as unfinished:
                _session(network, unfinished)
        home = next(iter(files)).parent.parent
        for old in sorted(home.iterdir(), key=lambda f: -f.stat().st_mtime)[KEPT_NETWORKS:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:  # a full or read-only disk: they are exported again next time
        logger.warning("exported networks are not kept: %s", error)


def _exported(backbone: Backbone, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    example = torch.zeros(2, 3, height, width)
    # the exporter warns of every constant that it folds, and prints the graph if it fails
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Features(backbone).eval(),
            (example,),
            buffer,  # type: ignore[arg-type]  # a buffer is accepted with dynamo=False
            dynamo=False,
            input_names=["pixels"],
            output_names=["features"],
            dynamic_axes={"pixels": {0: "batch"}, "features": {0: "batch"}},
        )
    return buffer.getvalue()


def _agrees(backbone: Backbone, engine: Engine) -> bool:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(3, 3, h, w, generator=generator) for h, w in backbone.preprocessing.views]
    with torch.inference_mode():
        wanted = backbone.embed(views)
    difference = float((engine(views) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
    if not difference <= TOLERANCE:
        logger.info("ONNX differs from torch by %.2g: using torch", difference)
        return False
    return True
