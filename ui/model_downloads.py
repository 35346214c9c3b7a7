"""Models to be had: what each weighs, allows and is good for, and a button that fetches it.

A download runs in a process of its own and writes how it is getting on to the cache folder, so
that a reload, a second tab or a closed browser loses nothing.
"""

import streamlit as st

from geoclip_core.cache_folders import OFFLINE_VARIABLE, cache_folders, is_offline
from geoclip_core.hub.catalogue import CATALOGUE, CatalogueEntry
from geoclip_core.hub.download_status import DownloadStatus, read_status, start_download
from geoclip_core.hub.installed_models import installed_model
from geoclip_core.hub.placement import readable
from ui.theme import markdown_text


def model_downloads() -> None:
    """A fold in the sidebar with the models of the catalogue that are not here yet."""
    entries = [
        entry
        for entry in CATALOGUE
        if entry.kind == "model" and (installed_model(entry.name) is None or _is_running(entry))
    ]
    if not entries:
        return
    told = any(read_status(entry.name) is not None for entry in entries)
    with st.expander("More models", icon=":material/cloud_download:", expanded=told):
        for entry in entries:
            _watch(entry.name) if _is_running(entry) else _offer(entry)
        st.caption(
            "All that can be had, backbones for training too: `python -m geoclip_core models`"
        )


def _offer(entry: CatalogueEntry) -> None:
    st.markdown(
        f"**{entry.name}** · {readable(entry.bytes)} · licence {entry.licence}  \n"
        f"{entry.good_for[0].upper()}{entry.good_for[1:]}."
    )
    if is_offline():
        st.caption(f":material/wifi_off: The network is switched off ({OFFLINE_VARIABLE}).")
        return
    status = read_status(entry.name)
    if status is not None and status.state == "failed":
        st.warning(markdown_text(status.error), icon=":material/error:")
    again = status is not None and status.state == "failed"
    st.button(
        "Try again" if again else f"Download {readable(entry.bytes)}",
        key=f"download {entry.name}",
        icon=":material/download:",
        help=f"To {cache_folders().models}. It goes on where it was interrupted.",
        on_click=_start,
        args=(entry.name,),
    )


def _start(name: str) -> None:
    try:
        start_download(name)
    except OSError as error:
        st.toast(f"The download cannot be started: {error}", icon=":material/error:")


@st.fragment(run_every=1.0)
def _watch(name: str) -> None:
    """The progress of a running download; the whole page runs again when it ends."""
    status = read_status(name)
    if status is None or status.state != "running":
        if status is not None and status.state == "finished":
            st.toast(f"{name} is ready.", icon=":material/check_circle:")
        st.rerun()
        return
    st.markdown(f"**{name}** is being downloaded")
    st.progress(status.share or 0.0, markdown_text(_step(status)))
    st.caption("You can go on working, and close this page.")


def _step(status: DownloadStatus) -> str:
    if "places" in status.what:
        return f"{status.what}: {status.done:,} of {status.total or 0:,}"
    if not status.done:
        return status.what
    total = f" of {readable(status.total)}" if status.total else ""
    return f"{status.what}: {readable(status.done)}{total}"


def _is_running(entry: CatalogueEntry) -> bool:
    status = read_status(entry.name)
    return status is not None and status.state == "running"
