"""Embeddings of many photos: computed once, kept on disk, taken up again after a crash."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from geoclip_core.data.photos import PhotoError, open_photo
from geoclip_core.data.table import PhotoDataset
from geoclip_core.loops.embedding_cache import SHARD_PHOTOS, EmbeddingCache, Embeddings
from geoclip_core.loops.onnx_engine import Engine, chosen_engine
from geoclip_core.model.backbone import Backbone

Progress = Callable[[int, int], None]
EngineName = Literal["auto", "torch", "onnx"]


class EmbeddingError(ValueError):
    """Photos that cannot be embedded, or embeddings that cannot be used."""


def embed_images(
    backbone: Backbone,
    sources: Sequence[Path | str | Image.Image],
    batch_size: int = 32,
    progress: Progress | None = None,
    engine: Engine | None = None,
    workers: int = 2,
) -> Embeddings:
    """Embed photos in memory.

    Args:
        backbone: in evaluation mode, on its device.
        sources: paths or PIL images.
        batch_size: photos that go through the network together.
        progress: called with (photos done, photos in all) after each batch.
        engine: what runs the network; None: torch.
        workers: threads that read photos.

    Raises:
        EmbeddingError: the backbone gives numbers that are not finite.
    """
    values = np.full((len(sources), backbone.embedding_width), np.nan, dtype=np.float16)
    failures: dict[int, str] = {}
    run = engine or backbone.embed
    was_training = backbone.training
    backbone.eval()
    try:
        for rows, views, wrong in _batches(backbone, sources, batch_size, workers):
            failures |= wrong
            if rows:
                with torch.inference_mode():
                    embedding = run(views).float().cpu().numpy()
                if not np.isfinite(embedding).all() or np.abs(embedding).max() > 65000:
                    raise EmbeddingError(
                        f"{backbone.config.name} gives numbers that float16 cannot hold"
                    )
                values[rows] = embedding
            if progress:
                done = max([*rows, *wrong], default=-1) + 1
                progress(done, len(sources))
    finally:
        backbone.train(was_training)
    return Embeddings(values, failures)


def embed_dataset(
    backbone: Backbone,
    dataset: PhotoDataset,
    cache_dir: Path | str | None = None,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    engine: EngineName = "auto",
    workers: int = 2,
    share: tuple[int, int] = (0, 1),
    barrier: Callable[[], None] | None = None,
) -> Embeddings:
    """Embeddings of a dataset, from the cache as far as they are there.

    Shards are written whole, so a crash costs at most one.

    Args:
        backbone: any; its weights are part of the key.
        dataset: n photos.
        cache_dir: where embeddings are kept; by default in the cache folder of the platform.
        batch_size: photos that go through the network together.
        progress: called with (photos done, photos in all).
        engine: "onnx" or "torch"; "auto" takes ONNX Runtime on a CPU where it agrees with torch.
        workers: threads that read photos.
        share: (process, processes) of a distributed run: each makes its own shards.
        barrier: waits for all processes.

    Raises:
        EmbeddingError: not one photo can be read, or the backbone's numbers are not finite.
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
    run = _engine_named(engine, backbone) if any(missing) else None
    sources, done = dataset.paths, 0
    for start, end, absent in zip(starts, ends, missing, strict=True):
        if absent:
            report = _shifted(progress, done, total)
            part = embed_images(backbone, sources[start:end], batch_size, report, run, workers)
            cache.write_shard(start, part)
        done += end - start
        if progress:
            progress(done, total)
    waiting = barrier or _nothing
    waiting()
    if share[0] == 0:
        cache.join()
    waiting()
    joined = cache.find()
    if joined is None:
        raise EmbeddingError(f"the embeddings in {cache.place} were removed while they were made")
    if len(joined.failures) == len(dataset):
        raise EmbeddingError(
            f"not one of the {len(dataset)} photos of {dataset.name} can be read, for example: "
            f"{joined.failures[0]}"
        )
    return joined


def _batches(
    backbone: Backbone, sources: Sequence[Any], batch_size: int, workers: int
) -> Iterator[tuple[list[int], list[Tensor], dict[int, str]]]:
    """(rows, views, failures by row) of each batch, read ahead by threads."""
    preprocessing = backbone.preprocessing

    def read(row: int) -> list[Tensor] | str:
        try:
            photo = open_photo(sources[row], draft_size=preprocessing.draft_size)
        except PhotoError as error:
            return str(error)
        return preprocessing.pixels(photo.image)

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        starts = range(0, len(sources), batch_size)
        ahead = [_submit(pool, read, s, batch_size, len(sources)) for s in starts[:2]]
        for number in range(len(starts)):
            pending = ahead.pop(0)
            if number + 2 < len(starts):
                ahead.append(_submit(pool, read, starts[number + 2], batch_size, len(sources)))
            results = {row: future.result() for row, future in pending}
            failures = {row: r for row, r in results.items() if isinstance(r, str)}
            rows = [row for row in results if row not in failures]
            views = [torch.stack(v) for v in zip(*(results[r] for r in rows), strict=True)]
            yield rows, views, failures


def _submit(
    pool: ThreadPoolExecutor, read: Callable[[int], Any], start: int, size: int, count: int
) -> list[tuple[int, Any]]:
    return [(row, pool.submit(read, row)) for row in range(start, min(start + size, count))]


def _engine_named(name: EngineName, backbone: Backbone) -> Engine | None:
    run = None if name == "torch" else chosen_engine(backbone)
    if run is None and name == "onnx":
        raise EmbeddingError(f"ONNX Runtime cannot run {backbone.config.name}: use engine torch")
    return run


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _nothing() -> None:
    pass
