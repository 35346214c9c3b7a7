import io
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from geoclip_core.data.exif import ExifFacts, read_exif
from tests.data.exif_bytes import (
    ASCII,
    RATIONAL,
    SHORT,
    SIGNED_RATIONAL,
    UNDEFINED,
    degrees,
    entry,
    exif_block,
    gps_fields,
    hostile_blocks,
)

# A reset of pytest: outside of it, geoclip_core.data.photos keeps Pillow's warnings quiet.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

SYDNEY = gps_fields(degrees(33, 51, 30), "S", degrees(151, 12, 36), "E")
ORIGINAL, DIGITIZED, CHANGED = 0x9003, 0x9004, 0x0132
OFFSET, OFFSET_ORIGINAL, OFFSET_DIGITIZED = 0x9010, 0x9011, 0x9012


def facts_of(block):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=block)
    with Image.open(stream) as image:
        return read_exif(image)


def position_of(gps):
    facts = facts_of(exif_block(gps=gps))
    return facts.latitude, facts.longitude


def time_of(top=None, exif=None, gps=None):
    def text(fields):
        return {tag: entry(ASCII, value) for tag, value in (fields or {}).items()}

    facts = facts_of(exif_block(text(top), text(exif), gps))
    assert facts.captured_at_is_utc == bool(facts.captured_at and facts.captured_at.tzinfo)
    return facts.captured_at


@pytest.mark.parametrize(
    ("north", "east", "expected"),
    [
        ("N", "E", (33.858333, 151.21)),
        ("S", "E", (-33.858333, 151.21)),
        ("N", "W", (33.858333, -151.21)),
        ("S", "W", (-33.858333, -151.21)),
        ("s", " west", (-33.858333, -151.21)),
        (b"S", b"W\0\0\0", (-33.858333, -151.21)),
    ],
)
def test_hemispheres(north, east, expected):
    gps = gps_fields(degrees(33, 51, 30), north, degrees(151, 12, 36), east)
    assert position_of(gps) == pytest.approx(expected, abs=1e-6)


def test_references_written_as_bytes_of_undefined_type():
    gps = SYDNEY | {1: entry(UNDEFINED, b"S\0"), 3: entry(UNDEFINED, b"E\0")}
    assert position_of(gps) == pytest.approx((-33.858333, 151.21), abs=1e-6)


@pytest.mark.parametrize(
    ("latitude", "expected"),
    [
        (degrees((3385833, 100000)), 33.85833),
        (degrees(33, (515, 10)), 33.858333),
        (degrees((33, 1), (5150, 100), 0), 33.858333),
        (degrees(33, 51, 60), 33.866667),
        (degrees(90, 0, 0), 90.0),
        (entry(SHORT, 33, 51, 30), 33.858333),
    ],
)
def test_ways_to_write_degrees(latitude, expected):
    found = position_of(gps_fields(latitude, "N", degrees(151, 12, 36), "E"))
    assert found == pytest.approx((expected, 151.21), abs=1e-6)


@pytest.mark.parametrize(
    "latitude",
    [
        degrees((0, 0), (0, 0), (0, 0)),
        degrees(33, 51, (30, 0)),
        degrees((33, 0), 51, 30),
        degrees(90, 0, 1),
        degrees(4_294_967_295, 0, 0),
        degrees(33, 61, 0),
        degrees(33, 0, 61),
        entry(RATIONAL, (33, 1), (51, 1), (30, 1), (1, 1)),
        entry(ASCII, "33.85 N"),
        entry(UNDEFINED, b"\x01\x02\x03"),
    ],
)
def test_degrees_that_are_none_give_no_position(latitude):
    assert position_of(gps_fields(latitude, "N", degrees(151, 12, 36), "E")) == (None, None)


def test_longitudes_end_at_the_date_line():
    assert position_of(gps_fields(degrees(1, 0, 0), "N", degrees(180, 0, 0), "E")) == (1, -180)
    assert position_of(gps_fields(degrees(1, 0, 0), "N", degrees(180, 0, 1), "E")) == (None, None)


@pytest.mark.parametrize(
    ("north", "east"), [(None, "E"), ("S", None), ("X", "E"), ("E", "N"), ("", "E")]
)
def test_an_unknown_hemisphere_is_not_guessed(north, east):
    gps = gps_fields(degrees(33, 51, 30), north, degrees(151, 12, 36), east)
    assert position_of(gps) == (None, None)


def test_a_sign_in_the_number_stands_in_for_a_missing_hemisphere():
    signed = entry(SIGNED_RATIONAL, (-33, 1), (51, 1), (30, 1))
    gps = gps_fields(signed, None, entry(SIGNED_RATIONAL, (-151, 1)), "W")
    assert position_of(gps) == pytest.approx((-33.858333, -151), abs=1e-6)
    assert position_of(gps_fields(signed, "N", degrees(151), "E")) == (None, None)


def test_null_island_is_a_receiver_without_a_fix():
    assert position_of(gps_fields(degrees(0, 0, 0), "N", degrees(0, 0, 0), "E")) == (None, None)
    on_the_equator = gps_fields(degrees(0, 0, 0), "N", degrees(9, 27, 0), "E")
    assert position_of(on_the_equator) == pytest.approx((0, 9.45))


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_half_a_position_is_none(missing):
    assert position_of({t: v for t, v in SYDNEY.items() if t != missing}) == (None, None)


def test_time_with_its_offset_is_in_utc():
    taken = time_of(exif={ORIGINAL: "2021:07:14 01:30:00", OFFSET_ORIGINAL: "+10:00"})
    assert taken == datetime(2021, 7, 13, 15, 30, tzinfo=UTC)
    newfoundland = time_of(exif={ORIGINAL: "2021:12:31 23:00:00", OFFSET_ORIGINAL: "-03:30"})
    assert newfoundland == datetime(2022, 1, 1, 2, 30, tzinfo=UTC)
    zulu = time_of(exif={ORIGINAL: "2021:07:14 01:30:00", OFFSET_ORIGINAL: "Z"})
    assert zulu == datetime(2021, 7, 14, 1, 30, tzinfo=UTC)


def test_time_without_its_offset_stays_local():
    taken = time_of(exif={ORIGINAL: "2021:07:14 09:30:00"})
    assert taken == datetime(2021, 7, 14, 9, 30)
    for offset in ("", "   :  ", "+25:00", "10", "+0160"):
        fields = {ORIGINAL: "2021:07:14 09:30:00", OFFSET_ORIGINAL: offset}
        assert time_of(exif=fields) == datetime(2021, 7, 14, 9, 30)


def test_an_offset_belongs_to_its_own_time():
    fields = {ORIGINAL: "2021:07:14 09:30:00", OFFSET: "+02:00", OFFSET_DIGITIZED: "+02:00"}
    assert time_of(exif=fields) == datetime(2021, 7, 14, 9, 30)
    digitized = {DIGITIZED: "2021:07:14 09:30:00", OFFSET_DIGITIZED: "+02:00"}
    assert time_of(exif=digitized) == datetime(2021, 7, 14, 7, 30, tzinfo=UTC)
    assert time_of({CHANGED: "2020:01:02 03:04:05"}) == datetime(2020, 1, 2, 3, 4, 5)


def test_satellites_tell_utc_where_the_camera_does_not():
    gps = {29: entry(ASCII, "2021:07:13"), 7: degrees(23, 30, (59_500, 1000))}
    stamp = datetime(2021, 7, 13, 23, 30, 59, tzinfo=UTC)
    assert time_of(gps=gps) == stamp
    assert time_of(exif={ORIGINAL: "2021:07:14 09:30:59"}, gps=gps) == stamp
    known = {ORIGINAL: "2021:07:14 09:31:07", OFFSET_ORIGINAL: "+10:00"}
    assert time_of(exif=known, gps=gps) == datetime(2021, 7, 13, 23, 31, 7, tzinfo=UTC)


def test_stale_satellite_time_is_not_believed():
    gps = {29: entry(ASCII, "2001:11:27"), 7: degrees(23, 30, 0)}
    assert time_of(exif={ORIGINAL: "2021:07:14 09:30:00"}, gps=gps) == datetime(2021, 7, 14, 9, 30)


@pytest.mark.parametrize(
    "gps",
    [
        {29: entry(ASCII, "2021:07:13")},
        {7: degrees(1, 2, 3)},
        {29: entry(ASCII, "2021:07:13"), 7: degrees(25, 0, 0)},
        {29: entry(ASCII, "2021:07:13"), 7: degrees((1, 0), 0, 0)},
        {29: entry(ASCII, "2021:02:30"), 7: degrees(1, 0, 0)},
        {29: entry(ASCII, "yesterday"), 7: degrees(1, 0, 0)},
    ],
)
def test_half_a_satellite_time_is_none(gps):
    assert time_of(gps=gps) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-07-14T09:30:00", datetime(2021, 7, 14, 9, 30)),
        ("2021/07/14 09:30:00.250", datetime(2021, 7, 14, 9, 30)),
        ("2021:7:4 9:05:60", datetime(2021, 7, 4, 9, 5, 59)),
        ("2021:07:14 09:30", datetime(2021, 7, 14, 9, 30)),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("2021:02:29 00:00:00", None),
        ("2021:07:14 24:00:00", None),
        ("9999:01:01 00:00:00", None),
        ("0001:01:01 00:00:00", None),
        ("2021:07:14", None),
        ("\u00e9t\u00e9 2021", None),
        ("", None),
    ],
)
def test_spellings_of_a_time(text, expected):
    assert time_of(exif={ORIGINAL: text}) == expected


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(value):
    assert facts_of(exif_block({0x0112: entry(SHORT, value)})).orientation == 1


def test_orientation_of_another_type_is_upright():
    assert facts_of(exif_block({0x0112: entry(ASCII, "left")})).orientation == 1
    assert facts_of(exif_block({0x0112: entry(SHORT, 6)})).orientation == 6


@given(hostile_blocks)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_fields_never_raise_and_never_give_an_impossible_place(block):
    facts = facts_of(block)
    if facts.latitude is not None:
        assert -90 <= facts.latitude <= 90
        assert -180 <= facts.longitude < 180
    assert facts.latitude is None or facts.longitude is not None
    assert 1 <= facts.orientation <= 8


VALID = exif_block(
    {0x0112: entry(SHORT, 6)}, {ORIGINAL: entry(ASCII, "2021:07:14 09:30:00")}, SYDNEY
)


@given(st.lists(st.tuples(st.integers(6, len(VALID) - 1), st.integers(0, 255)), max_size=8))
@settings(max_examples=300, deadline=None)
def test_flipped_bytes_never_raise(changes):
    block = bytearray(VALID)
    for position, value in changes:
        block[position] = value
    facts = facts_of(bytes(block))
    assert facts.latitude is None or -90 <= facts.latitude <= 90


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_no_exif(garbage):
    assert isinstance(facts_of(b"Exif\0\0" + garbage), ExifFacts)


def test_a_directory_that_points_to_itself_ends():
    loop = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 0x8825, 4, 1, 8) + b"\0\0\0\x08"
    assert facts_of(loop) == ExifFacts()
