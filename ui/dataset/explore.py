"""The first view of the Dataset page: map, examples, counts and labels of the chosen photos."""

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.data.photo_import import NOT_IMPORTED_FILE
from geoclip_core.data.table import PhotoDataset
from ui.charts import show_chart
from ui.dataset.charts import climate_bars, month_bars, place_bars
from ui.dataset.data import (
    ALL_SPLITS,
    FEATURES,
    Chosen,
    class_name,
    classes,
    coverage,
    leaks,
    rows_of,
)
from ui.dataset.photos import map_and_examples
from ui.session import choose
from ui.theme import palette, percent

_ALL = "All"


def headline(dataset: PhotoDataset) -> None:
    """How many photos there are, in which split, and whether they are photos at all."""
    if dataset.synthetic:
        st.info(
            "**Synthetic demo set.** These scenes are drawn, not photographed: signs, poles and "
            "landmarks are invented, and a model trained on them knows no real place.",
            icon=":material/brush:",
        )
    counts = dataset.table["split"].value_counts()
    shown = [split for split in ALL_SPLITS if split != "buffer" or counts.get(split, 0)]
    columns = st.columns(len(ALL_SPLITS) + 1)
    columns[0].metric("Photos", f"{len(dataset):,}")
    for column, split in zip(columns[1:], shown, strict=False):
        number = int(counts.get(split, 0))
        helps = {
            "train": "What a model learns from.",
            "val": "Cut out of train in blocks of the map, at least 1 km from every train photo: "
            "for choosing and calibrating.",
            "test": "For the final number, never for choosing.",
            "buffer": "Left out: closer than 1 km to a held-out photo, but not held out.",
        }
        column.metric(split.capitalize(), f"{number:,}", help=helps[split])


def not_imported(dataset: PhotoDataset) -> None:
    """Which photos an import left out, and why."""
    path = dataset.root / NOT_IMPORTED_FILE
    if not path.is_file():
        return
    try:
        table = pd.read_csv(path, dtype="str", na_filter=False)
    except (OSError, ValueError):
        st.warning(f"{NOT_IMPORTED_FILE} cannot be read.", icon=":material/warning:")
        return
    if len(table):
        with st.expander(f"{len(table):,} files were not imported", icon=":material/block:"):
            st.dataframe(table, hide_index=True)
            st.caption("Give positions in a CSV (file, latitude, longitude) and import again.")


def choose_photos(dataset: PhotoDataset) -> Chosen:
    """The controls above the map: a split, and a class of one feature."""
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
        kind = choose("Only one", [_ALL, *kinds], "dataset feature", format_func=str.capitalize)
    if kind not in kinds:
        return Chosen(None if chosen == _ALL else chosen)
    with key:
        counts = {name: n for name, _, n in classes(dataset, dataset.fingerprint, kind)}
        value = choose(
            f"Which {kind}",
            list(counts),
            f"dataset class {kind}",
            format_func=lambda name: f"{class_name(kind, name)} ({counts[name]:,})",
        )
    return Chosen(None if chosen == _ALL else chosen, kind, value)


def counts_panel(dataset: PhotoDataset, rows: np.ndarray) -> None:
    """Photos by state, month and climate."""
    table = dataset.table.iloc[rows]
    if not len(table):
        return
    left, middle, right = st.columns(3, gap="medium")
    figure, feature = place_bars(table, palette())
    with left:
        st.markdown(f"**By {feature}**")
        _bars_or_nothing(figure, feature, (table[f"{feature}_key"].notna()).any())
    with middle:
        st.markdown("**By month**")
        _bars_or_nothing(month_bars(table, palette()), "month", (table["month"] >= 0).any())
    with right:
        st.markdown("**By climate**")
        _bars_or_nothing(climate_bars(table, palette()), "climate", (table["climate"] >= 0).any())


def _bars_or_nothing(figure: object, name: str, known: bool) -> None:
    if known:
        show_chart(figure, f"dataset bars {name}")
    else:
        st.caption(f"No photo here has a known {name}.")


def labels_panel(dataset: PhotoDataset) -> None:
    """How many photos have each label, and what the held-out photos give away."""
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
                "Test photos of a class that train lacks", format="percent"
            ),
        },
    )
    st.caption(
        "A label that is not known, or that train does not have, takes no part in training and "
        "scoring of its head; the photo still counts for the coordinates."
    )
    for leak in leaks(dataset, dataset.fingerprint):
        near = leak.near / leak.photos if leak.photos else 0.0
        st.markdown(
            f"{':material/warning:' if leak.near or leak.same_sequence else ':material/check:'} "
            f"**{leak.split.capitalize()}**: {leak.near:,} of {leak.photos:,} photos "
            f"({percent(near)}) are closer than {leak.distance_km:g} km to a training photo, "
            f"{leak.same_sequence:,} are of a drive that train has too."
        )


def explore(dataset: PhotoDataset) -> None:
    """The whole view."""
    headline(dataset)
    not_imported(dataset)
    chosen = choose_photos(dataset)
    rows = rows_of(dataset, chosen)
    in_view = map_and_examples(dataset, chosen, rows)
    counts_panel(dataset, in_view)
    labels_panel(dataset)
