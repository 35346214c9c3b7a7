import io
import struct

import numpy as np
import pytest
from PIL import Image

from geoclip_core.data import photos
from geoclip_core.data.headers import jpeg_header
from geoclip_core.data.photos import open_photo
from geoclip_core.errors import PhotoError
from train.benchmarks.hostile import jpeg, many_parts, raw, smooth, tiff, with_scans

EOI = b"\xff\xd9"
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def test_structure_of_a_jpeg():
    header = jpeg_header(jpeg(smooth((300, 200)), progressive=True))
    assert header.size == (300, 200)
    assert header.is_progressive
    assert len(header.scans) == 10
    assert header.is_complete
    assert header.has_end_marker
    assert header.buffered_bytes == 2 * 1.5 * 300 * 200
    plain = jpeg_header(jpeg(smooth((300, 200)), subsampling=0))
    assert (len(plain.scans), plain.buffered_bytes, plain.block) == (1, 0, (1, 1))
    assert jpeg_header(b"\x89PNG") is None


def test_hundreds_of_scans_of_a_large_jpeg_are_refused():
    content = with_scans(Image.new("RGB", (4000, 4000)), 200)
    assert len(content) < 10**6
    with pytest.raises(PhotoError, match="takes too long to decode: 210 scans of 4000 × 4000"):
        open_photo(content, draft_size=64)


def test_many_scans_of_a_small_jpeg_are_read():
    assert open_photo(with_scans(smooth((300, 200)), 100)).size == (300, 200)


def test_a_small_file_that_needs_gigabytes_is_refused(monkeypatch):
    stream = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(stream, "WEBP", lossless=True)
    assert len(stream.getvalue()) < 5000
    monkeypatch.setattr(photos, "MAX_MEMORY", 18 * 2000 * 2000)
    assert open_photo(stream.getvalue())
    monkeypatch.setattr(photos, "MAX_MEMORY", 18 * 2000 * 2000 - 1)
    with pytest.raises(PhotoError, match=r"needs 0\.072 GB of memory"):
        open_photo(stream.getvalue())


def test_the_coefficients_of_a_progressive_jpeg_count(monkeypatch):
    content = jpeg(smooth((400, 400)), progressive=True, subsampling=0)
    monkeypatch.setattr(photos, "MAX_MEMORY", 9 * 400 * 400)
    with pytest.raises(PhotoError, match="of memory"):
        open_photo(content)
    assert open_photo(jpeg(smooth((400, 400))))


def test_the_memory_of_large_photos_is_given_back():
    """glibc maps blocks above its largest threshold, 32 MB, and unmaps them when they are freed."""
    assert Image.core.get_block_size() > 32 * 2**20


def test_threads_share_the_memory(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(photos, "MAX_MEMORY", 100)
    memory, most = photos._Memory(), []

    def work(amount):
        with memory.reserved(amount, "x"):
            most.append(memory._reserved)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [100, 30, 30, 60, 90, 10] * 50))
    assert max(most) <= 100
    assert memory._reserved == 0


HOSTILE = many_parts()


@pytest.mark.parametrize("kind", HOSTILE)
def test_many_small_parts_are_refused(kind):
    with pytest.raises(PhotoError, match=r"has more .* than any photo"):
        open_photo(HOSTILE[kind])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("size", [(64, 48), (300, 200), (801, 603)])
def test_a_jpeg_without_its_end_marker_is_read(options, size):
    image = smooth(size)
    content = jpeg(image, **options)
    whole = np.asarray(open_photo(content).image)
    for cut in (content[:-1], content[:-2], content[:-2] + bytes(700), content[:-2] + b"\xff" * 9):
        assert (np.asarray(open_photo(cut).image) == whole).all()
        assert open_photo(cut, draft_size=20).size == size


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_a_jpeg_with_missing_rows_is_refused(options, share):
    content = jpeg(smooth((400, 300)), **options)
    part = content[: int(share * len(content))]
    for cut in (part, part + bytes(len(content) - len(part))):
        with pytest.raises(PhotoError, match="is cut off"):
            open_photo(cut)
        with pytest.raises(PhotoError, match="is cut off"):
            open_photo(cut, draft_size=50)


@pytest.mark.parametrize("height", [3000, 3008])
def test_one_missing_row_of_units_of_a_large_jpeg_is_refused(height):
    """It is half a percent of the picture."""
    content = jpeg(smooth((2000, height)), restart_marker_rows=1)
    last = max(content.rindex(bytes([0xFF, 0xD0 + number])) for number in range(8))
    with pytest.raises(PhotoError, match="is cut off"):
        open_photo(content[: last + 2])
    assert open_photo(content[:-8])


def test_an_end_marker_does_not_hide_missing_rows():
    content = jpeg(smooth((400, 300)))
    with pytest.raises(PhotoError, match="is cut off"):
        open_photo(content[: len(content) * 3 // 4] + EOI)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "quality": 95}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_grey_picture_is_whole(options, mode):
    assert open_photo(jpeg(Image.new(mode, (301, 203), "#808080"), **options)).size == (301, 203)


@pytest.mark.parametrize("kind", ["DNG", "CR2", "NEF", "ARW"])
def test_a_raw_file_is_read_from_its_full_size_preview(kind):
    image = smooth((640, 424))
    content = raw(jpeg(image), (648, 432), kind)
    photo = open_photo(content, name=f"IMG_1.{kind}")
    assert photo.format == kind
    assert photo.size == photo.image.size == (640, 424)
    assert np.abs(np.asarray(photo.image, int) - np.asarray(image)).mean() < 8
    assert open_photo(raw(jpeg(image), (1300, 860), kind)).size == (640, 424)
    assert open_photo(content, draft_size=200).image.size == (320, 212)


@pytest.mark.parametrize("kind", ["DNG", "CR2", "NEF", "ARW"])
def test_a_raw_file_without_a_full_size_preview_is_refused_by_name(kind):
    small = raw(jpeg(smooth((160, 120))), (6000, 4000), kind)
    with pytest.raises(
        PhotoError, match=rf"^IMG is a raw file \({kind}\) with a preview of only 160"
    ):
        open_photo(small, name="IMG")
    with pytest.raises(PhotoError, match=rf"^IMG is a raw file \({kind}\) with no preview"):
        open_photo(raw(None, (6000, 4000), kind), name="IMG")


def test_orientation_and_position_of_a_raw_file():
    gps = {1: b"S\0", 2: [33, 1, 51, 1, 30, 1], 3: b"E\0", 4: [151, 1, 12, 1, 36, 1]}
    photo = open_photo(_nef(jpeg(smooth((640, 424))), gps))
    assert photo.size == (424, 640)
    assert photo.position == pytest.approx((-33.858333, 151.21), abs=1e-5)
    assert photo.source == "EXIF"


def _nef(preview, gps):
    sensor = {254: 0, 256: 648, 257: 432, 262: 32803, 273: bytes(64), 279: 64}
    first = {254: 1, 256: 16, 257: 12, 262: 2, 271: b"NIKON\0", 274: 6, 330: sensor, 34853: gps}
    first |= {273: bytes(576), 279: 576}
    content = bytearray(tiff(first, {254: 1, 513: preview, 514: len(preview)}))
    # The six numbers of each angle are three rationals.
    for tag in (2, 4):
        at = content.index(struct.pack("<HHI", tag, 3, 6))
        numbers = struct.unpack_from("<6H", content, struct.unpack_from("<I", content, at + 8)[0])
        content[at : at + 12] = struct.pack("<HHII", tag, 5, 3, len(content))
        content += struct.pack("<6I", *numbers)
    return bytes(content)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm RAF"),
        (b"IIRO\x08\0\0\0", "Olympus ORF"),
        (b"IIU\0\x18\0\0\0", "Panasonic RW2"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "Canon CR3"),
    ],
)
def test_other_raw_files_are_refused_by_name(start, kind):
    with pytest.raises(PhotoError, match=rf"is a raw file \({kind}\): export it as JPEG"):
        open_photo(start + bytes(1000))


def test_a_tiff_that_begins_with_a_thumbnail():
    def page(image, reduced):
        width, height = image.size
        tags = {254: reduced, 256: width, 257: height, 258: [8, 8, 8], 259: 1, 262: 2, 277: 3}
        return tags | {278: height, 273: image.tobytes(), 279: 3 * width * height}

    image = smooth((320, 240))
    photo = open_photo(tiff(page(smooth((32, 24), seed=1), 1), page(image, 0)))
    assert photo.size == (320, 240)
    assert (np.asarray(photo.image) == np.asarray(image)).all()
    only = tiff({254: 1, 256: 16, 257: 12, 258: [8, 8, 8], 259: 1, 262: 2, 277: 3, 278: 12,
                 273: bytes(576), 279: 576, 330: {254: 0, 256: 4000, 257: 3000}})  # fmt: skip
    with pytest.raises(PhotoError, match="begins with a thumbnail"):
        open_photo(only)


@pytest.mark.parametrize("position", [0, 4, 8, 20, 60, 200])
def test_damaged_raw_files(position):
    content = bytearray(raw(jpeg(smooth((640, 424))), (648, 432), "DNG"))
    for byte in (0, 1, 127, 255):
        content[position] = byte
        try:
            result = open_photo(bytes(content)).format
        except PhotoError as error:
            result = str(error)
        assert result in {"DNG", "TIFF"} or result.startswith("photo ")
