"""The map of a dataset beside its photos: examples, or the one that was clicked."""

from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.data.captions import caption
from geoclip_core.data.table import PhotoDataset
from ui.charts import show_chart
from ui.dataset.data import Chosen, class_name, describe
from ui.dataset.map import (
    MOST_POINTS,
    cell_name,
    clicked,
    hexagon_counts,
    hexagon_figure,
    in_cell,
    points_figure,
)
from ui.evaluation.photos import thumbnail
from ui.session import kept
from ui.theme import markdown_text, palette

_EXAMPLES = 6
_FEW = 150  # so many photos need no hexagons
_DEEPEST = 3  # hexagons inside hexagons, then points in any case
_cached_thumbnail = st.cache_data(max_entries=400, show_spinner=False)(thumbnail)


def map_and_examples(dataset: PhotoDataset, chosen: Chosen, rows: np.ndarray) -> np.ndarray:
    """The map on the left; what was clicked, or examples, on the right.

    Returns:
        The rows in view: those in the hexagon that was opened.
    """
    trail = kept(f"dataset trail {dataset.root} {chosen}", list)
    if trail:
        rows = _rows_in(dataset, rows, f"{dataset.fingerprint} {chosen}", tuple(trail))
    left, right = st.columns([3, 2], gap="large")
    with left:
        picked = _map(dataset, rows, trail, str(chosen))
    with right:
        if picked is not None:
            _photo(dataset, picked)
        else:
            _examples(dataset, rows)
    return rows


def _map(dataset: PhotoDataset, rows: np.ndarray, trail: list[str], key: str) -> int | None:
    """Draw the map of the rows; returns the photo that is picked on it."""
    state = f"dataset picked {dataset.root} {key} {trail}"
    picked = st.session_state.get(state)
    points = len(rows) <= (MOST_POINTS if trail else _FEW) or len(trail) >= _DEEPEST
    with st.container(horizontal=True, vertical_alignment="center"):
        if trail:
            if st.button("Back", icon=":material/arrow_back:", key="dataset back"):
                trail.pop()
                st.rerun()
            st.markdown(f"**{len(rows):,} photos** around {markdown_text(cell_name(trail[-1]))}")
        else:
            what = "a point to see its photo" if points else "a hexagon to open it"
            st.markdown(f"**{len(rows):,} photos**, click {what}")
    if not len(rows):
        st.warning("No photo is in this choice.", icon=":material/filter_alt_off:")
        return None
    if points:
        shown = rows
        if len(rows) > MOST_POINTS:
            shown = np.sort(np.random.default_rng(0).choice(rows, MOST_POINTS, replace=False))
            st.caption(f"{MOST_POINTS:,} of them are drawn.")
        figure = points_figure(dataset, shown, palette(), picked)
    else:
        counts = _counts(dataset, rows, f"{dataset.fingerprint} {key}", tuple(trail))
        figure = hexagon_figure(counts, palette(), trail[-1] if trail else None)
    event = show_chart(
        figure,
        f"dataset map {dataset.fingerprint} {key} {trail} {picked}",
        on_select="rerun",
        selection_mode="points",
    )
    hit = clicked(event)
    if hit is not None:
        if points:
            st.session_state[state] = int(hit)
        else:
            trail.append(str(hit))
        st.rerun()
    return picked


@st.cache_data(max_entries=30, show_spinner=False)
def _counts(
    _dataset: PhotoDataset, _rows: np.ndarray, name: str, trail: tuple[str, ...]
) -> pd.DataFrame:
    return hexagon_counts(_dataset.coordinates[_rows])


@st.cache_data(max_entries=30, show_spinner=False)
def _rows_in(
    _dataset: PhotoDataset, _rows: np.ndarray, name: str, trail: tuple[str, ...]
) -> np.ndarray:
    for cell in trail:
        _rows = _rows[in_cell(_dataset.coordinates[_rows], cell)]
    return _rows


def _examples(dataset: PhotoDataset, rows: np.ndarray) -> None:
    turn = kept("dataset examples turn", lambda: [0])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Examples**")
        if len(rows) > _EXAMPLES and st.button("Others", icon=":material/shuffle:"):
            turn[0] += 1
    if not len(rows):
        return
    chance = np.random.default_rng([len(rows), turn[0]])
    picked = chance.choice(rows, min(_EXAMPLES, len(rows)), replace=False)
    if not any((dataset.root / path).is_file() for path in dataset.table["path"].iloc[picked]):
        st.warning(
            "The photos of these rows are not in the folder, only the tables.",
            icon=":material/broken_image:",
        )
        for row in picked:
            st.caption(markdown_text(describe(dataset.table.iloc[row])))
        return
    columns = st.columns(2)
    for number, row in enumerate(picked):
        with columns[number % 2]:
            _thumbnail(dataset, int(row))


def _thumbnail(dataset: PhotoDataset, row: int) -> None:
    facts = dataset.table.iloc[row]
    image = _cached_thumbnail(str(dataset.root), facts["path"])
    if image is None:
        there = (dataset.root / facts["path"]).is_file()
        st.warning(
            f"{markdown_text(Path(facts['path']).name)} "
            + ("cannot be read." if there else "is not in the folder."),
            icon=":material/broken_image:",
        )
    else:
        st.image(image, width="stretch", alt=f"Photo {facts['id']}")
    st.caption(markdown_text(describe(facts)))


def _photo(dataset: PhotoDataset, row: int) -> None:
    """One photo with all that is known of it."""
    facts = dataset.table.iloc[row]
    _thumbnail(dataset, row)
    known = {
        "Split": facts["split"],
        "Coordinates": f"{facts['latitude']:.5f}, {facts['longitude']:.5f}",
        "City": facts["city"],
        "County": facts["county"],
        "State": facts["state"],
        "Climate": class_name("climate", str(facts["climate"])) if facts["climate"] >= 0 else None,
        "Taken (UTC)": None
        if pd.isna(facts["captured_at"])
        else facts["captured_at"].strftime("%Y-%m-%d %H:%M"),
        "Id": facts["id"],
    }
    lines = [
        f"**{name}** {markdown_text(str(value)) if isinstance(value, str) else '*unknown*'}"
        for name, value in known.items()
    ]
    st.markdown("  \n".join(lines))
    st.caption(f"Caption for pretraining: “{markdown_text(caption(facts))}”")
