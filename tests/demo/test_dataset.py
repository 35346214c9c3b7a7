import dataclasses
import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geoclip_core.data.dataset import COLUMNS, read_dataset
from geoclip_core.data.doctor import leakage
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.demo.dataset import MONTH_COUNTS, STATE_CITIES, demo_table, write_demo
from geoclip_core.demo.scenes import SAVED_SIZE, SceneFacts, draw_scene
from geoclip_core.earth.climate import ClimateRaster
from geoclip_core.earth.gazetteer import Gazetteer


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "set", 60, seed=5)


@pytest.fixture(scope="module")
def table():
    return demo_table(3000, seed=1)[0]


def _digest(root):
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def test_the_demo_set_is_read_like_a_real_dataset(demo):
    dataset = read_dataset(demo)
    assert dataset.synthetic
    assert len(dataset) == 60
    assert all(path.is_file() for path in dataset.paths)
    with Image.open(dataset.paths[0]) as image:
        assert image.size == SAVED_SIZE
        assert image.format == "JPEG"
        assert b"synthetic" in image.info["comment"]
        assert not dict(image.getexif())
    header = (demo / "train_mini.csv").read_text().splitlines()[0].split(",")
    assert tuple(header) == COLUMNS


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes(demo, tmp_path):
    again = write_demo(tmp_path / "set", 60, seed=5)
    assert _digest(again) == _digest(demo)
    other = write_demo(tmp_path / "set", 60, seed=6, metadata_only=True)
    assert _digest(other) != _digest(demo)
    assert not list(other.rglob("*.jpg"))


def test_places_and_climates_are_those_of_the_coordinates(table):
    coordinates = table[["latitude", "longitude"]].to_numpy()
    places = Gazetteer.load().frame(coordinates)
    for column in ("region", "unique_sub-region", "unique_city"):
        known = table[column].notna().to_numpy()
        assert known.mean() > 0.97
        assert (places[column][known] == table[column][known]).all()
    assert set(table["region"]) == set(STATE_CITIES)
    known = table["climate"].notna().to_numpy()
    codes = ClimateRaster.load().codes(coordinates)
    assert (codes[known] == table["climate"][known].astype(int)).all()


def test_only_optional_values_are_missing(table):
    for column in ("captured_at", "climate", "sub-region", "city"):
        assert 0 < table[column].isna().mean() < 0.03
    always = ["id", "latitude", "longitude", "region", "sequence", "cell", "creator_id"]
    assert table[always].notna().all().all()
    assert table["id"].is_unique
    assert table["id"].str.fullmatch(r"\d{15,16}").all()


@pytest.mark.slow
def test_months_are_distributed_as_in_the_real_dataset():
    table = demo_table(20_000, seed=3)[0]
    moments = pd.to_datetime(table["captured_at"].dropna().astype("int64"), unit="ms", utc=True)
    share = moments.dt.month.value_counts(normalize=True).sort_index().to_numpy()
    np.testing.assert_allclose(share, np.array(MONTH_COUNTS) / sum(MONTH_COUNTS), atol=0.02)
    # In daylight: between 8:00 and 17:00 solar time.
    local = moments.dt.hour + moments.dt.minute / 60 + table.loc[moments.index, "longitude"] / 15
    assert local.between(8, 17).all()


def test_test_photos_are_not_near_train_and_a_few_are_in_unseen_towns(tmp_path):
    dataset = read_dataset(write_demo(tmp_path / "set", 3000, seed=2, metadata_only=True))
    assert leakage(dataset, "test").near == 0
    assert leakage(dataset, "test").same_sequence == 0
    test = dataset.split("test")
    assert 0.12 * 3000 <= len(test) <= 0.15 * 3000
    city = test.labels(build_vocabularies(dataset.table, ("city",)))["city"]
    known = test.table["city_key"].notna()
    assert 0.7 < (city[known] >= 0).mean() < 1


def test_colours_of_a_scene_depend_on_season_and_climate():
    facts = SceneFacts("1", 44.0, -108.0, "Dfb", 15, "Wyoming_US", "A_Wyoming_US", "B_Wyoming_US")

    def mean_colour(facts, rows):
        scenes = [
            np.asarray(draw_scene(dataclasses.replace(facts, photo_id=str(i)))) for i in range(12)
        ]
        return np.mean([scene[rows].reshape(-1, 3).mean(0) for scene in scenes], axis=0)

    ground = slice(110, 165)
    winter = mean_colour(facts, ground)
    summer = mean_colour(dataclasses.replace(facts, day=190), ground)
    desert = mean_colour(dataclasses.replace(facts, day=190, climate="BWh"), ground)
    # Snow is bright and grey, summer grass green, desert ground red above green above blue.
    assert winter.max() - winter.min() < 12
    assert summer[1] > summer[2] + 15
    assert desert[0] > desert[1] > desert[2] + 10
    np.testing.assert_array_equal(np.asarray(draw_scene(facts)), np.asarray(draw_scene(facts)))
    assert (np.asarray(draw_scene(facts)) != np.asarray(draw_scene(facts, seed=1))).any()


@pytest.mark.parametrize("climate", ["Af", "BWh", "Csc", "Dwd", "EF", "unknown"])
@pytest.mark.parametrize("day", [1, 366])
def test_any_climate_and_place_can_be_drawn(climate, day):
    facts = SceneFacts("x", -89.0, 179.0, climate, day, "Chuquisaca_BO", "", "nowhere")
    assert draw_scene(facts).size == SAVED_SIZE


def test_only_a_demo_set_is_replaced(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="not made by demo-data"):
        write_demo(tmp_path, 50, metadata_only=True)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="is a file"):
        write_demo(tmp_path / "holiday.jpg", 50)


@pytest.mark.parametrize(
    ("rows", "share", "message"), [(5, 0.1, "at least 20"), (50, 0.9, "between 0 and 0.5")]
)
def test_sizes_out_of_range_are_refused(tmp_path, rows, share, message):
    with pytest.raises(ValueError, match=message):
        write_demo(tmp_path / "set", rows, test_fraction=share)
    assert not (tmp_path / "set").exists()
