import csv
import io
import os
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoclip_core.data import tables
from geoclip_core.data.tables import (
    NAMES_AS_IDS,
    Problems,
    csv_text,
    parse_numbers,
    read_csv,
    whole_ids,
)
from geoclip_core.errors import DatasetError

WANTED = ("file", "latitude", "longitude")


def places(text, encoding="utf-8"):
    content = text if isinstance(text, bytes) else text.encode(encoding)
    frame = read_csv(content, (*WANTED, "latitude_ref", "longitude_ref"), WANTED)
    problems = Problems(frame, "p.csv")
    latitude = problems.degrees("latitude", 90, required=False)
    longitude = problems.degrees("longitude", 180, required=False)
    problems.raise_first("Correct it")
    return list(zip(frame["file"], latitude, longitude, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "file,latitude,longitude\na.jpg,48.8,-2.3\n",
        "\ufefffile,latitude,longitude\r\na.jpg,48.8,-2.3\r\n",
        "file,lat,lon\na.jpg,48.8,-2.3\n",
        "file,lat,lng\na.jpg,48.8,-2.3\n",
        "File,Latitude,Longitude\na.jpg,48.8,-2.3\n",
        "FILENAME, LAT , LONG\na.jpg,48.8,-2.3\n",
        "File Name;Latitude;Longitude\na.jpg;48.8;-2.3\n",
        "file_name\tlatitude\tlongitude\na.jpg\t48.8\t-2.3\n",
        "SourceFile,GPSLatitude,GPSLongitude\na.jpg,48.8,-2.3\n",
        "image,GPS Latitude,GPS Longitude\na.jpg,48.8,-2.3\n",
        "SourceFile,GPSLatitude,GPSLongitude\n"
        "a.jpg,\"48 deg 48' 0.00\"\" N\",\"2 deg 18' 0.00\"\" W\"\n",
        "SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\na.jpg,48.8,N,2.3,W\n",
        "SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\na.jpg,48.8,N,-2.3,W\n",
        "file;latitude;longitude\na.jpg;48,8;-2,3\n",
        "file\tlatitude\tlongitude\na.jpg\t48,8\t-2,3\n",
        'file,latitude,longitude\na.jpg,"48,8","-2,3"\n',
        "file;latitude;longitude\na.jpg;48.8;\u22122.3\n",
        "sep=;\nfile;latitude;longitude\na.jpg;48,8;-2,3\n",
        "\n\nfile,latitude,longitude\na.jpg,48.8,-2.3\n",
        "file,latitude,longitude\na.jpg,48.8,-2.3\n,,\n\n  ,,\n",
        "file,latitude,longitude,\na.jpg,48.8,-2.3,\n",
        "n,file,latitude,longitude,lat\n1,a.jpg,48.8,-2.3,7\n",
        '"file","latitude","longitude"\n"a.jpg","48.8","-2.3"\n',
        "file,latitude,longitude\n'a.jpg,48.8,-2.3\n".replace("'a", "a"),
        "file|latitude|longitude\na.jpg|48.8|-2.3\n",
        "file,latitude,longitude\ra.jpg,48.8,-2.3\r",
        'file, latitude, longitude\n"a.jpg", "48.8", "-2.3"\n',
        "file,latitude,longitude\na.jpg,48.8,-2.3,,\n",
        '"file","latitude","longitude"\n"1","a.jpg",48.8,-2.3\n',
        "Photos of 2021,,\n# from the camera\nfile,latitude,longitude\na.jpg,48.8,-2.3\n",
        "Image Name,Lat (deg),Lon (deg)\na.jpg,48.8,-2.3\n",
        "img_path,Lat.,Long.\na.jpg,48.8,-2.3\n",
        "file,decimalLatitude,decimalLongitude\na.jpg,48.8,-2.3\n",
        "SourceFile,Composite:GPSLatitude,Composite:GPSLongitude\na.jpg,48.8,-2.3\n",
        "SourceFile,EXIF:GPSLatitude,EXIF:GPSLatitudeRef,EXIF:GPSLongitude,EXIF:GPSLongitudeRef\n"
        "a.jpg,48.8,North,2.3,West\n",
        "file,latitude,longitude\na.jpg,N48.8,W2.3\n",
        "file,latitude,longitude\na.jpg,48°48’00”N,2°18’00”W\n",
        "file;latitude;longitude\na.jpg;48° 48,000' N;2° 18,000' W\n",
        'file;latitude;longitude\na.jpg;"48°47\'60,0"" N";"2°18\'00,0"" W"\n',
        "file;latitude;longitude\na.jpg;48,8\u202f°;–2,3\u202f°\n",
    ],
)  # fmt: skip
def test_csvs_as_spreadsheets_and_programs_write_them(text):
    assert places(text) == [("a.jpg", pytest.approx(48.8), pytest.approx(-2.3))]
    assert places(text, "utf-16") == places(text)


def test_the_header_and_separator_that_are_there_are_named():
    with pytest.raises(DatasetError, match=r"no column 'latitude', 'longitude' in the header "
                       "'file;y;x', which is separated by semicolons"):  # fmt: skip
        read_csv(b"file;y;x\na;1;2\n", required=WANTED)
    with pytest.raises(DatasetError, match=r"no column 'file'.*separated by tabs"):
        read_csv(b"lat\tlon\n1\t2\n", required=WANTED)


@pytest.mark.parametrize(
    "text",
    [
        "file,latitude,longitude\na.jpg,48,8,2,3\n",
        "file,latitude,longitude\na.jpg,48.8,-2.3 E\n",
        'file,latitude,longitude\na.jpg,48.8,"1,2,3"\n',
        "file,latitude,lon,lng\na.jpg,48.8,-2.3 N,1\n",
        "SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude\na.jpg,-48.8,N,2.3\n",
        "SourceFile,EXIF:GPSLatitude,EXIF:GPSLongitude\na.jpg,48.8,2.3\n",
        "file,latitude,longitude\na.jpg,48,8,2\nb.jpg,48,7,2\n",
        "file,latitude,longitude\n1,a.jpg,48.8,2.3\n1,b.jpg,48.8,2.3\n",
    ],
)
def test_what_is_ambiguous_is_refused(text):
    with pytest.raises(DatasetError):
        places(text)


def test_a_column_by_its_own_name_comes_before_other_names():
    frame = read_csv(b"lat,latitude,LATITUDE,id\n1,2,3,4\n", required=("id", "latitude"))
    assert frame["latitude"].tolist() == ["2"]
    assert frame["lat"].tolist() == ["1"]
    twice = read_csv(b"id,lat,lon,x,x\n1,2,3,4,5\n", required=("latitude", "longitude"))
    assert list(twice.columns) == ["id", "latitude", "longitude", "x", "x.1"]


def test_rows_are_counted_as_a_spreadsheet_does():
    frame = read_csv(b"file,lat,lon\na,1,2\n\n,,\nb,x,2\n", WANTED, WANTED)
    problems = Problems(frame, "p.csv")
    problems.degrees("latitude", 90, required=True)
    with pytest.raises(DatasetError, match="'latitude', row 5: 'x' is not a number"):
        problems.raise_first("Correct it")


def test_short_rows_have_missing_values():
    assert read_csv(b"a,b,c\n1\n1,2,3\n").to_numpy().tolist() == [["1", "", ""], ["1", "2", "3"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xd0\xcf\x11\xe0" + bytes(100), "spreadsheet"),
        (b"id\x00\x00\x00", "not a text file"),
        (b"id,caf\xe9\n", "not UTF-8"),
        (b",".join(b"c%d" % i for i in range(2000)) + b"\n", "more than 1,000 columns"),
        (b" \n\t\n", "no header row"),
    ],
)
def test_other_files_are_refused(content, message):
    with pytest.raises(DatasetError, match=message):
        read_csv(content)


def test_special_and_huge_files_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    with (tmp_path / "sparse.csv").open("wb") as file:
        file.truncate(10**12)
    for name, message in (
        ("pipe", "device or a pipe"),
        ("endless", "device or a pipe"),
        ("folder", "is a folder"),
        ("sparse", "larger than"),
        ("missing", "no such file"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_csv(tmp_path / f"{name}.csv")
    monkeypatch.setattr(tables, "MAX_CSV_BYTES", 10)
    with pytest.raises(DatasetError, match="larger than"):
        read_csv(b"id,latitude\n")


def test_names_that_are_not_utf_8_are_kept_where_asked():
    frame = read_csv(b"file,lat,lon\ncaf\xe9.jpg,1,2\n", required=WANTED, errors="surrogateescape")
    assert os.fsencode(frame["file"][0]) == b"caf\xe9.jpg"


def test_file_names_are_ids_only_where_asked():
    assert list(read_csv(b"file,lat\na,1\n", required=("id",), aliases=NAMES_AS_IDS)) == [
        "id",
        "lat",
    ]
    with pytest.raises(DatasetError, match="no column 'id'"):
        read_csv(b"file,lat\na,1\n", required=("id",))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48,8", 48.8),
        ("-0,5", -0.5),
        ("1e3", 1000),
        ("1,5E+3", 1500),
        ("N/A", np.nan),
        ("", np.nan),
    ],
)
def test_numbers(text, number):
    found, wrong = parse_numbers(pd.Series([text, "1"], dtype="str"))
    assert found[0] == pytest.approx(number, nan_ok=True)
    assert not wrong.any()


@pytest.mark.parametrize("text", ["inf", "x", "1,2,3", "1.2.3", "12,", ","])
def test_no_numbers(text):
    assert parse_numbers(pd.Series([text, "1"], dtype="str"))[1].tolist() == [True, False]


def test_ids_that_a_spreadsheet_changed():
    def ids(*texts):
        return whole_ids(pd.Series(texts, dtype="str")).tolist()

    whole = "1234567890123456"
    assert (
        ids(f"{whole}.0", "1.234567890123456E+15", "1,234567890123456e15", f" {whole} ")
        == [whole] * 4
    )
    assert ids("7.0", "12.0", "") == ["7", "12", ""]
    assert ids("7.0", "v2") == ["7.0", "v2"]  # the version of something
    assert ids("1.0E+15", "1.23457E+15") == ["1.0E+15", "1.23457E+15"]  # rounded
    assert ids("12345678901234567.0") == ["12345678901234567.0"]  # more digits than a float has
    assert ids("1E9999999999999", "1e0") == ["1E9999999999999", "1e0"]
    assert read_csv(b"id\n'1234567890123456\n'x'\n")["id"].tolist() == [whole, "'x'"]


@given(st.text("=+-@'\t\r\n;|,\"ab1. \uff1d", min_size=1, max_size=12).filter(str.strip))
@settings(max_examples=300, deadline=None)
def test_every_cell_is_read_back_and_none_is_a_formula(text):
    written = csv_text(pd.DataFrame({"a": [text], "b": ["x"]}))
    assert read_csv(written.encode())["a"].tolist() == [text]
    _, (cell, _) = csv.reader(io.StringIO(written, newline=""))
    is_number = re.fullmatch(r"[+-]?[\d.]+", cell)
    assert is_number or cell[0] not in "=+-@\t\r\uff1d"


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "'=1",
        "''-x",
        "a;=1",
        "a\t@x",
        "x\r+1",
        "-97.7",
        "+1",
        "1e5",
        "-",
        "it's",
        "a=b",
        "'1",
    ],
)
def test_formulas_are_marked_and_read_back(text):
    frame = pd.DataFrame({"file": [text, "x"], "number": [-1.5, 2.0]})
    assert read_csv(csv_text(frame).encode())["file"][0] == text
    assert csv_text(frame).splitlines()[-1] == "x,2.0"


def test_a_name_that_is_not_utf_8_is_written_as_an_escape():
    assert (
        csv_text(pd.DataFrame({"f": [os.fsdecode(b"caf\xe9")]}, dtype=object)) == "f\ncaf\\udce9\n"
    )


class TestLargeTables:
    """Large tables are read by another parser, with the same result."""

    @staticmethod
    def read(content, monkeypatch, large):
        monkeypatch.setattr(tables, "LARGE_BYTES", 0 if large else 10**9)
        try:
            frame = tables.read_csv(content, ["a", "b", "c"])
        except DatasetError as error:
            return str(error)
        return frame.columns.tolist(), frame.index.tolist(), frame.to_numpy().tolist()

    @settings(max_examples=400, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                [
                    *("x", "1.5", ",", ",", ",", ";", "\n", "\n", "\r\n", "\r", " ", "'", "'=1"),
                    *('"', '"', '""', '"y,z"', '"u\nv"', "é", "\0", "\udcff", "NA", "a,b,c\n"),
                ]
            ),
            max_size=30,
        )
    )
    def test_any_text_gives_the_same_table_or_error(self, parts):
        content = ("a,b,c\n" + "".join(parts)).encode("utf-8", "surrogateescape")
        with pytest.MonkeyPatch.context() as patch:
            plain = self.read(content, patch, False)
            assert self.read(content, patch, True) == plain

    @pytest.mark.parametrize(
        ("rows", "fast"),
        [
            ("1,2,3\n4,5,6\n", True),
            ('1,"2, or ""2""",3\n"4\n5",,é\n', True),
            ("1,2,3\n\n4,5,6\n", False),
            ("1,2,3\n4,5\n", False),
            ('1,2"inch,3\n', False),
        ],
    )
    def test_the_faster_parser_reads_what_is_plain(self, rows, fast, monkeypatch):
        monkeypatch.setattr(tables, "LARGE_BYTES", 0)
        content = ("\ufeffa,b,c\n" + rows).encode()
        found = tables._plain_table(content, 0, ",", ["a", "b", "c"], ["a", "c"])
        assert (found is not None) is fast
