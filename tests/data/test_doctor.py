import json
import os
import time

import numpy as np
import pandas as pd
import pytest

from geoclip_core.data import doctor
from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.doctor import examine, leakage, write_clean, write_report
from geoclip_core.data.tables import read_csv
from geoclip_core.demo.dataset import write_demo
from geoclip_core.errors import DatasetError
from tests.data import layout


def _edit(root, split, change):
    path = root / f"{split}_mini.csv"
    table = pd.read_csv(path, dtype="str", na_filter=False)
    change(table).to_csv(path, index=False)


def _with(column, row, value):
    def change(table):
        table.loc[row, column] = value
        return table

    return change


@pytest.fixture
def root(tmp_path):
    # Only the test photo that is far from train.
    root = layout.make(tmp_path / "osv")
    layout.write(root, "test", layout.frame(layout.TEST[:1]))
    (root / "test_images" / "Nevada" / "1000000000000006.jpg").unlink()
    return root


def _found(report):
    return {finding.check: finding for finding in report.findings}


def test_a_valid_dataset_has_only_warnings(root):
    report = examine(root)
    assert not report.must_fix
    assert report.rows == {"train_mini.csv": 6, "test_mini.csv": 1}
    assert report.photos_checked == 7
    assert {name: finding.count for name, finding in _found(report).items()} == {
        "county-unknown": 1,
        "city-unknown": 1,
        "climate-unknown": 1,
        "month-unknown": 1,
        "too-small": 6,
    }
    assert "20 photos are needed" in _found(report)["too-small"].message
    assert "no faults found" in report.text()


def test_files_missing_truncated_and_not_images(root):
    folder = root / "train_images"
    (folder / "Idaho" / "844332109483204.jpg").unlink()
    whole = (folder / "Nevada" / "1000000000000001.jpg").read_bytes()
    (folder / "Nevada" / "1000000000000001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "Texas" / "1000000000000003.jpg").write_text("<html>not found</html>")
    (folder / "Kansas" / "1000000000000004.jpg").write_bytes(b"")
    (folder / "Kansas" / "extra.jpg").write_bytes(whole)
    found = _found(examine(root))
    assert found["file-missing"].count == 1
    assert found["file-missing"].examples[0]["id"] == "844332109483204"
    assert found["file-missing"].examples[0]["row"] == 2
    assert found["file-unreadable"].count == 3
    reasons = {example["id"]: example["value"] for example in found["file-unreadable"].examples}
    assert "cut off" in reasons["1000000000000001"] or "damaged" in reasons["1000000000000001"]
    assert "not a photo" in reasons["1000000000000003"]
    assert "empty" in reasons["1000000000000004"]
    assert found["file-unlisted"].examples[0]["file"] == "train_images/Kansas/extra.jpg"
    assert found["file-unlisted"].severity == "warning"


def test_a_cleaned_copy_can_be_read_and_the_original_is_unchanged(root, tmp_path):
    _edit(root, "train", _with("latitude", 0, "north"))
    _edit(root, "train", _with("id", 1, "../../etc/passwd"))
    _edit(root, "train", _with("climate", 2, "99"))
    _edit(root, "train", _with("id", 4, "1000000000000003"))
    _edit(root, "train", lambda table: table.assign(weather="fine"))
    original = (root / "train_mini.csv").read_bytes()
    with pytest.raises(DatasetError):
        read_dataset(root)
    report = examine(root)
    assert report.must_fix
    assert {name for name, f in _found(report).items() if f.severity == "error"} == {
        "latitude-invalid",
        "id-invalid",
        "climate-invalid",
        "file-missing",
    }
    assert write_clean(root, report, tmp_path / "clean") == {
        "train_mini.csv": 3,
        "test_mini.csv": 1,
    }
    assert (root / "train_mini.csv").read_bytes() == original
    table = pd.read_csv(tmp_path / "clean" / "train_mini.csv", dtype="str", na_filter=False)
    assert (table["weather"] == "fine").all()
    # The row with the wrong climate is kept and the value emptied.
    assert table.loc[table["city"] == "Dubois", "climate"].tolist() == [""]
    assert len(read_dataset(tmp_path / "clean")) == 4


def test_a_cleaned_copy_needs_an_empty_folder_and_unchanged_tables(root, tmp_path):
    report = examine(root)
    with pytest.raises(DatasetError, match="never overwritten"):
        write_clean(root, report, root)
    _edit(root, "train", lambda table: table.iloc[1:])
    with pytest.raises(DatasetError, match="has changed since"):
        write_clean(root, report, tmp_path / "clean")


def test_states_that_do_not_match_the_coordinates(root):
    _edit(root, "train", _with("unique_region", 3, "Oregon_US"))
    _edit(root, "train", _with("region", 3, "Oregon"))
    found = _found(examine(root, photos=False))["state-mismatch"]
    assert (found.count, found.severity) == (1, "error")
    assert found.examples[0]["value"] == "Oregon_US, but lies in Texas_US"


def test_a_photo_at_a_state_border_is_only_a_warning(root):
    # Texarkana straddles Texas and Arkansas.
    _edit(root, "train", _with("latitude", 3, "33.43"))
    _edit(root, "train", _with("longitude", 3, "-94.03"))
    found = _found(examine(root, photos=False))
    assert "state-mismatch" not in found
    assert found["state-border"].count == 1


def test_swapped_coordinates_are_found(root):
    def swap(table):
        table["latitude"], table["longitude"] = (
            (table["longitude"].astype(float) / 2).astype(str),
            table["latitude"],
        )
        return table

    _edit(root, "train", swap)
    found = _found(examine(root, photos=False))["state-mismatch"]
    assert found.count == 6
    assert "swapped" in found.message


def test_class_indices_instead_of_climate_codes(tmp_path):
    root = write_demo(tmp_path / "set", 200, metadata_only=True)
    assert "climate-mismatch" not in _found(examine(root, photos=False))

    def shift(table):
        known = table["climate"] != ""
        table.loc[known, "climate"] = (table.loc[known, "climate"].astype(int) - 1).astype(str)
        return table

    _edit(root, "train", shift)
    found = _found(examine(root, photos=False))["climate-mismatch"]
    assert found.severity == "error"
    assert "raw" in found.message


def test_leaks_between_the_splits(root, tmp_path):
    layout.write(root, "test", layout.frame(layout.TEST))
    rows = layout.frame([layout.TRAIN[4], *layout.TEST])
    rows.loc[1, "sequence"] = "sequence-of-3"
    layout.write(root, "test", rows)
    same = root / "train_images" / "Texas" / "1000000000000003.jpg"
    same.write_bytes((root / "test_images" / "Texas" / "1000000000000005.jpg").read_bytes())
    report = examine(root, drop_near_test=True)
    found = _found(report)
    assert found["split-same-id"].severity == "error"
    assert found["split-same-id"].examples[0]["id"] == "1000000000000004"
    assert found["split-same-photo"].examples[0]["id"] == "1000000000000003"
    assert found["split-near"].severity == "warning"
    assert found["split-near"].count == 2
    assert found["split-same-sequence"].count == 2
    # Dropped: the shared id, the shared photo, and Las Vegas, 600 m from a test photo.
    assert write_clean(root, report, tmp_path / "clean")["train_mini.csv"] == 3


def test_photos_that_repeat(root):
    folder = root / "train_images"
    content = (folder / "Idaho" / "844332109483204.jpg").read_bytes()
    (folder / "Texas" / "1000000000000003.jpg").write_bytes(content)
    _edit(root, "train", _with("captured_at", 1, str(layout.MIDNIGHT)))
    _edit(root, "train", _with("latitude", 1, "44.176"))
    _edit(root, "train", _with("longitude", 1, "-112.231"))
    found = _found(examine(root))
    assert found["file-repeated"].count == 1
    assert found["row-repeated"].count == 1


def test_missing_photos_of_a_whole_dataset_are_one_finding(tmp_path):
    root = write_demo(tmp_path / "set", 100, metadata_only=True)
    report = examine(root)
    found = _found(report)["photos-absent"]
    assert found.count == 100
    assert report.photos_checked == 0
    assert not report.drop["train"].any()


def test_tables_that_cannot_be_read_at_all(root, tmp_path):
    (root / "test_mini.csv").write_bytes(b"PK\x03\x04")
    report = examine(root)
    assert "ZIP archive" in _found(report)["table-unreadable"].message
    assert report.rows == {"train_mini.csv": 6}
    (root / "train_mini.csv").write_bytes(b"")
    assert len(examine(root).findings) == 2
    with pytest.raises(DatasetError, match="neither"):
        examine(tmp_path)


def test_the_report_is_json(root, tmp_path):
    _edit(root, "train", _with("city", 0, "x" * 1000))
    report = examine(root, photos=False)
    write_report(report, tmp_path / "deep" / "report.json")
    content = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert content["must_fix"] is True
    assert content["rows"] == {"train_mini.csv": 6, "test_mini.csv": 1}
    first = content["findings"][0]
    assert set(first) == {"check", "severity", "message", "count", "examples"}
    assert len(json.dumps(content)) < 20_000


@pytest.mark.slow
def test_several_processes_check_all_photos_and_report_progress(tmp_path):
    root = write_demo(tmp_path / "set", 140)  # three chunks for the processes
    next((root / "train_images").rglob("*.jpg")).write_bytes(b"\xff\xd8\xff")
    calls = []
    report = examine(root, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert _found(report)["file-unreadable"].count == 1
    assert calls[-1] == (140, 140)
    assert calls == sorted(calls)


@pytest.mark.slow
def test_a_large_table_is_checked_in_seconds(tmp_path):
    rows = 20_000
    chance = np.random.default_rng(0)
    at = zip(chance.uniform(28, 48, rows), chance.uniform(-118, -96, rows), strict=True)
    table = layout.frame(
        [(str(10**15 + i), a, b, "", 14, "Texas", "", "") for i, (a, b) in enumerate(at)]
    )
    layout.write(tmp_path, "train", table, photos=False)
    started = time.perf_counter()
    assert _found(examine(tmp_path, photos=False))["state-mismatch"].count > 5000
    assert time.perf_counter() - started < 15


def test_leakage_counts_near_photos_and_shared_sequences(tmp_path, monkeypatch):
    table = layout.frame(layout.TEST)
    table.loc[0, "sequence"] = "sequence-of-3"
    root = layout.make(tmp_path, photos=False)
    layout.write(root, "test", table, photos=False)
    # Las Vegas in test is 609 m from Las Vegas in train; El Paso is far from everything, but of
    # the same sequence as Abilene.
    found = leakage(read_dataset(root, val_fraction=0), "test")
    assert (found.split, found.photos, found.near, found.same_sequence) == ("test", 2, 1, 1)
    monkeypatch.setattr(doctor, "MIN_DISTANCE_KM", 0.5)
    assert leakage(read_dataset(root, val_fraction=0), "test").near == 0


def test_photos_at_null_island_are_found_and_left_out_of_a_cleaned_copy(tmp_path):
    root = layout.make(tmp_path / "set")
    table = read_csv(root / "train_mini.csv")
    table.loc[1, ["latitude", "longitude"]] = ["0.0", "0"]
    table.to_csv(root / "train_mini.csv", index=False)
    with pytest.raises(DatasetError, match=r"row 3: '0\.0' and longitude 0 stand for no position"):
        read_dataset(root)
    report = examine(root)
    found = {finding.check: finding for finding in report.findings}
    assert found["latitude-invalid"].examples[0]["row"] == 3
    write_clean(root, report, tmp_path / "clean")
    assert len(read_csv(tmp_path / "clean" / "train_mini.csv")) == 5


def test_special_and_hidden_files_do_not_hang_the_check(tmp_path):
    root = layout.make(tmp_path)
    folder = root / "train_images"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "._IMG.jpg").write_bytes(b"x")
    listed = read_dataset(root).paths
    listed[0].unlink()
    os.mkfifo(listed[0])
    listed[1].unlink()
    listed[1].symlink_to("/dev/zero")
    found = {finding.check: finding for finding in examine(root).findings}
    assert found["file-unreadable"].count == 2
    assert "file-unlisted" not in found
