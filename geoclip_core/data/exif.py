"""What a camera wrote beside the pixels: where and when a photo was taken.

EXIF is written by thousands of devices and by anyone with an editor, so every field may be missing,
mistyped or absurd. Nothing here raises: a field that cannot be trusted counts as absent, because a
wrong position or time is worse than none. Tag numbers are those of the Exif 2.32 standard.
"""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from PIL import Image

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
