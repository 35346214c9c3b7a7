"""The photos of an evaluation: the best and worst ones, and a table of all rows."""

import html
from typing import Any

import pandas as pd
import streamlit as st

from geoclip_core.data.vocabulary import class_name
from geoclip_core.earth.climate import climate_classes
from geoclip_core.evaluation.predictions import head_features, read_candidates
from geoclip_core.evaluation.report import place_of
from geoclip_core.evaluation.small_map import Point, small_map, thumbnail
from ui.evaluation.sources import View
from ui.page import STATIC, choose, download, wrapping_columns
from ui.theme import error_colour, kilometres, markdown_text, palette, percent

_SHOWN = 8
_GRID_STYLE = """<style>
[class*=st-key-cards-] {
  display: grid; gap: 1.2rem 1rem; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr));
}
[class*=st-key-cards-] img:not([src^="data:image/svg"], [src$=".svg"]) {
  aspect-ratio: 4 / 3; border-radius: 0.5rem; object-fit: cover; width: 100%;
}
</style>"""
_PAGE = 100
_SORTS = {
    "Largest error first": ("error_km", False),
    "Smallest error first": ("error_km", True),
    "Surest first": ("radius_50_km", True),
    "Least sure first": ("radius_50_km", False),
    "Sure and wrong first": ("surprise", False),
    "By id": ("id", True),
}


def best_and_worst_panel(view: View) -> None:
    """Show the photos with the smallest and the largest errors, each with a map."""
    frame = view.rows()
    ordered = frame.sort_values("error_km", kind="stable")
    st.html(_GRID_STYLE)
    for title, part in (("Best", ordered.head(_SHOWN)), ("Worst", ordered.tail(_SHOWN)[::-1])):
        st.subheader(title, anchor=False)
        with st.container(key=f"cards-{title.lower()}"):
            for _, row in part.iterrows():
                with st.container():
                    _card(view, row)
    _legend(view)
    download(
        "Best and worst 100 (CSV)",
        lambda: pd.concat([ordered.head(100), ordered.tail(100)]).drop_duplicates("id"),
        "best_and_worst.csv",
    )


def _card(view: View, row: pd.Series) -> None:
    image = thumbnail(view.main.root, row.get("path"))
    if image is not None:
        st.image(image, width="stretch")
    points = _point(row), _point(row, "predicted_")
    st.image(small_map(*points, palette(), STATIC / "borders"), width="stretch")
    st.html(
        f"<div style='line-height:1.45;font-size:0.9rem'>{_dot(error_colour(row['error_km']))}"
        f"<b>{kilometres(row['error_km'])}</b> off{_stated(row)}"
        f"<br><span style='color:{palette().muted}'>{html.escape(_where(row))}</span></div>"
    )


def _legend(view: View) -> None:
    colours = palette()
    st.html(
        f"<div style='font-size:0.85rem;color:{colours.muted}'>{_dot(colours.truth)}where it was "
        f"taken &nbsp; {_dot(colours.best)}best guess &nbsp; {_dot(colours.candidate)}candidates"
        "</div>"
    )
    if view.main.unopened:
        st.caption(
            f"The photos are not shown: {markdown_text(view.main.unopened)} is no dataset that you "
            "have opened here. Open it on the Dataset page."
        )
    elif not view.main.root:
        st.caption(
            "This evaluation has predictions only, no photos. Evaluate on a dataset of your own to "
            "see its photos."
        )


def rows_panel(view: View) -> None:
    """Show a table of all photos, and details of the selected one."""
    frame = view.rows()
    left, middle = wrapping_columns([3, 1], "order", 150)
    with left:
        order = choose("Order", list(_SORTS), "evaluation order") or "By id"
    pages = max(1, -(-len(frame) // _PAGE))
    with middle:
        page = st.number_input(f"Page (1 to {pages:,})", 1, pages, 1, key=f"page {view.filters}")
    column, ascending = _SORTS[order]
    keys = (
        frame["error_km"] / frame["radius_50_km"].clip(lower=1e-6)
        if column == "surprise"
        else frame[column]
    )
    chosen = keys.sort_values(ascending=ascending, kind="stable").index
    part = frame.loc[chosen[(page - 1) * _PAGE : page * _PAGE]]
    event = st.dataframe(
        _shown(part),
        hide_index=True,
        height=390,
        on_select="rerun",
        selection_mode="single-row-required",
        selection_default={"selection": {"rows": [0], "columns": [], "cells": []}},
        key=f"rows {order} {page} {hash(view.filters)}",
        column_config={
            "Error": st.column_config.NumberColumn(format="%.1f km"),
            "50 % radius": st.column_config.NumberColumn(format="%.0f km"),
            "90 % radius": st.column_config.NumberColumn(format="%.0f km"),
        },
    )
    download("All rows (CSV)", lambda: frame, "predictions.csv")
    picked = event.selection.rows
    if picked and picked[0] < len(part):
        _detail(view, part.iloc[picked[0]])


def _shown(part: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, Any] = {"Photo": part["id"].to_numpy(), "Error": part["error_km"].to_numpy()}
    for name, column in (("50 % radius", "radius_50_km"), ("90 % radius", "radius_90_km")):
        columns[name] = part[column].to_numpy()
    columns["Taken in"] = [_where(row) for _, row in part.iterrows()]
    columns["Guessed"] = [_where(row, "predicted_") for _, row in part.iterrows()]
    if "climate" in part:
        names = climate_classes()
        columns["Climate"] = [names[i].symbol if i >= 0 else "" for i in part["climate"]]
    if "month" in part and (part["month"] >= 0).any():
        columns["Month"] = [class_name("month", i) if i >= 0 else "" for i in part["month"]]
    return pd.DataFrame(columns)


def _detail(view: View, row: pd.Series) -> None:
    """Show one photo, a map with its candidates, and the answer of each head."""
    st.subheader(f"Photo {markdown_text(str(row['id']))}", anchor=False)
    picture, world, facts = wrapping_columns(3, "photo", 240)
    image = thumbnail(view.main.root, row.get("path"))
    with picture:
        if image is not None:
            st.image(image, width="stretch")
        elif view.main.root:
            path = markdown_text(str(row.get("path")))
            st.info(f"{path} is no longer in the dataset's folder, or cannot be read.")
        elif view.main.unopened:
            st.info("Its folder is no dataset that you have opened here.")
        else:
            st.info("This evaluation has no photos.")
    candidates = read_candidates(view.main.path, str(row["id"]))
    with world:
        points = _point(row), _point(row, "predicted_")
        st.image(small_map(*points, palette(), STATIC / "borders", candidates), width="stretch")
    with facts:
        st.markdown(
            f"**{kilometres(row['error_km'])}** from the truth{_stated(row)} (50 % radius)  \n"
            f"Taken in {markdown_text(_where(row))}  \n"
            f"Guessed {markdown_text(_where(row, 'predicted_'))}"
        )
    heads = _head_rows(view, row)
    if len(heads):
        st.dataframe(heads, hide_index=True)


def _head_rows(view: View, row: pd.Series) -> pd.DataFrame:
    records = []
    for feature in head_features(view.rows()):
        truth, rank = row[f"{feature}_truth"], row[f"{feature}_rank"]
        records.append(
            {
                "Head": feature.capitalize(),
                "Answer": class_name(feature, row[f"{feature}_top1"]),
                "Probability": percent(float(row[f"{feature}_probability"])),
                "Truth": "unknown" if pd.isna(truth) else class_name(feature, truth),
                "Rank": "" if pd.isna(rank) else f"{int(rank):,}",
            }
        )
    return pd.DataFrame(records)


def _point(row: pd.Series, prefix: str = "") -> Point:
    return float(row[f"{prefix}latitude"]), float(row[f"{prefix}longitude"])


def _where(row: pd.Series, prefix: str = "") -> str:
    """Return the smallest place that the table names, else the coordinates."""
    latitude, longitude = _point(row, prefix)
    return place_of(row, prefix) or f"{latitude:.2f}, {longitude:.2f}"


def _stated(row: pd.Series) -> str:
    if pd.isna(row["radius_50_km"]):
        return ""
    return f", stated radius {kilometres(row['radius_50_km'])}"


def _dot(colour: str) -> str:
    return (
        f"<i style='display:inline-block;width:10px;height:10px;border-radius:50%;"
        f"background:{colour};margin-right:6px'></i>"
    )
