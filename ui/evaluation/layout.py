"""How the Evaluation page is laid out: columns that wrap before they get too narrow, downloads."""

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator


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
