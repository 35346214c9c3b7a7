"""The photos of a session: dropped, chosen, pasted or taken, and kept in memory only.

"Clear all" and the end of the session remove them.
"""

import base64
import binascii
import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import streamlit as st

from geoclip_core.data.photos import PHOTO_SUFFIXES, open_photo
from geoclip_core.errors import PhotoError
from geoclip_core.files import readable
from geoclip_core.prediction import Exif
from geoclip_core.processes import give_back_memory
from ui.page import STATIC, kept
from ui.theme import markdown_text

EXAMPLE_NOTE = (
    ":material/lightbulb: An example: the Summer Palace in Beijing, by danielbuechele"
    " ([CC BY 2.0](https://creativecommons.org/licenses/by/2.0/)). Your own photos replace it."
)

_EXAMPLE = STATIC / "examples" / "summer-palace.jpg"
_EXAMPLE_TRUTH = Exif(39.9985, 116.2731, None, source="the Summer Palace in Beijing")
"""The Tower of Buddhist Incense, the middle of the Summer Palace."""

MAX_PHOTOS, MAX_TRAY_BYTES = 200, 500 * 10**6
"""Photos of a session at once, and their bytes together: they are kept in memory."""
_AT_ONCE = f"{MAX_PHOTOS} photos, {readable(MAX_TRAY_BYTES)} together, at once"

_PRIVACY = (
    "Photos stay on the computer that runs this app: they are read in memory, not sent and not "
    f"stored. A GPS position in a photo is shown, but not used for the guess. Up to {_AT_ONCE}."
)

_THUMBNAIL = (640, 480)
"""Largest width and height of a thumbnail in pixels."""

_THUMBNAILS_KEPT = 512
_LOST = "lost photos"
"""Session key: a sentence that says that photos were lost."""

_COMMON = (".jpg", ".png", ".webp", ".heic")
SUFFIXES = [*_COMMON, *sorted(PHOTO_SUFFIXES.difference(_COMMON))]
"""The upload field lists these, so the common ones come first."""

# Streamlit has no widget for the clipboard. The component runs in the page itself and sends pasted
# images as data URLs over the page's own connection.
_PASTE_HTML = """
<button type="button" title="Paste a photo from the clipboard (Ctrl+V or ⌘V also works)">
  <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true"><path fill="currentColor"
    d="M19 3h-4.2a3 3 0 0 0-5.6 0H5a2 2 0 0 0-2 2v15c0 1.1.9 2 2 2h14a2 2 0 0 0 2-2V5a2 2 0 0
    0-2-2Zm-7 0a1 1 0 1 1 0 2 1 1 0 0 1 0-2Zm7 17H5V5h2v3h10V5h2v15Z"/></svg>
  <span>Paste</span>
</button>
<small role="status"></small>
"""

_PASTE_CSS = """
:host { display: flex; }
button {
  align-items: center; background: var(--st-background-color); border: 1px solid
  var(--st-border-color); border-radius: var(--st-button-radius); color: var(--st-text-color);
  cursor: pointer; display: inline-flex; font: inherit; font-size: .875rem; gap: .45rem;
  line-height: 1.6;
  min-height: 2.5rem; padding: .25rem .75rem;
}
button:hover { border-color: var(--st-primary-color); color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
small { color: var(--st-text-color); margin-left: .6rem; opacity: .75; }
small:empty { display: none; }
"""

_PASTE_JS = """
// The tab remembers how many photos it has added, so that the app can say that they are lost.
const KEY = "photos of this tab";

function lost(now) {
  try {
    const before = JSON.parse(sessionStorage.getItem(KEY));
    sessionStorage.setItem(KEY, JSON.stringify(now));
    return before && before.session !== now.session && before.photos && !now.photos ? before : null;
  } catch { return null; }
}

export default function ({ parentElement, setTriggerValue, data }) {
  const before = lost(data);
  if (before) {
    setTriggerValue("lost", { photos: before.photos, restarted: before.server !== data.server });
  }
  const status = parentElement.querySelector("small");
  const button = parentElement.querySelector("button");
  // Called again at every rerun: remove the previous listeners.
  if (parentElement.pasting) parentElement.pasting.abort();
  const pasting = new AbortController();
  parentElement.pasting = pasting;

  const dataUrl = (blob) => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

  async function send(blobs) {
    const photos = [];
    for (const blob of blobs) {
      photos.push({ name: blob.name || "", type: blob.type, data: await dataUrl(blob) });
    }
    status.textContent = "";
    setTriggerValue("pasted", photos);
  }

  document.addEventListener("paste", (event) => {
    const images = [...(event.clipboardData?.items || [])]
      .filter((item) => item.kind === "file" && item.type.startsWith("image/"))
      .map((item) => item.getAsFile()).filter(Boolean);
    if (!images.length) return;
    event.preventDefault();
    send(images);
  }, { signal: pasting.signal });

  button.onclick = async () => {
    try {
      const blobs = [];
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((name) => name.startsWith("image/"));
        if (type) blobs.push(await item.getType(type));
      }
      if (blobs.length) await send(blobs);
      else status.textContent = "There is no picture in the clipboard.";
    } catch (error) {
      status.textContent = "The browser does not allow this. Press Ctrl+V or ⌘V instead.";
    }
  };

  return () => pasting.abort();
}
"""

_thumbnails: OrderedDict[str, bytes] = OrderedDict()
_thumbnails_lock = threading.Lock()


@dataclass(frozen=True)
class TrayPhoto:
    """A photo as it was added: its name, its bytes, and their digest, which identifies it."""

    name: str
    content: bytes
    digest: str
    example: bool = False

    @property
    def truth(self) -> Exif | None:
        """Where the example was taken, which its metadata do not say; None of other photos."""
        return _EXAMPLE_TRUTH if self.example else None


def tray_photo(name: str, content: bytes, *, example: bool = False) -> TrayPhoto:
    """Return a photo with its digest."""
    return TrayPhoto(name, content, hashlib.sha256(content).hexdigest(), example)


class PhotoTray:
    """Different photos in the order in which they were added."""

    def __init__(self) -> None:
        self._photos: dict[str, TrayPhoto] = {}
        self.uploads = 0
        """Number of uploads; part of the upload field's key, so that each one empties the field."""
        self.clears = 0
        """Number of calls of ``clear``; part of the camera's key."""

    def __len__(self) -> int:
        return len(self._photos)

    def __iter__(self) -> Iterator[TrayPhoto]:
        return iter(tuple(self._photos.values()))

    def has_room(self, content: bytes) -> bool:
        """Return whether a photo can be added within `MAX_PHOTOS` and `MAX_TRAY_BYTES`."""
        size = sum(len(photo.content) for photo in self._photos.values())
        return len(self) < MAX_PHOTOS and size + len(content) <= MAX_TRAY_BYTES

    def add(self, name: str, content: bytes) -> bool:
        """Add a photo; return False if the same bytes are already here."""
        photo = tray_photo(name, content)
        if photo.digest in self._photos:
            return False
        self._photos[photo.digest] = photo
        return True

    def remove(self, *digests: str) -> None:
        """Remove photos and their thumbnails."""
        for digest in digests:
            self._photos.pop(digest, None)
        _forget(digests)

    def clear(self) -> None:
        """Remove all photos, their thumbnails, and the camera's picture."""
        _forget(self._photos)
        self._photos.clear()
        self.clears += 1
        give_back_memory()


def photo_tray() -> PhotoTray:
    """Return the tray of this session."""
    return kept("photo tray", PhotoTray)


def example_photo() -> TrayPhoto:
    """Return the photo that the pages show while the tray is empty."""
    return tray_photo("Example photo", _EXAMPLE.read_bytes(), example=True)


def shown_photos() -> list[TrayPhoto]:
    """Return the tray's photos, or the example if there are none."""
    return list(photo_tray()) or [example_photo()]


def thumbnail(photo: TrayPhoto) -> bytes:
    """Return a small upright JPEG of a photo, without its EXIF.

    Raises:
        PhotoError: if it cannot be read; the message names the file.
    """
    with _thumbnails_lock:
        if photo.digest in _thumbnails:
            _thumbnails.move_to_end(photo.digest)
            return _thumbnails[photo.digest]
    image = open_photo(photo.content, name=photo.name, draft_size=_THUMBNAIL).image
    image.thumbnail(_THUMBNAIL)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    with _thumbnails_lock:
        _thumbnails[photo.digest] = stream.getvalue()
        while len(_thumbnails) > _THUMBNAILS_KEPT:
            _thumbnails.popitem(last=False)
    return stream.getvalue()


def _forget(digests: Iterable[str]) -> None:
    with _thumbnails_lock:
        for digest in digests:
            _thumbnails.pop(digest, None)


def problem(photo: TrayPhoto) -> str | None:
    """Return why a photo cannot be read, in a sentence; None if it can."""
    try:
        thumbnail(photo)
    except PhotoError as error:
        return str(error)
    return None


def photo_input() -> None:
    """Draw the upload field with "Paste", "Camera" and "Clear all"; new photos go to the tray."""
    tray = photo_tray()
    key = f"upload-{tray.uploads}"
    st.file_uploader(
        "Drop photos here",
        type=SUFFIXES,
        accept_multiple_files=True,
        key=key,
        on_change=_take_uploads,
        args=(key,),
        help="JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP, TIFF, or raw with a preview (DNG, CR2, "
        f"NEF, ARW); up to {_AT_ONCE}.",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, content in _paste_button():
            _warn_if_full(not _add(f"Pasted {len(tray) + 1}: {name}", content))
        camera = st.toggle(
            "Camera", key="camera on", help="Your browser asks for permission first."
        )
        if len(tray):
            st.button(
                "Clear all",
                icon=":material/delete:",
                on_click=tray.clear,
                help="Remove all photos.",
            )
    if camera:
        shot = f"camera-{tray.clears}"
        st.camera_input("Take a photo", key=shot, on_change=_take_shot, args=(shot,), width=480)
    st.caption(f":material/lock: {_PRIVACY}")


def _take_uploads(key: str) -> None:
    files = st.session_state.get(key) or []
    _warn_if_full(sum(not _add(file.name, file.getvalue()) for file in files))
    # A photo is then listed on its card only, where it can be removed.
    photo_tray().uploads += 1


def _take_shot(key: str) -> None:
    shot = st.session_state.get(key)
    if shot is not None:
        _warn_if_full(not _add(f"Camera {len(photo_tray()) + 1}", shot.getvalue()))


def _add(name: str, content: bytes) -> bool:
    """Add a photo to the tray, or say that it is there already; return False if it is full."""
    tray = photo_tray()
    if not tray.has_room(content):
        return False
    if not tray.add(name, content):
        st.toast(f"{markdown_text(name)} has already been added.", icon=":material/content_copy:")
    return True


def _warn_if_full(left_out: int) -> None:
    if left_out:
        photos = "1 photo was" if left_out == 1 else f"{left_out} photos were"
        st.toast(
            f"{photos} not added: the page takes {_AT_ONCE}. Clear some, or locate a whole folder "
            "with the command `geoclip locate`.",
            icon=":material/production_quantity_limits:",
        )


def _paste_button() -> list[tuple[str, bytes]]:
    """Draw a "Paste" button; return name and bytes of each image pasted since the last run."""
    now = {
        "server": _process(),
        "session": kept("session id", lambda: uuid4().hex),
        "photos": len(photo_tray()),
    }
    result = _component()(
        key="paste",
        data=now,
        on_pasted_change=lambda: None,
        on_lost_change=lambda: None,
        width="content",
        height="content",
    )
    if isinstance(result.lost, dict):
        count, restarted = result.lost.get("photos"), result.lost.get("restarted")
        st.session_state[_LOST] = _lost_sentence(count if isinstance(count, int) else 0, restarted)
    photos = result.pasted if isinstance(result.pasted, list) else []
    return [photo for photo in map(_decoded, photos) if photo is not None]


def _lost_sentence(photos: int, restarted: object) -> str:
    why = "The app was restarted" if restarted else "This page was loaded anew"
    what = "the photo that you had added is" if photos == 1 else "the photos that you had added are"
    return f"{why}, so {what} no longer here: photos are kept in memory only. Add them again."


def lost_photos() -> str | None:
    """Return a sentence if photos of this tab were lost and none was added since, else None."""
    if len(photo_tray()):
        st.session_state.pop(_LOST, None)
    return st.session_state.get(_LOST)


@st.cache_resource(show_spinner=False)
def _process() -> str:
    """Return a name of this process, so that the browser can tell that the app was restarted."""
    return uuid4().hex


@st.cache_resource(show_spinner=False)
def _component() -> Callable[..., Any]:
    # Once per process: Streamlit logs a second registration as a clash of names.
    return st.components.v2.component("photo_paste", html=_PASTE_HTML, css=_PASTE_CSS, js=_PASTE_JS)


def _decoded(photo: Any) -> tuple[str, bytes] | None:
    """Return name and bytes of an image sent by the browser; None if it is not one."""
    data = photo.get("data") if isinstance(photo, dict) else None
    if not isinstance(data, str) or not data.startswith("data:image/") or "," not in data:
        return None
    try:
        content = base64.b64decode(data.split(",", 1)[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    return str(photo.get("name") or "image"), content
