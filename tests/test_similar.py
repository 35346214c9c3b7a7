"""Tests of the search for similar training photos."""

import shutil

import numpy as np
import pytest

from geoclip_core import similar
from geoclip_core.data.dataset import read_dataset
from geoclip_core.files import cache_folders
from geoclip_core.locator import Geolocator
from geoclip_core.similar import DirectionIndex
from tests.model import tiny_networks
from tests.training import tiny_photos
from tests.training.tiny_training import run_fit

SUMMER_PALACE = "static/examples/summer-palace.jpg"


def directions(rows, width, seed=0):
    """Directions around forty centres, as those of photos are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, width))
    values = centres[rng.integers(40, size=rows)] + 0.6 * rng.normal(size=(rows, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("whole", [similar.WHOLE_BYTES, 0])
def test_index_finds_the_nearest_directions(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(similar, "WHOLE_BYTES", whole)
    values = directions(6000, 300)
    asked = []

    def read(rows):
        asked.append(len(rows))
        return values[rows]

    for _ in range(2):  # the second reads the projection from the file
        index = DirectionIndex(read, *values.shape, tmp_path)
        for query in directions(20, 300, seed=1):
            asked.clear()
            rows, cosines = index.nearest(query, 5)
            expected = np.argsort(-(values @ query))[:5]
            assert rows.tolist() == expected.tolist()
            assert np.allclose(cosines, (values @ query)[expected], atol=1e-6)
            assert sum(asked) <= similar.COMPARED
    assert (tmp_path / "short.npy").exists() == (whole == 0)
    monkeypatch.setattr(similar, "_CHUNK", 0)  # nothing is projected again
    DirectionIndex(read, *values.shape, tmp_path)


def test_bundled_model_knows_the_places_of_its_bank():
    locator = Geolocator.load("mini")
    found = locator.locate(SUMMER_PALACE, similar=5)
    assert found.similar is not None
    cosines = [one.similarity for one in found.similar.photos]
    assert len(cosines) == 5
    assert cosines == sorted(cosines, reverse=True)
    assert 0 < cosines[-1] <= cosines[0] < 1
    assert all(one.file is None and one.distance_km > 0 for one in found.similar.photos)
    assert "not the photos" in found.similar.note
    assert locator.locate(SUMMER_PALACE).similar is None
    with pytest.raises(ValueError, match="k must be 1"):
        locator.similar(SUMMER_PALACE, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_photos.write(tmp_path_factory.mktemp("photos"), train=260, test=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    network = tiny_networks.write("resnet", tmp_path_factory.mktemp("resnet"), seed=1)
    return run_fit(tmp_path_factory.mktemp("fit") / "run", data, network, epochs=1)


@pytest.mark.slow
def test_run_finds_its_own_training_photos(run, data):
    locator = Geolocator.load(run.folder)
    train = read_dataset(data).split("train")
    for row in (0, 7):
        found = locator.similar(train.paths[row], 3)
        assert found.note == ""
        best = found.photos[0]
        assert best.file == train.paths[row]
        assert best.similarity == pytest.approx(1, abs=1e-3)
        assert (best.latitude, best.longitude) == pytest.approx(train.coordinates[row])
    paths = {str(path) for path in train.paths}
    held_out = read_dataset(data).split("test").paths[0]
    assert all(str(one.file) in paths for one in locator.similar(held_out, 20).photos)


@pytest.mark.slow
def test_dataset_that_moved_or_was_never_opened_is_said(run, data, tmp_path):
    photo = read_dataset(data).paths[0]
    opened = cache_folders().opened
    remembered = opened.read_text()
    opened.write_text("[]")
    try:
        found = Geolocator.load(run.folder).similar(photo)
        assert found.photos == ()
        assert "is no dataset that you have opened here" in found.note
        assert opened.read_text() == "[]"  # asking does not open it
    finally:
        opened.write_text(remembered)
    moved = tmp_path / "moved"
    shutil.move(data, moved)
    try:
        note = Geolocator.load(run.folder).similar(moved / photo.relative_to(data)).note
        assert "has moved" in note
    finally:
        shutil.move(moved, data)
