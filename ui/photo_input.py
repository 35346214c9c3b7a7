"""Where photos come in: dropped or chosen, pasted, taken with the camera."""

import streamlit as st

from geoclip_core.data.photos import PHOTO_SUFFIXES
from ui.clipboard import paste_button
from ui.photo_tray import PhotoTray, photo_tray

PRIVACY = (
    "Photos stay on the computer that runs this app: read in memory, sent to nobody, not stored. "
    "A position in the EXIF is shown, never used for the guess."
)

EXAMPLE_NOTE = (
    ":material/lightbulb: An example to begin with: the Summer Palace in Beijing, by danielbuechele"
    " ([CC BY 2.0](https://creativecommons.org/licenses/by/2.0/)). It goes when your photos come."
)

_COMMON = (".jpg", ".png", ".webp", ".heic")
_SUFFIXES = [*_COMMON, *sorted(PHOTO_SUFFIXES.difference(_COMMON))]


def photo_input(label: str = "Drop photos here") -> PhotoTray:
    """The upload field with "Paste", "Camera" and "Clear"; new photos go to the tray.

    Returns:
        The tray of this session, with what came in.
    """
    tray = photo_tray()
    key = f"upload-{tray.uploads}"
    st.file_uploader(
        label,
        type=_SUFFIXES,
        accept_multiple_files=True,
        key=key,
        on_change=_take_uploads,
        args=(key,),
        help="JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF; as many as you like.",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, content in paste_button("paste"):
            _tell(tray.add(f"Pasted {len(tray) + 1}: {name}", content), name)
        camera = st.toggle("Camera", key="camera on", help="Asks for the camera once it is on.")
        if len(tray):
            st.button(
                "Clear all",
                icon=":material/delete:",
                on_click=tray.clear,
                help="Forget all photos and their results.",
            )
    if camera:
        shot = f"camera-{tray.clears}"
        st.camera_input("Take a photo", key=shot, on_change=_take_shot, args=(shot,), width=480)
    st.caption(f":material/lock: {PRIVACY}")
    return tray


def _take_uploads(key: str) -> None:
    tray = photo_tray()
    for file in st.session_state.get(key) or []:
        _tell(tray.add(file.name, file.getvalue()), file.name)
    # The field starts anew, so that a photo is listed once: on its card, where it can be removed.
    tray.uploads += 1


def _take_shot(key: str) -> None:
    tray = photo_tray()
    shot = st.session_state.get(key)
    if shot is not None:
        tray.add(f"Camera {len(tray) + 1}", shot.getvalue())


def _tell(is_new: bool, name: str) -> None:
    if not is_new:
        st.toast(f"{name} is here already.", icon=":material/content_copy:")
