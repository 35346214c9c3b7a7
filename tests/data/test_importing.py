import hashlib
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geoclip_core.data import importing
from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.doctor import leakage
from geoclip_core.data.importing import NOT_IMPORTED_FILE, import_photos
from tests.data.geotagged import write_photo

ABILENE = (32.4487, -99.7331)
VIENNA = (48.2082, 16.3738)


def _content(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    write_photo(folder / "trip" / "a.JPG", ABILENE, "2021:07:31 22:30:00", "-05:00", seed=1)
    write_photo(folder / "trip" / "b.jpeg", VIENNA, "2020:01:31 23:59:00", seed=2)
    write_photo(folder / "c.png", (-16.5, 179.99), seed=3)
    write_photo(folder / "nowhere.jpg", seed=4)
    (folder / "trip" / "cut.jpg").write_bytes((folder / "trip" / "a.JPG").read_bytes()[:900])
    (folder / "notes.txt").write_text("not a photo")
    (folder / ".hidden.jpg").write_bytes(b"x")
    return folder


def test_rows_of_a_small_folder(tmp_path, photos):
    before = _content(photos)
    report = import_photos(photos, tmp_path / "set", test_fraction=0)
    assert (report.found, report.added, report.known, report.copies) == (5, 3, 0, 0)
    assert _content(photos) == before
    dataset = read_dataset(tmp_path / "set", val_fraction=0)
    assert not dataset.synthetic
    table = dataset.table.set_index("city")
    assert sorted(table.index) == ["Abilene", "Lambasa", "Vienna"]
    abilene = table.loc["Abilene"]
    assert abilene["county_key"] == "Taylor County_Texas_US"
    assert abilene["latitude"] == pytest.approx(ABILENE[0], abs=1e-6)
    # 22:30 on July 31st in Texas is August 1st in UTC.
    assert str(abilene["captured_at"]) == "2021-08-01 03:30:00+00:00"
    assert abilene["month"] == 7
    vienna = table.loc["Vienna"]
    # Without a time zone, 23:59 is solar time, at 16.37 degrees east 22:53:30 in UTC.
    assert vienna["captured_at"].strftime("%Y-%m-%d %H:%M") == "2020-01-31 22:53"
    fiji = table.loc["Lambasa"]
    assert fiji["month"] == -100
    assert fiji["longitude"] == pytest.approx(179.99, abs=1e-6)
    assert all(path.is_file() for path in dataset.paths)
    # JPEGs are copied byte for byte, other formats become JPEGs.
    here = {p.read_bytes() for p in dataset.paths}
    assert (photos / "trip" / "a.JPG").read_bytes() in here
    for path in dataset.paths:
        with Image.open(path) as image:
            assert image.format == "JPEG"


def test_skipped_files_are_listed_with_reasons(tmp_path, photos):
    report = import_photos(photos, tmp_path / "set")
    listed = pd.read_csv(tmp_path / "set" / NOT_IMPORTED_FILE).set_index("file")["reason"]
    assert set(listed.index) == {"nowhere.jpg", "trip/cut.jpg"}
    assert "no position" in listed["nowhere.jpg"]
    assert dict(report.skipped) == listed.to_dict()


def test_importing_twice_changes_nothing(tmp_path, photos):
    first = import_photos(photos, tmp_path / "set")
    before = _content(tmp_path / "set")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("*")}
    second = import_photos(photos, tmp_path / "set")
    assert first.changed
    assert not second.changed
    assert (second.added, second.known) == (0, 3)
    assert _content(tmp_path / "set") == before
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("*")} == stamps


def test_renamed_and_copied_files_count_once(tmp_path, photos):
    import_photos(photos, tmp_path / "set")
    (photos / "copy.jpg").write_bytes((photos / "trip" / "a.JPG").read_bytes())
    (photos / "trip" / "b.jpeg").rename(photos / "renamed.jpg")
    report = import_photos(photos, tmp_path / "set")
    assert (report.added, report.known, report.copies) == (0, 3, 1)


def test_adding_a_folder_keeps_the_splits_of_old_photos(tmp_path):
    chance = np.random.default_rng(0)
    for i in range(40):
        at = (chance.uniform(30, 45), chance.uniform(-118, -97))
        write_photo(tmp_path / "one" / f"{i}.jpg", at, seed=i)
    import_photos(tmp_path / "one", tmp_path / "set", test_fraction=0.3)
    before = read_dataset(tmp_path / "set", val_fraction=0).table.set_index("id")
    assert 6 <= (before["split"] == "test").sum() <= 12
    beside = before[before["split"] == "test"].iloc[0]
    write_photo(tmp_path / "two" / "x.jpg", (beside["latitude"], beside["longitude"]), seed=99)
    for i in range(50, 60):
        at = (chance.uniform(30, 45), chance.uniform(-118, -97))
        write_photo(tmp_path / "two" / f"{i}.jpg", at, seed=i)
    report = import_photos(tmp_path / "two", tmp_path / "set", test_fraction=0.3)
    assert report.added == 11
    dataset = read_dataset(tmp_path / "set", val_fraction=0)
    after = dataset.table.set_index("id")
    assert (after.loc[before.index, "split"] == before["split"]).all()
    assert len(after) == 51
    # The new photo at the place of a test photo is in test, so nothing leaks.
    assert leakage(dataset, "test").near == 0
    assert all(path.is_file() for path in dataset.paths)


def test_a_csv_can_place_a_new_photo_near_another_split(tmp_path):
    for i in range(30):
        write_photo(tmp_path / "one" / f"{i}.jpg", (30 + 0.3 * i, -100), seed=i)
    import_photos(tmp_path / "one", tmp_path / "set", test_fraction=0.3)
    table = read_dataset(tmp_path / "set", val_fraction=0).table
    train = table[table["split"] == "train"].iloc[0]
    test = table[table["split"] == "test"].iloc[0]
    csv = tmp_path / "between.csv"
    csv.write_text(
        f"file,latitude,longitude\nt.jpg,{train['latitude']},{train['longitude'] + 0.008}\n"
    )
    write_photo(tmp_path / "two" / "t.jpg", (test["latitude"], test["longitude"]), seed=77)
    import_photos(tmp_path / "two", tmp_path / "set", positions=csv)
    again = read_dataset(tmp_path / "set", val_fraction=0)
    assert leakage(again, "test").near == 0
    assert len(again) == 31


def test_a_csv_takes_precedence_over_exif(tmp_path, photos):
    csv = tmp_path / "positions.csv"
    csv.write_text(
        "file,latitude,longitude,captured_at\n"
        "nowhere.jpg,43.6135,-116.2035,2024-01-31T23:30:00-07:00\n"
        "trip/b.jpeg,,,1588334400000\n"
        "c.png,45.7833,-108.5007,\n"
        "gone.jpg,1,1,\n"
    )
    report = import_photos(photos, tmp_path / "set", positions=csv)
    table = read_dataset(tmp_path / "set", val_fraction=0).table.set_index("city")
    assert str(table.loc["Boise", "captured_at"]) == "2024-02-01 06:30:00+00:00"
    assert table.loc["Boise", "county"] == "Ada County"
    assert table.loc["Billings", "state"] == "Montana"
    vienna = table.loc["Vienna"]
    assert vienna["month"] == 4
    assert ("gone.jpg", "is in the CSV but not in the folder") in report.skipped
    before = _content(tmp_path / "set")
    assert not import_photos(photos, tmp_path / "set", positions=csv).changed
    assert _content(tmp_path / "set") == before
    # A corrected position moves only that photo.
    csv.write_text(csv.read_text().replace("45.7833,-108.5007", "32.4487,-99.7331"))
    assert import_photos(photos, tmp_path / "set", positions=csv).changed
    dataset = read_dataset(tmp_path / "set", val_fraction=0)
    assert "Billings" not in set(dataset.table["city"])
    assert all(path.is_file() for path in dataset.paths)
    assert len(dataset) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,latitude,longitude\na.jpg,91,0\n", "'latitude', row 2: '91' is outside"),
        ("file,latitude,longitude\na.jpg,1,east\n", "'longitude', row 2: 'east' is not a number"),
        ("file,latitude,longitude\na.jpg,1,1\n./a.jpg,2,2\n", "row 3: './a.jpg' is also in an"),
        ("file,latitude,longitude,captured_at\na.jpg,1,1,soon\n", "'captured_at', row 2: 'soon'"),
        ("file,latitude,longitude,captured_at\na.jpg,1,1,1627776000\n", "seconds"),
        ("name,lat,lon\na.jpg,1,1\n", "no column 'file', 'latitude', 'longitude'"),
        ("", "is empty"),
    ],
)
def test_an_invalid_csv_is_refused_with_column_and_row(tmp_path, photos, text, message):
    csv = tmp_path / "positions.csv"
    csv.write_text(text)
    with pytest.raises(ValueError, match=message):
        import_photos(photos, tmp_path / "set", positions=csv)
    assert not (tmp_path / "set").exists()


def test_place_columns_are_empty_far_out_at_sea(tmp_path):
    write_photo(tmp_path / "photos" / "sea.jpg", (30.0, -45.0))
    import_photos(tmp_path / "photos", tmp_path / "set")
    row = read_dataset(tmp_path / "set").table.iloc[0]
    assert row[["country", "state", "city", "state_key"]].isna().all()
    assert row["climate"] == -100
    assert row["path"].startswith("train_images/unknown/")


def test_a_failed_import_leaves_the_old_dataset_unchanged(tmp_path, photos, monkeypatch):
    import_photos(photos, tmp_path / "set")
    before = _content(tmp_path / "set")
    write_photo(photos / "new.jpg", VIENNA, seed=9)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(importing, "_place", fail)
    with pytest.raises(OSError, match="disk full"):
        import_photos(photos, tmp_path / "set")
    assert _content(tmp_path / "set") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "set"]


def test_jpegs_can_be_hard_linked(tmp_path, photos):
    import_photos(photos, tmp_path / "set", link=True)
    linked = [p for p in (tmp_path / "set").rglob("*.jpg") if os.stat(p).st_nlink > 1]
    assert len(linked) == 2


def test_the_dataset_may_be_inside_the_imported_folder(tmp_path, photos):
    import_photos(photos, photos / "dataset")
    assert import_photos(photos, photos / "dataset").found == 5


def test_folders_without_importable_photos_are_refused(tmp_path, photos):
    with pytest.raises(ValueError, match="no such folder"):
        import_photos(tmp_path / "gone", tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no photos here"):
        import_photos(tmp_path / "empty", tmp_path / "set")
    write_photo(tmp_path / "plain" / "x.jpg")
    with pytest.raises(ValueError, match=r"none of 1 photos.*x\.jpg has no position"):
        import_photos(tmp_path / "plain", tmp_path / "set")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="not made by import-photos"):
        import_photos(photos, tmp_path / "other")
