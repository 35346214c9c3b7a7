"""The panels of the Evaluation page that are maps: errors by area, and what context changes."""

import numpy as np
import pandas as pd
import streamlit as st

from geoclip_core.earth.sphere import geoscore
from ui.charts import show_chart
from ui.evaluation import maps, shapes
from ui.evaluation.data import Filters, Source, View, place_name, rows, table
from ui.evaluation.groups import group_errors
from ui.evaluation.layout import download, wrapping_columns
from ui.session import choose
from ui.theme import kilometres, palette

_UNITS = {"States": "state_key", "Counties": "county_key"}
_SEED = 0


@st.cache_data(max_entries=8, show_spinner=False)
def _resolution(main: Source) -> tuple[int, bool]:
    """Size of the hexagons, and whether the map is that of the USA, for all filters alike."""
    frame = table(main, main)
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    return shapes.hexagon_resolution(coordinates), shapes.in_united_states(frame)


@st.cache_resource(max_entries=8, show_spinner=False)
def _cells(main: Source, resolution: int) -> pd.Series:
    """The hexagon of every photo, by its id."""
    frame = table(main, main)
    coordinates = frame[["latitude", "longitude"]].to_numpy(np.float64)
    return pd.Series(shapes.hexagons(coordinates, resolution), index=frame["id"].to_numpy())


def _keys(view: View, unit: str) -> pd.Series:
    """The area of every filtered photo."""
    frame = view.rows()
    if unit == "Hexagons":
        cells = _cells(view.main, _resolution(view.main)[0])
        return cells.reindex(frame["id"]).reset_index(drop=True)
    return frame[_UNITS[unit]]


@st.cache_data(max_entries=64, show_spinner=False)
def _areas(view: View, unit: str) -> pd.DataFrame:
    return group_errors(view.rows(), _keys(view, unit))


def map_panel(view: View) -> None:
    """Errors on the map; an area that is clicked opens into its photos."""
    frame = view.rows()
    usa = _resolution(view.main)[1]
    units = ["Hexagons", *(_UNITS if usa else ()), "Photos"]
    left, right = wrapping_columns([3, 2], "map choices", 260)
    with left:
        unit = st.segmented_control(
            "Coloured by median error", units, default="Hexagons", key="map unit", required=True
        )
    if unit == "Photos":
        shown = _sample(frame, maps.MOST_POINTS)
        show_chart(maps.points_figure(shown, palette(), usa, arrows=False), "map photos")
        st.caption(_sampled(shown, frame, "each where it was taken, coloured by its error"))
        download("Photos (CSV)", lambda: frame, "map_photos.csv")
        return
    areas = _areas(view, unit)
    names = _names(areas["group"], unit)
    made = {
        "Hexagons": lambda: shapes.hexagon_shapes(areas["group"]),
        "States": shapes.state_shapes,
        "Counties": shapes.county_shapes,
    }
    figure = maps.area_figure(areas, made[unit](), names, palette(), usa)
    chosen = show_chart(
        figure, f"map {unit}", on_select="rerun", selection_mode="points"
    ).selection.points
    picked = str(chosen[0]["location"]) if chosen and "location" in chosen[0] else None
    with right:
        picked = _pick(areas, names, picked, unit)
    download(f"{unit} (CSV)", lambda: areas.assign(name=names), f"errors_by_{unit.lower()}.csv")
    _open(view, unit, picked)


def _pick(areas: pd.DataFrame, names: list[str], clicked: str | None, unit: str) -> str | None:
    """The area to open: the last one that was clicked on the map or chosen from the list."""
    called = dict(zip(areas["group"], names, strict=True))
    key, seen = f"map area {unit}", f"map clicked {unit}"
    if clicked != st.session_state.get(seen):
        st.session_state[seen] = clicked
        st.session_state[key] = clicked
    if st.session_state.get(key) not in called:
        st.session_state[key] = None
    return st.selectbox(
        "Open an area (or click it on the map)",
        [None, *areas.sort_values("median", ascending=False)["group"]],
        format_func=lambda area: called.get(area, "None"),
        key=key,
    )


def _open(view: View, unit: str, picked: str | None) -> None:
    """True → predicted arrows of an area, or of a sample of everything."""
    frame = view.rows()
    inside = frame if picked is None else frame[(_keys(view, unit) == picked).to_numpy()]
    shown = _sample(inside, maps.MOST_ARROWS)
    where = "the selection" if picked is None else _names(pd.Series([picked]), unit)[0]
    st.subheader(f"From truth to guess: {where}", anchor=False)
    if inside.empty:
        st.info("No photo of the selection was taken there.")
        return
    usa = _resolution(view.main)[1] and shapes.in_united_states(
        shown.assign(
            latitude=shown["predicted_latitude"], longitude=shown["predicted_longitude"]
        ).drop(columns="country_key", errors="ignore")
    )
    show_chart(maps.points_figure(shown, palette(), usa, arrows=True), "map arrows")
    words = f"median error {kilometres(float(inside['error_km'].median()))}"
    st.caption(_sampled(shown, inside, words))
    download("These photos (CSV)", lambda: inside, "map_selection.csv")


@st.cache_data(max_entries=32, show_spinner=False)
def _gains(main: Source, other: Source, filters: Filters) -> pd.DataFrame:
    first, second = rows(main, main, filters), rows(other, main, filters)
    both = first.merge(second[["id", "error_km"]], on="id", suffixes=("", "_other"))
    gain = geoscore(both["error_km"].to_numpy()) - geoscore(both["error_km_other"].to_numpy())
    cells = _cells(main, _resolution(main)[0]).reindex(both["id"])
    grouped = pd.DataFrame({"group": cells.to_numpy(), "gain": gain}).groupby("group")["gain"]
    found = grouped.agg(["mean", "size"]).reset_index()
    return found.rename(columns={"mean": "gain", "size": "photos"})


def difference_panel(view: View) -> None:
    """Where one model is better than another: with context minus without, or any two."""
    names = view.names()
    if not view.beside:
        st.info(
            "This map shows what one model gains over another, such as the same model with and "
            "without context. Choose a second model under **Beside it** in the sidebar. To make "
            "one: `python -m train fit --no-use-context …`, then `python -m train evaluate` on the "
            "same photos."
        )
        return
    without = [s for s in view.beside if s.use_context is False]
    other = choose(
        f"{names[view.main]} minus …",
        list(view.beside),
        "evaluation minus",
        default=without[0] if view.main.use_context and without else None,
        format_func=names.get,
    )
    found = _gains(view.main, other, view.filters)
    usa = _resolution(view.main)[1]
    show_chart(maps.difference_figure(found, palette(), usa), "map difference")
    ours = view.main.use_context and other.use_context is False
    title = "With context minus without" if ours else f"{names[view.main]} minus {names[other]}"
    better, all_of = int((found["gain"] > 0).sum()), len(found)
    st.caption(
        f"{title}: mean GeoScore gained per hexagon. Blue is better, orange worse; better in "
        f"{better} of {all_of} hexagons. Hexagons with few photos vary by chance."
    )
    download("Differences (CSV)", lambda: found, "difference_map.csv")


def _names(keys: pd.Series, unit: str) -> list[str]:
    if unit == "Hexagons":
        import h3

        middles = [h3.cell_to_latlng(cell) for cell in keys]
        return [f"around {_degrees(lat, 'NS')} {_degrees(lon, 'EW')}" for lat, lon in middles]
    return [place_name(key).removesuffix(", US") for key in keys]


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):.1f}°{letters[value < 0]}"


def _sample(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    return frame if len(frame) <= most else frame.sample(most, random_state=_SEED)


def _sampled(shown: pd.DataFrame, frame: pd.DataFrame, words: str) -> str:
    part = f"A sample of {len(shown):,} of " if len(shown) < len(frame) else ""
    return f"{part}{len(frame):,} photos, {words}."
