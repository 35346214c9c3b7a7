"""Reading photos that nobody vouches for: any bytes in, an upright RGB image or a clear error out.

Only camera and web formats are tried, limits on bytes and pixels hold before anything is decoded,
and every failure is a :class:`PhotoError` whose text can be shown to the person who dropped the
file.
"""

import io
import math
import os
import re
import stat
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from geoclip_core.errors import PhotoError

MAX_BYTES = 128 * 2**20

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO


def read_source(source: Source, name: str | None, max_bytes: int) -> tuple[bytes, str]:
    """The bytes of a path, bytes or a binary file, and what to call them in a message.

    Raises:
        PhotoError: if there is nothing to read, or more than ``max_bytes``.
    """
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise PhotoError("The path of the photo is empty.")
        label = printable(name or Path(source).name or str(source))
        content = _file_content(Path(source), label, max_bytes)
    elif isinstance(source, bytes | bytearray | memoryview):
        label, content = printable(name or "photo"), bytes(source)
    elif hasattr(source, "read"):
        label = printable(name or Path(str(getattr(source, "name", "") or "photo")).name)
        content = _stream_content(source, label, max_bytes)
    else:
        raise PhotoError(
            f"A photo is a path, bytes, a binary file or a PIL image, not {type(source).__name__}."
        )
    if not content:
        raise PhotoError(f"{label} is empty.")
    if len(content) > max_bytes:
        raise PhotoError(_too_many_bytes(label, max_bytes))
    return content, label


def _file_content(path: Path, label: str, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PhotoError(f"{label} is a folder, not a photo.")
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError(f"{label} is a device or a pipe, not a photo.")
        if status.st_size > max_bytes:
            raise PhotoError(_too_many_bytes(label, max_bytes))
        with path.open("rb") as stream:
            return stream.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise PhotoError(f"{label} does not exist in {path.absolute().parent}.") from error
    except PermissionError as error:
        raise PhotoError(f"{label} may not be read: permission denied.") from error
    except PhotoError:
        raise
    except OSError as error:
        raise PhotoError(f"{label} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise PhotoError(f"{label} is not a file name: {error}.") from error


def _stream_content(stream: BinaryIO, label: str, max_bytes: int) -> bytes:
    try:
        # An upload that a page has read before is at its end: getvalue() starts over.
        whole = getattr(stream, "getvalue", None)
        content = whole() if whole else stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise PhotoError(f"{label} cannot be read: {error}.") from error
    if not isinstance(content, bytes):
        raise PhotoError(f"{label} was opened as text: open it in binary mode.")
    return content


def printable(name: str) -> str:
    """A file name fit for a message: one line, of a length that leaves room for the sentence."""
    name = "".join(character if character.isprintable() else "?" for character in name)
    return name if len(name) <= 80 else f"{name[:50]}…{name[-25:]}"


def _too_many_bytes(label: str, max_bytes: int) -> str:
    return f"{label} is larger than {max_bytes / 2**20:,.0f} MB, the most that is read."


_ORIENTATION, _DATE_TIME, _EXIF_IFD, _GPS_IFD = 0x0112, 0x0132, 0x8769, 0x8825
_ORIGINAL, _DIGITIZED = 0x9003, 0x9004
_OFFSET, _OFFSET_ORIGINAL, _OFFSET_DIGITIZED = 0x9010, 0x9011, 0x9012
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_GPS_TIME, _GPS_DATE = 7, 29

_DATE = re.compile(r"(\d{4})[:/.-](\d{1,2})[:/.-](\d{1,2})")
_TIME = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?")
_ZONE = re.compile(r"([+-])(\d{2}):?(\d{2})")

NULL_ISLAND_DEGREES = 1e-6
"""Nearer to (0, 0) than this is a receiver without a fix, not a photo in the Gulf of Guinea."""

LARGEST_CLOCK_DIFFERENCE = timedelta(hours=26)
"""Time zones span −12 to +14 h: a satellite stamp further from the camera's own is stale."""

YEARS = range(1826, 2262)
"""From the first photograph to the end of nanosecond timestamps."""


@dataclass(frozen=True)
class ExifFacts:
    """Position in degrees, capture time, and how to turn the stored pixels upright (1–8)."""

    latitude: float | None = None
    longitude: float | None = None
    captured_at: datetime | None = None
    captured_at_is_utc: bool = False
    orientation: int = 1


def read_exif(image: Image.Image) -> ExifFacts:
    """The facts in an opened image's EXIF; fields that are missing or not credible are None.

    ``captured_at`` is in UTC (and aware of it) if the offset is known from OffsetTimeOriginal or
    the satellites' own clock was written; otherwise it is the naive local time of the camera.
    """
    # Any exception: Pillow's EXIF reader raises a dozen kinds on damaged blocks, and a photo with
    # damaged EXIF is still a photo.
    try:
        exif = image.getexif()
        top = dict(exif)
    except Exception:
        return ExifFacts()
    gps = _directory(exif, _GPS_IFD)
    position = _position(gps)
    captured_at = _captured_at(top, _directory(exif, _EXIF_IFD), gps)
    orientation = top.get(_ORIENTATION)
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    return ExifFacts(
        latitude=position[0] if position else None,
        longitude=position[1] if position else None,
        captured_at=captured_at,
        captured_at_is_utc=captured_at is not None and captured_at.tzinfo is not None,
        orientation=orientation,
    )


def _directory(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(tag))
    except Exception:  # the same: a damaged directory is an absent one
        return {}


def _position(gps: dict[int, Any]) -> tuple[float, float] | None:
    latitude = _degrees(gps.get(_LATITUDE), gps.get(_LATITUDE_REF), "N", "S", limit=90)
    longitude = _degrees(gps.get(_LONGITUDE), gps.get(_LONGITUDE_REF), "E", "W", limit=180)
    if latitude is None or longitude is None:
        return None
    if max(abs(latitude), abs(longitude)) < NULL_ISLAND_DEGREES:
        return None
    return latitude, -180.0 if longitude == 180 else longitude


def _degrees(value: Any, reference: Any, positive: str, negative: str, limit: int) -> float | None:
    """Signed degrees of (degrees, minutes, seconds), or None.

    Without a hemisphere the sign is unknown, and guessing it may be wrong by half the Earth: only
    writers that put the sign into the (then signed) number are believed.
    """
    parts = _numbers(value)
    if parts is None or not 1 <= len(parts) <= 3:
        return None
    degrees, minutes, seconds = (*parts, 0.0, 0.0)[:3]
    if not (0 <= minutes <= 60 and 0 <= seconds <= 60):
        return None
    magnitude = abs(degrees) + minutes / 60 + seconds / 3600
    signed = math.copysign(1.0, degrees) < 0
    hemisphere = (_text(reference) or "")[:1].upper()
    if magnitude > limit or hemisphere not in {positive, negative, ""}:
        return None
    if hemisphere == negative:
        return -magnitude
    if signed:
        return -magnitude if hemisphere == "" else None
    return magnitude if hemisphere == positive else None


def _captured_at(top: dict[int, Any], exif: dict[int, Any], gps: dict[int, Any]) -> datetime | None:
    stamps = [
        (_moment(exif.get(_ORIGINAL)), _zone(exif.get(_OFFSET_ORIGINAL))),
        (_moment(exif.get(_DIGITIZED)), _zone(exif.get(_OFFSET_DIGITIZED))),
        # The time of the last change: right for untouched photos, and the last resort.
        (_moment(top.get(_DATE_TIME)), _zone(exif.get(_OFFSET))),
    ]
    local, zone = next(((moment, zone) for moment, zone in stamps if moment), (None, None))
    if local is not None and zone is not None:
        return local.replace(tzinfo=zone).astimezone(UTC)
    satellite = _satellite_time(gps)
    if satellite is None:
        return local
    if local is not None:
        difference = satellite.replace(tzinfo=None) - local
        if abs(difference) > LARGEST_CLOCK_DIFFERENCE:
            return local
    return satellite


def _satellite_time(gps: dict[int, Any]) -> datetime | None:
    """GPSDateStamp and GPSTimeStamp, which are in UTC; None unless both are there."""
    date, parts = _DATE.match(_text(gps.get(_GPS_DATE)) or ""), _numbers(gps.get(_GPS_TIME))
    if date is None or parts is None or len(parts) != 3:
        return None
    hours, minutes, seconds = parts
    if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds < 61):
        return None
    day = _datetime(*(int(group) for group in date.groups()))
    if day is None:
        return None
    passed = timedelta(hours=int(hours), minutes=int(minutes), seconds=int(min(seconds, 59)))
    return (day + passed).replace(tzinfo=UTC)


def _moment(value: Any) -> datetime | None:
    """A naive time from "2021:07:14 09:30:00" or its common misspellings."""
    text = _text(value) or ""
    date = _DATE.match(text)
    if date is None:
        return None
    time = _TIME.match(text[date.end() :].lstrip(" T"))
    if time is None:
        return None
    numbers = [int(group or 0) for group in (*date.groups(), *time.groups())]
    numbers[5] = min(numbers[5], 59) if numbers[5] == 60 else numbers[5]
    return _datetime(*numbers)


def _datetime(*numbers: int) -> datetime | None:
    if numbers[0] not in YEARS:
        return None
    try:
        return datetime(*numbers)
    except ValueError:  # 0000:00:00 and other days that never were
        return None


def _zone(value: Any) -> timezone | None:
    text = _text(value)
    if text is None:
        return None
    if text.upper() == "Z":
        return UTC
    match = _ZONE.fullmatch(text)
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    if offset > timedelta(hours=15) or int(match[3]) >= 60:
        return None
    return timezone(-offset if match[1] == "-" else offset)


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return None
    return value.split("\0")[0].strip() or None


def _numbers(value: Any) -> list[float] | None:
    """A rational, or a sequence of them, as finite floats; None if any is undefined (x/0)."""
    values = value if isinstance(value, tuple | list) else [value]
    numbers = []
    for entry in values:
        if isinstance(entry, bool | str | bytes) or entry is None:
            return None
        try:
            number = float(entry)
        except (TypeError, ValueError, ArithmeticError):
            return None
        if not math.isfinite(number):
            return None
        numbers.append(number)
    return numbers


MAX_PIXELS = 120_000_000
"""Above the 108 megapixels of most phones; three bytes of memory each."""
MAX_JPEG_PIXELS = 210_000_000
"""The same for JPEG, in which phones write up to 200 megapixels."""

# Pillow refuses twice this number by itself; its default lies below what phones write.
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".heic", ".heif", ".hif"}
    | {".avif", ".gif", ".bmp", ".tif", ".tiff"}
)
"""File names by which a folder is searched for photos; what a file is, its bytes decide."""

# MPO is no format of its own to Pillow: its JPEG reader recognises it.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
_DRAFTABLE = {"JPEG", "MPO"}
_CUT_OFF = ("truncated", "end of file", "bytes not processed")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of every oddity in a file, and of more than 89 megapixels. Here odd files are the
# normal case, and what matters is raised as a PhotoError: the warnings would only fill the log.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Photo:
    """An upright RGB image and what its EXIF says; ``size`` is (width, height) before drafting."""

    image: Image.Image
    name: str
    format: str
    size: tuple[int, int]
    latitude: float | None = None
    longitude: float | None = None
    captured_at: datetime | None = None
    captured_at_is_utc: bool = False

    @property
    def position(self) -> tuple[float, float] | None:
        """(latitude, longitude) in degrees from the EXIF, or None."""
        if self.latitude is None or self.longitude is None:
            return None
        return self.latitude, self.longitude


def open_photo(
    source: Source | Image.Image,
    *,
    name: str | None = None,
    max_pixels: int | None = None,
    max_bytes: int = MAX_BYTES,
    draft_size: int | tuple[int, int] | None = None,
) -> Photo:
    """Decode a photo from a path, bytes, a binary file or a PIL image.

    Args:
        source: what to read. A PIL image is copied, never changed.
        name: how to call it in errors; by default the file name.
        max_pixels: refuse larger images before decoding them; by default `MAX_JPEG_PIXELS` for a
            JPEG and `MAX_PIXELS` for anything else.
        max_bytes: refuse larger files before reading them.
        draft_size: a side, or (width, height), that is enough: a JPEG is then decoded at the
            smallest of 1/1, 1/2, 1/4, 1/8 that is no smaller (3 times faster for large photos).

    Returns:
        The photo, upright, in 8-bit RGB: 16-bit greys are scaled, transparency lies on white, of
        an animation the first frame is taken.

    Raises:
        PhotoError: for anything that is not a readable photo within the limits.
    """
    if isinstance(source, Image.Image):
        label = printable(name or Path(getattr(source, "filename", "") or "photo").name)
        return _decoded(source, label, max_pixels, draft_size=None)
    content, label = read_source(source, name, max_bytes)
    with _opened(content, label) as image:
        return _decoded(image, label, max_pixels, draft_size)


def read_photo_exif(source: Source | Image.Image, *, name: str | None = None) -> ExifFacts:
    """Position and time of a photo without decoding its pixels (PNG excepted).

    Raises:
        PhotoError: if it is no image at all.
    """
    if isinstance(source, Image.Image):
        return read_exif(source)
    content, label = read_source(source, name, MAX_BYTES)
    with _opened(content, label) as image:
        _check_size(image, label, None)
        return read_exif(image)


def _opened(content: bytes, label: str) -> Image.Image:
    Image.init()  # Registers all formats: open() does not, for formats that it is asked for.
    formats = _FORMATS
    if content[4:8] == b"ftyp":
        from pillow_heif import register_heif_opener

        register_heif_opener()
        formats = (*_FORMATS, "HEIF")
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise PhotoError(
            f"{label} is not a photo that can be read here "
            "(JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF)."
        ) from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{label} has more pixels than are ever read: {error}") from error
    except Exception as error:
        # Decoders raise anything on crafted bytes; whatever it is, the file is what is wrong.
        reason = str(error).rstrip(".") or type(error).__name__
        raise PhotoError(f"{label} is damaged: {reason}.") from error


def _check_size(image: Image.Image, label: str, max_pixels: int | None) -> None:
    if max_pixels is None:
        max_pixels = MAX_JPEG_PIXELS if image.format in _DRAFTABLE else MAX_PIXELS
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoError(
            f"{label} has {width} × {height} pixels; at most {max_pixels / 1e6:,.4g} million "
            "are read."
        )


def _decoded(
    image: Image.Image,
    label: str,
    max_pixels: int | None,
    draft_size: int | tuple[int, int] | None,
) -> Photo:
    _check_size(image, label, max_pixels)
    size, photo_format = image.size, image.format or image.mode
    try:
        if draft_size is not None and photo_format in _DRAFTABLE:
            wanted = (draft_size, draft_size) if isinstance(draft_size, int) else draft_size
            turned = read_exif(image).orientation >= 5
            image.draft("RGB", wanted[::-1] if turned else wanted)
        image.load()
        # After decoding: a PNG may hold its EXIF behind the pixels.
        facts = read_exif(image)
        upright = _rgb(image, label)
        if facts.orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[facts.orientation])
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError(f"{label} does not fit into memory.") from error
    except Exception as error:
        # The same as above: crafted or cut-off bytes, found while decoding.
        reason = str(error) or type(error).__name__
        if isinstance(error, EOFError) or any(sign in reason.lower() for sign in _CUT_OFF):
            raise PhotoError(f"{label} is cut off: the file ends before the picture.") from error
        raise PhotoError(f"{label} is damaged: {reason.rstrip('.')}.") from error
    # Pixels only: what the file said about itself must not travel on with copies of the image.
    upright.info = {}
    return Photo(
        image=upright,
        name=label,
        format=photo_format,
        size=size[::-1] if facts.orientation >= 5 else size,
        latitude=facts.latitude,
        longitude=facts.longitude,
        captured_at=facts.captured_at,
        captured_at_is_utc=facts.captured_at_is_utc,
    )


def _rgb(image: Image.Image, label: str) -> Image.Image:
    """A new 8-bit RGB image; transparent parts are laid on white."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255 and would turn 16-bit greys white.
        grey = np.asarray(image).clip(0, 65535).astype(np.float32)
        if image.mode != "I" or grey.max() > 255:
            grey /= 257
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PhotoError(f"{label} holds measurements (floating point), not a photo.")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(layered, mask=layered.getchannel("A"))
        return white
    return image.copy() if image.mode == "RGB" else image.convert("RGB")
