import dataclasses

import numpy as np
import pandas as pd
import pytest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.vocabulary import IGNORE_INDEX, build_vocabularies
from geoclip_core.earth.climate import climate_of_symbol
from geoclip_core.errors import DatasetError
from tests.data import layout
from train.benchmarks.rehearsal import benchmark_tables


@pytest.fixture
def dataset(tmp_path):
    return read_dataset(layout.make(tmp_path / "osv"), val_fraction=0)


def test_rows_paths_and_coordinates(dataset):
    assert len(dataset) == 8
    assert dataset.name == "osv"
    assert not dataset.synthetic
    assert list(dataset.table["split"]) == ["train"] * 6 + ["test"] * 2
    assert dataset.table["path"][0] == "train_images/Idaho/844332109483204.jpg"
    assert dataset.table["path"][6] == "test_images/Texas/1000000000000005.jpg"
    assert all(path.is_file() for path in dataset.paths)
    np.testing.assert_array_equal(dataset.coordinates[0], [43.6135, -116.2035])


def test_ids_beyond_float_precision_stay_exact(dataset):
    # 2**53 + 1 cannot be represented as float64.
    assert "9007199254740993" in set(dataset.table["id"])


def test_months_are_in_utc(dataset):
    # January; August 1st 00:00; August in UTC though July locally; unknown; December 31st, one
    # millisecond before 2020; May; December 31st, one millisecond before 2022; January 1st.
    assert dataset.table["month"].tolist() == [0, 7, 7, IGNORE_INDEX, 11, 4, 11, 0]
    assert str(dataset.table["captured_at"][2]) == "2021-08-01 04:30:00+00:00"
    assert dataset.table["captured_at"].isna().tolist() == [False] * 3 + [True] + [False] * 4


def test_climate_codes_become_indices_and_water_is_unknown(dataset):
    # Codes 7, 4, 7, 6, 25, 0; above 20 the index is one less, and 0 has no class.
    symbols = ["BSk", "BWh", "BSk", "BSh", "Dfa"]
    assert dataset.table["climate"].tolist()[:6] == [7, 4, 7, 6, 24, IGNORE_INDEX]
    assert [climate_of_symbol(symbol).index for symbol in symbols] == [7, 4, 7, 6, 24]


def test_na_and_none_are_place_names_and_not_missing_values(tmp_path):
    table = layout.frame(layout.TRAIN[:2])
    table["country"] = table["unique_country"] = ["NA", "IT"]
    table["region"] = ["Khomas", "Piedmont"]
    table["unique_region"] = ["Khomas_NA", "Piedmont_IT"]
    table["city"] = ["Windhoek", "None"]
    layout.write(tmp_path, "train", table, photos=False)
    read = read_dataset(tmp_path, val_fraction=0).table
    assert read["country_key"].tolist() == ["NA", "IT"]
    assert read["city"].tolist() == ["Windhoek", "None"]


def test_date_line_and_poles(tmp_path):
    rows = [
        ("1", -16.79, 179.99, "", 3, "Northern", "", "Labasa"),
        ("2", -16.79, -180, "", 3, "Northern", "", "Labasa"),
        ("3", 90, 180, "", 0, "", "", ""),
    ]
    layout.write(tmp_path, "train", layout.frame(rows))
    dataset = read_dataset(tmp_path, val_fraction=0)
    assert dataset.coordinates[:, 1].tolist() == [179.99, -180, 180]
    # Without a region, the folder is called unknown and the key "_US" counts as missing.
    assert dataset.table["path"][2] == "train_images/unknown/3.jpg"
    assert dataset.table["state_key"].isna().tolist() == [False, False, True]
    assert dataset.paths[2].is_file()


def test_column_order_extra_columns_crlf_and_bom_change_nothing(tmp_path, dataset):
    root = tmp_path / "osv"
    for split in ("train", "test"):
        path = root / f"{split}_mini.csv"
        table = pd.read_csv(path, dtype="str", na_filter=False)
        table = table[table.columns[::-1]].assign(weather="fine")
        text = table.to_csv(index=False, lineterminator="\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    again = read_dataset(root, val_fraction=0)
    pd.testing.assert_frame_equal(again.table, dataset.table)
    assert again.fingerprint == dataset.fingerprint


def test_hemispheres_in_columns_of_their_own(tmp_path):
    (tmp_path / "train_mini.csv").write_text(
        "id,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\n1,33.5,S,151.25,E\n"
    )
    dataset = read_dataset(tmp_path, val_fraction=0)
    assert dataset.coordinates.tolist() == [[-33.5, 151.25]]
    assert "latitude_ref" not in dataset.table


def test_absent_columns_are_unknown(tmp_path):
    table = layout.frame(layout.TRAIN)[["latitude", "id", "longitude", "region"]]
    layout.write(tmp_path, "train", table, photos=False)
    dataset = read_dataset(tmp_path, val_fraction=0)
    assert dataset.table["state_key"].tolist()[0] == "Idaho_"
    labels = dataset.labels(
        build_vocabularies(dataset.table, ("climate", "month", "county", "city"))
    )
    assert all((values == IGNORE_INDEX).all() for values in labels.values())


def test_keys_are_built_where_the_file_has_none(tmp_path):
    table = layout.frame(layout.TRAIN)
    table = table[[c for c in table if not c.startswith("unique_")]]
    layout.write(tmp_path, "train", table, photos=False)
    read = read_dataset(tmp_path, val_fraction=0).table
    assert read["county_key"].tolist()[:2] == ["Ada County_Idaho_US", "Clark County_Nevada_US"]
    assert read["city_key"].isna().tolist() == [False] * 5 + [True]


def test_fingerprint_depends_on_the_order_of_rows(dataset):
    other = dataset.select(np.arange(len(dataset))[::-1])
    assert dataset.fingerprint == dataset.select(np.arange(len(dataset))).fingerprint
    assert dataset.fingerprint != other.fingerprint
    assert len(dataset.fingerprint) == 16


@pytest.mark.parametrize(
    ("column", "value"), [("split", "val"), ("climate", 3), ("latitude", 1.0), ("city_key", None)]
)
def test_fingerprint_depends_on_every_column(dataset, column, value):
    table = dataset.table.copy()
    table.loc[1, column] = value
    assert dataclasses.replace(dataset, table=table).fingerprint != dataset.fingerprint


def test_a_split_is_a_dataset_and_may_be_empty(dataset):
    assert len(dataset.split("train")) == 6
    assert len(dataset.split("val")) == 0
    assert len(dataset.split("val").labels(build_vocabularies(dataset.table))["city"]) == 0
    assert dataset.split("test").table.index.tolist() == [0, 1]
    with pytest.raises(DatasetError, match="no split 'dev'"):
        dataset.split("dev")


def _spoil(root, column, row, value, file="train_mini.csv"):
    path = root / file
    table = pd.read_csv(path, dtype="str", na_filter=False)
    table.loc[row, column] = value
    table.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latitude", "91.5", r"'latitude', row 4: '91.5' is outside -90 to 90"),
        ("latitude", "north", r"'latitude', row 4: 'north' is not a number"),
        ("latitude", "", r"'latitude', row 4: '' is not a coordinate"),
        ("latitude", "NaN", r"'latitude', row 4: 'NaN' is not a coordinate"),
        ("latitude", "inf", r"'latitude', row 4: 'inf' is not a number"),
        ("latitude", "45,5,5", r"'latitude', row 4: '45,5,5' is not a number"),
        ("longitude", "-180.001", r"'longitude', row 4: '-180.001' is outside -180 to 180"),
        ("id", "", r"'id', row 4: '' is not an id"),
        ("id", "844332109483204", r"'id', row 4: '844332109483204' is also the id of an earlier"),
        ("id", "../../etc/passwd", r"'id', row 4: '../../etc/passwd' cannot be a file name"),
        ("id", "..", r"'id', row 4: '..' cannot be a file name"),
        ("id", "a\\b", r"cannot be a file name"),
        ("id", "a\x00b", r"cannot be a file name"),
        ("id", "8.44332E+14", r"was rounded by a spreadsheet"),
        ("id", "9" * 5000, r"is longer than 300 characters"),
        ("city", "x" * 100_000, r"'city', row 4: 'x+' is longer than 300"),
        ("region", "..", r"'region', row 4: '..' cannot be the name of a folder"),
        ("captured_at", "July", r"'captured_at', row 4: 'July' is not a number"),
        ("captured_at", "1627776000", r"is it seconds"),
        ("captured_at", "1e300", r"is it seconds"),
        ("climate", "Cfa", r"'climate', row 4: 'Cfa' is not a climate code"),
        ("climate", "31", r"'climate', row 4: '31' is not a climate code"),
        ("climate", "-1", r"not a climate code"),
        ("climate", "14.5", r"not a climate code"),
    ],
)
def test_wrong_values_are_named_with_file_column_and_row(tmp_path, column, value, message):
    root = layout.make(tmp_path, photos=False)
    _spoil(root, column, 2, value)
    with pytest.raises(DatasetError, match=message) as caught:
        read_dataset(root)
    assert "train_mini.csv" in str(caught.value)
    assert "--write-clean" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_message_counts_the_wrong_rows(tmp_path):
    root = layout.make(tmp_path, photos=False)
    for row in (1, 3, 4):
        _spoil(root, "longitude", row, "east")
    with pytest.raises(DatasetError, match=r"row 3: 'east'.*\(3 such rows\)"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "no header row"),
        (b"PK\x03\x04rest of an archive", "ZIP archive"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"PAR1rest", "Parquet"),
        ("id,latitude,longitude\n1,2,3\n".encode("utf-16")[:-1], "UTF-16"),
        ("id,latitude,longitude,city\n1,2,3,Córdoba\n".encode("latin-1"), "not UTF-8"),
        (b"id;y;x\n1;2;3\n", "'latitude', 'longitude' in the header 'id;y;x', .* by semicolons"),
        (b"id,y,x\n1,2,3\n", "no column 'latitude', 'longitude' in the header 'id,y,x'"),
        (b"id,latitude,longitude\n", "have no rows|has no rows"),
        (b'id,latitude,longitude\n"1,2,3\n', "not a table"),
        (b"id,latitude,longitude\n1,2,3\n2,2,3,4,5\n", "not a table"),
    ],
)
def test_files_that_are_not_a_csv_are_refused(tmp_path, content, message):
    (tmp_path / "train_mini.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_missing_folder_and_missing_tables(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"neither train_mini\.csv nor test_mini\.csv"):
        read_dataset(tmp_path)


def test_description_gives_the_name_and_whether_the_dataset_is_synthetic(tmp_path):
    root = layout.make(tmp_path, photos=False)
    (root / "dataset.json").write_text('{"name": "Demo", "synthetic": true}')
    assert read_dataset(root).name == "Demo"
    assert read_dataset(root).split("test").synthetic
    (root / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match=r"dataset\.json: not JSON"):
        read_dataset(root)


@pytest.mark.slow
def test_119_008_rows_are_read_split_and_labelled_in_little_memory(large_tables):
    result = benchmark_tables(large_tables)
    assert result.rows == 119_008
    assert result.table_bytes < 2e8
    assert "pandas alone" in result.text()
