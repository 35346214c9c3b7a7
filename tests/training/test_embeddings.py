"""Embeddings: the cache, its shards, and ONNX Runtime."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from geoclip_core.data.dataset import read_dataset
from geoclip_core.files import CACHE_VARIABLE, cache_folders
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.training import embeddings
from geoclip_core.training.embeddings import (
    EmbeddingError,
    chosen_engine,
    embed_dataset,
    embed_images,
    onnx_engine,
)
from tests.model import tiny_networks
from tests.training import tiny_photos


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read_dataset(tiny_photos.write(tmp_path_factory.mktemp("photos"), train=50, test=15))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_networks.write("resnet", tmp_path_factory.mktemp("resnet"))


@pytest.fixture
def backbone(network):
    return build_backbone(network)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(embeddings, "SHARD_PHOTOS", 16)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))


def _assert_close(one, other):
    """Compare two computations: float16 keeps 11 bits, so the last one or two may differ."""
    np.testing.assert_allclose(
        one.astype(np.float32), other.astype(np.float32), rtol=2e-3, atol=2e-3
    )


def test_embeddings_are_those_of_the_backbone(backbone, dataset, tmp_path):
    embedded = embed_dataset(backbone, dataset, tmp_path, engine="torch")
    assert embedded.values.dtype == np.float16
    assert embedded.values.shape == (65, backbone.embedding_width)
    assert embedded.failures == {}
    with torch.inference_mode():
        batch = backbone.preprocessing.batch([Image.open(dataset.paths[40])])
        wanted = backbone.embed(batch)[0].numpy()
    assert np.allclose(embedded.values[40], wanted, rtol=2e-3, atol=2e-3)


def test_cached_embeddings_are_not_computed_again(backbone, dataset, tmp_path, monkeypatch):
    first = embed_dataset(backbone, dataset, tmp_path, engine="torch")
    monkeypatch.setattr(embeddings, "embed_images", None)
    again = embed_dataset(backbone, dataset, tmp_path, engine="torch")
    assert np.array_equal(first.values, again.values)
    assert isinstance(again.values, np.memmap)


def test_embeddings_of_a_subset_are_read_from_the_larger_dataset(
    backbone, dataset, tmp_path, monkeypatch
):
    whole = embed_dataset(backbone, dataset, tmp_path, engine="torch")
    monkeypatch.setattr(embeddings, "embed_images", None)
    rows = np.array([33, 2, 64])
    part = embed_dataset(backbone, dataset.select(rows), tmp_path, engine="torch")
    assert np.array_equal(part.values, whole.values[rows])


def test_a_crash_loses_at_most_one_shard(backbone, dataset, tmp_path, monkeypatch):
    real, calls = embeddings.embed_images, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(embeddings, "embed_images", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(backbone, dataset, tmp_path, engine="torch")
    assert embeddings.EmbeddingCache(backbone, dataset, tmp_path).find() is None
    monkeypatch.setattr(
        embeddings, "embed_images", lambda *a, **o: calls.append(2) or real(*a, **o)
    )
    resumed = embed_dataset(backbone, dataset, tmp_path, engine="torch")
    assert calls.count(2) == 3  # of five shards
    other = embed_dataset(backbone, dataset, tmp_path / "other", engine="torch")
    _assert_close(resumed.values, other.values)


def test_a_stop_loses_no_photo(backbone, dataset, tmp_path, monkeypatch):
    """Whatever progress heard of is not computed again."""
    real, computed = backbone.embed, []
    monkeypatch.setattr(
        type(backbone), "embed", lambda self, views: computed.append(len(views[0])) or real(views)
    )

    class StopError(Exception):
        pass

    def stop_at(limit):
        def progress(done, total):
            if done >= limit:
                raise StopError

        return progress

    dataset.paths[20].rename(tmp_path / "away.jpg")
    try:
        for limit in (12, 20, 40):
            with pytest.raises(StopError):
                embed_dataset(
                    backbone,
                    dataset,
                    tmp_path,
                    engine="torch",
                    batch_size=4,
                    progress=stop_at(limit),
                )
        resumed = embed_dataset(backbone, dataset, tmp_path, engine="torch", batch_size=4)
    finally:
        (tmp_path / "away.jpg").rename(dataset.paths[20])
    assert sum(computed) == 64  # each readable photo once
    assert set(resumed.failures) == {20}
    whole = embed_dataset(backbone, dataset, tmp_path / "other", engine="torch")
    kept = np.arange(65) != 20
    _assert_close(resumed.values[kept], whole.values[kept])
    place = embeddings.EmbeddingCache(backbone, dataset, tmp_path).place
    assert not list(place.parent.rglob("begun-*"))


def test_a_damaged_part_of_a_shard_is_computed_again(backbone, dataset, tmp_path):
    cache = embeddings.EmbeddingCache(backbone, dataset, tmp_path)
    width = backbone.embedding_width
    cache.place.mkdir(parents=True)
    for content in (b"", b"no archive"):
        (cache.place / "begun-000000000.npz").write_bytes(content)
        assert len(cache.begun(0, 16).values) == 0
    for values in (np.zeros((4, width + 1), np.float16), np.zeros((17, width), np.float16)):
        cache.write_begun(0, embeddings.Embeddings(values, {}))
        assert len(cache.begun(0, 16).values) == 0
    cache.write_begun(0, embeddings.Embeddings(np.zeros((4, width), np.float16), {1: "torn"}))
    assert cache.begun(0, 16).failures == {1: "torn"}


def test_the_cache_key_depends_on_weights_views_and_files(backbone, dataset, network, tmp_path):
    cache = embeddings.EmbeddingCache(backbone, dataset, tmp_path)
    views = build_backbone(backbone_config(network, views=((48, 48),)))
    changed = build_backbone(network)
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    places = {embeddings.EmbeddingCache(b, dataset, tmp_path).place for b in (views, changed)}
    assert len({cache.place, *places}) == 3
    path = dataset.paths[0]
    content = path.read_bytes()
    try:
        path.write_bytes(content + b"\0")
        assert embeddings.EmbeddingCache(backbone, dataset, tmp_path).place != cache.place
    finally:
        path.write_bytes(content)
    assert embeddings.EmbeddingCache(backbone, dataset, tmp_path).place == cache.place


def test_unreadable_photos_are_rows_of_nan_with_a_reason(backbone, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    dataset = read_dataset(tiny_photos.write(root, train=20, test=4))
    dataset.paths[3].write_text("no photo")
    dataset.paths[7].unlink()
    embedded = embed_dataset(backbone, dataset, tmp_path / "cache", engine="torch")
    assert set(embedded.failures) == {3, 7}
    assert np.isnan(embedded.values[[3, 7]]).all()
    assert np.isfinite(embedded.values[embedded.readable]).all()
    again = embed_dataset(backbone, dataset, tmp_path / "cache", engine="torch")
    assert again.failures == embedded.failures


def test_a_dataset_without_a_readable_photo_is_an_error(backbone, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    dataset = read_dataset(tiny_photos.write(root, train=6, test=2))
    for path in dataset.paths:
        path.unlink()
    with pytest.raises(EmbeddingError, match="none of the 8 photos"):
        embed_dataset(backbone, dataset, tmp_path / "cache")


def test_damaged_cache_files_are_computed_again(backbone, dataset, tmp_path):
    first = np.array(embed_dataset(backbone, dataset, tmp_path, engine="torch").values)
    place = embeddings.EmbeddingCache(backbone, dataset, tmp_path).place
    (place / "embeddings.npy").write_bytes(b"short")
    again = embed_dataset(backbone, dataset, tmp_path, engine="torch")
    _assert_close(first, again.values)


def test_two_processes_share_the_shards(backbone, dataset, tmp_path):
    whole = embed_dataset(backbone, dataset, tmp_path / "one", engine="torch")

    class Waited(Exception):
        pass

    def barrier():
        raise Waited

    with pytest.raises(Waited):
        embed_dataset(
            backbone, dataset, tmp_path / "two", engine="torch", share=(1, 2), barrier=barrier
        )
    both = embed_dataset(
        backbone, dataset, tmp_path / "two", engine="torch", share=(0, 2), barrier=lambda: None
    )
    _assert_close(whole.values, both.values)


def test_progress_ends_at_the_number_of_photos(backbone, dataset, tmp_path):
    seen = []
    embed_dataset(
        backbone, dataset, tmp_path, progress=lambda d, t: seen.append((d, t)), batch_size=8
    )
    assert seen[-1] == (65, 65)
    assert seen == sorted(seen)


def test_embeddings_that_are_not_finite_are_an_error(backbone):
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    with pytest.raises(EmbeddingError, match="float16"):
        embed_images(backbone, [Image.new("RGB", (40, 40))])


@pytest.mark.parametrize("family", ["resnet", "clip", "convnext"])
def test_onnx_gives_the_same_numbers(family, tmp_path):
    folder = tiny_networks.write(family, tmp_path)
    backbone = build_backbone(backbone_config(folder, views=((32, 32), (32, 64)), depths=(1,)))
    engine = onnx_engine(backbone)
    assert engine is not None
    for count in (1, 5):
        views = [torch.randn(count, 3, h, w) for h, w in backbone.preprocessing.views]
        with torch.inference_mode():
            wanted = backbone.embed(views)
        assert torch.allclose(engine(views), wanted, atol=1e-4, rtol=1e-4)


def test_onnx_on_several_threads_keeps_the_order_of_photos_and_views(tmp_path, monkeypatch):
    folder = tiny_networks.write("resnet", tmp_path)
    backbone = build_backbone(backbone_config(folder, views=((32, 32), (32, 64)), depths=(1,)))
    views = [torch.randn(7, 3, h, w) for h, w in backbone.preprocessing.views]
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(onnx_engine(backbone)(views))
    assert torch.equal(*found)
    with torch.inference_mode():
        assert torch.allclose(found[0], backbone.embed(views), atol=1e-4, rtol=1e-4)


def test_exported_networks_are_kept_for_the_next_process(backbone, monkeypatch):
    views = [torch.randn(2, 3, *size) for size in backbone.preprocessing.views]
    first = onnx_engine(backbone)(views)
    (folder,) = cache_folders().networks.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "_exported", None)  # is not called
        assert torch.equal(onnx_engine(backbone)(views), first)
    with torch.no_grad():
        next(backbone.parameters()).add_(1e-3)  # other weights are another network
    assert torch.allclose(onnx_engine(backbone)(views), backbone.embed(views), rtol=1e-2, atol=1e-3)
    assert len(list(folder.parent.iterdir())) == 2


def test_damaged_export_is_made_again(backbone):
    views = [torch.randn(2, 3, *size) for size in backbone.preprocessing.views]
    wanted = onnx_engine(backbone)(views)
    (folder,) = cache_folders().networks.iterdir()
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(onnx_engine(backbone)(views), wanted)
    assert all(file.stat().st_size > 1000 for file in folder.iterdir())


def test_few_exports_are_kept_and_a_folder_that_cannot_be_written_is_no_failure(
    backbone, monkeypatch, tmp_path
):
    monkeypatch.setattr(embeddings, "KEPT_NETWORKS", 1)
    (cache_folders().networks / "old").mkdir(parents=True)
    os.utime(cache_folders().networks / "old", (1, 1))
    assert onnx_engine(backbone) is not None
    (folder,) = cache_folders().networks.iterdir()
    assert folder.name != "old"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert onnx_engine(backbone) is not None


def test_onnx_that_differs_is_not_used(backbone, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("geoclip_core.training.embeddings.TOLERANCE", -1.0)
    assert onnx_engine(backbone) is None
    with pytest.raises(EmbeddingError, match="engine torch"):
        embed_dataset(backbone, dataset, tmp_path, engine="onnx")


def test_a_network_that_is_too_large_to_export_runs_in_torch(backbone, monkeypatch):
    assert chosen_engine(backbone) is not None
    monkeypatch.setattr("geoclip_core.training.embeddings.MOST_PARAMETERS", 10)
    assert chosen_engine(backbone) is None


@pytest.mark.parametrize(("least", "exported"), [(1, True), (1000, False)])
def test_few_photos_are_embedded_in_torch(
    backbone, dataset, tmp_path, monkeypatch, least, exported
):
    asked = []
    monkeypatch.setattr(embeddings, "MANY_PHOTOS", least)
    monkeypatch.setattr(embeddings, "chosen_engine", asked.append)
    embed_dataset(backbone, dataset, tmp_path)
    assert bool(asked) == exported


def test_failures_are_saved_as_json(backbone, dataset, tmp_path):
    embed_dataset(backbone, dataset, tmp_path, engine="torch")
    place = embeddings.EmbeddingCache(backbone, dataset, tmp_path).place
    assert json.loads((place / "failures.json").read_text()) == {}
    assert not list(place.glob("*shard*"))
