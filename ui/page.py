"""What every page begins with: its name, what it is for, and the way to the others."""

from pathlib import Path

import streamlit as st
from streamlit.errors import StreamlitPageNotFoundError

from ui import static_files

APP = "GeoCLIP"
ROOT = Path(__file__).resolve().parent.parent

_ICONS = {
    "Map": ":material/map:",
    "Context heads": ":material/psychology_alt:",
    "Evaluation": ":material/query_stats:",
    "Train": ":material/model_training:",
    "Dataset": ":material/photo_library:",
}


def open_page(title: str, purpose: str, *, name: str | None = None) -> None:
    """Configure the page and write its head; the first call of every page.

    Args:
        title: the heading.
        purpose: one sentence of what the page is for (Markdown).
        name: as in the navigation and the browser's tab; by default the title.
    """
    name = name or title
    st.set_page_config(
        page_title=f"{name} · {APP}",
        page_icon=str(static_files.STATIC / "icon.svg"),  # an icon by name would come from a CDN
        layout="wide",
        initial_sidebar_state="auto",
    )
    _install_static_files()
    with st.sidebar:
        _navigation()
    st.title(title, anchor=False)
    st.markdown(purpose)


def page_names() -> dict[str, str]:
    """Name → file of every page, the map first, in the order of their numbers."""
    pages = {"Map": "app.py"}
    for file in sorted((ROOT / "pages").glob("[0-9]*_*.py")):
        name = file.stem.split("_", 1)[1].replace("_", " ")
        pages[name] = f"pages/{file.name}"
    return pages


def _navigation() -> None:
    st.markdown(f"**:material/public: {APP}**")
    for name, file in page_names().items():
        try:
            st.page_link(file, label=name, icon=_ICONS.get(name))
        except StreamlitPageNotFoundError:
            # A page that is run by itself, without app.py, has no neighbours to link to.
            return
    st.space("small")


@st.cache_resource(show_spinner=False)
def _install_static_files() -> list[Path]:
    return static_files.install_vendor_files()
