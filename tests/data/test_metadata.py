import io
import json
from datetime import UTC, datetime

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from geoclip_core.data.metadata import (
    PhotoFacts,
    image_facts,
    parse_degrees,
    parse_moment,
    read_xmp,
    sidecar_facts,
)
from geoclip_core.data.photos import open_photo, with_sidecars
from tests.data.exif_bytes import ASCII, SHORT, degrees, entry, exif_block, gps_fields
from train.benchmarks.hostile import jpeg, smooth

RDF = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" {attributes}>{elements}'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
POSITION = 'exif:GPSLatitude="48,30.0N" exif:GPSLongitude="2,15.0W"'
EXIF = exif_block(gps=gps_fields(degrees(48, 30, 0), "N", degrees(2, 15, 0), "W"))
TAKEN = {"timestamp": "1626255000", "formatted": "14 Jul 2021, 09:30:00 UTC"}


def xmp(attributes="", elements=""):
    return RDF.format(attributes=attributes, elements=elements).encode()


def png(**texts):
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name.replace("_", " "), text, zip=True)
    stream = io.BytesIO()
    smooth().save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def profile(content):
    """Return a text as ImageMagick writes it: 36 bytes a line."""
    digits = content.hex()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    return f"\ngeneric profile\n{len(content):8}\n" + "\n".join(lines) + "\n"


def test_a_position_in_xmp_only():
    for packet in (
        xmp(POSITION),
        xmp(elements="<exif:GPSLatitude>48,30,0N</exif:GPSLatitude>"
            "<exif:GPSLongitude>\n 2,15,0W </exif:GPSLongitude>"),
        b'<?xpacket begin="" id="x"?>\n' + xmp(POSITION) + b"<?xpacket end='w'?>" + bytes(9),
        xmp('exif:GPSLatitude="48.5" exif:GPSLongitude="-2.25"'),
        xmp('exif:GPSLatitude="48.5" exif:GPSLatitudeRef="N" exif:GPSLongitude="2.25" '
            'exif:GPSLongitudeRef="West"'),
    ):  # fmt: skip
        photo = open_photo(jpeg(smooth(), xmp=packet))
        assert photo.position == (48.5, -2.25)
        assert photo.source == "XMP"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_xmp_of_other_formats(kind):
    stream = io.BytesIO()
    packet = xmp(POSITION)
    if kind == "PNG":
        stream.write(png(**{"XML:com.adobe.xmp": packet.decode()}))
    elif kind == "TIFF":
        smooth().save(stream, kind, tiffinfo={700: packet})
    else:
        smooth().save(stream, kind, xmp=packet)
    assert open_photo(stream.getvalue()).position == (48.5, -2.25)


def test_exif_comes_before_xmp_and_is_completed_by_it():
    other = 'exif:GPSLatitude="1,0N" exif:GPSLongitude="1,0E" xmp:CreateDate="2021-07-14T09:30:00Z"'
    photo = open_photo(jpeg(smooth(), exif=EXIF, xmp=xmp(other)))
    assert photo.position == (48.5, -2.25)
    assert photo.source == "EXIF"
    assert photo.captured_at == datetime(2021, 7, 14, 9, 30, tzinfo=UTC)


def test_times_in_xmp():
    local = read_xmp(xmp('exif:DateTimeOriginal="2021-07-14T09:30"'))
    assert local.captured_at == datetime(2021, 7, 14, 9, 30)
    zoned = read_xmp(xmp('photoshop:DateCreated="2021-07-14T09:30:15.25+02:00"'))
    assert zoned.captured_at == datetime(2021, 7, 14, 7, 30, 15, tzinfo=UTC)
    assert read_xmp(xmp('photoshop:DateCreated="2021-07-14"')) == PhotoFacts()


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"not xml",
        xmp('exif:GPSLatitude="48,30.0N"'),
        xmp('exif:GPSLatitude="0,0.0N" exif:GPSLongitude="0,0.0E"'),
        xmp('exif:GPSLatitude="48,61.0N" exif:GPSLongitude="2,15.0E"'),
        xmp('exif:GPSLatitude="98,30.0N" exif:GPSLongitude="2,15.0E"'),
        xmp('exif:GPSLatitude="2,15.0E" exif:GPSLongitude="48,30.0N"'),
        xmp('exif:GPSLatitude="nan" exif:GPSLongitude="1e400"'),
        b"<a>" * 100_000,
        b'<!DOCTYPE a [<!ENTITY b "' + b"c" * 99 + b'">]>' + xmp(POSITION),
    ],
    ids=["empty", "text", "half", "null", "minutes", "range", "axes", "nan", "deep", "doctype"],
)
def test_xmp_without_a_usable_position(packet):
    facts = read_xmp(packet)
    assert (facts.latitude, facts.longitude) == (None, None)


def test_text_profiles_of_a_png():
    for texts in (
        {"Raw_profile_type_exif": profile(EXIF)},
        {"Raw_profile_type_APP1": profile(EXIF)},
        {"Raw_profile_type_APP1": profile(b"http://ns.adobe.com/xap/1.0/\0" + xmp(POSITION))},
        {"Raw_profile_type_xmp": profile(xmp(POSITION))},
    ):
        assert open_photo(png(**texts)).position == (48.5, -2.25), list(texts)
    assert open_photo(png(Raw_profile_type_APP1="\ngeneric profile\n 4\nzz\n")).position is None


@pytest.mark.parametrize("camera", ["IMG_1.jpg", "IMG_1.JPG"])
@pytest.mark.parametrize(
    "name", ["IMG_1.jpg.xmp", "IMG_1.JPG.XMP", "IMG_1.JPG.xmp", "IMG_1.xmp", "IMG_1.XMP"]
)
def test_xmp_beside_the_photo(tmp_path, camera, name):
    (tmp_path / name).write_bytes(xmp(POSITION))
    path = tmp_path / camera
    path.write_bytes(jpeg(smooth()))
    photo = with_sidecars(open_photo(path), path)
    assert photo.position == (48.5, -2.25)
    assert photo.source == f"XMP in {name}"


def test_files_beside_the_photo_may_have_accents_composed_or_not(tmp_path):
    (tmp_path / "cafe\u0301.xmp").write_bytes(xmp(POSITION))
    (tmp_path / "\u00e9te.jpg.json").write_text('{"geoData": {"latitude": 1.0, "longitude": 2.0}}')
    assert sidecar_facts(tmp_path / "caf\u00e9.jpg").latitude == 48.5
    assert sidecar_facts(tmp_path / "e\u0301te.jpg").latitude == 1.0


@pytest.mark.parametrize(
    "inside", ["Iptc4xmpExt:LocationShown", "xmpMM:Pantry", "Iptc4xmpExt:LocationCreated"]
)
def test_a_position_deeper_in_the_xmp_is_that_of_something_else(inside):
    prefix = inside.partition(":")[0]
    deeper = (
        f'<{inside} xmlns:{prefix}="http://ns.adobe.com/other/"><rdf:Bag><rdf:li><rdf:Description '
        'exif:GPSLatitude="1,0N"><exif:GPSLongitude>1,0E</exif:GPSLongitude></rdf:Description>'
        f"</rdf:li></rdf:Bag></{inside}>"
    )
    assert read_xmp(xmp(elements=deeper)) == PhotoFacts()
    own = "<exif:GPSLatitude>48,30N</exif:GPSLatitude><exif:GPSLongitude>2,15W</exif:GPSLongitude>"
    facts = read_xmp(xmp(elements=deeper + own))
    assert (facts.latitude, facts.longitude) == (48.5, -2.25)


@pytest.mark.parametrize(
    ("photo", "beside"),
    [
        ("photo.jpg", "photo.jpg.json"),
        ("photo.jpg", "photo.jpg.supplemental-metadata.json"),
        ("photo.jpg", "photo.jpg.supplemental-me.json"),
        ("photo.jpg", "photo.jpg..json"),
        ("photo(1).jpg", "photo.jpg(1).json"),
        ("photo(1).jpg", "photo.jpg.supplemental-metadata(1).json"),
        ("photo(1).jpg", "photo(1).jpg.json"),
        ("photo-edited.jpg", "photo.jpg.json"),
        ("photo-bearbeitet(2).jpg", "photo.jpg.supplemental-metadata(2).json"),
        ("photo(1)-edited.jpg", "photo.jpg(1).json"),
        ("photo-modifie\u0301.jpg", "photo.jpg.json"),
        ("Screenshot_2017-07-05-10-05-26.png",
         "Screenshot_2017-07-05-10-05-26.png.supplementa.json"),
        ("Urlaub in Knaufspesch in der Schneifel (38).JPG",
         "Urlaub in Knaufspesch in der Schneifel (38).JP.json"),
        ("D7157814-D2D5-4A62-AFCE-9CF465CB7D66.jpeg",
         "D7157814-D2D5-4A62-AFCE-9CF465CB7D66.jpeg.supp.json"),
        ("photo.jpg", "photo.json"),
    ],
)  # fmt: skip
def test_json_of_google_takeout(tmp_path, photo, beside):
    content = {
        "title": "photo.jpg",
        "photoTakenTime": TAKEN,
        "geoData": {"latitude": 48.5, "longitude": -2.25, "altitude": 0.0},
        "geoDataExif": {"latitude": 1.0, "longitude": 1.0},
    }
    (tmp_path / beside).write_text(json.dumps(content))
    facts = sidecar_facts(tmp_path / photo)
    assert (facts.latitude, facts.longitude) == (48.5, -2.25)
    assert facts.captured_at == datetime(2021, 7, 14, 9, 30, tzinfo=UTC)
    assert facts.source == f"Google Takeout ({beside})"


def test_a_json_belongs_to_one_photo(tmp_path):
    (tmp_path / "photo.jpg.json").write_text(
        json.dumps({"geoData": {"latitude": 1.0, "longitude": 1.0}})
    )
    for other in ("photo(1).jpg", "photo.png", "photo2.jpg", "hoto.jpg"):
        assert sidecar_facts(tmp_path / other) == PhotoFacts()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"geoData": 1, "photoTakenTime": []}',
        '{"geoData": {"latitude": "1", "longitude": null}}',
        '{"geoData": {"latitude": NaN, "longitude": 1}}',
        '{"geoData": {"latitude": 1e999, "longitude": 1}}',
        '{"geoData": {"latitude": 0.0, "longitude": 0.0}}',
        '{"photoTakenTime": {"timestamp": "0"}}',
        '{"photoTakenTime": {"timestamp": "99999999999"}}',
        '{"photoTakenTime": {"timestamp": "1e9"}}',
        '{"photoTakenTime": {"timestamp": "' + "9" * 5000 + '"}}',
    ],
)
def test_a_json_without_facts(tmp_path, text):
    (tmp_path / "photo.jpg.json").write_text(text)
    assert sidecar_facts(tmp_path / "photo.jpg") == PhotoFacts()


def test_no_position_in_takeout_falls_back_to_the_exif_that_google_read(tmp_path):
    content = {
        "geoData": {"latitude": 0.0, "longitude": 0.0},
        "geoDataExif": {"latitude": 48.5, "longitude": -2.25},
    }
    (tmp_path / "photo.jpg.json").write_text(json.dumps(content))
    assert sidecar_facts(tmp_path / "photo.jpg").latitude == 48.5


def test_sidecars_that_are_no_files(tmp_path):
    import os

    os.mkfifo(tmp_path / "photo.jpg.xmp")
    (tmp_path / "photo.xmp").symlink_to("/dev/zero")
    (tmp_path / "photo.jpg.json").mkdir()
    with (tmp_path / "photo.jpg.supplemental-metadata.json").open("wb") as sparse:
        sparse.truncate(10**12)
    assert sidecar_facts(tmp_path / "photo.jpg") == PhotoFacts()
    assert sidecar_facts(tmp_path / ("x" * 255)) == PhotoFacts()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-33.86", -33.86),
        ("\u221233,86", -33.86),
        ("33.86 S", -33.86),
        ("S 33.86", -33.86),
        ("33.86° South", -33.86),
        ("33 deg 51' 36.00\" S", -33.86),
        ("33° 51′ 36″ S", -33.86),
        ("33:51:36 S", -33.86),
        ("33,51.6S", -33.86),
        ("S33.86", -33.86),
        ("South 33.86", -33.86),
        ("33º 51’ 36” S", -33.86),
        ("33°51'36,0\"S", -33.86),
        ("33° 51,6' S", -33.86),
        ("33,86° S", -33.86),
        ("–33,86\u202f°", -33.86),
        ("33,51,36", None),
        ("33,51,36,0 S", None),
        ("33,51,36S", -33.86),
        ("+33.86", 33.86),
        ("33,86", 33.86),
        (" 33.86 ", 33.86),
        ("33.86 E", None),
        ("-33.86 N", None),
        ("33.86 2.35", None),
        ("33.86.1", None),
        ("91", None),
        ("nan", None),
        ("inf", None),
        ("0x10", None),
        ("1e1", None),
        ("33 51", None),
        ("1" * 1000, None),
        ("", None),
    ],
)
def test_degrees_as_people_and_programs_write_them(text, expected):
    found = parse_degrees(text, "latitude")
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021:07:14 09:30:00+02:00", datetime.fromisoformat("2021-07-14T09:30:00+02:00")),
        ("2021:07:14 09:30:00Z", datetime(2021, 7, 14, 9, 30, tzinfo=UTC)),
        ("2021: 7: 4  9: 5: 6", datetime(2021, 7, 4, 9, 5, 6)),
        ("2021:07:14 09:30:00 PM", datetime(2021, 7, 14, 21, 30)),
        ("2021:07:14 12:30:00 am", datetime(2021, 7, 14, 0, 30)),
        ("20210714 093000", datetime(2021, 7, 14, 9, 30)),
        ("20210714T093000", datetime(2021, 7, 14, 9, 30)),
        ("2021:07:14:09:30:00", datetime(2021, 7, 14, 9, 30)),
        ("2021:07:14 09.30.15", datetime(2021, 7, 14, 9, 30, 15)),
        ("2021-07-14_09-30-15", datetime(2021, 7, 14, 9, 30, 15)),
        ("2021_07_14 09:30:15", datetime(2021, 7, 14, 9, 30, 15)),
        ("2021年07月14日 09:30:15".encode().decode("latin-1"), datetime(2021, 7, 14, 9, 30, 15)),
        ("2021:07:14 9:30:15 p.m.", datetime(2021, 7, 14, 21, 30, 15)),
        ("2021-07-14T09:30-02:00", datetime.fromisoformat("2021-07-14T09:30-02:00")),
        ("14/07/2021 09:30:00", None),
    ],
)
def test_times_of_odd_writers(text, expected):
    assert parse_moment(text) == expected


@pytest.mark.parametrize(
    ("offset", "hours"),
    [("+0200", 2), ("+2:00", 2), ("+02", 2), ("UTC+2", 2), ("-03:30", -3.5), ("UTC", 0)],
)
def test_offsets_of_odd_writers(offset, hours):
    block = exif_block(
        None, {0x9003: entry(ASCII, "2021:07:14 09:30:00"), 0x9011: entry(ASCII, offset)}
    )
    taken = open_photo(jpeg(smooth(), exif=block)).captured_at
    assert (datetime(2021, 7, 14, 9, 30, tzinfo=UTC) - taken).total_seconds() == 3600 * hours


def test_hours_from_utc_and_gps_time_as_text():
    fields = {0x9003: entry(ASCII, "2021:07:14 09:30:00"), 0x882A: entry(SHORT, 2)}
    taken = open_photo(jpeg(smooth(), exif=exif_block(None, fields))).captured_at
    assert taken == datetime(2021, 7, 14, 7, 30, tzinfo=UTC)
    gps = {29: entry(ASCII, "2021:07:14"), 7: entry(ASCII, "07:30:00.00")}
    taken = open_photo(jpeg(smooth(), exif=exif_block(gps=gps))).captured_at
    assert taken == datetime(2021, 7, 14, 7, 30, tzinfo=UTC)


def test_metadata_of_a_pil_image():
    image = Image.open(io.BytesIO(jpeg(smooth(), xmp=xmp(POSITION))))
    assert open_photo(image).position == (48.5, -2.25)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D850", "NIKON D850"),
        ("Apple", "iPhone 12", "Apple iPhone 12"),
        ("", "X100\0rest", "X100"),
        ("Evil\n\x1b[31m", "a" * 500, "Evil [31m " + "a" * 50),
        ("", "", None),
    ],
)
def test_camera_is_one_short_line_with_the_make_once(make, model, camera):
    image = Image.new("RGB", (8, 8))
    exif = image.getexif()
    exif[0x010F], exif[0x0110] = make, model
    assert image_facts(image).camera == camera
