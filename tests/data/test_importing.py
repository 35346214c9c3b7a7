import hashlib
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geoclip_core.data import importing
from geoclip_core.data.dataset import csv_path, read_dataset
from geoclip_core.data.doctor import leakage
from geoclip_core.data.importing import (
    NOT_IMPORTED_FILE,
    Position,
    Positions,
    import_photos,
    read_positions,
    unpack_photos,
)
from geoclip_core.data.tables import read_csv
from geoclip_core.errors import DatasetError
from tests.data.geotagged import write_photo
from tests.data.test_metadata import xmp

ABILENE = (32.4487, -99.7331)
VIENNA = (48.2082, 16.3738)
LATIN = os.fsdecode(b"caf\xe9.jpg")


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
        ("title,y,x\na.jpg,1,1\n", "no column 'file', 'latitude', 'longitude'"),
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


def matched(rows, files, folder="/home/me/photos"):
    """Return file -> number of the row that names it, and the rows that name none."""
    positions = Positions({row: Position(float(n), 1.0, None) for n, row in enumerate(rows)})
    matches = positions.match(files, Path(folder))
    assert set(matches.found) <= set(files)
    assert len(rows) == len(matches.found) + len(matches.unused)
    return {file: int(p.latitude) for file, p in matches.found.items()}, matches


@pytest.mark.parametrize(
    ("rows", "files", "expected"),
    [
        # A name without a folder stands for one photo only.
        (["I.jpg"], ["100/I.jpg", "101/I.jpg"], {}),
        (["I.jpg"], ["I.jpg", "101/I.jpg"], {"I.jpg": 0}),
        (["I.jpg"], ["101/I.jpg"], {"101/I.jpg": 0}),
        (["I.jpg", "100/I.jpg"], ["100/I.jpg", "101/I.jpg"], {"100/I.jpg": 1}),
        (["I.jpg", "102/I.jpg"], ["101/I.jpg"], {}),
        (["i.JPG"], ["100/I.jpg", "101/I.jpg"], {}),
        # From another folder, absolute, Windows, below the folder.
        (["photos/I.jpg"], ["I.jpg", "old/I.jpg"], {"I.jpg": 0}),
        (["/home/me/photos/a/I.jpg"], ["a/I.jpg", "I.jpg"], {"a/I.jpg": 0}),
        (["C:\\Users\\me\\photos\\a\\I.jpg"], ["a/I.jpg", "I.jpg"], {"a/I.jpg": 0}),
        (["E:\\DCIM\\I.jpg"], ["I.jpg"], {"I.jpg": 0}),
        (["E:\\DCIM\\I.jpg"], ["I.jpg", "a/I.jpg"], {}),
        (["../photos/I.jpg"], ["I.jpg"], {"I.jpg": 0}),
        (["./a/I.jpg"], ["a/I.jpg"], {"a/I.jpg": 0}),
        (["100/I.jpg"], ["DCIM/100/I.jpg", "DCIM/101/I.jpg"], {"DCIM/100/I.jpg": 0}),
        (["100/I.jpg"], ["x/100/I.jpg", "y/100/I.jpg"], {}),
        (["100/I.jpg", "101/I.jpg"], ["I.jpg"], {}),
        (["old/I.jpg"], ["new/I.jpg"], {}),
        (["a/I.jpg", "b/I.jpg"], ["b/I.jpg", "a/I.jpg"], {"a/I.jpg": 0, "b/I.jpg": 1}),
        # Composed and decomposed characters, case.
        (["caf\u00e9.jpg"], ["cafe\u0301.jpg"], {"cafe\u0301.jpg": 0}),
        (["cafe\u0301.jpg"], ["caf\u00e9.jpg"], {"caf\u00e9.jpg": 0}),
        (["CAFÉ.JPG"], ["cafe\u0301.jpg"], {"cafe\u0301.jpg": 0}),
        (["img.jpg"], ["IMG.JPG", "Img.jpg"], {}),
        (["IMG.JPG", "img.jpg"], ["IMG.JPG"], {"IMG.JPG": 0}),
        (["IMG.JPG", "img.jpg"], ["Img.jpg"], {}),
        (["Trip/I.jpg"], ["trip/i.JPG"], {"trip/i.JPG": 0}),
        # Bytes that are not UTF-8, and a backslash that is part of a name.
        ([LATIN], [LATIN, "b.jpg"], {LATIN: 0}),
        ([LATIN], ["café.jpg"], {"café.jpg": 0}),
        (["café.jpg"], [LATIN], {LATIN: 0}),
        (["a\\b.jpg"], ["a\\b.jpg", "b.jpg"], {"a\\b.jpg": 0}),
        # As other programs write names.
        (["a%20b.jpg"], ["a b.jpg"], {"a b.jpg": 0}),
        (["100%25.jpg", "100%.jpg"], ["100%25.jpg", "100%.jpg"], {"100%25.jpg": 0, "100%.jpg": 1}),
        (["file:///home/me/photos/a%20b.jpg"], ["a b.jpg"], {"a b.jpg": 0}),
        (["file:///C:/Users/me/photos/caf%C3%A9.jpg"], ["café.jpg"], {"café.jpg": 0}),
        (["'I.jpg"], ["I.jpg"], {"I.jpg": 0}),
        (["I.jpg"], [" I.jpg"], {" I.jpg": 0}),
        (["at 1.02 PM.png"], ["at 1.02\u202fPM.png"], {"at 1.02\u202fPM.png": 0}),
        (["IMG_1"], ["IMG_1.jpg"], {"IMG_1.jpg": 0}),
        (["IMG_1"], ["IMG_1.jpg", "IMG_1.dng"], {}),
        (["IMG_1.jpg"], ["IMG_1.png"], {}),
        ([], ["I.jpg"], {}),
        (["I.jpg"], [], {}),
        (["/", "..", "a/"], ["a/I.jpg"], {}),
    ],
)  # fmt: skip
def test_a_row_names_one_photo(rows, files, expected):
    found, _ = matched(rows, files)
    assert found == expected


def test_rows_that_fit_several_photos_are_reported(tmp_path):
    for n, folder in enumerate(("100CANON", "101CANON")):
        write_photo(tmp_path / "p" / folder / "IMG_0001.jpg", seed=n)
    write_photo(tmp_path / "p" / "other.jpg", VIENNA, seed=9)
    csv = tmp_path / "p.csv"
    csv.write_text("file,latitude,longitude\nIMG_0001.jpg,-33.86,151.2\n")
    report = import_photos(tmp_path / "p", tmp_path / "set", positions=csv)
    skipped = dict(report.skipped)
    assert report.added == 1
    assert "fits several photos (100CANON/IMG_0001.jpg and 101CANON/" in skipped["IMG_0001.jpg"]
    assert "the row 'IMG_0001.jpg' of the CSV is not clear" in skipped["101CANON/IMG_0001.jpg"]


def test_a_csv_of_another_folder_is_explained(tmp_path):
    write_photo(tmp_path / "p" / "a.jpg")
    csv = tmp_path / "p.csv"
    csv.write_text("file,latitude,longitude\nb/c.jpg,-33.86,151.2\nd.jpg,1,1\n")
    with pytest.raises(ValueError, match=r"None of the 2 rows .*first is b/c\.jpg; write a\.jpg"):
        import_photos(tmp_path / "p", tmp_path / "set", positions=csv)


def test_ten_thousand_photos_of_one_name_are_matched_quickly():
    files = [f"{n}/image.jpg" for n in range(10_000)]
    found, _ = matched([f"other/{file}" for file in files], files)
    assert found == {file: n for n, file in enumerate(files)}


def test_a_name_that_is_not_utf_8_is_imported(tmp_path):
    for n, name in enumerate((b"fine.jpg", b"caf\xe9.jpg")):
        path = tmp_path / "p" / os.fsdecode(name)
        write_photo(tmp_path / "p" / "x.jpg", VIENNA, seed=n).rename(path)
    (tmp_path / "p" / os.fsdecode(b"caf\xea.jpg")).write_bytes(b"broken")
    report = import_photos(tmp_path / "p", tmp_path / "set")
    assert report.added == 2
    table = read_csv(tmp_path / "set" / "train_mini.csv")
    assert sorted(table["source_file"]) == ["caf\\udce9.jpg", "fine.jpg"]
    assert [file for file, _ in report.skipped] == ["caf\\udcea.jpg"]
    assert not import_photos(tmp_path / "p", tmp_path / "set").changed
    csv = tmp_path / "p.csv"
    csv.write_text("file,latitude,longitude\ncaf\\udce9.jpg,32.4487,-99.7331\n")
    import_photos(tmp_path / "p", tmp_path / "set", positions=csv)
    assert "Abilene" in set(read_dataset(tmp_path / "set").table["city"])


def test_a_row_that_is_there_twice_says_nothing_new(tmp_path):
    csv = tmp_path / "p.csv"
    csv.write_text("file,latitude,longitude\na.jpg,48.8,2.3\na.jpg,48.8,2.3\nb.jpg,1,1\n")
    assert list(read_positions(csv).rows) == ["a.jpg", "b.jpg"]


def test_times_of_a_csv_as_exif_writes_them(tmp_path):
    csv = tmp_path / "p.csv"
    csv.write_text(
        "SourceFile,GPSLatitude,GPSLongitude,captured_at\n"
        "a.jpg,1,1,2021:07:14 09:30:00+02:00\nb.jpg,1,1,2021:07:14 07:30:00\n"
        "c.jpg,1,1,2021-07-14T07:30:00Z\nd.jpg,1,1,1626247800000\ne.jpg,1,1,-\nf.jpg,-,-,\n"
    )
    rows = read_positions(csv).rows
    assert [row.captured_at for row in rows.values()] == [1626247800000] * 4 + [None, None]
    assert rows["f.jpg"].latitude is None


def test_null_island_in_a_csv_is_no_position(tmp_path):
    write_photo(tmp_path / "p" / "a.jpg")
    write_photo(tmp_path / "p" / "b.jpg", VIENNA, seed=1)
    csv = tmp_path / "p.csv"
    csv.write_text("file,latitude,longitude\na.jpg,0,0\nb.jpg,0.0,-0.0\n")
    report = import_photos(tmp_path / "p", tmp_path / "set", positions=csv)
    assert dict(report.skipped) == {"a.jpg": "has no position: the CSV has none, or 0, 0"}
    assert read_dataset(tmp_path / "set").table["city"].tolist() == ["Vienna"]


def test_positions_from_other_sources_are_used_and_counted(tmp_path):
    place = {"latitude": 32.4487, "longitude": -99.7331}
    write_photo(tmp_path / "p" / "a.jpg", VIENNA, seed=1)
    write_photo(tmp_path / "p" / "b.jpg", seed=2)
    (tmp_path / "p" / "b.jpg.json").write_text(json.dumps({"geoData": place}))
    write_photo(tmp_path / "p" / "c.jpg", seed=3)
    (tmp_path / "p" / "c.xmp").write_bytes(
        xmp('exif:GPSLatitude="45.78" exif:GPSLongitude="-108.5"')
    )
    write_photo(tmp_path / "p" / "d.jpg", seed=4)
    (tmp_path / "p.csv").write_text("file,latitude,longitude\nd.jpg,43.6135,-116.2035\n")
    report = import_photos(tmp_path / "p", tmp_path / "set", positions=tmp_path / "p.csv")
    assert report.sources == {"EXIF": 1, "Google Takeout": 1, "XMP": 1, "CSV": 1}
    rows = pd.concat(read_csv(path) for path in (tmp_path / "set").glob("t*.csv"))
    sources = rows.set_index("city")["position_source"]
    assert sources["Abilene"] == "Google Takeout"
    assert sources["Billings"] == "XMP"
    assert sources["Boise"] == "CSV"


def test_formulas_in_names_are_marked_and_read_back(tmp_path):
    write_photo(tmp_path / "p" / "=cmd|x.jpg", VIENNA, seed=1)
    write_photo(tmp_path / "p" / "@none.jpg", seed=2)
    import_photos(tmp_path / "p", tmp_path / "set")
    for name, file in (("train_mini.csv", "'=cmd|x.jpg"), (NOT_IMPORTED_FILE, "'@none.jpg")):
        text = (tmp_path / "set" / name).read_text()
        assert file in text
        assert f",{file[1:]}" not in text
    assert not import_photos(tmp_path / "p", tmp_path / "set").changed
    assert read_csv(tmp_path / "set" / NOT_IMPORTED_FILE)["file"].tolist() == ["@none.jpg"]


def test_pipes_devices_and_huge_files_do_not_stop_an_import(tmp_path):
    write_photo(tmp_path / "p" / "a.jpg", VIENNA)
    os.mkfifo(tmp_path / "p" / "pipe.jpg")
    (tmp_path / "p" / "endless.jpg").symlink_to("/dev/zero")
    with (tmp_path / "p" / "sparse.jpg").open("wb") as file:
        file.truncate(10**12)
    report = import_photos(tmp_path / "p", tmp_path / "set")
    assert (report.found, report.added) == (2, 1)
    assert "larger than 128 MB" in dict(report.skipped)["sparse.jpg"]


def test_a_dataset_of_an_earlier_version_is_added_to(tmp_path, photos):
    import_photos(photos, tmp_path / "set", test_fraction=0)
    path = tmp_path / "set" / "train_mini.csv"
    pd.read_csv(path, dtype="str", na_filter=False).drop(columns="position_source").to_csv(
        path, index=False
    )
    assert not import_photos(photos, tmp_path / "set").changed
    write_photo(photos / "new.jpg", VIENNA, seed=9)
    assert import_photos(photos, tmp_path / "set").added == 1
    assert "nan" not in set(read_csv(path)["position_source"])
    assert len(read_dataset(tmp_path / "set")) == 4


def packed(path, files, **options):
    """Write a ZIP of name -> bytes."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def photo_bytes(tmp_path, seed=0, position=(32.4, -99.7)):
    return write_photo(
        tmp_path / "one.jpg", position, "2021:07:31 12:00:00", seed=seed
    ).read_bytes()


def unpacked(path, folder):
    with path.open("rb") as archive:
        left_out = unpack_photos(archive, path.name, folder)
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
    ), left_out


def test_photos_and_the_files_beside_them_are_unpacked(tmp_path):
    photo = photo_bytes(tmp_path)
    files = {
        "2021/a.jpg": photo,
        "2021/a.jpg.json": b"{}",
        "2022\\b.JPG": photo,
        "2022/a.jpg": photo,
        "readme.txt": b"no",
        "run.sh": b"no",
        ".hidden/c.jpg": b"no",
        "__MACOSX/._a.jpg": b"no",
        "empty/": b"",
    }
    found, left_out = unpacked(packed(tmp_path / "x.zip", files), tmp_path / "out")
    assert found == ["2021/a.jpg", "2021/a.jpg.json", "2022/a.jpg", "2022/b.JPG"]
    assert not left_out


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/etc/a.jpg", "..\\a.jpg", "C:\\a.jpg", "c:a.jpg"]
)
def test_a_zip_that_names_files_outside_itself_is_refused_whole(tmp_path, name):
    path = packed(tmp_path / "evil.zip", {"good.jpg": b"x", name: b"x"})
    with pytest.raises(DatasetError, match=r"evil\.zip names a file outside itself") as error:
        unpacked(path, tmp_path / "deep" / "out")
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.zip"]


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    info = zipfile.ZipInfo("link.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, str(secret))
        archive.writestr("good.jpg", photo_bytes(tmp_path))
    assert unpacked(path, tmp_path / "out") == (["good.jpg"], {})


def test_names_in_a_zip_of_macos(tmp_path):
    """They are UTF-8 without the flag that says so."""

    class Info(zipfile.ZipInfo):
        def _encodeFilenameFlags(self):  # of zipfile, which sets the flag here
            return self.filename.encode(), self.flag_bits & ~0x800

    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr(Info("cafe\u0301.jpg"), b"x")
        file.writestr("\u00e9t\u00e9.jpg", b"x")
    with (tmp_path / "z.zip").open("rb") as archive:
        assert unpack_photos(archive, "z.zip", tmp_path / "out") == {}
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["cafe\u0301.jpg", "\u00e9t\u00e9.jpg"]


def test_a_zip_is_limited_in_files_and_bytes(tmp_path, monkeypatch):
    many = packed(tmp_path / "many.zip", {f"{i}.jpg": b"x" for i in range(30)})
    monkeypatch.setattr(importing, "MAX_ENTRIES", 29)
    with pytest.raises(DatasetError, match=r"many\.zip holds more than 29 files"):
        unpacked(many, tmp_path / "out")
    bomb = packed(
        tmp_path / "bomb.zip",
        {f"{i}.jpg": bytes(2**20) for i in range(20)},
        compression=zipfile.ZIP_DEFLATED,
    )
    monkeypatch.setattr(importing, "MAX_UNPACKED", 10 * 2**20)
    with pytest.raises(DatasetError, match=r"bomb\.zip unpacks to .*, more than"):
        unpacked(bomb, tmp_path / "out")
    monkeypatch.setattr(importing, "MAX_UNPACKED", 2**60)
    monkeypatch.setattr(importing, "MAX_BYTES", 2**19)
    found, left_out = unpacked(
        packed(tmp_path / "large.zip", {"large.jpg": bytes(2**20), "b.jpg": b"x"}), tmp_path / "out"
    )
    assert found == ["b.jpg"]
    assert "is larger than" in left_out["large.jpg"]
    monkeypatch.setattr(importing, "MAX_BYTES", 2**62)
    path = packed(tmp_path / "huge.zip", {"a.jpg": b"x"})
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: at + 24] + b"\xfe\xff\xff\xff" + content[at + 28 :])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(DatasetError, match=r"huge\.zip unpacks to .* and the disk has"):
        unpacked(path, tmp_path / "out2")


def flagged(content, flag):
    """Set a flag of the first entry of a ZIP, here and in its table of contents."""
    changed = bytearray(content)
    for at in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        changed[at] |= flag
    return bytes(changed)


def test_what_is_no_zip_of_photos_is_said_in_a_sentence(tmp_path):
    photo = photo_bytes(tmp_path)
    good = packed(tmp_path / "good.zip", {"a.jpg": photo}).read_bytes()
    for content, told in (
        (b"", "is no ZIP, or is damaged"),
        (b"PK\x03\x04 not really", "is no ZIP, or is damaged"),
        (photo, "is no ZIP, or is damaged"),
        (good[: len(good) // 2], "is no ZIP, or is damaged"),
        (flagged(good, 1), "has a password"),
        (packed(tmp_path / "text.zip", {"a.txt": b"x"}).read_bytes(), "holds no photos"),
    ):
        path = tmp_path / "it.zip"
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=f"^it.zip {told}") as error:
            unpacked(path, tmp_path / "out")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_a_zip_costs_one_photo(tmp_path):
    files = {"a.jpg": photo_bytes(tmp_path), "b.jpg": b"some text", "a.jpg/c.jpg": b"x"}
    content = packed(tmp_path / "x.zip", files).read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace(b"some text", b"same text"))
    found, left_out = unpacked(tmp_path / "x.zip", tmp_path / "out")
    assert found == ["a.jpg"]
    assert sorted(left_out) == ["a.jpg/c.jpg", "b.jpg"]
    assert "is damaged in the ZIP" in left_out["b.jpg"]


def test_a_zip_is_imported_as_its_folder_would_be(tmp_path):
    files = {f"{i}/a.jpg": photo_bytes(tmp_path, i, (32.4 + i, -99.7)) for i in range(5)}
    path = packed(tmp_path / "x.zip", files)
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True)
        (tmp_path / "folder" / name).write_bytes(content)
    report = import_photos(path, tmp_path / "sets" / "zipped")
    assert report.added == 5
    assert report == import_photos(tmp_path / "folder", tmp_path / "sets" / "plain")
    for split in ("train", "test"):
        tables = [csv_path(tmp_path / "sets" / s, split).read_text() for s in ("zipped", "plain")]
        assert tables[0] == tables[1]
    assert sorted(p.name for p in (tmp_path / "sets").iterdir()) == ["plain", "zipped"]
