"""The view "Explore" of the Dataset page: map, examples, counts and labels of a dataset."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from geoclip_core.data import DEFAULT_FEATURES, PLACE_FEATURES
from geoclip_core.data.captions import caption
from geoclip_core.data.dataset import (
    DESCRIPTION_FILE,
    FILE_SPLITS,
    SPLITS,
    PhotoDataset,
    csv_path,
    read_dataset,
)
from geoclip_core.data.doctor import Leakage, leakage
from geoclip_core.data.importing import NOT_IMPORTED_FILE
from geoclip_core.data.splits import MIN_DISTANCE_KM
from geoclip_core.data.tables import read_csv
from geoclip_core.data.vocabulary import MONTHS, build_vocabularies, class_name
from geoclip_core.earth.climate import climate_classes
from geoclip_core.errors import DatasetError
from geoclip_core.evaluation.small_map import thumbnail
from ui.dataset.map import (
    MOST_POINTS,
    cell_name,
    clicked,
    describe,
    hexagon_counts,
    hexagon_figure,
    in_cell,
    points_figure,
)
from ui.page import choose, kept, show_chart
from ui.theme import Palette, markdown_text, palette, percent

ALL_SPLITS = (*SPLITS, "buffer")
FEATURES = ("state", "county", "city", "climate", "month", "country")
_MOST_BARS = 15
_EXAMPLES = 6
_FEW = 150  # up to this many photos are shown as points at once
_DEEPEST = 3  # after this many nested hexagons, points are shown in any case
_ALL = "All"
_cached_thumbnail = st.cache_data(max_entries=400, show_spinner=False)(thumbnail)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A selection of photos by split and by the class of one feature; None selects all."""

    split: str | None = None
    feature: str | None = None
    key: str | None = None
    """The key of a place, or the index of a climate or month as text."""


def load(root: Path) -> PhotoDataset:
    """Return the dataset of a folder; it is read again only when one of its tables has changed.

    Raises:
        DatasetError: it cannot be read.
    """
    return _read(str(root), _stamp(root))


def _stamp(root: Path) -> tuple[int, ...]:
    """Return the modification times of the files that the table is read from."""
    files = [*(csv_path(root, split) for split in FILE_SPLITS), root / DESCRIPTION_FILE]
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


@st.cache_resource(max_entries=3, show_spinner="Reading the tables …")
def _read(root: str, stamp: tuple[int, ...]) -> PhotoDataset:
    return read_dataset(root)


def rows_of(dataset: PhotoDataset, chosen: Chosen) -> np.ndarray:
    """Return the positions (k,) of the selected photos in the table."""
    table = dataset.table
    mask = np.ones(len(table), dtype=bool)
    if chosen.split:
        mask &= (table["split"] == chosen.split).to_numpy()
    if chosen.feature and chosen.key is not None:
        mask &= _keys(table, chosen.feature).eq(chosen.key).fillna(False).to_numpy(dtype=bool)
    return np.flatnonzero(mask)


@st.cache_data(max_entries=60, show_spinner=False)
def classes(_dataset: PhotoDataset, fingerprint: str, feature: str) -> dict[str, int]:
    """Return key → number of photos of each class of one of `FEATURES`, largest first.

    The fingerprint is the dataset's, for the cache.
    """
    counts = _keys(_dataset.table, feature).value_counts()
    return {str(key): int(n) for key, n in counts.items()}


@st.cache_data(max_entries=8, show_spinner=False)
def coverage(_dataset: PhotoDataset, fingerprint: str) -> pd.DataFrame:
    """Return the share of photos with a known label, by feature and split.

    Returns:
        Columns feature, classes, train, val, test (shares from 0 to 1, NaN for an empty split) and
        unseen, the share of labelled test photos whose class is not in train.
    """
    records = []
    trained = {}
    if (_dataset.table["split"] == "train").any():
        trained = build_vocabularies(_dataset.table, (*DEFAULT_FEATURES, "country"))
    for feature in FEATURES:
        record: dict[str, object] = {"feature": feature}
        vocabulary = trained.get(feature)
        for split in SPLITS:
            part = _dataset.split(split)
            keys = part.keys(feature)
            record[split] = float(keys.notna().mean()) if len(part) else np.nan
            if split == "test" and vocabulary is not None and keys.notna().any():
                known = keys[keys.notna()]
                record["unseen"] = float((vocabulary.encode(known) < 0).mean())
        seen = _keys(_dataset.table[_dataset.table["split"] == "train"], feature)
        record["classes"] = int(seen.nunique())
        records.append(record)
    columns = ["feature", "classes", *SPLITS, "unseen"]
    return pd.DataFrame(records).reindex(columns=columns)


@st.cache_data(max_entries=8, show_spinner=False)
def leaks(_dataset: PhotoDataset, fingerprint: str) -> list[Leakage]:
    """Return how many val and test photos are close to training photos."""
    present = set(_dataset.table["split"])
    if "train" not in present:
        return []
    return [leakage(_dataset, split) for split in ("val", "test") if split in present]


def _keys(table: pd.DataFrame, feature: str) -> pd.Series:
    if feature in PLACE_FEATURES:
        return table[f"{feature}_key"]
    index = table[feature]
    return index.astype("str").where(index >= 0)


def place_bars(table: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Return bars of photos by country, or by state within one country, and the name of the two."""
    feature = "country" if table["country_key"].nunique() > 1 else "state"
    counts = table[f"{feature}_key"].value_counts()
    shown = counts.head(_MOST_BARS)
    names = [class_name(feature, key) for key in shown.index]
    values = shown.tolist()
    if len(counts) > _MOST_BARS:
        names.append(f"{len(counts) - _MOST_BARS} others")
        values.append(int(counts.iloc[_MOST_BARS:].sum()))
    return _bars(names, values, [colours.candidate] * len(values)), feature


def month_bars(table: pd.DataFrame, colours: Palette) -> go.Figure:
    """Return bars of photos by month of capture (UTC), January first."""
    month = table["month"].to_numpy()
    counts = np.bincount(month[month >= 0], minlength=12).tolist()
    return _bars(list(MONTHS), counts, [colours.candidate] * 12)


def climate_bars(table: pd.DataFrame, colours: Palette) -> go.Figure:
    """Return bars of photos by climate in the colours of the climate map, largest first."""
    climate = table["climate"].to_numpy()
    counts = pd.Series(climate[climate >= 0]).value_counts().head(_MOST_BARS)
    classes = [climate_classes()[index] for index in counts.index]
    figure = _bars([c.symbol for c in classes], counts.tolist(), [c.hex for c in classes])
    figure.update_traces(
        customdata=[c.name for c in classes],
        hovertemplate="%{y}, %{customdata}<br>%{x:,} photos<extra></extra>",
        # Some colours of the climate map are close to the background of the page.
        marker_line={"width": 0.6, "color": colours.muted},
    )
    return figure


def _bars(names: list[str], values: list[int], fill: list[str]) -> go.Figure:
    """Return horizontal bars in the given order, the first on top."""
    bars = go.Bar(
        x=values,
        y=names,
        orientation="h",
        marker={"color": fill},
        width=0.75,
        hovertemplate="%{y}<br>%{x:,} photos<extra></extra>",
    )
    figure = go.Figure(bars)
    rows = max(len(names), 5)
    figure.update_layout(height=70 + 22 * rows, showlegend=False)
    figure.update_yaxes(range=[rows - 0.5, -0.5], type="category", title=None)
    # No ticks at fractions of a photo.
    steps = {"dtick": 1} if max(values, default=0) < 6 else {}
    figure.update_xaxes(title="Photos", rangemode="tozero", **steps)
    return figure


def map_and_examples(dataset: PhotoDataset, chosen: Chosen, rows: np.ndarray) -> np.ndarray:
    """Draw the map and, to its right, the clicked photo or examples; return the rows on the map."""
    trail: list[str] = kept(f"dataset trail {dataset.root} {chosen}", list)
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
    """Draw the map of the rows and return the row of the clicked photo, if any."""
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
        st.warning("No photos match.", icon=":material/filter_alt_off:")
        return None
    if points:
        shown = rows
        if len(rows) > MOST_POINTS:
            shown = np.sort(np.random.default_rng(0).choice(rows, MOST_POINTS, replace=False))
            st.caption(f"A random {MOST_POINTS:,} of them are shown.")
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
    turn = kept("dataset examples turn", lambda: [0])  # counts presses of "Show others"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Examples**")
        if len(rows) > _EXAMPLES and st.button("Show others", icon=":material/shuffle:"):
            turn[0] += 1
    if not len(rows):
        return
    chance = np.random.default_rng([len(rows), turn[0]])
    picked = chance.choice(rows, min(_EXAMPLES, len(rows)), replace=False)
    if not any(os.path.isfile(dataset.root / path) for path in dataset.table["path"].iloc[picked]):
        st.warning(
            "Only the tables are there: the photos of these rows are not in the folder.",
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
        there = os.path.isfile(dataset.root / facts["path"])
        st.warning(
            f"{markdown_text(Path(facts['path']).name)} "
            + ("cannot be read." if there else "is not in the folder."),
            icon=":material/broken_image:",
        )
    else:
        st.image(image, width="stretch", alt=f"Photo {facts['id']}")
    st.caption(markdown_text(describe(facts)))


def _photo(dataset: PhotoDataset, row: int) -> None:
    """Draw one photo with its labels."""
    facts = dataset.table.iloc[row]
    _thumbnail(dataset, row)
    known = {
        "Split": facts["split"],
        "Coordinates": f"{facts['latitude']:.5f}, {facts['longitude']:.5f}",
        "City": facts["city"],
        "County": facts["county"],
        "State": facts["state"],
        "Climate": class_name("climate", facts["climate"]) if facts["climate"] >= 0 else None,
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


def headline(dataset: PhotoDataset) -> None:
    """Draw the number of photos in each split, and say whether they are synthetic."""
    if dataset.synthetic:
        st.info(
            "**Synthetic demo set.** These scenes are drawn: signs, poles and landmarks are "
            "invented. A model trained on them cannot locate real photos.",
            icon=":material/brush:",
        )
    counts = dataset.table["split"].value_counts()
    shown = [split for split in ALL_SPLITS if split != "buffer" or counts.get(split, 0)]
    columns = st.columns(len(ALL_SPLITS) + 1)
    columns[0].metric("Photos", f"{len(dataset):,}")
    for column, split in zip(columns[1:], shown, strict=False):
        number = int(counts.get(split, 0))
        helps = {
            "train": "For training.",
            "val": "For choosing and calibrating models: blocks of the map taken out of train, at "
            "least 1 km from every train photo.",
            "test": "For the final evaluation only.",
            "buffer": "Not used: within 1 km of a held-out photo.",
        }
        column.metric(split.capitalize(), f"{number:,}", help=helps[split])


def not_imported(dataset: PhotoDataset) -> None:
    """List the photos that an import left out, with the reasons."""
    path = dataset.root / NOT_IMPORTED_FILE
    if not os.path.lexists(path):
        return
    try:
        table = read_csv(path, required=("file", "reason"))
    except DatasetError as error:
        st.warning(markdown_text(str(error)), icon=":material/warning:")
        return
    if len(table):
        with st.expander(f"{len(table):,} files were not imported", icon=":material/block:"):
            st.dataframe(table, hide_index=True)
            st.caption("Give positions in a CSV (file, latitude, longitude) and import again.")


def choose_photos(dataset: PhotoDataset) -> Chosen:
    """Draw the controls above the map: a split, and a class of one feature."""
    split, feature, key = st.columns([1.6, 1, 2])
    present = [name for name in ALL_SPLITS if (dataset.table["split"] == name).any()]
    with split:
        chosen = st.segmented_control(
            "Split",
            [_ALL, *present],
            default=_ALL,
            required=True,
            key="dataset split",
            format_func=str.capitalize,
        )
    with feature:
        kinds = [name for name in FEATURES if len(classes(dataset, dataset.fingerprint, name)) > 1]
        kind = choose("Filter by", [_ALL, *kinds], "dataset feature", format_func=str.capitalize)
    if kind not in kinds:
        return Chosen(None if chosen == _ALL else chosen)
    with key:
        counts = classes(dataset, dataset.fingerprint, kind)
        value = choose(
            f"Which {kind} (of {len(counts):,})",
            list(counts),
            f"dataset class {kind}",
            help="With its number of photos, the largest first. Type to search.",
            format_func=lambda name: f"{class_name(kind, name)} ({counts[name]:,})",
        )
    return Chosen(None if chosen == _ALL else chosen, kind, value)


def counts_panel(dataset: PhotoDataset, rows: np.ndarray) -> None:
    """Draw the number of photos by state or country, month and climate."""
    table = dataset.table.iloc[rows]
    if not len(table):
        return
    by_place, feature = place_bars(table, palette())
    charts = (
        (feature, by_place, table[f"{feature}_key"].notna()),
        ("month", month_bars(table, palette()), table["month"] >= 0),
        ("climate", climate_bars(table, palette()), table["climate"] >= 0),
    )
    for column, (name, figure, known) in zip(st.columns(3, gap="medium"), charts, strict=True):
        with column:
            st.markdown(f"**By {name}**")
            if known.any():
                show_chart(figure, f"dataset bars {name}")
            else:
                st.caption(f"The {name} of these photos is not known.")


def labels_panel(dataset: PhotoDataset) -> None:
    """Draw how many photos have each label, and how many held-out photos are near training ones."""
    st.subheader("Labels", anchor=False)
    table = coverage(dataset, dataset.fingerprint)
    table["feature"] = table["feature"].str.capitalize()
    shares = {
        split: st.column_config.ProgressColumn(
            f"Known in {split}", format="percent", min_value=0, max_value=1
        )
        for split in ("train", "val", "test")
    }
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "feature": "Label",
            "classes": st.column_config.NumberColumn("Classes in train", format="localized"),
            **shares,
            "unseen": st.column_config.NumberColumn(
                "Test photos of classes not in train", format="percent"
            ),
        },
    )
    st.caption(
        "Heads are trained and scored without labels that are unknown or do not occur in train; "
        "the photo still counts for the coordinates."
    )
    for leak in leaks(dataset, dataset.fingerprint):
        near = leak.near / leak.photos if leak.photos else 0.0
        st.markdown(
            f"{':material/warning:' if leak.near or leak.same_sequence else ':material/check:'} "
            f"**{leak.split.capitalize()}**: {leak.near:,} of {leak.photos:,} photos "
            f"({percent(near)}) are closer than {MIN_DISTANCE_KM:g} km to a training photo, "
            f"{leak.same_sequence:,} belong to a drive that is also in train."
        )


def explore(dataset: PhotoDataset) -> None:
    """Draw the view "Explore"."""
    headline(dataset)
    not_imported(dataset)
    chosen = choose_photos(dataset)
    rows = rows_of(dataset, chosen)
    in_view = map_and_examples(dataset, chosen, rows)
    counts_panel(dataset, in_view)
    labels_panel(dataset)
