"""Find photos in a folder, and read them from files that may be damaged, hostile or of any format.

`open_photo` turns bytes into an upright sRGB image with position and time from its metadata, or
raises a :class:`PhotoError` whose text can be shown to the user. Only camera and web formats are
tried, and bytes, pixels, memory and work are limited before anything is decoded.
"""

import hashlib
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from geoclip_core.data.headers import (
    EOI,
    JpegHeader,
    check_structure,
    jpeg_header,
    main_page,
    raw_preview,
)
from geoclip_core.data.metadata import (
    PhotoFacts,
    image_facts,
    raw_facts,
    read_exif,
    sidecar_facts,
)
from geoclip_core.errors import FileError, PhotoError
from geoclip_core.files import read_bytes

MAX_BYTES = 128 * 2**20
"""Larger files are refused before they are read."""
MAX_PIXELS = 210_000_000
"""The largest photos of phones have 200 megapixels."""
MAX_MEMORY = 10**9
"""Bytes that decoding may take, in all threads together; a photo that needs more is refused."""
MAX_SCAN_PIXELS = 3 * 10**9
"""Pixels times scans of a JPEG: 14 scans of 200 megapixels, or about two seconds."""
MAX_PROFILE = 4 * 2**20
"""Bytes of a colour profile; larger ones are ignored. Those of cameras have a few hundred."""

READING_VERSION = 3
"""Increased when the same file gives other pixels; 2: colours are converted to sRGB, 3: also of
16-bit greys and of greys with transparency."""
CHECK_DRAFT = 64
"""Draft size for checking a file: every block of a JPEG is read, but few pixels are made."""

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".heic", ".heif", ".hif"}
    | {".avif", ".gif", ".bmp", ".tif", ".tiff", ".dng", ".cr2", ".nef", ".arw"}
)
"""Suffixes of the photos in a folder; the format itself is recognised by the bytes."""

SKIPPED_FOLDERS = frozenset({"@eadir", "#recycle", "$recycle.bin", "__macosx", "#snapshot"})
"""Folders that disks and archivers add, with thumbnails and deleted files, in lower case."""

BYTES_PER_PIXEL = {"WEBP": 18, "AVIF": 16, "HEIF": 16}
"""Bytes that decoding takes at its peak for each pixel, by format; 8 for the others (measured)."""

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
_NOISE = bytes(np.random.default_rng(0).integers(0, 255, 4096, dtype=np.uint8))
"""Bytes without 0xFF, as a continuation of the data of a JPEG that no picture has."""
_MOST_COMPARED = 25_000_000
"""Pixels up to which the details of a JPEG without an end are compared."""
_MISSING_GREY = 128
"""What libjpeg paints where rows are missing."""

# Pillow raises above twice this number; its default is too low for phone photos.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# Blocks above 32 MB are given back to the system at once; of smaller ones threads keep a heap each.
# Four threads that decode photos of 49 megapixels take 0.9 GB instead of 2.2.
Image.core.set_block_size(64 * 2**20)

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
class Photo:
    """An upright image in sRGB, and position and time from its metadata."""

    image: Image.Image
    name: str  # for messages
    format: str  # as Pillow calls it, for example "JPEG"; of a raw file "DNG", "CR2", "NEF" ...
    size: tuple[int, int]  # upright (width, height) of the file; a draft's image is smaller
    latitude: float | None = None  # degrees
    longitude: float | None = None  # degrees
    captured_at: datetime | None = None  # as in `PhotoFacts`
    source: str | None = None  # of position or time: "EXIF", "XMP", or the file beside the photo
    camera: str | None = None  # make and model

    @property
    def position(self) -> tuple[float, float] | None:
        """Latitude and longitude in degrees from the metadata, or None."""
        if self.latitude is None or self.longitude is None:
            return None
        return self.latitude, self.longitude


def is_photo_name(name: str) -> bool:
    """Return whether a file name is that of a photo: not hidden, with one of `PHOTO_SUFFIXES`."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES


def photo_files(folder: Path, without: Path | None = None) -> list[Path]:
    """Return all photos below a folder, sorted by path.

    Hidden files and folders, `SKIPPED_FOLDERS`, the folder `without`, and everything but regular
    files is left out. Links to folders are not followed.
    """
    return list(walk_photos(folder, without))


def walk_photos(folder: Path, without: Path | None = None) -> Iterator[Path]:
    """Yield what `photo_files` returns, for folders with millions of photos."""
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name.lower() not in SKIPPED_FOLDERS
            and here / name != without
        )
        for name in sorted(names):
            if is_photo_name(name) and _is_file(here / name):
                yield here / name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


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
        The photo, upright, in 8-bit RGB. Colours are converted to sRGB, 16-bit greys are scaled,
        transparent parts become white, an animation gives its first frame, and a raw file its
        full-size preview. A JPEG that lacks only its end marker is read.

    Raises:
        PhotoError: the source is not a readable photo, rows are missing, or it exceeds `MAX_BYTES`,
            `MAX_PIXELS`, `MAX_MEMORY` or `MAX_SCAN_PIXELS`.
    """
    if isinstance(source, Image.Image):
        label = printable(name or Path(getattr(source, "filename", "") or "photo").name)
        with _damage_named(label):
            _check_pixels(source, label)
            return _photo(source, image_facts(source), label, source.size)
    content, label = read_source(source, name)
    with _damage_named(label):
        raw = raw_preview(content, label)
        if raw is None:
            return _read(content, label, draft_size)
        facts = replace(raw_facts(content), orientation=raw.orientation)
        return replace(_read(raw.jpeg, label, draft_size, facts), format=raw.kind)


def with_sidecars(photo: Photo, path: Path) -> Photo:
    """Return a photo with the position and time that it lacks from the files beside `path`."""
    facts = PhotoFacts(photo.latitude, photo.longitude, photo.captured_at, source=photo.source)
    if facts.complete:
        return photo
    facts = facts.or_else(sidecar_facts(path))
    return replace(
        photo,
        latitude=facts.latitude,
        longitude=facts.longitude,
        captured_at=facts.captured_at,
        source=facts.source,
    )


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


def file_below(root: Path, path: str) -> Path | None:
    """Return the file of a path relative to ``root``; None if missing, or outside ``root``."""
    try:
        folder = root.resolve()
        file = (folder / path).resolve()
        return file if file.is_relative_to(folder) and file.is_file() else None
    except (OSError, ValueError):  # a circle of links, a zero byte
        return None


def printable(name: str) -> str:
    """Return a file name as one line of at most 80 characters, for use in a message."""
    name = "".join(character if character.isprintable() else "?" for character in name)
    return name if len(name) <= 80 else f"{name[:50]}…{name[-25:]}"


def _file_content(path: Path, label: str) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES)
    except FileError as error:
        reason = error.reason
        if reason.startswith("is larger"):
            raise PhotoError(_too_many_bytes(label)) from error
        if reason == "does not exist":
            reason += f" in {path.absolute().parent}"
        raise PhotoError(f"{label} {reason.replace(', not a file', ', not a photo')}.") from error


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
            "(JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP, TIFF, or raw with a preview)."
        ) from error
    except Image.DecompressionBombError as error:
        raise PhotoError(
            f"{label} has more pixels than can be read: at most {MAX_PIXELS / 1e6:,.4g} million."
        ) from error
    except Exception as error:
        # Decoders raise errors of any kind on crafted bytes, in words of their own.
        raise PhotoError(f"{label} is damaged and cannot be opened.") from error


def _read(
    content: bytes,
    label: str,
    draft_size: int | tuple[int, int] | None,
    facts: PhotoFacts | None = None,
) -> Photo:
    """Decode the content of a file; `facts` replace its own."""
    check_structure(content, label)
    header = jpeg_header(content)
    if header is not None:
        _check_work(header, label)
    page = main_page(content, label)
    with _opened(content, label) as image:
        if page:
            image.seek(page)
        _check_pixels(image, label)
        size = image.size
        if draft_size is not None and image.format in _DRAFTABLE:
            wanted = (draft_size, draft_size) if isinstance(draft_size, int) else draft_size
            turned = (facts or read_exif(image)).orientation >= 5
            image.draft("RGB", wanted[::-1] if turned else wanted)
        with _memory.reserved(_decoded_bytes(image, header), label):
            if header is None:
                image.load()
            else:
                image = _whole_jpeg(image, content, header, label)
            # Read after decoding, because a PNG may store its EXIF after the pixels.
            found = facts or image_facts(image)
            return _photo(image, found, label, size)


def _photo(image: Image.Image, facts: PhotoFacts, label: str, size: tuple[int, int]) -> Photo:
    """Return an upright photo of a loaded image, which is not changed.

    `size` is that of the file, as stored.
    """
    upright = _in_srgb(image, label)
    if facts.orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[facts.orientation])
    elif upright is image:
        upright = image.copy()
    # Copies of the image must not inherit the file's metadata.
    upright.info = {}
    return Photo(
        image=upright,
        name=label,
        format=image.format or image.mode,
        size=size[::-1] if facts.orientation >= 5 else size,
        latitude=facts.latitude,
        longitude=facts.longitude,
        captured_at=facts.captured_at,
        source=facts.source,
        camera=facts.camera,
    )


@contextmanager
def _damage_named(label: str) -> Iterator[None]:
    """Turn the errors of decoders, of any kind on crafted bytes, into a `PhotoError`."""
    try:
        yield
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError(f"{label} does not fit into memory.") from error
    except Exception as error:
        reason = str(error).lower()
        if isinstance(error, EOFError) or any(sign in reason for sign in _TRUNCATED):
            raise PhotoError(f"{label} is cut off: the file ends before the image.") from error
        raise PhotoError(f"{label} is damaged and cannot be opened.") from error


# Limits -------------------------------------------------------------------------------------------


def _check_pixels(image: Image.Image, label: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PhotoError(
            f"{label} has {width} × {height} pixels; at most {MAX_PIXELS / 1e6:,.4g} million are "
            "allowed."
        )


def _check_work(header: JpegHeader, label: str) -> None:
    """Check that a JPEG does not consist of hundreds of scans, each a pass over all pixels."""
    if header.too_many_segments:
        raise PhotoError(f"{label} is damaged: it has more segments than any photo.")
    scans = len(header.scans)
    if scans > 1 and scans * header.pixels > MAX_SCAN_PIXELS:
        width, height = header.size
        raise PhotoError(
            f"{label} takes too long to decode: {scans:,} scans of {width} × {height} pixels."
        )


def _decoded_bytes(image: Image.Image, header: JpegHeader | None) -> int:
    """Return the bytes that decoding an opened image takes at its peak."""
    pixels = image.size[0] * image.size[1]
    if header is not None:
        return max(8 * pixels, 4 * pixels + header.buffered_bytes)
    per_pixel = BYTES_PER_PIXEL.get(image.format or "", 8)
    if image.has_transparency_data or image.mode.startswith("I"):
        per_pixel += 5
    return per_pixel * pixels


class _Memory:
    """Lets threads decode at the same time while they need less than `MAX_MEMORY` together."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all reservations; a forked process has none."""
        self._turn = threading.Lock()  # so that a large photo is not overtaken for ever
        self._change = threading.Condition()
        self._reserved = 0

    @contextmanager
    def reserved(self, amount: int, label: str) -> Iterator[None]:
        """Wait until `amount` bytes are free, and hold them.

        Raises:
            PhotoError: they are more than `MAX_MEMORY`.
        """
        if amount > MAX_MEMORY:
            raise PhotoError(
                f"{label} needs {amount / 1e9:.2g} GB of memory to decode; at most "
                f"{MAX_MEMORY / 1e9:.2g} GB are allowed."
            )
        with self._turn, self._change:
            self._change.wait_for(lambda: self._reserved + amount <= MAX_MEMORY)
            self._reserved += amount
        try:
            yield
        finally:
            with self._change:
                self._reserved -= amount
                self._change.notify()


_memory = _Memory()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_memory.reset)


# JPEGs without an end -----------------------------------------------------------------------------


def _whole_jpeg(image: Image.Image, content: bytes, header: JpegHeader, label: str) -> Image.Image:
    """Decode an opened JPEG; return it, or a repaired one that lacks only its end marker.

    Raises:
        PhotoError: rows are missing.
    """
    try:
        image.load()
    except Exception:
        if header.has_end_marker or not header.is_complete:
            raise
        size, mode = image.size, image.mode
        image = _opened(content[: header.end].rstrip(b"\xff") + EOI, label)
        if image.size != size:
            image.draft(mode, size)
        image.load()
    else:
        if header.has_end_marker and not _ends_grey(image):
            return image
    if not _is_whole(content, header, label):
        raise PhotoError(f"{label} is cut off: the file ends before the image.")
    return image


def _ends_grey(image: Image.Image) -> bool:
    """Return whether the last row looks as libjpeg paints missing rows."""
    width, height = image.size
    last = image.crop((0, height - 1, width, height)).getextrema()
    bands = last if isinstance(last[0], tuple) else (last,)
    return all(band == (_MISSING_GREY, _MISSING_GREY) for band in bands)


def _is_whole(content: bytes, header: JpegHeader, label: str) -> bool:
    """Return whether the data of a JPEG reaches to its last row.

    Zeros at the end may be padding, which decoders take for flat rows. They belong to the picture
    only if they end where it does.
    """
    data = content[: header.end].rstrip(b"\xff")
    if header.has_end_marker:
        return _share_changed(data, header, label) <= 1
    changed = _share_changed(data.rstrip(b"\0\xff"), header, label)
    if changed <= 1:
        return True
    return not _share_changed(data, header, label) and _share_changed(data[:-16], header, label) > 0


def _share_changed(data: bytes, header: JpegHeader, label: str) -> float:
    """Return how much of a picture depends on what follows its data.

    It is decoded twice, once with noise added, which changes the picture only where the data has
    ended; from there on it is missing. At most 1 are a unit of the picture, or 1 % of it within
    half of the last row of units.
    """
    # The last scans of a progressive JPEG change only details, which a small draft does not show.
    draft = header.size if header.is_progressive else (1, 1)
    if header.pixels > _MOST_COMPARED:
        draft = min(draft, (header.size[0] // 2, header.size[1] // 2))
    pictures = []
    for tail in (EOI, _NOISE + EOI):
        with _opened(data + tail, label) as image:
            image.draft("RGB", draft)
            factor = header.size[1] / image.size[1]
            pictures.append(np.asarray(image.convert("RGB")))
    differs = (pictures[0] != pictures[1]).any(axis=2)
    # Smoothing reaches one row and column further.
    across, down = (8 * blocks for blocks in header.block)
    last = (header.size[1] - 1) % down + 1  # of the last row of units, what belongs to the picture
    columns, rows = (math.ceil(side / factor) + 1 for side in (across, last))
    if differs[:-rows].any():
        return math.inf
    if not differs.any():
        return 0.0
    width = differs.shape[1]
    missing = rows * (width - int(differs.any(axis=0).argmax()))
    return float(missing / max(rows * columns, min(0.01 * differs.size, 0.5 * rows * width)))


# Colours ------------------------------------------------------------------------------------------


def _in_srgb(image: Image.Image, label: str) -> Image.Image:
    """Return a loaded image in 8-bit sRGB, itself if it is; transparent parts become white."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns 16-bit greys white.
        grey = np.asarray(image).clip(0, 65535)
        divisor = 257 if image.mode != "I" or grey.max() > 255 else 1
        scaled = Image.fromarray(np.rint(grey / np.float32(divisor)).astype(np.uint8))
        return _converted(scaled, image.info.get("icc_profile")).convert("RGB")
    if image.mode == "F":
        raise PhotoError(f"{label} contains measurements (floating point), not a photo.")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        layered = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
        alpha = layered.getchannel("A")
        white = Image.new("RGB", image.size, (255, 255, 255))
        colours = layered if layered.mode == "RGBA" else layered.convert("L")
        white.paste(_converted(colours, profile).convert("RGB"), mask=alpha)
        return white
    colours = _converted(image, profile)
    return colours if colours.mode == "RGB" else colours.convert("RGB")


def _converted(image: Image.Image, profile: object) -> Image.Image:
    """Return an image in sRGB if it has a usable colour profile, else the image itself."""
    if not isinstance(profile, bytes) or not 128 < len(profile) <= MAX_PROFILE:
        return image
    space = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}.get(profile[16:20])
    if space is None or (space != "RGB" and image.mode != space):
        return image
    transform = _transform(_Profile(profile), space)
    if transform is None:
        return image
    try:
        return transform.apply(image if image.mode == space else image.convert(space))
    except Exception:  # a profile that cannot be used must not cost the photo
        return image


class _Profile:
    """The bytes of a colour profile, compared by their hash."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._digest = hashlib.blake2b(content, digest_size=16).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Profile) and self._digest == other._digest


@lru_cache(maxsize=16)
def _transform(profile: _Profile, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if there is nothing to do, or it fails."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile.content))
        transform = ImageCms.ImageCmsTransform(
            opened, _srgb(), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        if mode == "RGB":
            # Most profiles say sRGB in other words: a difference of 2 levels is not visible.
            steps = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), -1).reshape(1, -1, 3)
            colours = Image.fromarray(steps.astype(np.uint8))
            change = np.asarray(transform.apply(colours), dtype=int) - steps
            if np.abs(change).max() <= 2:
                return None
    except Exception:  # lcms raises errors of several kinds on damaged profiles
        return None
    return transform


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
