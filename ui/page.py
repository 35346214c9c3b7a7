"""What all pages share: navigation, layout, folders, downloads, and values kept for a session."""

import contextlib
import functools
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.errors import StreamlitPageNotFoundError

from geoclip_core.data.photos import SKIPPED_FOLDERS, is_photo_name, printable
from geoclip_core.data.tables import csv_text
from geoclip_core.files import is_unicode
from ui.server import reached_beyond_loopback
from ui.theme import markdown_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

T = TypeVar("T")

APP = "GeoCLIP"

STATIC = Path(__file__).resolve().parent.parent / "static"
"""Files that Streamlit serves to the browser: borders, topojson, Leaflet, examples."""

STATIC_ADDRESS = "app/static"
"""Address of ``STATIC`` relative to a page."""

CONTEXT_PHOTO = "context photo"
"""Session key: digest of the photo that the Context heads page shows."""

RUNS_KEY = "runs folder"
"""Session key: the folder typed on the Train page."""

RUNS_VARIABLE = "GEOCLIP_RUNS"
"""Environment variable for the folder of training runs; by default ``runs``."""

DATASETS_VARIABLE = "GEOCLIP_DATASETS"
"""Environment variable for the folder of datasets; by default ``datasets``."""


PUBLIC_VARIABLE = "GEOCLIP_PUBLIC"
"""Environment variable: 1 if strangers may use the app; see ``is_public``."""

ROOTS_VARIABLE = "GEOCLIP_ROOTS"
"""Environment variable: more folders that may be typed if other computers reach the app."""

CHART_CONFIG: dict[str, Any] = {
    "topojsonURL": f"{STATIC_ADDRESS}/topojson/",
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
}
_MOST_FOLDERS = 2000
"""Folders that are listed, of one that holds more."""


class PageLink(NamedTuple):
    """File of a page, relative to app.py, and its icon."""

    file: str
    icon: str


PAGES = {
    "Map": PageLink("app.py", ":material/map:"),
    "Context heads": PageLink("pages/1_Context_heads.py", ":material/psychology_alt:"),
    "Evaluation": PageLink("pages/2_Evaluation.py", ":material/query_stats:"),
    "Train": PageLink("pages/3_Train.py", ":material/model_training:"),
    "Dataset": PageLink("pages/4_Dataset.py", ":material/photo_library:"),
    "Play": PageLink("pages/5_Play.py", ":material/sports_esports:"),
}
"""Every page by its name, in the order of the navigation."""

_WORKBENCH_STYLE = """<style>
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


_OPTIONS_STYLE = """<style>
[role=option] > [data-item-hl] {
  align-content: center; display: block; text-overflow: ellipsis;
}
</style>"""
"""Options that are wider than their box end in an ellipsis, which Streamlit leaves out."""


def open_page(name: str, title: str, purpose: str) -> None:
    """Configure a page (a key of ``PAGES``), draw its navigation and title; call this first."""
    _freeze_modules(name, "torch" in sys.modules)
    st.set_page_config(
        page_title=f"{name} · {APP}",
        page_icon=str(STATIC / "icon.svg"),  # Streamlit fetches named icons from a CDN.
        layout="wide",
        initial_sidebar_state="auto",
    )
    st.html(_OPTIONS_STYLE)
    with st.sidebar:
        st.markdown(f"**:material/public: {APP}**")
        # A page that is started without app.py has no other pages to link to.
        with contextlib.suppress(StreamlitPageNotFoundError):
            for label, page in PAGES.items():
                st.page_link(page.file, label=label, icon=page.icon)
            st.space("small")
        with st.popover("Limits and misuse", icon=":material/gavel:", type="tertiary"):
            st.markdown(limits_and_misuse())
        if is_public():
            st.caption(":material/lock: Public: nothing can be trained, imported or deleted here.")
    st.title(title, anchor=False)
    st.markdown(purpose)


def page_failed(error: Exception) -> bool:
    """Say that a page failed, for ``streamlit.App(on_script_error=...)``; always return True.

    What a visitor's files can cause is said where they are read; this is for faults of the program.
    Streamlit has written the error to the log, and shows it on the page unless this returns True.
    """
    st.error(
        "This part of the page failed because of a fault in the program. Reload the page; if it "
        "fails again, choose another model, run, dataset or photo. Whoever runs the app finds the "
        f"cause ({type(error).__name__}) in its log.",
        icon=":material/error:",
    )
    return True


@functools.cache
def limits_and_misuse() -> str:
    """Return the sections of SECURITY.md that users of the pages should know, in Markdown."""
    sections = (STATIC.parent / "SECURITY.md").read_text(encoding="utf-8").split("\n## ")
    shown = [text for text in sections if text.startswith(("What an estimate", "Misuse"))]
    text = "\n".join(f"##### {text.strip()}\n" for text in shown)
    return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]*\)", r"\1", text)  # links to files of the checkout


@functools.cache
def _freeze_modules(page: str, with_torch: bool) -> None:
    """Exclude what the imports of a page made from garbage collection, once per process.

    Streamlit collects garbage after every run of a page or of a fragment. Scanning the 300,000
    objects of the libraries would take 0.2 s each time.
    """
    gc.collect()
    gc.freeze()


def is_public() -> bool:
    """Return whether ``GEOCLIP_PUBLIC`` is set to anything but 0, false, no or off.

    In public mode the pages show models, runs, datasets and evaluations that are listed, and locate
    photos. They take no typed paths or names of models, and start, import, download, delete
    nothing.
    """
    value = os.environ.get(PUBLIC_VARIABLE, "").strip().lower()
    return value not in ("", "0", "false", "no", "off")


def may_open(folder: str | os.PathLike[str]) -> bool:
    """Return whether the app may read or write a file or folder that was typed or is linked to.

    Everything may be opened if only this computer reaches the app. Else what lies below the folder
    of runs, that of datasets, or one of ``GEOCLIP_ROOTS`` (separated as in ``PATH``).
    """
    if not _is_confined():
        return True
    roots = [_configured_runs(), datasets_folder(), *_added_roots()]
    return any(_is_below(folder, root) for root in roots)


def _is_confined() -> bool:
    return is_public() or reached_beyond_loopback()


def _added_roots() -> list[Path]:
    more = os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep)
    return [Path(root).expanduser() for root in more if root.strip()]


def _is_below(folder: str | os.PathLike[str], root: Path) -> bool:
    """Return whether a folder, with its links followed, is a root or lies below it."""
    try:
        path = Path(folder).expanduser().resolve()
        return path.is_relative_to(root.expanduser().resolve())
    except (OSError, RuntimeError, ValueError):  # no such user, a circle of links, a zero byte
        return False


def outside_roots(folder: str | os.PathLike[str]) -> str:
    """Return why ``may_open`` refuses a folder, in a sentence."""
    return (
        f"{os.fspath(folder)} is outside the folders that this app may open. Whoever runs the app "
        f"can add folders with the environment variable {ROOTS_VARIABLE}."
    )


def typed_path(text: str) -> Path:
    """Return the path that was typed, with ``~`` expanded where there is such a user."""
    path = Path(text.strip())
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def choose_folder(key: str) -> Path | None:
    """Draw a choice of a folder, a level at a time; return the folder that is open.

    The folders listed lie below the home folder or one of ``GEOCLIP_ROOTS``; if other computers
    reach the app, below one of ``GEOCLIP_ROOTS``. Hidden folders are not listed. The path of any
    folder that the app may open can be typed. In public mode nothing is drawn.
    """
    if is_public():
        return None
    roots = [root for root in _added_roots() if root.is_dir()]
    if not _is_confined():
        roots.insert(0, Path.home())
    at, times = f"{key} at", f"{key} times"
    if at not in st.session_state:
        st.session_state[at] = str(roots[0]) if len(roots) == 1 else ""
    folder = Path(st.session_state[at]) if st.session_state[at] else None
    found, photos, problem = roots, 0, ""
    if folder is not None and not may_open(folder):
        problem, folder = outside_roots(folder), None
    elif folder is not None:
        found, photos, problem = _folders_in(folder, roots)
    if found:
        here = f"{len(found):,} folder{'s' * (len(found) != 1)} here"
    elif photos:
        here = f"No folders here, {photos:,} photo{'s' * (photos != 1)}"
    else:
        here = "No folders or photos here"
    # The box begins anew in each folder: a new key, as the browser would send its value again.
    box = f"{key} {st.session_state.get(times, 0)}"

    def go(to: str) -> None:
        st.session_state[at] = to
        st.session_state[times] = st.session_state.get(times, 0) + 1
        st.session_state.pop(f"{key} problem", None)

    def take() -> None:
        typed = str(st.session_state.get(box) or "").strip()
        if not typed:
            return
        path = Path(folder or "", typed_path(typed))
        if not may_open(path):
            st.session_state[f"{key} problem"] = outside_roots(path)
        elif not os.path.isdir(path):  # unlike Path.is_dir, also of a name that is too long
            st.session_state[f"{key} problem"] = f"There is no folder {typed}."
        else:
            go(str(path))

    with st.container(horizontal=True, vertical_alignment="center"):
        shown = "Choose a folder" if folder is None else markdown_text(_short(folder))
        st.markdown(f":material/folder_open: **{shown}**", width="stretch")
        # Above one of several roots is the list of them.
        above = "" if folder is None or folder in roots else str(folder.parent)
        stays = folder in roots and len(roots) == 1
        st.button(
            "Up",
            key=f"{key} up",
            icon=":material/arrow_upward:",
            disabled=folder is None or stays or bool(above and not may_open(above)),
            on_click=go,
            args=(above,),
            help="Open the folder above this one.",
        )
    st.selectbox(
        "Open a folder",
        [str(path) if folder is None else path.name for path in found],
        index=None,
        key=box,
        format_func=printable,
        placeholder=here,
        accept_new_options=True,
        on_change=take,
        help="The folders in this one. The path of another one can be typed.",
    )
    problem = st.session_state.get(f"{key} problem") or problem
    if problem:
        st.error(markdown_text(problem))
    return folder


def _folders_in(folder: Path, roots: Sequence[Path]) -> tuple[list[Path], int, str]:
    """Return the folders in one that may be listed, the number of photos in it, and a problem.

    The problem says why there is nothing, if the folder cannot be read. A typed folder outside the
    roots is its own root.
    """
    inside = [root for root in roots if _is_below(folder, root)] or [folder]
    try:
        with os.scandir(folder) as found:
            entries = list(found)
            names = sorted(
                (
                    entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                    and entry.name.lower() not in SKIPPED_FOLDERS
                    and entry.is_dir()
                    and is_unicode(entry.name)
                ),
                key=str.lower,
            )
    except OSError as error:
        return [], 0, f"{folder} cannot be read: {error.strerror or error}."
    photos = sum(is_photo_name(entry.name) for entry in entries)
    paths = [folder / name for name in names[:_MOST_FOLDERS]]
    return [path for path in paths if any(_is_below(path, root) for root in inside)], photos, ""


def _short(folder: Path) -> str:
    home = Path.home()
    return str(Path("~", folder.relative_to(home))) if folder.is_relative_to(home) else str(folder)


def runs_folder() -> Path:
    """Return the folder typed on the Train page, else ``GEOCLIP_RUNS``, else ``runs``."""
    typed = "" if is_public() else str(st.session_state.get(RUNS_KEY) or "").strip()
    return Path(typed).expanduser() if typed and may_open(typed) else _configured_runs()


def _configured_runs() -> Path:
    return Path(os.environ.get(RUNS_VARIABLE, "").strip() or "runs").expanduser()


def datasets_folder() -> Path:
    """Return ``GEOCLIP_DATASETS``, else ``datasets``."""
    return Path(os.environ.get(DATASETS_VARIABLE, "").strip() or "datasets").expanduser()


def kept(key: str, make: Callable[[], T]) -> T:
    """Return the object that this session keeps under ``key``; ``make`` creates it."""
    name = f"kept:{key}"
    if name not in st.session_state:
        st.session_state[name] = make()
    return st.session_state[name]


def choose(
    label: str,
    options: Sequence[T],
    key: str,
    *,
    default: T | None = None,
    format_func: Callable[[Any], str] = str,
    address: tuple[str, Callable[[Any], str]] | None = None,
    **widget: Any,
) -> T | None:
    """Draw a select box whose value survives a change of page.

    Pages that offer the same choice use the same key. At first, and if the chosen value is no
    longer an option (such as a deleted run), ``default`` or the first option is selected. Without
    options the box is disabled and the result is None.

    ``address`` is the name of a query parameter and what it holds for an option, so that a link or
    a reload shows the same. A value that stands for none of the options has no effect.
    """
    values = list(options)
    if address is not None and key not in st.session_state:
        _take_from_address(values, key, *address)
    widget["accept_new_options"] = widget.get("accept_new_options", False) and not is_public()
    if st.session_state.get(key) not in values:
        st.session_state.pop(key, None)
        if values:
            st.session_state[key] = default if default in values else values[0]
    chosen = st.selectbox(
        label,
        values,
        key=key,
        format_func=format_func,
        # A box that accepts typed values stays enabled without options.
        disabled=widget.pop("disabled", False) or (not values and not widget["accept_new_options"]),
        placeholder=widget.pop("placeholder", None if values else "Nothing to choose from"),
        persist_state="session",
        **widget,
    )
    if address is not None:
        show_in_address(address[0], None if chosen is None else address[1](chosen))
    return chosen


def _take_from_address(
    values: Sequence[T], key: str, parameter: str, written: Callable[[Any], str]
) -> None:
    wanted = st.query_params.get(parameter)
    if wanted is None:
        return
    for value in values:
        if written(value) == wanted:
            st.session_state[key] = value
            return
    shown = markdown_text(wanted[:80])
    st.caption(f":material/link_off: The link asks for {shown}, which is not here.")


def address_of(folder: Path) -> str:
    """Return how an address names a folder: by its name if it is a run or a dataset of the app."""
    own = (runs_folder(), datasets_folder())
    return folder.name if folder.parent in own else str(folder)


def show_in_address(parameter: str, value: str | None) -> None:
    """Set a query parameter of the page's address; None removes it."""
    if value is None:
        st.query_params.pop(parameter, None)
    elif st.query_params.get(parameter) != value:
        st.query_params[parameter] = value


def with_typed(options: Sequence[str], key: str) -> list[str]:
    """Return the options and the values typed into the select box ``key`` in this session.

    In public mode nothing can be typed.
    """
    if is_public():
        return list(options)
    typed: list[str] = kept(f"typed {key}", list)
    current = st.session_state.get(key)
    if isinstance(current, str) and current.strip() and current not in [*options, *typed]:
        typed.append(current)
    return [*options, *typed]


class Workbench(NamedTuple):
    """Containers of a page with a map: ``with bench.map_side: ...``."""

    controls: DeltaGenerator
    map_side: DeltaGenerator
    cards: DeltaGenerator


def workbench() -> Workbench:
    """Lay out controls and cards on the left and the map on the right; call once per page.

    The map stays in view while the cards scroll. On narrow screens the three are stacked.
    """
    st.html(_WORKBENCH_STYLE)
    with st.container(key="workbench"):
        return Workbench(
            st.container(key="controls"), st.container(key="map-side"), st.container(key="cards")
        )


def wrapping_columns(spec: int | Sequence[float], key: str, least: int) -> list[DeltaGenerator]:
    """Return columns that wrap onto a new row rather than become narrower than ``least`` pixels.

    Streamlit's own columns wrap on phones only; a tablet with an open sidebar is as narrow.
    """
    name = f"wrapping-{key.replace(' ', '-')}"
    row, column = "[data-testid=stHorizontalBlock]", "[data-testid=stColumn]"
    with st.container(key=name):
        st.html(
            f"<style>.st-key-{name} {row}:has(> {column}) {{ flex-wrap: wrap; }}"
            f".st-key-{name} {row} > {column} {{ min-width: min({least}px, 100%); }}</style>"
        )
        return list(st.columns(spec))


def note_and_downloads(note: str, *downloads: tuple[str, Callable[[], pd.DataFrame], str]) -> None:
    """Draw a caption, and below it a row of downloads (label, table, file)."""
    st.caption(note)
    with st.container(horizontal=True):
        for label, make, file in downloads:
            download(label, make, file)


def download(label: str, make: Callable[[], pd.DataFrame], file: str) -> None:
    """Draw a button that downloads a table as CSV; ``make`` is called on the click."""
    st.download_button(
        label,
        lambda: csv_text(make()).encode("utf-8"),
        file_name=file,
        mime="text/csv",
        key=f"download {file}",
        icon=":material/download:",
        type="tertiary",
        on_click="ignore",
    )


def show_chart(figure: "Figure", key: str, *, height: int | None = None, **options: Any) -> Any:
    """Show a figure across the column, with narrow margins where it sets none.

    Every chart is shown by this function, because plotly's geo charts would fetch their borders
    from a CDN otherwise. The height is in pixels. Options and result are those of
    ``st.plotly_chart``, which returns the selection if ``on_select`` asks for one.
    """
    margin = figure.layout.margin
    if margin.l is None and margin.t is None:
        top = 44 if figure.layout.title.text else 12
        figure.update_layout(margin={"l": 8, "r": 8, "t": top, "b": 8})
    if height:
        figure.update_layout(height=height)
    return st.plotly_chart(figure, width="stretch", key=key, config=CHART_CONFIG, **options)
