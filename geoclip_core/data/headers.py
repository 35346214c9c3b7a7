"""Look into a photo file before a decoder does: how much work it is, and which image it holds.

`check_structure` refuses files whose many small parts would keep a decoder busy for minutes.
`JpegHeader` counts the scans of a JPEG, and finds where its last one ends. `raw_preview` finds the
full-size JPEG in a raw file. Only headers are read here, in bounded time.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from geoclip_core.errors import PhotoError

MAX_SEGMENTS = 20_000
"""Segments of a JPEG; each of a large photo has up to 64 kB."""
MAX_BETWEEN = 2**16
"""Bytes between the segments of a JPEG that belong to none."""
MAX_CHUNKS = 200_000
"""Chunks of a PNG."""
MAX_GIF_COMMENTS = 2**20
"""Bytes of comments and extensions before the first frame of a GIF."""
MAX_SCANS = 1000
"""Scans of a JPEG that are counted; ordinary ones have 1 to 20."""
MAX_DIRECTORIES = 64
"""Directories of a TIFF that are read; raw files have up to 10."""
MAX_ENTRIES = 4096
"""Entries of a TIFF directory that are read."""
MAX_NUMBERS = 1_000_000
"""Numbers in one entry of a TIFF: a decoder makes a Python object of each."""
PREVIEW_SHARE = 0.45
"""A preview must be at least this share of the raw image's longer side."""

EOI = b"\xff\xd9"
_ENTROPY_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC)}) | frozenset(
    range(0xCD, 0xD0)
)
_SOS, _EOI, _PROGRESSIVE = 0xDA, 0xD9, (0xC2, 0xC6, 0xCA, 0xCE)
_DECODABLE = (0xC0, 0xC1, 0xC2)
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})

_OTHER_RAWS = (
    (b"FUJIFILMCCD-RAW", "Fujifilm RAF"),
    (b"IIRO", "Olympus ORF"),
    (b"IIRS", "Olympus ORF"),
    (b"MMOR", "Olympus ORF"),
    (b"IIU\0", "Panasonic RW2"),
    (b"FOVb", "Sigma X3F"),
    (b"\0MRM", "Minolta MRW"),
)
_MAKES = (
    (b"NIKON", "NEF"),
    (b"SONY", "ARW"),
    (b"CANON", "CR2"),
    (b"PENTAX", "PEF"),
    (b"RICOH", "PEF"),
    (b"SAMSUNG", "SRW"),
)
_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _MAKE = 254, 256, 257, 259, 262, 271
_STRIPS, _ORIENTATION, _STRIP_BYTES, _SUBIFDS, _JPEG, _JPEG_BYTES = 273, 274, 279, 330, 513, 514
_DNG_VERSION = 50706
_WANTED = frozenset(
    {_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _MAKE, _STRIPS, _ORIENTATION}
    | {_STRIP_BYTES, _SUBIFDS, _JPEG, _JPEG_BYTES, _DNG_VERSION}
)
_CFA, _LINEAR_RAW = 32803, 34892
_RAW_COMPRESSIONS = (34713, 32767, 65535, 32769)  # of Nikon, Sony, Pentax, and packed bits
_TYPES = {1: (1, "B"), 2: (1, "s"), 3: (2, "H"), 4: (4, "I"), 7: (1, "s"), 13: (4, "I")}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}


def check_structure(content: bytes, label: str) -> None:
    """Check that a decoder will not be kept busy by many small parts.

    Raises:
        PhotoError: there are more parts than any photo has.
    """
    too_many = ""
    if content.startswith(b"\x89PNG") and _number_of_chunks(content) > MAX_CHUNKS:
        too_many = "chunks"
    elif content.startswith(b"GIF8") and _gif_comments(content) > MAX_GIF_COMMENTS:
        too_many = "comments"
    elif content[:2] in (b"II", b"MM") and _has_large_tag(content):
        too_many = "numbers in one tag"
    if too_many:
        raise PhotoError(f"{label} is damaged: it has more {too_many} than any photo.")


def _number_of_chunks(content: bytes) -> int:
    """Return the number of chunks of a PNG, counted to just above the limit."""
    position, count = 8, 0
    while position + 8 <= len(content) and count <= MAX_CHUNKS:
        position += 12 + int.from_bytes(content[position : position + 4], "big")
        count += 1
    return count


def _gif_comments(content: bytes) -> int:
    """Return the number of bytes in extensions before the first frame of a GIF."""
    if len(content) < 13:
        return 0
    position, total = 13, 0
    if content[10] & 0x80:
        position += 3 << ((content[10] & 7) + 1)
    while position < len(content) and total <= MAX_GIF_COMMENTS:
        if content[position] == 0x2C:  # an image
            break
        if content[position] != 0x21:
            position += 1
            total += 1
            continue
        position += 2
        while position < len(content) and (size := content[position]) and total <= MAX_GIF_COMMENTS:
            position += 1 + size
            total += 1 + size
        position += 1
        total += 2
    return total


# JPEG ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """One scan of a JPEG: its components and the coefficients that it refines."""

    components: tuple[int, ...]
    first: int  # coefficient, 0 to 63
    last: int
    low_bit: int  # 0 if the coefficients are exact afterwards


@dataclass(frozen=True)
class JpegHeader:
    """The structure of the first image in a JPEG file."""

    size: tuple[int, int] = (0, 0)  # width, height as stored
    marker: int = 0  # SOF marker: 0xC0 and 0xC1 sequential, 0xC2 progressive, 0xC3 lossless
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)  # of each component
    scans: tuple[Scan, ...] = ()  # at most MAX_SCANS
    end: int = 0  # where the data of the last scan ends, in bytes
    has_end_marker: bool = False
    too_many_segments: bool = False  # or too many bytes between them

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.size[0] * self.size[1]

    @property
    def is_progressive(self) -> bool:
        """Whether later scans refine earlier ones."""
        return self.marker in _PROGRESSIVE

    @property
    def buffered_bytes(self) -> int:
        """Bytes of coefficients that a decoder keeps: all, unless one scan holds everything."""
        if not self.is_progressive and len(self.scans) <= 1:
            return 0
        wide, high = self.block
        samples = sum(h * v for h, v in self.sampling.values()) / (wide * high)
        return int(2 * samples * self.pixels)

    @property
    def block(self) -> tuple[int, int]:
        """Width and height of a minimum coded unit, in blocks of 8 pixels."""
        factors = list(self.sampling.values()) or [(1, 1)]
        return max(h for h, _ in factors), max(v for _, v in factors)

    @cached_property
    def is_complete(self) -> bool:
        """Whether the scans give every coefficient of every component to its last bit."""
        left = {component: set(range(64)) for component in self.sampling}
        for scan in self.scans:
            if not self.is_progressive:
                done = set(range(64))
            else:
                done = set(range(scan.first, scan.last + 1)) if scan.low_bit == 0 else set()
            for component in scan.components:
                if component in left:
                    left[component] -= done
        return bool(left) and not any(left.values())


def jpeg_header(content: bytes) -> JpegHeader | None:
    """Return the structure of a JPEG; None if the content is not one."""
    if not content.startswith(b"\xff\xd8"):
        return None
    size, marker, sampling, scans = (0, 0), 0, dict[int, tuple[int, int]](), list[Scan]()
    position, end, has_end, between = 2, 2, False, 0
    for _ in range(MAX_SEGMENTS):
        found = _ENTROPY_END.search(content, position)
        between += (found.start() if found else len(content)) - position
        if between > MAX_BETWEEN:
            return JpegHeader(size, marker, sampling, tuple(scans), end, too_many_segments=True)
        if found is None:
            break
        kind, position = content[found.start() + 1], found.end()
        if kind == _EOI:
            has_end = True
            end = end if scans else position - 2
            break
        if kind in _STANDALONE:
            continue
        length = int.from_bytes(content[position : position + 2], "big")
        body = content[position + 2 : position + length] if length < 300 or kind in _SOF else b""
        position += max(length, 2)
        if kind in _SOF and not marker and len(body) >= 6:
            height, width = (int.from_bytes(body[at : at + 2], "big") for at in (1, 3))
            size, marker = (width, height), kind
            for part in range(6, min(len(body) - 2, 6 + 3 * body[5]), 3):
                factors = max(body[part + 1] >> 4, 1), max(body[part + 1] & 15, 1)
                sampling[body[part]] = factors
        elif kind == _SOS:
            count = body[0] if body else 0
            names = tuple(body[1 : 1 + 2 * count : 2])
            rest = body[1 + 2 * count : 4 + 2 * count].ljust(3, b"\0")
            scans.append(Scan(names, rest[0], rest[1], rest[2] & 15))
            after = _ENTROPY_END.search(content, position)
            end = after.start() if after else len(content)
            position = end
            if len(scans) >= MAX_SCANS:
                break
    else:
        return JpegHeader(size, marker, sampling, tuple(scans), end, too_many_segments=True)
    return JpegHeader(size, marker, sampling, tuple(scans), end, has_end)


# Raw files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawPreview:
    """The full-size JPEG in a raw file."""

    kind: str  # "DNG", "CR2", "NEF", "ARW" ...
    jpeg: bytes
    orientation: int  # EXIF code of the raw file, which is also that of the preview


def raw_preview(content: bytes, label: str) -> RawPreview | None:
    """Return the full-size preview of a raw file; None if the content is not a raw file.

    Raises:
        PhotoError: it is a raw file of a kind that is not read, or its preview is too small.
    """
    for magic, maker in _OTHER_RAWS:
        if content.startswith(magic):
            raise PhotoError(f"{label} is a raw file ({maker}): export it as JPEG.")
    if content[4:12] == b"ftypcrx ":
        raise PhotoError(f"{label} is a raw file (Canon CR3): export it as JPEG.")
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return None
    directories = list(_directories(content))
    kind = _raw_kind(content, directories)
    if kind is None:
        return None
    largest, previews = 0, list[tuple[int, int, int]]()
    for directory in directories:
        largest = max(largest, *directory.size)
        for start, length in directory.pieces:
            header = jpeg_header(content[start : start + length])
            if header is None:
                continue
            if header.marker == 0xC3:  # lossless: the raw image itself, in components side by side
                largest = max(largest, header.size[0] * len(header.sampling), header.size[1])
            elif header.marker in _DECODABLE and header.scans:
                previews.append((max(header.size), start, length))
    side, start, length = max(previews, default=(0, 0, 0))
    if not side or side < PREVIEW_SHARE * largest:
        what = f"a preview of only {side} pixels" if side else "no preview"
        raise PhotoError(f"{label} is a raw file ({kind}) with {what}: export it as JPEG.")
    first = directories[0].values.get(_ORIENTATION, [1])
    orientation = first[0] if first and 1 <= first[0] <= 8 else 1
    return RawPreview(kind, content[start : start + length], orientation)


def main_page(content: bytes, label: str) -> int:
    """Return the number of the main page of a TIFF; some begin with a thumbnail.

    Raises:
        PhotoError: there is only a thumbnail, with the image where it is not read.
    """
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return 0
    directories = list(_directories(content))
    if not directories or not directories[0].is_reduced:
        return 0
    pages = [d for d in directories if d.page is not None and not d.is_reduced]
    largest = max((max(d.size) for d in directories), default=0)
    best = max(pages, key=lambda d: max(d.size), default=directories[0])
    if max(best.size) < PREVIEW_SHARE * largest:
        raise PhotoError(
            f"{label} begins with a thumbnail, and the image behind it cannot be read: "
            "export it as JPEG."
        )
    return best.page or 0


@dataclass(frozen=True)
class _Directory:
    """One directory of a TIFF: its values, and its number if it is a page."""

    values: dict[int, list[int]]
    make: bytes
    page: int | None

    @property
    def size(self) -> tuple[int, int]:
        return self._first(_WIDTH), self._first(_HEIGHT)

    @property
    def is_reduced(self) -> bool:
        return bool(self._first(_SUBFILE) & 1)

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Start and length of what may be a whole JPEG."""
        found = [(self._first(_JPEG), self._first(_JPEG_BYTES))]
        if len(self.values.get(_STRIPS, [])) == 1:
            found.append((self._first(_STRIPS), self._first(_STRIP_BYTES)))
        return [(start, length) for start, length in found if start and length]

    def _first(self, tag: int) -> int:
        values = self.values.get(tag)
        return values[0] if values else 0


def _raw_kind(content: bytes, directories: list[_Directory]) -> str | None:
    if any(_DNG_VERSION in d.values for d in directories):
        return "DNG"
    if content[8:10] == b"CR":
        return "CR2"
    is_raw = any(
        d.values.get(_PHOTOMETRIC, [0])[:1] in ([_CFA], [_LINEAR_RAW])
        or d.values.get(_COMPRESSION, [0])[:1] in ([c] for c in _RAW_COMPRESSIONS)
        for d in directories
    )
    if not is_raw:
        return None
    make = next((d.make for d in directories if d.make), b"").upper()
    return next((kind for name, kind in _MAKES if make.startswith(name)), "raw")


def _directories(content: bytes) -> Iterator[_Directory]:
    """Yield the directories of a TIFF: its pages, and those below them."""
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", content, 4) if len(content) >= 8 else (0,)
    waiting: list[tuple[int, int | None]] = [(start, 0)]
    seen = set[int]()
    while waiting and len(seen) < MAX_DIRECTORIES:
        start, page = waiting.pop(0)
        if start in seen or not 8 <= start <= len(content) - 2:
            continue
        seen.add(start)
        (count,) = struct.unpack_from(order + "H", content, start)
        values, make = dict[int, list[int]](), b""
        for number in range(min(count, MAX_ENTRIES)):
            at = start + 2 + 12 * number
            if at + 12 > len(content):
                break
            tag, kind, length = struct.unpack_from(order + "HHI", content, at)
            if tag not in _WANTED or kind not in _TYPES:
                continue
            size, code = _TYPES[kind]
            if size * length > 4:
                (at,) = struct.unpack_from(order + "I", content, at + 8)
            else:
                at += 8
            length = min(length, 64)
            if at + size * length > len(content):
                continue
            if code == "s":
                make = content[at : at + length] if tag == _MAKE else make
                values.setdefault(tag, [])
            else:
                values[tag] = list(struct.unpack_from(f"{order}{length}{code}", content, at))
        yield _Directory(values, make, page)
        waiting += [(below, None) for below in values.get(_SUBIFDS, [])]
        at = start + 2 + 12 * count
        if page is not None and at + 4 <= len(content):
            waiting.append((struct.unpack_from(order + "I", content, at)[0], page + 1))


def _has_large_tag(content: bytes) -> bool:
    """Return whether an entry of the first directories holds more numbers than `MAX_NUMBERS`."""
    order = "<" if content[:2] == b"II" else ">"
    if len(content) < 16:
        return False
    (version,) = struct.unpack_from(order + "H", content, 2)
    big = version == 43
    count_code, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    (start,) = struct.unpack_from(order + pointer, content, 8 if big else 4)
    seen = set[int]()
    while start not in seen and len(seen) < MAX_DIRECTORIES and 8 <= start <= len(content) - 8:
        seen.add(start)
        (count,) = struct.unpack_from(order + count_code, content, start)
        first = start + struct.calcsize(order + count_code)
        for number in range(min(count, 65535)):
            at = first + entry * number
            if at + entry > len(content):
                break
            _, kind, length = struct.unpack_from(order + "HH" + pointer, content, at)
            # Of bytes and text a decoder makes one object, however many there are.
            if kind not in (1, 2, 6, 7) and kind in _SIZES and length > MAX_NUMBERS:
                return True
        at = first + entry * count
        if at + 8 > len(content):
            break
        (start,) = struct.unpack_from(order + pointer, content, at)
    return False
