"""Reading photos that nobody vouches for: any bytes in, an upright RGB image or a clear error out.

Only camera and web formats are tried, limits on bytes and pixels hold before anything is decoded,
and every failure is a :class:`PhotoError` whose text can be shown to the person who dropped the
file.
"""

import io
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from geoclip_core.data.exif import ExifFacts, read_exif
from geoclip_core.data.photo_files import MAX_BYTES, PhotoError, Source, printable, read_source

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
