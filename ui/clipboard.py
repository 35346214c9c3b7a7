"""Photos from the clipboard: Ctrl+V anywhere on the page, or a button where there is no keyboard.

Streamlit has no widget for this. The component runs in the page itself and sends pasted images as
data URLs over the page's own connection: nothing leaves for another server.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any

import streamlit as st

_HTML = """
<button type="button" title="Paste a photo from the clipboard (Ctrl+V or ⌘V also works)">
  <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true"><path fill="currentColor"
    d="M19 3h-4.2a3 3 0 0 0-5.6 0H5a2 2 0 0 0-2 2v15c0 1.1.9 2 2 2h14a2 2 0 0 0 2-2V5a2 2 0 0
    0-2-2Zm-7 0a1 1 0 1 1 0 2 1 1 0 0 1 0-2Zm7 17H5V5h2v3h10V5h2v15Z"/></svg>
  <span>Paste</span>
</button>
<small role="status"></small>
"""

_CSS = """
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

_JS = """
export default function ({ parentElement, setTriggerValue }) {
  const status = parentElement.querySelector("small");
  const button = parentElement.querySelector("button");
  // Called again at every rerun: the listeners of the last time make way.
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
      status.textContent = "The browser keeps the clipboard closed: press Ctrl+V or ⌘V instead.";
    }
  };

  return () => pasting.abort();
}
"""


def paste_button(key: str) -> list[tuple[str, bytes]]:
    """A "Paste" button that also listens to Ctrl+V.

    Returns:
        Name and bytes of each image pasted since the last run; mostly none.
    """
    result = _component()(key=key, on_pasted_change=lambda: None, width="content", height="content")
    photos = result.pasted if isinstance(result.pasted, list) else []
    return [photo for photo in map(_decoded, photos) if photo is not None]


def _decoded(photo: Any) -> tuple[str, bytes] | None:
    """Name and bytes of what the browser sent; None for what is no image in a data URL."""
    data = photo.get("data") if isinstance(photo, dict) else None
    if not isinstance(data, str) or not data.startswith("data:image/") or "," not in data:
        return None
    try:
        content = base64.b64decode(data.split(",", 1)[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    return str(photo.get("name") or "image"), content


@st.cache_resource(show_spinner=False)
def _component() -> Callable[..., Any]:
    # Registered once a process: a second time would be logged as a clash of names.
    return st.components.v2.component("photo_paste", html=_HTML, css=_CSS, js=_JS)
