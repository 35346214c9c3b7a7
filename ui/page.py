"""What every page begins with: its name, what it is for, and the way to the others."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.errors import StreamlitPageNotFoundError

from ui import static_files

T = TypeVar("T")

CONTEXT_PHOTO = "context photo"
"""Where the digest of the photo is kept that the context page shows."""


def choose(
    label: str,
    options: Sequence[T],
    key: str,
    *,
    default: T | None = None,
    format_func: Callable[[Any], str] = str,
    help: str | None = None,
    **widget: Any,
) -> T | None:
    """A select box whose value survives a change of page.

    A value that has meanwhile gone from the options (a run that was deleted) gives way to
    ``default``, or to the first option.

    Args:
        label: what is chosen.
        options: hashable values; none: the box is drawn disabled.
        key: the same on every page that offers this choice.
        default: chosen at first, if it is among the options.
        format_func: how an option is shown.
        help: a tooltip.
        widget: further arguments of ``st.selectbox``.

    Returns:
        The chosen option; None if there are none.
    """
    values = list(options)
    if st.session_state.get(key) not in values:
        st.session_state.pop(key, None)
        if values:
            st.session_state[key] = default if default in values else values[0]
    return st.selectbox(
        label,
        values,
        key=key,
        format_func=format_func,
        help=help,
        # Where a value may be typed, an empty list is no reason to close the box.
        disabled=not values and not widget.get("accept_new_options"),
        placeholder=widget.pop("placeholder", None if values else "Nothing to choose from"),
        persist_state="session",
        **widget,
    )


def kept(key: str, make: Callable[[], T]) -> T:
    """The object of this session under ``key``, made when it is first asked for."""
    name = f"kept:{key}"
    if name not in st.session_state:
        st.session_state[name] = make()
    return st.session_state[name]


_STYLE = """<style>
@media (min-width: 900px) {
  .st-key-workbench {
    display: grid;
    gap: 1rem 2.5rem;
    grid-template: "controls map" auto "cards map" 1fr / minmax(0, 2fr) minmax(0, 3fr);
  }
  .st-key-workbench > :has(> .st-key-controls) { grid-area: controls; }
  .st-key-workbench > :has(> .st-key-cards) { grid-area: cards; }
  .st-key-workbench > :has(> .st-key-map-side) {
    align-self: start; grid-area: map; position: sticky; top: 4rem;
  }
}
</style>"""


class Workbench(NamedTuple):
    """Three containers: ``with bench.map_side: ...``."""

    controls: DeltaGenerator
    map_side: DeltaGenerator
    cards: DeltaGenerator


def workbench() -> Workbench:
    """Lay out the page; once a page."""
    st.html(_STYLE)
    with st.container(key="workbench"):
        return Workbench(
            st.container(key="controls"), st.container(key="map-side"), st.container(key="cards")
        )


RUNS_VARIABLE = "GEOCLIP_RUNS"
"""Environment variable: where runs are kept, instead of ``runs`` in the working directory."""

FOLDER_KEY = "runs folder"


def runs_folder() -> Path:
    """As typed on the Train page in this session, else ``GEOCLIP_RUNS``, else ``runs``."""
    chosen = str(st.session_state.get(FOLDER_KEY) or "").strip()
    return Path(chosen or os.environ.get(RUNS_VARIABLE, "").strip() or "runs").expanduser()


DATASETS_VARIABLE = "GEOCLIP_DATASETS"
"""Environment variable: where datasets are kept, instead of ``datasets`` in the working folder."""


def datasets_folder() -> Path:
    """``GEOCLIP_DATASETS``, else ``datasets``."""
    return Path(os.environ.get(DATASETS_VARIABLE, "").strip() or "datasets").expanduser()


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


def wrapping_columns(spec: int | Sequence[float], key: str, least: int) -> list[DeltaGenerator]:
    """Columns that go below each other where one would be narrower than ``least`` pixels.

    Streamlit's own columns do so on phones alone, and beside an open sidebar a tablet has no more
    room than a phone.
    """
    name = f"wrapping-{key.replace(' ', '-')}"
    row, column = "[data-testid=stHorizontalBlock]", "[data-testid=stColumn]"
    with st.container(key=name):
        st.html(
            f"<style>.st-key-{name} {row}:has(> {column}) {{ flex-wrap: wrap; }}"
            f".st-key-{name} {row} > {column} {{ min-width: min({least}px, 100%); }}</style>"
        )
        return list(st.columns(spec))


def note_and_downloads(words: str, *downloads: tuple[str, Callable[[], pd.DataFrame], str]) -> None:
    """A caption, and downloads (label, table, file) in a row below it."""
    st.caption(words)
    with st.container(horizontal=True):
        for label, make, file in downloads:
            download(label, make, file)


def download(label: str, make: Callable[[], pd.DataFrame], file: str) -> None:
    """A button that makes a CSV when it is pressed."""
    st.download_button(
        label,
        lambda: make().to_csv(index=False).encode("utf-8"),
        file_name=file,
        mime="text/csv",
        key=f"download {file}",
        icon=":material/download:",
        type="tertiary",
        on_click="ignore",
    )


def plain_markdown(text: str) -> str:
    """Text from a file with Markdown's marks made plain."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|<>$~:" else c for c in text)
