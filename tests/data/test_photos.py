import io
import os
import struct
import subprocess
import sys
import zlib
from datetime import UTC, datetime

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

from geoclip_core.data import photos
from geoclip_core.data.metadata import PhotoFacts, read_exif
from geoclip_core.data.photos import PHOTO_SUFFIXES, open_photo, photo_files
from geoclip_core.errors import PhotoError
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

# pytest resets the warning filter that geoclip_core.data.photos sets.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

pillow_heif.register_heif_opener()  # to write HEIC; open_photo needs no help to read it

RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)
ORIENTATION, ORIGINAL, DIGITIZED, CHANGED = 0x0112, 0x9003, 0x9004, 0x0132
OFFSET, OFFSET_ORIGINAL, OFFSET_DIGITIZED = 0x9010, 0x9011, 0x9012
TAKEN = entry(ASCII, "2021:07:14 09:30:00")
SYDNEY = gps_fields(degrees(33, 51, 30), "S", degrees(151, 12, 36), "E")
POSITION = pytest.approx((-33.858333, 151.21), abs=1e-6)
EXIF = exif_block(
    {ORIENTATION: entry(SHORT, 1)},
    {ORIGINAL: TAKEN, OFFSET_ORIGINAL: entry(ASCII, "+10:00")},
    SYDNEY,
)
VALID = exif_block({ORIENTATION: entry(SHORT, 6)}, {ORIGINAL: TAKEN}, SYDNEY)
GREY = np.array([[0, 257 * 50, 65535]])


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(size=(64, 48), seed=0):
    """Return smooth noise, which survives lossy formats and is not symmetric."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def png(rows, colour_type, depth, *chunks):
    """Encode samples (height, width[, channels]) as PNG, also in modes Pillow cannot write."""
    height, width = rows.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


SAMPLES = {
    kind: encoded(picture(), kind, **({} if kind in {"TIFF", "GIF"} else {"exif": EXIF}))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF")
}


def pixels(photo):
    return [photo.image.getpixel((x, 0)) for x in range(photo.image.width)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_gives_the_same_picture(kind):
    original = picture()
    photo = open_photo(encoded(original, kind))
    assert photo.image.mode == "RGB"
    assert photo.image.size == photo.size == (64, 48)
    assert photo.format == kind
    difference = np.asarray(photo.image, dtype=float) - np.asarray(original)
    assert np.abs(difference).mean() < 12
    assert photo.position is None
    assert photo.captured_at is None


def test_position_and_pixels_of_a_heic_file():
    original = picture()
    photo = open_photo(encoded(original, "HEIF", exif=EXIF, quality=90), name="IMG_1.HEIC")
    assert photo.format == "HEIF"
    assert photo.image.size == (64, 48)
    assert np.abs(np.asarray(photo.image, dtype=float) - np.asarray(original)).mean() < 12
    assert photo.position == POSITION


def test_heic_is_read_without_registering_a_reader_first(tmp_path):
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(encoded(picture(), "HEIF"))
    script = (
        "import sys; from geoclip_core.data.photos import open_photo; "
        "assert 'pillow_heif' not in sys.modules; print(open_photo(sys.argv[1]).size)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip() == "(64, 48)", answer.stderr


def test_mpo_gives_its_first_image():
    first, second = picture(seed=1), Image.new("RGB", (32, 24), RED)
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    photo = open_photo(content)
    assert photo.format == "MPO"
    assert photo.image.size == (64, 48)
    assert open_photo(content, draft_size=20).image.size == (32, 24)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_position_and_time_of_every_format(kind):
    photo = open_photo(encoded(picture(), kind, exif=EXIF))
    assert photo.position == POSITION
    assert photo.captured_at == datetime(2021, 7, 13, 23, 30, tzinfo=UTC)


def test_metadata_of_the_file_is_not_copied_to_the_image():
    photo = open_photo(encoded(picture(), "JPEG", exif=EXIF, comment=b"mine"))
    assert photo.image.info == {}
    assert not dict(photo.image.getexif())
    again = open_photo(encoded(photo.image, "JPEG"))
    assert again.position is None


@pytest.mark.parametrize(
    ("orientation", "corner"),
    list(enumerate([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0), (1, 0), (1, 1), (0, 1)], start=1)),
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_orientation_is_applied_once(kind, orientation, corner):
    """``corner``: where the stored upper left ends up (Exif 2.32, table of Orientation)."""
    stored = Image.new("RGB", (64, 32), WHITE)
    stored.paste(RED, (0, 0, 16, 16))
    block = exif_block({ORIENTATION: entry(SHORT, orientation)})
    photo = open_photo(encoded(stored, kind, exif=block), draft_size=16)
    width, height = photo.image.size
    expected = (32, 64) if orientation >= 5 else (64, 32)
    assert photo.size == expected
    assert width / height == expected[0] / expected[1]
    x, y = corner[0] * (width - 1), corner[1] * (height - 1)
    assert photo.image.getpixel((x, y)) == pytest.approx(RED, abs=12)
    assert photo.image.getpixel((width - 1 - x, height - 1 - y)) == pytest.approx(WHITE, abs=12)


@pytest.mark.parametrize(("orientation", "corner"), [(3, (1, 1)), (6, (1, 0)), (8, (0, 1))])
def test_orientation_of_a_heic_is_applied_once(orientation, corner):
    """libheif already turns the picture, but leaves the tag in place."""
    stored = Image.new("RGB", (64, 32), WHITE)
    stored.paste(RED, (0, 0, 16, 16))
    block = exif_block({ORIENTATION: entry(SHORT, orientation)})
    photo = open_photo(encoded(stored, "HEIF", exif=block))
    assert photo.size == photo.image.size == ((64, 32) if orientation == 3 else (32, 64))
    x, y = (2 + side * (length - 5) for side, length in zip(corner, photo.size, strict=True))
    assert photo.image.getpixel((x, y)) == pytest.approx(RED, abs=12)


def test_orientation_of_a_tiff_is_applied_once():
    stored = Image.new("RGB", (64, 32), WHITE)
    stored.paste(RED, (0, 0, 16, 16))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 6
    photo = open_photo(encoded(stored, "TIFF", tiffinfo=tags))
    assert photo.size == photo.image.size == (32, 64)
    assert photo.image.getpixel((31, 0)) == RED


@pytest.mark.parametrize(
    ("size", "draft", "decoded"),
    [
        ((1600, 800), 200, (400, 200)),
        ((1600, 800), 201, (800, 400)),
        ((1600, 800), (200, 100), (200, 100)),
        ((1600, 800), 4000, (1600, 800)),
    ],
)
def test_a_draft_is_never_smaller_than_asked(size, draft, decoded):
    content = encoded(picture(size), "JPEG")
    photo = open_photo(content, draft_size=draft)
    assert photo.image.size == decoded
    assert photo.size == size
    assert open_photo(encoded(picture((160, 80)), "PNG"), draft_size=10).image.size == (160, 80)


def test_draft_size_means_the_upright_image():
    block = exif_block({ORIENTATION: entry(SHORT, 6)})
    photo = open_photo(encoded(picture((1600, 800)), "JPEG", exif=block), draft_size=(100, 200))
    assert photo.image.size == (100, 200)
    assert photo.size == (800, 1600)


@pytest.mark.parametrize(
    "content",
    [
        png(GREY, 0, 16),
        png(np.stack([GREY] * 3, -1), 2, 16),
        png(np.stack([GREY, np.full_like(GREY, 65535)], -1), 4, 16),
        encoded(Image.fromarray(GREY.astype("<u2")), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    ],
    ids=["grey", "rgb", "grey-alpha", "tiff", "tiff-32"],
)
def test_sixteen_bits_are_scaled_not_clipped(content):
    assert pixels(open_photo(content)) == [BLACK, (50, 50, 50), WHITE]


def test_wide_integers_that_hold_bytes_are_not_darkened():
    image = Image.fromarray(np.array([[0, 50, 255]], dtype=np.int32))
    assert pixels(open_photo(image)) == [BLACK, (50, 50, 50), WHITE]


def test_transparent_parts_become_white():
    half = [(127, 127, 255), (128, 128, 255)]
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(*RED, 255), (*GREEN, 0), (*BLUE, 128)])
    shown = pixels(open_photo(encoded(rgba, "PNG")))
    assert shown[:2] == [RED, WHITE]
    assert shown[2] in half
    palette = png(
        np.array([[0, 1, 2]]),
        3,
        8,
        (b"PLTE", bytes([*RED, *GREEN, *BLUE])),
        (b"tRNS", b"\xff\0\x80"),
    )
    shown = pixels(open_photo(palette))
    assert shown[:2] == [RED, WHITE]
    assert shown[2] in half
    keyed = png(np.array([[BLACK, RED]]), 2, 8, (b"tRNS", bytes(6)))
    assert pixels(open_photo(keyed)) == [WHITE, RED]
    grey = Image.new("LA", (2, 1))
    grey.putdata([(10, 255), (10, 0)])
    assert pixels(open_photo(encoded(grey, "PNG"))) == [(10, 10, 10), WHITE]


def test_colour_spaces_become_rgb():
    for mode in ("1", "L", "P", "CMYK", "YCbCr", "HSV", "PA", "RGBX"):
        image = Image.new("RGB", (8, 8), WHITE)
        image = image.convert("P").convert(mode) if mode == "PA" else image.convert(mode)
        photo = open_photo(image)
        assert photo.image.mode == "RGB"
        assert photo.image.getpixel((4, 4)) == pytest.approx(WHITE, abs=2)
    cmyk = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert open_photo(cmyk).image.getpixel((8, 8)) == pytest.approx(RED, abs=6)


def test_floating_point_images_are_refused():
    with pytest.raises(PhotoError, match="measurements"):
        open_photo(encoded(Image.new("F", (4, 4)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    assert open_photo(content).image.getpixel((8, 8)) == pytest.approx(RED, abs=6)


def test_every_kind_of_source(tmp_path):
    content = encoded(picture(), "JPEG", exif=EXIF)
    path = tmp_path / "Strand am Abend.jpg"
    path.write_bytes(content)
    for source in (path, str(path)):
        photo = open_photo(source)
        assert photo.name == "Strand am Abend.jpg"
        assert photo.position == POSITION
    stream = io.BytesIO(content)
    stream.name = "folder/upload.jpg"
    assert open_photo(stream).name == "upload.jpg"
    stream.read()
    assert open_photo(stream).name == "upload.jpg"
    with path.open("rb") as opened:
        assert open_photo(opened).name == "Strand am Abend.jpg"
    with pytest.raises(PhotoError, match="closed file"):
        open_photo(opened)
    assert open_photo(bytearray(content)).name == open_photo(memoryview(content)).name == "photo"
    with Image.open(path) as image:
        photo = open_photo(image, name="mine")
        assert (photo.name, photo.position) == ("mine", POSITION)
        assert image.info
    array = Image.fromarray(np.zeros((4, 5, 3), np.uint8))
    assert open_photo(array).size == (5, 4)


def test_a_pil_image_is_not_changed():
    image = picture()
    before = image.tobytes()
    photo = open_photo(image)
    photo.image.paste(RED, (0, 0, 64, 48))
    assert image.tobytes() == before


def test_the_format_is_recognised_by_the_bytes_not_the_suffix(tmp_path):
    path = tmp_path / "really-a.jpg"
    path.write_bytes(encoded(picture(), "PNG"))
    assert open_photo(path).format == "PNG"
    assert {".jpg", ".heic", ".png", ".webp"} <= PHOTO_SUFFIXES


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary, today I renamed a text file.\n",
        b"%PDF-1.7\n1 0 obj",
        b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
        b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + bytes(100),
        b"\0\0\0\x18ftypheic" + b"x" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\xff\xd8\xff",
        bytes(64),
    ],
    ids=["text", "pdf", "svg", "video", "empty-heic", "postscript", "jpeg-head", "zeros"],
)
def test_files_that_are_not_photos_are_refused_by_name(tmp_path, content):
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=r"^notes\.jpg (is not a photo|is damaged|is cut off)"):
        open_photo(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files(kind, share):
    content = encoded(picture((300, 200)), kind)
    with pytest.raises(PhotoError, match=r"^IMG is (cut off|damaged|not a photo)"):
        open_photo(content[: int(len(content) * share)], name="IMG")


def test_the_error_for_a_truncated_jpeg():
    content = encoded(picture((300, 200)), "JPEG")
    with pytest.raises(PhotoError, match="photo is cut off: the file ends before the image"):
        open_photo(content[: len(content) // 2])


def test_the_error_for_a_damaged_png():
    content = bytearray(encoded(picture(), "PNG"))
    content[60] ^= 0xFF
    with pytest.raises(PhotoError, match=r"photo is (damaged|cut off)"):
        open_photo(bytes(content))


def test_sources_that_cannot_be_read_give_a_short_message(tmp_path):
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for source, message in [
        (tmp_path / "empty.jpg", "empty.jpg is empty"),
        (b"", "photo is empty"),
        (tmp_path, "is a folder, not a photo"),
        (tmp_path / "pipe.jpg", "pipe.jpg is a device or a pipe"),
        (tmp_path / "missing.jpg", "missing.jpg does not exist in"),
        (tmp_path / "lost.jpg", "lost.jpg does not exist in"),
        (tmp_path / "empty.jpg" / "x.jpg", "x.jpg cannot be read: not a directory"),
        ("", "path of the photo is empty"),
        ("a\0b.jpg", r"a\?b.jpg is not a file name"),
        ("x" * 5000 + ".jpg", "cannot be read: file name too long"),
        (42, "not int"),
        (None, "not NoneType"),
        (io.StringIO("text"), "binary mode"),
    ]:
        with pytest.raises(PhotoError, match=message) as caught:
            open_photo(source)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_line_breaks_in_a_name_are_replaced_in_messages():
    with pytest.raises(PhotoError, match=r"^a\?b is empty\.$"):
        open_photo(b"", name="a\nb")


def test_limit_on_bytes(tmp_path, monkeypatch):
    content = encoded(picture(), "PNG")
    path = tmp_path / "big.png"
    path.write_bytes(content)
    monkeypatch.setattr(photos, "MAX_BYTES", len(content))
    assert open_photo(path)
    monkeypatch.setattr(photos, "MAX_BYTES", len(content) - 1)
    for source in (path, content, io.BytesIO(content)):
        with pytest.raises(PhotoError, match="larger than 0 MB"):
            open_photo(source)


def test_limit_on_pixels_is_checked_before_decoding(monkeypatch):
    bomb = encoded(Image.new("1", (15_000, 15_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(PhotoError, match=r"15000 × 15000 pixels; at most 210 million"):
        open_photo(bomb)
    monkeypatch.setattr(photos, "MAX_PIXELS", 64 * 48)
    assert open_photo(picture())
    monkeypatch.setattr(photos, "MAX_PIXELS", 1000)
    with pytest.raises(PhotoError, match="pixels"):
        open_photo(picture())


def test_a_phone_photo_of_200_megapixels_is_read_as_a_draft():
    photo = open_photo(encoded(Image.new("L", (16_320, 12_240)), "JPEG"), draft_size=512)
    assert photo.size == (16_320, 12_240)
    assert 512 <= min(photo.image.size) < 2_100


def test_a_header_that_claims_billions_of_pixels():
    huge = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    content = bytearray(png(np.zeros((1, 1, 3)), 2, 8))
    content[16:29] = huge
    content[29:33] = struct.pack(">I", zlib.crc32(b"IHDR" + huge))
    with pytest.raises(PhotoError, match="more pixels than"):
        open_photo(bytes(content))


def test_compressed_text_of_80_megabytes_is_refused():
    bomb = zlib.compress(bytes(80_000_000), 9)
    content = png(np.zeros((4, 4)), 0, 8, (b"zTXt", b"Comment\0\0" + bomb))
    with pytest.raises(PhotoError, match="damaged"):
        open_photo(content)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_overwritten_bytes_give_a_photo_or_a_photo_error(kind, position, damage):
    content = bytearray(SAMPLES[kind])
    position %= len(content)
    content[position : position + len(damage)] = damage
    with pytest.MonkeyPatch.context() as patch:
        # A damaged header may claim a hundred million pixels, which take long to decode.
        patch.setattr(photos, "MAX_PIXELS", 10_000_000)
        try:
            result = open_photo(bytes(content)).image.mode
        except PhotoError as error:
            result = str(error)
    assert result == "RGB" or (result.startswith("photo ") and result.endswith("."))


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

    return facts_of(exif_block(text(top), text(exif), gps)).captured_at


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
        # Text, as exiftool reads it.
        (entry(ASCII, "33.85 N"), 33.85),
        (entry(ASCII, "33.85"), 33.85),
        (entry(ASCII, "33,51.5"), 33.858333),
        (entry(ASCII, "33,51,30"), 33.858333),
        (entry(ASCII, "33 51 30"), 33.858333),
    ],
)
def test_degrees_in_every_notation(latitude, expected):
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
        entry(ASCII, "33.85 S"),
        entry(ASCII, "33 degrees"),
        entry(UNDEFINED, b"\x01\x02\x03"),
    ],
)
def test_invalid_degrees_give_no_position(latitude):
    assert position_of(gps_fields(latitude, "N", degrees(151, 12, 36), "E")) == (None, None)


def test_longitude_180_becomes_minus_180_and_more_is_invalid():
    assert position_of(gps_fields(degrees(1, 0, 0), "N", degrees(180, 0, 0), "E")) == (1, -180)
    assert position_of(gps_fields(degrees(1, 0, 0), "N", degrees(180, 0, 1), "E")) == (None, None)


@pytest.mark.parametrize(
    ("north", "east"), [(None, "E"), ("S", None), ("X", "E"), ("E", "N"), ("", "E")]
)
def test_an_unknown_hemisphere_is_not_guessed(north, east):
    gps = gps_fields(degrees(33, 51, 30), north, degrees(151, 12, 36), east)
    assert position_of(gps) == (None, None)


def test_a_negative_number_replaces_a_missing_hemisphere():
    signed = entry(SIGNED_RATIONAL, (-33, 1), (51, 1), (30, 1))
    gps = gps_fields(signed, None, entry(SIGNED_RATIONAL, (-151, 1)), "W")
    assert position_of(gps) == pytest.approx((-33.858333, -151), abs=1e-6)
    assert position_of(gps_fields(signed, "N", degrees(151), "E")) == (None, None)
    each = entry(SIGNED_RATIONAL, (-33, 1), (-51, 1), (-30, 1))
    assert position_of(gps_fields(each, "S", degrees(151), "E"))[0] == pytest.approx(-33.858333)


def test_a_position_at_null_island_is_dropped():
    assert position_of(gps_fields(degrees(0, 0, 0), "N", degrees(0, 0, 0), "E")) == (None, None)
    on_the_equator = gps_fields(degrees(0, 0, 0), "N", degrees(9, 27, 0), "E")
    assert position_of(on_the_equator) == pytest.approx((0, 9.45))


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_incomplete_position_is_none(missing):
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


def test_gps_time_is_used_where_the_camera_gives_no_offset():
    gps = {29: entry(ASCII, "2021:07:13"), 7: degrees(23, 30, (59_500, 1000))}
    stamp = datetime(2021, 7, 13, 23, 30, 59, tzinfo=UTC)
    assert time_of(gps=gps) == stamp
    assert time_of(exif={ORIGINAL: "2021:07:14 09:30:59"}, gps=gps) == stamp
    known = {ORIGINAL: "2021:07:14 09:31:07", OFFSET_ORIGINAL: "+10:00"}
    assert time_of(exif=known, gps=gps) == datetime(2021, 7, 13, 23, 31, 7, tzinfo=UTC)


def test_gps_time_far_from_the_camera_clock_is_ignored():
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
def test_incomplete_gps_time_is_none(gps):
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
def test_capture_time_in_every_notation(text, expected):
    assert time_of(exif={ORIGINAL: text}) == expected


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_unknown_orientation_values_mean_upright(value):
    assert facts_of(exif_block({ORIENTATION: entry(SHORT, value)})).orientation == 1


def test_orientation_of_the_wrong_type_means_upright():
    assert facts_of(exif_block({ORIENTATION: entry(ASCII, "left")})).orientation == 1
    assert facts_of(exif_block({ORIENTATION: entry(SHORT, 6)})).orientation == 6


@pytest.mark.slow
@given(hostile_blocks)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_fields_never_raise_or_give_an_invalid_position(block):
    facts = facts_of(block)
    if facts.latitude is not None:
        assert -90 <= facts.latitude <= 90
        assert -180 <= facts.longitude < 180
    assert facts.latitude is None or facts.longitude is not None
    assert 1 <= facts.orientation <= 8


@pytest.mark.slow
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
def test_random_bytes_as_exif_never_raise(garbage):
    assert isinstance(facts_of(b"Exif\0\0" + garbage), PhotoFacts)


def test_a_directory_that_points_to_itself_is_read_once():
    loop = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 0x8825, 4, 1, 8) + b"\0\0\0\x08"
    assert facts_of(loop) == PhotoFacts()


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + fixed(*values)


def profile_of(space: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    """Return a colour profile of a space ("RGB ", "GRAY") with a name and further tags."""
    text = name.encode("utf-16be")
    named = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    tags = {b"desc": named, b"cprt": named, b"wtpt": xyz(0.96419, 1, 0.82489), **tags}
    start = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, start + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s28s", start + len(data), b"appl", 0x04000000, b"mntr", space, b"XYZ ",
        bytes(12), b"acsp", bytes(28),
    )  # fmt: skip
    return head + fixed(0.9642, 1, 0.82491) + bytes(48) + table + data


def linear_grey() -> bytes:
    """Return a profile of greys whose numbers are proportional to light."""
    return profile_of(b"GRAY", "linear", {b"kTRC": b"curv\0\0\0\0\0\0\0\0"})


def display_p3() -> bytes:
    """Return a profile with the primaries of Display P3 and the curve of sRGB, as phones embed."""
    curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    return profile_of(b"RGB ", "Display P3", tags)


def test_a_wide_colour_profile_is_converted_to_srgb():
    """The expected colour follows from the matrices of both spaces (SMPTE EG 432-1, IEC 61966)."""
    profile = display_p3()
    for kind, options in (("JPEG", {"quality": 98, "subsampling": 0}), ("PNG", {}), ("TIFF", {})):
        image = Image.new("RGB", (16, 16), (200, 100, 50))
        content = encoded(image, kind, icc_profile=profile, **options)
        assert open_photo(content).image.getpixel((8, 8)) == pytest.approx((215, 93, 31), abs=3)
        assert open_photo(encoded(image, kind, **options)).image.getpixel((8, 8)) == pytest.approx(
            (200, 100, 50), abs=2
        )
    grey = encoded(Image.new("RGB", (16, 16), (90, 90, 90)), "PNG", icc_profile=profile)
    assert open_photo(grey).image.getpixel((8, 8)) == pytest.approx((90, 90, 90), abs=1)
    clear = encoded(Image.new("RGBA", (16, 16), (200, 100, 50, 0)), "PNG", icc_profile=profile)
    assert open_photo(clear).image.getpixel((8, 8)) == WHITE
    turned = encoded(
        picture((64, 32)),
        "JPEG",
        icc_profile=profile,
        exif=exif_block({ORIENTATION: entry(SHORT, 6)}),
    )
    assert open_photo(turned, draft_size=8).size == (32, 64)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_profile_of_greys_is_converted(mode):
    """A linear 55 is 128 in sRGB (IEC 61966), however many bits it has."""
    image = Image.new(mode, (16, 16), {"L": 55, "LA": (55, 255), "I;16": 55 * 257}[mode])
    content = encoded(image, "PNG", icc_profile=linear_grey())
    assert open_photo(content).image.getpixel((8, 8)) == pytest.approx((128, 128, 128), abs=1)


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = encoded(picture(), "PNG", icc_profile=profile)
    assert (np.asarray(open_photo(content).image) == np.asarray(picture())).all()


@pytest.mark.parametrize(
    "profile",
    [
        b"x",
        b"not a profile" * 100,
        display_p3()[:200],
        display_p3()[:16] + b"CMYK" + display_p3()[20:],
        display_p3()[:16] + b"GRAY" + display_p3()[20:],
        display_p3()[:12] + b"link" + display_p3()[16:],
        display_p3()[:128] + b"\xff" * 400,
        display_p3() + bytes(photos.MAX_PROFILE),
    ],
    ids=["short", "text", "cut", "cmyk", "grey", "link", "table", "large"],
)
def test_a_broken_profile_does_not_cost_the_photo(profile):
    content = encoded(picture(), "TIFF", icc_profile=profile)
    assert (np.asarray(open_photo(content).image) == np.asarray(picture())).all()


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_mutated_profiles_never_raise(changes):
    profile = bytearray(display_p3())
    for position, value in changes:
        profile[position % len(profile)] = value
    photo = open_photo(encoded(picture((8, 8)), "PNG", icc_profile=bytes(profile)))
    assert (photo.image.mode, photo.image.size) == ("RGB", (8, 8))


def test_one_walk_finds_photos_and_nothing_else(tmp_path):
    for name in ("b/IMG_2.JPG", "a.heic", "b/raw.dng", "b/IMG_1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    others = "@eaDir/a.jpg/x.jpg __MACOSX/a.jpg #recycle/a.jpg $RECYCLE.BIN/a.jpg mine/out.jpg"
    for name in (".hidden.jpg", "._a.jpg", "notes.txt", ".thumbnails/1.jpg", *others.split()):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to("a.heic")
    found = [p.relative_to(tmp_path).as_posix() for p in photo_files(tmp_path, tmp_path / "mine")]
    assert found == ["a.heic", "link.jpg", "b/IMG_1.jpg", "b/IMG_2.JPG", "b/raw.dng"]
