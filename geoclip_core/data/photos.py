"""Read photos from files that may be damaged, hostile or of any format.

`open_photo` turns bytes into an upright RGB image with position and time from its EXIF, or raises a
:class:`PhotoError` whose text can be shown to the user. Only camera and web formats are tried, and
the limits on bytes and pixels are checked before anything is decoded.
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
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError

from geoclip_core.errors import PhotoError

MAX_BYTES = 128 * 2**20
"""Larger files are refused before they are read."""
MAX_PIXELS = 120_000_000
"""Above the 108 megapixels of most phones; a pixel takes three bytes of memory."""
MAX_JPEG_PIXELS = 210_000_000
"""The same limit for JPEG, because phones write JPEGs of up to 200 megapixels."""

CHECK_DRAFT = 64
"""Draft size for checking a file: every block of a JPEG is read, but few pixels are made."""

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".heic", ".heif", ".hif"}
    | {".avif", ".gif", ".bmp", ".tif", ".tiff"}
)
"""Suffixes of the photos in a folder; the format itself is recognised by the bytes."""

NULL_ISLAND_DEGREES = 1e-6
"""Positions closer to (0, 0) than this are dropped: they come from receivers without a fix."""

LARGEST_CLOCK_DIFFERENCE = timedelta(hours=26)
"""Time zones span −12 to +14 h; a GPS time further from the camera's clock is stale."""

YEARS = range(1826, 2262)
"""Valid years, from the first photograph to the end of nanosecond timestamps."""

# MPO is not listed: Pillow's JPEG reader recognises it.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
_DRAFTABLE = {"JPEG", "MPO"}
_TRUNCATED = ("truncated", "end of file", "bytes not processed")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ORIENTATION, _DATE_TIME, _EXIF_IFD, _GPS_IFD = 0x0112, 0x0132, 0x8769, 0x8825
_ORIGINAL, _DIGITIZED = 0x9003, 0x9004
_OFFSET, _OFFSET_ORIGINAL, _OFFSET_DIGITIZED = 0x9010, 0x9011, 0x9012
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_GPS_TIME, _GPS_DATE = 7, 29

_DATE = re.compile(r"(\d{4})[:/.-](\d{1,2})[:/.-](\d{1,2})")
_TIME = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?")
_ZONE = re.compile(r"([+-])(\d{2}):?(\d{2})")

# Pillow raises above twice this number; its default is too low for phone photos.
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS

# Odd files are normal here and real problems are raised as PhotoError, so Pillow's warnings would
# only fill the log.
warnings.filterwarnings("ignore", module=r"PIL\.")


@runtime_checkable
class Readable(Protocol):
    """A file opened in binary mode, or anything that reads like one."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, or all that are left."""


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable


@dataclass(frozen=True)
class ExifFacts:
    """Position, time and orientation in an EXIF block; missing or implausible values are None.

    ``captured_at`` is an aware datetime in UTC if a time zone or a GPS time is given, otherwise the
    naive local time of the camera.
    """

    latitude: float | None = None  # degrees
    longitude: float | None = None  # degrees
    captured_at: datetime | None = None
    orientation: int = 1  # EXIF code (1-8) of the turn that makes the stored pixels upright


@dataclass(frozen=True)
class Photo:
    """An upright RGB image, and position and time from its EXIF."""

    image: Image.Image
    name: str  # for messages
    format: str  # as Pillow calls it, for example "JPEG"
    size: tuple[int, int]  # upright (width, height) of the file; a draft's image is smaller
    latitude: float | None = None  # degrees
    longitude: float | None = None  # degrees
    captured_at: datetime | None = None  # as in `ExifFacts`

    @property
    def position(self) -> tuple[float, float] | None:
        """Latitude and longitude in degrees from the EXIF, or None."""
        if self.latitude is None or self.longitude is None:
            return None
        return self.latitude, self.longitude


def open_photo(
    source: Source | Image.Image,
    *,
    name: str | None = None,
    draft_size: int | tuple[int, int] | None = None,
) -> Photo:
    """Decode a photo from a path, bytes, a binary file or a PIL image.

    Args:
        source: What to read. A PIL image is copied, never changed.
        name: Its name in errors; by default the file name.
        draft_size: Smallest side, or (width, height), that suffices in pixels: a JPEG is decoded at
            the smallest of 1/1, 1/2, 1/4, 1/8 that reaches it (3 times faster for large photos).

    Returns:
        The photo, upright, in 8-bit RGB. 16-bit greys are scaled, transparent parts become white,
        and an animation gives its first frame.

    Raises:
        PhotoError: the source is not a readable photo, or exceeds `MAX_BYTES` or the limit on
            pixels.
    """
    if isinstance(source, Image.Image):
        label = printable(name or Path(getattr(source, "filename", "") or "photo").name)
        return _decoded(source, label, draft_size=None)
    content, label = read_source(source, name)
    with _opened(content, label) as image:
        return _decoded(image, label, draft_size)


def read_source(source: Source, name: str | None) -> tuple[bytes, str]:
    """Return the bytes of a path, bytes or a binary file, and its name for messages.

    Raises:
        PhotoError: there is nothing to read, or more than `MAX_BYTES`.
    """
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise PhotoError("The path of the photo is empty.")
        label = printable(name or Path(source).name or str(source))
        content = _file_content(Path(source), label)
    elif isinstance(source, bytes | bytearray | memoryview):
        label, content = printable(name or "photo"), bytes(source)
    elif isinstance(source, Readable):
        label = printable(name or Path(str(getattr(source, "name", "") or "photo")).name)
        content = _stream_content(source, label)
    else:
        raise PhotoError(
            f"A photo is a path, bytes, a binary file or a PIL image, not {type(source).__name__}."
        )
    if not content:
        raise PhotoError(f"{label} is empty.")
    if len(content) > MAX_BYTES:
        raise PhotoError(_too_many_bytes(label))
    return content, label


def printable(name: str) -> str:
    """Return a file name as one line of at most 80 characters, for use in a message."""
    name = "".join(character if character.isprintable() else "?" for character in name)
    return name if len(name) <= 80 else f"{name[:50]}…{name[-25:]}"


def _file_content(path: Path, label: str) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PhotoError(f"{label} is a folder, not a photo.")
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError(f"{label} is a device or a pipe, not a photo.")
        if status.st_size > MAX_BYTES:
            raise PhotoError(_too_many_bytes(label))
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise PhotoError(f"{label} does not exist in {path.absolute().parent}.") from error
    except PermissionError as error:
        raise PhotoError(f"{label} cannot be read: permission denied.") from error
    except PhotoError:
        raise
    except OSError as error:
        raise PhotoError(f"{label} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise PhotoError(f"{label} is not a file name: {error}.") from error


def _stream_content(stream: Readable, label: str) -> bytes:
    try:
        # A page may already have read an upload to its end; getvalue() still returns all of it.
        content: object = (
            stream.getvalue() if isinstance(stream, io.BytesIO) else stream.read(MAX_BYTES + 1)
        )
    except (OSError, ValueError) as error:
        raise PhotoError(f"{label} cannot be read: {error}.") from error
    if not isinstance(content, bytes):
        raise PhotoError(f"{label} was opened as text: open it in binary mode.")
    return content


def _too_many_bytes(label: str) -> str:
    return f"{label} is larger than {MAX_BYTES / 2**20:,.0f} MB, the limit for a photo."


def _opened(content: bytes, label: str) -> Image.Image:
    Image.init()  # needed because open() with a list of formats does not register them
    formats: tuple[str, ...] = _FORMATS
    if content[4:8] == b"ftyp":
        from pillow_heif import register_heif_opener  # deferred: few photos are HEIC

        register_heif_opener()
        formats += ("HEIF",)
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise PhotoError(
            f"{label} is not a photo that can be read here "
            "(JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF)."
        ) from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{label} has more pixels than can be read: {error}") from error
    except Exception as error:
        # Decoders raise errors of any kind on crafted bytes.
        reason = str(error).rstrip(".") or type(error).__name__
        raise PhotoError(f"{label} is damaged: {reason}.") from error


def _decoded(image: Image.Image, label: str, draft_size: int | tuple[int, int] | None) -> Photo:
    size, photo_format = image.size, image.format or image.mode
    most = MAX_JPEG_PIXELS if photo_format in _DRAFTABLE else MAX_PIXELS
    if size[0] * size[1] > most:
        raise PhotoError(
            f"{label} has {size[0]} × {size[1]} pixels; at most {most / 1e6:,.4g} million are "
            "allowed."
        )
    try:
        if draft_size is not None and photo_format in _DRAFTABLE:
            wanted = (draft_size, draft_size) if isinstance(draft_size, int) else draft_size
            turned = read_exif(image).orientation >= 5
            image.draft("RGB", wanted[::-1] if turned else wanted)
        image.load()
        # Read after decoding, because a PNG may store its EXIF after the pixels.
        facts = read_exif(image)
        upright = _rgb(image, label)
        if facts.orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[facts.orientation])
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError(f"{label} does not fit into memory.") from error
    except Exception as error:
        # Errors of any kind, as in `_opened`.
        reason = str(error) or type(error).__name__
        if isinstance(error, EOFError) or any(sign in reason.lower() for sign in _TRUNCATED):
            raise PhotoError(f"{label} is cut off: the file ends before the image.") from error
        raise PhotoError(f"{label} is damaged: {reason.rstrip('.')}.") from error
    # Copies of the image must not inherit the file's metadata.
    upright.info = {}
    return Photo(
        image=upright,
        name=label,
        format=photo_format,
        size=size[::-1] if facts.orientation >= 5 else size,
        latitude=facts.latitude,
        longitude=facts.longitude,
        captured_at=facts.captured_at,
    )


def _rgb(image: Image.Image, label: str) -> Image.Image:
    """Return a new 8-bit RGB image; transparent parts become white."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns 16-bit greys white.
        grey = np.asarray(image).clip(0, 65535).astype(np.float32)
        if image.mode != "I" or grey.max() > 255:
            grey /= 257
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PhotoError(f"{label} contains measurements (floating point), not a photo.")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(layered, mask=layered.getchannel("A"))
        return white
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def read_exif(image: Image.Image) -> ExifFacts:
    """Return what the EXIF of an opened image says; never raises, even if the EXIF is damaged."""
    # Pillow raises a dozen kinds of errors on damaged EXIF; the photo can still be used.
    try:
        exif = image.getexif()
        top = dict(exif)
    except Exception:
        return ExifFacts()
    gps = _directory(exif, _GPS_IFD)
    latitude, longitude = _position(gps) or (None, None)
    orientation = top.get(_ORIENTATION)
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    captured_at = _captured_at(top, _directory(exif, _EXIF_IFD), gps)
    return ExifFacts(latitude, longitude, captured_at, orientation)


def _directory(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(tag))
    except Exception:  # as in `read_exif`
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
    """Return signed degrees of (degrees, minutes, seconds), or None.

    A value without a hemisphere is used only if the number itself is negative, because a wrong
    guess of the sign may be off by half the Earth.
    """
    parts = _numbers(value)
    if parts is None or not 1 <= len(parts) <= 3:
        return None
    degrees, minutes, seconds = (*parts, 0.0, 0.0)[:3]
    if not (0 <= minutes <= 60 and 0 <= seconds <= 60):
        return None
    magnitude = abs(degrees) + minutes / 60 + seconds / 3600
    is_negative = math.copysign(1.0, degrees) < 0  # True for -0.0 as well
    hemisphere = (_text(reference) or "")[:1].upper()
    if magnitude > limit or hemisphere not in {positive, negative, ""}:
        return None
    if hemisphere == negative:
        return -magnitude
    if is_negative:
        return -magnitude if hemisphere == "" else None
    return magnitude if hemisphere == positive else None


def _captured_at(top: dict[int, Any], exif: dict[int, Any], gps: dict[int, Any]) -> datetime | None:
    stamps = [
        (_moment(exif.get(_ORIGINAL)), _zone(exif.get(_OFFSET_ORIGINAL))),
        (_moment(exif.get(_DIGITIZED)), _zone(exif.get(_OFFSET_DIGITIZED))),
        # The time of the last change, which is the capture time of an unedited photo.
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
    """Return GPSDateStamp with GPSTimeStamp, which are in UTC; None unless both are valid."""
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
    """Parse a naive time written as "2021:07:14 09:30:00", or with other separators."""
    text = _text(value) or ""
    date = _DATE.match(text)
    if date is None:
        return None
    time = _TIME.match(text[date.end() :].lstrip(" T"))
    if time is None:
        return None
    year, month, day, hour, minute, second = (
        int(group or 0) for group in (*date.groups(), *time.groups())
    )
    # Second 60 is a leap second, which datetime cannot hold.
    return _datetime(year, month, day, hour, minute, 59 if second == 60 else second)


def _datetime(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0
) -> datetime | None:
    if year not in YEARS:
        return None
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:  # a day such as 0000:00:00 or February 30
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
    """Return a rational, or a sequence of them, as finite floats; None if any is undefined."""
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
