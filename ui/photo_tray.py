"""The photos of a session: dropped, pasted or taken, on every page the same.

They live in this session's memory alone. Nothing is written to disk, and "Clear" or the end of the
session forgets them.
"""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from geoclip_core.data.photos import PhotoError, open_photo
from ui.session import kept
from ui.static_files import STATIC

EXAMPLE = STATIC / "examples" / "summer-palace.jpg"
THUMBNAIL = (640, 480)
"""Width and height that hold a thumbnail, in pixels."""

_THUMBNAILS_KEPT = 512


@dataclass(frozen=True)
class TrayPhoto:
    """A photo as it came: its name, its bytes, and a digest of them that identifies it."""

    name: str
    content: bytes
    digest: str
    example: bool = False


class PhotoTray:
    """Photos in the order they came, each once."""

    def __init__(self) -> None:
        self._photos: dict[str, TrayPhoto] = {}
        self.uploads = 0
        """How often the upload field was emptied into the tray: then it starts anew."""
        self.clears = 0

    def __len__(self) -> int:
        return len(self._photos)

    def __iter__(self) -> Iterator[TrayPhoto]:
        return iter(tuple(self._photos.values()))

    def add(self, name: str, content: bytes) -> bool:
        """Take a photo in; False if these very bytes are here already."""
        photo = TrayPhoto(name, content, hashlib.sha256(content).hexdigest())
        if photo.digest in self._photos:
            return False
        self._photos[photo.digest] = photo
        return True

    def remove(self, digest: str) -> None:
        """Forget one photo."""
        self._photos.pop(digest, None)
        _forget([digest])

    def clear(self) -> None:
        """Forget all photos, and what the camera shows."""
        _forget(self._photos)
        self._photos.clear()
        self.clears += 1


def photo_tray() -> PhotoTray:
    """The tray of this session."""
    return kept("photo tray", PhotoTray)


def example_photo() -> TrayPhoto:
    """The photo that the pages show until there is one of the viewer's own."""
    content = EXAMPLE.read_bytes()
    return TrayPhoto("Example photo", content, hashlib.sha256(content).hexdigest(), example=True)


def shown_photos() -> list[TrayPhoto]:
    """What the pages show: the tray's photos, or the example if it is empty."""
    return list(photo_tray()) or [example_photo()]


def thumbnail(photo: TrayPhoto) -> bytes:
    """A small upright JPEG of a photo, without its EXIF.

    Raises:
        PhotoError: if it cannot be read; the message names the file.
    """
    with _LOCK:
        if photo.digest in _CACHE:
            _CACHE.move_to_end(photo.digest)
            return _CACHE[photo.digest]
    image = open_photo(photo.content, name=photo.name, draft_size=THUMBNAIL).image
    image.thumbnail(THUMBNAIL)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    with _LOCK:
        _CACHE[photo.digest] = stream.getvalue()
        while len(_CACHE) > _THUMBNAILS_KEPT:
            _CACHE.popitem(last=False)
    return stream.getvalue()


def problem(photo: TrayPhoto) -> str | None:
    """Why a photo cannot be read, in a sentence; None if it can."""
    try:
        thumbnail(photo)
    except PhotoError as error:
        return str(error)
    return None


def _forget(digests: Iterable[str]) -> None:
    with _LOCK:
        for digest in digests:
            _CACHE.pop(digest, None)


_LOCK = threading.Lock()
_CACHE: OrderedDict[str, bytes] = OrderedDict()
