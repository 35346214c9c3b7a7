"""Read where and when a photo was taken: from its EXIF, its XMP, or a file beside it.

Nothing here raises on damaged or hostile metadata; what cannot be read is None. Positions and
times are taken in this order, and the source is named:

1. EXIF of the image, also from the text profiles that ImageMagick writes into a PNG;
2. XMP in the image;
3. XMP beside it: ``photo.jpg.xmp`` (digiKam, darktable) or ``photo.xmp`` (Lightroom), the suffixes
   in either case, accents composed or not;
4. the JSON that Google Takeout puts beside it: ``photo.jpg.json`` or
   ``photo.jpg.supplemental-metadata.json``.
"""

import contextlib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.parsers import expat

from PIL import Image

from geoclip_core.errors import FileError
from geoclip_core.files import read_bytes, read_json

NULL_ISLAND_DEGREES = 1e-6
"""Positions closer to (0, 0) than this stand for "no position" and are dropped."""

LARGEST_CLOCK_DIFFERENCE = timedelta(hours=26)
"""Time zones span −12 to +14 h; a GPS time further from the camera's clock is stale."""

YEARS = range(1826, 2262)
"""Valid years, from the first photograph to the end of nanosecond timestamps."""

MAX_SIDECAR = 4 * 2**20
"""Bytes of the largest XMP or JSON file that is read; those of photo managers have a few kB."""

_MAKE, _MODEL = 0x010F, 0x0110
_ORIENTATION, _DATE_TIME, _EXIF_IFD, _GPS_IFD = 0x0112, 0x0132, 0x8769, 0x8825
_ORIGINAL, _DIGITIZED = 0x9003, 0x9004
_OFFSET, _OFFSET_ORIGINAL, _OFFSET_DIGITIZED = 0x9010, 0x9011, 0x9012
_HOURS_FROM_UTC, _XMP_TAG = 0x882A, 700
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_GPS_TIME, _GPS_DATE = 7, 29

_BETWEEN = r"[^\dA-Za-z+\s]{1,3}"  # also a character of UTF-8 that was read as Latin-1
_DATE = re.compile(
    rf"(\d{{4}}){_BETWEEN}\s?(\d{{1,2}}){_BETWEEN}\s?(\d{{1,2}})(?:[^\dA-Za-z+]{{1,5}}|\s*T|$)"
)
_TIME = re.compile(
    r"(\d{1,2})([:.-])\s?(\d{1,2})(?:\2\s?(\d{1,2}))?(?:[.,]\d*)?\s*([AaPp]\.?[Mm]\b)?"
)
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)[\sT]*(\d\d)(\d\d)(\d\d)")
_ZONE = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?(?::\d{2})?")

_HEMISPHERES = {"latitude": ("N", "S", 90), "longitude": ("E", "W", 180)}
_BEFORE = re.compile(r"([NSEW])(?:orth|outh|ast|est)?\s*(?=[-+\d])", re.IGNORECASE)
_AFTER = re.compile(r"(?<=[\d.\s°º'\"′″’”])\s*([NSEW])(?:orth|outh|ast|est)?$", re.IGNORECASE)
_ANGLE = re.compile(
    r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*(°|º|deg|d|:|\s)?\s*"
    r"(?:(\d+(?:\.\d*)?)\s*(?:['′’]|min|m|:|\s)?\s*"
    r"(?:(\d+(?:\.\d*)?)\s*(?:[\"″”]|''|sec|s)?)?)?"
)
_XMP_ANGLE = re.compile(r"(\d{1,3}),\s*(\d+(?:\.\d*)?)(?:,\s*(\d+(?:\.\d*)?))?\s*([NSEW])", re.I)
_DECIMAL_COMMA = re.compile(r"([+-]?\d{1,3}),(\d+)")
_MARKED_COMMA = re.compile(r"([^.,]*[°º'′’d][^.,]*\d|[+-]?\d{1,3}),(\d+\s*[°º'′’\"″”dms][^.,]*)")
"""A decimal comma in an angle with marks: 48°51'23,8", 48,8566°."""
_COMMA_PARTS = re.compile(r"\d+,\d+(\.\d+|,\d+(\.\d*)?)")
_MAX_ANGLE = 60  # characters

_ADOBE = "http://ns.adobe.com/"
_XMP_NAMES = {
    f"{_ADOBE}exif/1.0/ GPSLatitude": "latitude",
    f"{_ADOBE}exif/1.0/ GPSLongitude": "longitude",
    f"{_ADOBE}exif/1.0/ GPSLatitudeRef": "latitude_ref",
    f"{_ADOBE}exif/1.0/ GPSLongitudeRef": "longitude_ref",
    f"{_ADOBE}exif/1.0/ DateTimeOriginal": "original",
    f"{_ADOBE}photoshop/1.0/ DateCreated": "created",
    f"{_ADOBE}exif/1.0/ DateTimeDigitized": "digitized",
    f"{_ADOBE}xap/1.0/ CreateDate": "create_date",
    f"{_ADOBE}exif/1.0/ GPSTimeStamp": "gps_time",
}
_XMP_TIMES = ("original", "created", "digitized", "create_date", "gps_time")
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# RDF"
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_MAX_VALUE = 200  # characters of an XMP value, or of a camera's make or model
_MAX_CAMERA = 60  # characters

_TAKEOUT = ".supplemental-metadata"
_TAKEOUT_NAME = 46
"""Google cuts the name of a JSON file to this many characters before ".json"."""
_NUMBERED = re.compile(r"(.+?)(\(\d+\))")
_EDITED = (
    *("-edited", "-effects", "-smile", "-mix", "-bearbeitet", "-modifié", "-ha editado"),
    *("-editado", "-modificato", "-bewerkt", "-edytowane", "-editat", "-redigert", "-編集済み"),
)
"""Endings of the names of edited copies, for which Takeout writes no JSON of their own."""


@dataclass(frozen=True)
class PhotoFacts:
    """Position, time and orientation of a photo; missing or implausible values are None.

    ``captured_at`` is an aware datetime in UTC if a time zone or a GPS time is given, otherwise the
    naive local time of the camera.
    """

    latitude: float | None = None  # degrees
    longitude: float | None = None  # degrees
    captured_at: datetime | None = None
    orientation: int = 1  # EXIF code (1-8) of the turn that makes the stored pixels upright
    source: str | None = None  # of the position if there is one, else of the time
    camera: str | None = None  # make and model from the EXIF, one line

    @property
    def complete(self) -> bool:
        """Whether both position and time are known."""
        return self.latitude is not None and self.captured_at is not None

    def or_else(self, other: "PhotoFacts") -> "PhotoFacts":
        """Return these facts, and what they lack from the other ones."""
        found = self
        if found.latitude is None and other.latitude is not None:
            found = replace(
                found, latitude=other.latitude, longitude=other.longitude, source=other.source
            )
        if found.captured_at is None and other.captured_at is not None:
            found = replace(
                found, captured_at=other.captured_at, source=found.source or other.source
            )
        return replace(found, camera=found.camera or other.camera)


def image_facts(image: Image.Image) -> PhotoFacts:
    """Return what an opened image says about itself, in its EXIF and XMP.

    A PNG may store them after the pixels, so load it first.
    """
    facts = read_exif(image)
    for block in _profiles(image, "exif"):
        if not facts.complete:
            facts = facts.or_else(_exif_block(block))
    for packet in _xmp_packets(image):
        if not facts.complete:
            facts = facts.or_else(read_xmp(packet))
    return facts


def raw_facts(content: bytes) -> PhotoFacts:
    """Return what the EXIF and XMP of a raw file say; it is laid out like an EXIF block."""
    exif = Image.Exif()
    try:
        exif.load(content)
        packet = dict(exif).get(_XMP_TAG)
        facts = _exif_facts(exif)
    except Exception:  # as in `read_exif`
        return PhotoFacts()
    packet = _as_bytes(packet)
    return facts.or_else(read_xmp(packet)) if packet and not facts.complete else facts


def sidecar_facts(path: Path) -> PhotoFacts:
    """Return what the files beside a photo say: its XMP, or its JSON from Google Takeout."""
    facts = PhotoFacts()
    for name in _spellings(_xmp_names(path)):
        if not facts.complete and (content := _beside(path, name)) is not None:
            facts = facts.or_else(read_xmp(content, name))
    for name in _spellings(_takeout_names(path.name)):
        if facts.complete:
            break
        beside = path.with_name(name)
        if _exists(beside):
            facts = facts.or_else(_read_takeout(beside, path))
    return facts


def _xmp_names(path: Path) -> list[str]:
    """Return the names that the XMP of a photo may have, the likeliest first."""
    stem, suffix = path.stem, path.suffix
    named = [path.name, stem, stem + suffix.lower(), stem + suffix.upper()]
    return [name + ending for name in named for ending in (".xmp", ".XMP")]


def _spellings(names: Iterable[str]) -> list[str]:
    """Return names, then those with accents as other systems write them, each once."""
    names = list(names)
    others = [unicodedata.normalize(form, n) for form in ("NFC", "NFD") for n in names]
    return list(dict.fromkeys([*names, *others]))


def _beside(path: Path, name: str) -> bytes | None:
    beside = path.with_name(name)
    try:
        return read_bytes(beside, MAX_SIDECAR) if _exists(beside) else None
    except FileError:
        return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, for example
        return False


# EXIF ---------------------------------------------------------------------------------------------


def read_exif(image: Image.Image) -> PhotoFacts:
    """Return what the EXIF of an opened image says."""
    # Pillow raises a dozen kinds of errors on damaged EXIF; the photo can still be used.
    try:
        return _exif_facts(image.getexif())
    except Exception:
        return PhotoFacts()


def _exif_block(block: bytes) -> PhotoFacts:
    exif = Image.Exif()
    try:
        exif.load(block)
        return _exif_facts(exif)
    except Exception:  # as in `read_exif`
        return PhotoFacts()


def _exif_facts(exif: Image.Exif) -> PhotoFacts:
    top = dict(exif)
    gps = _directory(exif, _GPS_IFD)
    position = _position(gps)
    captured_at = _captured_at(top, _directory(exif, _EXIF_IFD), gps)
    orientation = top.get(_ORIENTATION)
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    source = "EXIF" if position or captured_at else None
    latitude, longitude = position or (None, None)
    return PhotoFacts(latitude, longitude, captured_at, orientation, source, _camera(top))


def _camera(top: dict[int, Any]) -> str | None:
    """Return make and model, the make once: "Canon EOS 5D", "NIKON CORPORATION D850"."""
    make, model = (
        " ".join("".join(c if c.isprintable() else " " for c in text[:_MAX_VALUE]).split())
        for text in (_text(top.get(_MAKE)) or "", _text(top.get(_MODEL)) or "")
    )
    if make and model.lower().startswith(make.split()[0].lower()):
        make = ""
    return f"{make} {model}".strip()[:_MAX_CAMERA] or None


def _directory(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(tag))
    except Exception:  # as in `read_exif`
        return {}


def _position(gps: dict[int, Any]) -> tuple[float, float] | None:
    latitude = _degrees(gps.get(_LATITUDE), gps.get(_LATITUDE_REF), "latitude")
    longitude = _degrees(gps.get(_LONGITUDE), gps.get(_LONGITUDE_REF), "longitude")
    return valid_position(latitude, longitude)


def valid_position(latitude: float | None, longitude: float | None) -> tuple[float, float] | None:
    """Return a position in degrees, longitude in [−180, 180); None if it is none, or (0, 0)."""
    if latitude is None or longitude is None:
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # also false for NaN
        return None
    if max(abs(latitude), abs(longitude)) < NULL_ISLAND_DEGREES:
        return None
    return latitude, -180.0 if longitude == 180 else longitude


def _degrees(value: Any, reference: Any, axis: str) -> float | None:
    """Return signed degrees of (degrees, minutes, seconds) or of text, or None.

    A value without a hemisphere is used only if the number itself is negative, because a wrong
    guess of the sign may be off by half the Earth.
    """
    hemisphere = (_text(reference) or "")[:1].upper()
    if (text := _text(value)) is not None:
        if _COMMA_PARTS.fullmatch(text):
            text = text.replace(",", " ")
        return parse_degrees(text, axis, hemisphere, sign_needed=True)
    parts = _numbers(value)
    if parts is None or not 1 <= len(parts) <= 3:
        return None
    if parts[0] < 0 and all(part <= 0 for part in parts[1:]):
        parts[1:] = [-part for part in parts[1:]]  # some writers give each part the sign
    return _signed(parts, hemisphere, axis, sign_needed=True)


def _signed(
    parts: list[float], hemisphere: str, axis: str, *, sign_needed: bool = False
) -> float | None:
    """Return signed degrees of degrees, minutes and seconds; None if they are out of range."""
    positive, negative, limit = _HEMISPHERES[axis]
    degrees, minutes, seconds = (*parts, 0.0, 0.0)[:3]
    if not (0 <= minutes <= 60 and 0 <= seconds <= 60):
        return None
    magnitude = abs(degrees) + minutes / 60 + seconds / 3600
    is_negative = math.copysign(1.0, degrees) < 0  # True for -0.0 as well
    if magnitude > limit or hemisphere not in {positive, negative, ""}:
        return None
    if hemisphere == negative:
        return -magnitude
    if is_negative:
        return -magnitude if hemisphere == "" else None
    return magnitude if hemisphere == positive or not sign_needed else None


def parse_degrees(
    text: str, axis: str, hemisphere: str = "", *, sign_needed: bool = False
) -> float | None:
    """Return signed degrees of an angle as people and programs write it, or None.

    For example -33.86; 33,86 S (decimal comma); 33° 51' 36" S; 33 deg 51' 36.00" S (exiftool);
    33:51:36S; 33,51.6S (XMP).

    Args:
        text: the angle.
        axis: "latitude" or "longitude".
        hemisphere: N, S, E or W, if it stands elsewhere; "" if not.
        sign_needed: whether a number with neither sign nor hemisphere is None.
    """
    if len(text) > _MAX_ANGLE:
        return None
    text = text.strip().replace("\u2212", "-").replace("\u00a0", " ")
    text = re.sub(r"^[–－](?=\d)", "-", text)  # what editors make of a minus
    if match := _XMP_ANGLE.fullmatch(text):
        parts = [float(part) for part in match.groups()[:3] if part]
        return _signed(parts, match[4].upper(), axis)
    for pattern in (_BEFORE, _AFTER):
        if match := (pattern.match(text) if pattern is _BEFORE else pattern.search(text)):
            if hemisphere and hemisphere != match[1].upper():
                return None
            hemisphere = match[1].upper()
            text = (text[: match.start()] + text[match.end() :]).strip()
            break
    for comma in (_DECIMAL_COMMA, _MARKED_COMMA):
        text = comma.sub(r"\1.\2", text) if comma.fullmatch(text) else text
    match = _ANGLE.fullmatch(text)
    if match is None:
        return None
    whole, mark, minutes, seconds = match.groups()
    if minutes is not None and ("." in whole or (not (mark or "").strip() and not hemisphere)):
        return None
    if seconds is not None and "." in minutes:
        return None
    parts = [float(part) for part in (whole, minutes, seconds) if part is not None]
    return _signed(parts, hemisphere, axis, sign_needed=sign_needed)


def _captured_at(top: dict[int, Any], exif: dict[int, Any], gps: dict[int, Any]) -> datetime | None:
    # TIFF/EP: hours from UTC of the original time and, if there are two, of the last change.
    hours = [timezone(timedelta(hours=h)) for h in _hours(exif, top)]
    stamps = [
        (exif.get(_ORIGINAL), _zone(exif.get(_OFFSET_ORIGINAL)) or (hours[0] if hours else None)),
        (exif.get(_DIGITIZED), _zone(exif.get(_OFFSET_DIGITIZED))),
        # The time of the last change, which is the capture time of an unedited photo.
        (top.get(_DATE_TIME), _zone(exif.get(_OFFSET)) or (hours[1] if len(hours) > 1 else None)),
    ]
    local = None
    for value, zone in stamps:
        moment = parse_moment(value)
        if moment is None:
            continue
        if moment.tzinfo is None and zone is not None:
            moment = moment.replace(tzinfo=zone)
        if moment.tzinfo is not None:
            return _in_utc(moment)
        local = moment
        break
    satellite = _satellite_time(gps)
    if satellite is None:
        return local
    if local is not None:
        difference = satellite.replace(tzinfo=None) - local
        if abs(difference) > LARGEST_CLOCK_DIFFERENCE:
            return local
    return satellite


def _hours(exif: dict[int, Any], top: dict[int, Any]) -> list[int]:
    values = _numbers(exif.get(_HOURS_FROM_UTC, top.get(_HOURS_FROM_UTC))) or []
    return [int(v) for v in values[:2]] if all(-15 < v < 15 for v in values) else []


def _satellite_time(gps: dict[int, Any]) -> datetime | None:
    """Return GPSDateStamp with GPSTimeStamp, which are in UTC; None unless both are valid."""
    date, stamp = _DATE.match(_text(gps.get(_GPS_DATE)) or ""), gps.get(_GPS_TIME)
    text = re.fullmatch(r"(\d{1,2}):(\d{1,2}):(\d{1,2}(?:\.\d*)?)Z?", _text(stamp) or "")
    parts = [float(part) for part in text.groups()] if text else _numbers(stamp)
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


def parse_moment(value: object) -> datetime | None:
    """Return a time written as "2021:07:14 09:30:00", with other separators, or in ISO 8601.

    The time is aware if a zone follows it; None if it is not a time.
    """
    text = _text(value) or ""
    afternoon = ""
    if (compact := _COMPACT.match(text)) is not None:
        numbers, rest = compact.groups(), text[compact.end() :]
    else:
        date = _DATE.match(text)
        time = _TIME.match(text, date.end()) if date else None
        if date is None or time is None:
            return None
        numbers, rest = (*date.groups(), time[1], time[3], time[4]), text[time.end() :]
        afternoon = (time[5] or "").lower().replace(".", "")
    year, month, day, hour, minute, second = (int(number or 0) for number in numbers)
    if afternoon and 1 <= hour <= 12:
        hour = hour % 12 + 12 * (afternoon == "pm")
    # Second 60 is a leap second, which datetime cannot hold.
    moment = _datetime(year, month, day, hour, minute, 59 if second == 60 else second)
    zone = _zone(rest)
    return moment.replace(tzinfo=zone) if moment and zone else moment


def _datetime(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0
) -> datetime | None:
    if year not in YEARS:
        return None
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:  # a day such as 0000:00:00 or February 30
        return None


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment


def _zone(value: object) -> timezone | None:
    text = (_text(value) or "").replace("\u2212", "-")
    if text.upper() in ("Z", "UTC", "GMT"):
        return UTC
    match = _ZONE.fullmatch(text)
    if match is None:
        return None
    minutes = int(match[3] or 0)
    offset = timedelta(hours=int(match[2]), minutes=minutes)
    if offset > timedelta(hours=15) or minutes >= 60:
        return None
    return timezone(-offset if match[1] == "-" else offset)


def _text(value: object) -> str | None:
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


# XMP ----------------------------------------------------------------------------------------------


def read_xmp(packet: bytes, file: str | None = None) -> PhotoFacts:
    """Return what an XMP packet says; `file` is its name if it is a file of its own."""
    values = _xmp_values(packet)
    latitude, longitude = (
        parse_degrees(values[axis], axis, values.get(f"{axis}_ref", "")[:1].upper())
        if axis in values
        else None
        for axis in ("latitude", "longitude")
    )
    position = valid_position(latitude, longitude)
    moments = (parse_moment(values.get(name)) for name in _XMP_TIMES)
    moment = next((_in_utc(found) for found in moments if found), None)
    if position is None and moment is None:
        return PhotoFacts()
    latitude, longitude = position or (None, None)
    source = f"XMP in {file}" if file else "XMP"
    return PhotoFacts(latitude, longitude, moment, source=source)


def _xmp_values(packet: bytes) -> dict[str, str]:
    """Return the wanted properties of a packet, up to its first error.

    They may be attributes or elements, of the photo itself: what lies deeper describes another one,
    such as the place that is shown, or a picture that was pasted in. Document types are refused, so
    that no entity is expanded.
    """
    found: dict[str, str] = {}
    open_names: list[str] = []
    wanted: str | None = None  # property whose text is being read
    parser = expat.ParserCreate(namespace_separator=" ")

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal wanted
        wanted = None
        if open_names[-1:] == [_RDF]:
            for key, value in attributes.items():
                if key in _XMP_NAMES:
                    found.setdefault(_XMP_NAMES[key], value[:_MAX_VALUE].strip())
        elif open_names[-2:-1] == [_RDF] and not found.get(_XMP_NAMES.get(name, "")):
            wanted = _XMP_NAMES.get(name)
        open_names.append(name)

    def end(name: str) -> None:
        nonlocal wanted
        wanted = None
        open_names.pop()

    def text(data: str) -> None:
        if wanted is not None:
            found[wanted] = (found.get(wanted, "") + data.strip())[:_MAX_VALUE]

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse
    # What comes before an error is kept: packets are cut off and padded with zeros.
    with contextlib.suppress(expat.ExpatError, ValueError, RecursionError):
        parser.Parse(packet[:MAX_SIDECAR].strip(b"\0\r\n\t "), True)
    return {name: value for name, value in found.items() if value}


def _xmp_packets(image: Image.Image) -> Iterator[bytes]:
    """Yield the XMP packets of an opened image."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        value = image.info.get(key)
        if isinstance(value, str):
            value = value.encode("utf-8", "replace")
        if isinstance(value, bytes | bytearray) and value:
            yield bytes(value)
            break
    try:
        value = dict(image.getexif()).get(_XMP_TAG)  # as TIFF stores it
    except Exception:  # as in `read_exif`
        value = None
    if (packet := _as_bytes(value)) is not None:
        yield packet
    yield from _profiles(image, "xmp")


def _as_bytes(value: object) -> bytes | None:
    """Return the value of a tag that holds text in UTF-8, which some write as numbers."""
    if isinstance(value, tuple):
        numbers = [byte for byte in value if isinstance(byte, int) and 0 <= byte < 256]
        value = bytes(numbers) if len(numbers) == len(value) else None
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) else None


def _profiles(image: Image.Image, kind: str) -> Iterator[bytes]:
    """Yield the EXIF or XMP that ImageMagick wrote into text chunks of a PNG, as hexadecimal."""
    for name in ("exif", "APP1", "xmp"):
        text = image.info.get(f"Raw profile type {name}")
        if not isinstance(text, str) or len(text) > 2 * MAX_SIDECAR:
            continue
        # A line break, the name, the number of bytes, then the bytes.
        parts = text.strip().split(maxsplit=2)
        digits = text.split("\n", 3)[-1] if len(text.split("\n", 3)) == 4 else "".join(parts[2:])
        try:
            block = bytes.fromhex("".join(digits.split()))
        except ValueError:
            continue
        is_xmp = name == "xmp" or block.startswith(_XMP_HEADER)
        if is_xmp and kind == "xmp":
            yield block.removeprefix(_XMP_HEADER)
        elif not is_xmp and kind == "exif":
            yield block


# Google Takeout -----------------------------------------------------------------------------------


def _takeout_names(name: str) -> list[str]:
    """Return the names that the JSON of a photo may have, the likeliest first.

    Takeout appends ``.supplemental-metadata`` (until 2024: nothing), cuts the name to
    `_TAKEOUT_NAME` characters, and moves the number of a second photo of the same name to the end:
    ``photo(1).jpg`` has ``photo.jpg(1).json`` or ``photo.jpg.supplemental-metadata(1).json``.
    Other lengths occur as well.
    """
    stem, dot, suffix = name.rpartition(".")
    originals = [(stem, "")]
    if match := _NUMBERED.fullmatch(stem):
        originals.append((match[1], match[2]))
    for base, number in tuple(originals):
        for ending in _EDITED:
            for form in ("NFC", "NFD"):
                base_of = base.removesuffix(unicodedata.normalize(form, ending))
                match = _NUMBERED.fullmatch(base_of)
                if base_of != base:
                    originals.append((base_of, number))
                    if match:
                        originals.append((match[1], match[2]))
    names = []
    for base, number in originals:
        title = f"{base}{dot}{suffix}"
        lengths = (len(_TAKEOUT), 0, *range(len(_TAKEOUT) - 1, 0, -1))
        whole = [title + _TAKEOUT[:length] for length in lengths]
        cut = [text[:_TAKEOUT_NAME] for text in whole]
        names += [f"{text}{number}.json" for text in (cut[0], *whole, title[:_TAKEOUT_NAME], base)]
    return list(dict.fromkeys(names))


def _read_takeout(path: Path, photo: Path) -> PhotoFacts:
    """Return what a JSON of Takeout says about a photo; its place, else the place in its EXIF."""
    try:
        content = read_json(path, MAX_SIDECAR)
    except FileError:
        return PhotoFacts()
    if not isinstance(content, dict):
        return PhotoFacts()
    title = content.get("title")
    if path.name == f"{photo.stem}.json":
        whole = Path(title).stem if isinstance(title, str) else ""
        if whole != photo.stem and not (
            len(photo.stem) >= _TAKEOUT_NAME and whole.startswith(photo.stem)
        ):
            return PhotoFacts()  # of something else with the same name
    position = None
    for key in ("geoData", "geoDataExif"):
        place = content.get(key)
        if position is None and isinstance(place, dict):
            position = valid_position(_number(place, "latitude"), _number(place, "longitude"))
    taken = content.get("photoTakenTime")
    moment = _epoch(taken.get("timestamp")) if isinstance(taken, dict) else None
    if position is None and moment is None:
        return PhotoFacts()
    latitude, longitude = position or (None, None)
    return PhotoFacts(latitude, longitude, moment, source=f"Google Takeout ({path.name})")


def _number(values: dict[str, Any], key: str) -> float | None:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= 180 else None


def _epoch(value: object) -> datetime | None:
    """Return a time given as seconds since 1970, also as text; None if it is none, or 0."""
    if not isinstance(value, int | str) or isinstance(value, bool):
        return None
    if not re.fullmatch(r"-?\d{1,11}", str(value)) or int(value) == 0:
        return None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(value))
    return moment if moment.year in YEARS else None
