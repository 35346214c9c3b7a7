"""Errors by group (state, climate, month, stated radius): a small table and its figure."""

import html
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geoclip_core.data.vocabulary import MONTHS
from geoclip_core.earth.climate import climate_names
from geoclip_core.earth.gazetteer import country_name
from geoclip_core.earth.sphere import geoscore
from ui.evaluation.data import place_name
from ui.evaluation.errors import FIRST_KM, error_axis, model_colours, short_km
from ui.theme import ERROR_LIMIT_KM, Palette, error_colour, translucent

#: What errors are grouped by, and the column of a predictions table that says it.
GROUPS = {
    "Country": "country_key",
    "State": "state_key",
    "Climate": "climate",
    "Month": "month",
    "Stated radius": "radius_50_km",
}
MOST_GROUPS = 25
#: Stated radii at which confidence is split.
RADIUS_EDGES_KM = (0, 25, 100, 200, 400, 750, 1500, 2500, 5000, ERROR_LIMIT_KM)


def group_keys(frame: pd.DataFrame, column: str) -> pd.Series:
    """The group of every row by one of :data:`GROUPS`; missing where it is not known."""
    keys = frame[column]
    if column == "radius_50_km":
        return radius_group(keys)
    if column in ("climate", "month"):
        return keys.astype("Float64").mask(keys < 0)
    return keys


def group_name(column: str, key: object) -> str:
    """What to call a group."""
    if column == "country_key":
        return country_name(str(key))
    if column == "climate":
        return climate_names()[int(key)].label
    if column == "month":
        return MONTHS[int(key)]
    return place_name(key).removesuffix(", US") if column == "state_key" else str(key)


def climate_swatches(column: str, keys: pd.Series) -> list[str] | None:
    """The raster's colours where the groups are climate classes, else None."""
    if column != "climate":
        return None
    return [climate_names()[int(key)].hex for key in keys]


def group_errors(frame: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """Errors by group: ``group``, ``photos``, ``p10`` … ``p90`` in km, ``geoscore``.

    Rows whose key is missing are left out; groups are ordered by photos, commonest first.
    """
    if not keys.notna().any():
        columns = ["group", "photos", "p10", "p25", "median", "p75", "p90", "geoscore"]
        return pd.DataFrame({name: pd.Series(dtype="float64") for name in columns})
    grouped = frame["error_km"].groupby(keys.array, observed=True, dropna=True)
    table = grouped.quantile([0.1, 0.25, 0.5, 0.75, 0.9]).unstack()
    table.columns = ["p10", "p25", "median", "p75", "p90"]
    table.insert(0, "photos", grouped.size())
    scores = pd.Series(geoscore(frame["error_km"].to_numpy(np.float64)))
    table["geoscore"] = scores.groupby(keys.array, observed=True, dropna=True).mean()
    table = table.sort_values("photos", ascending=False, kind="stable")
    return table.rename_axis("group").reset_index()


def radius_group(radius_km: pd.Series) -> pd.Series:
    """The bin of the stated 50 % radius as text, ordered; missing where no radius is stated."""
    edges = list(RADIUS_EDGES_KM)
    labels = [f"{short_km(a)}–{short_km(b)} km" for a, b in itertools.pairwise(edges)]
    labels[-1] = f"over {short_km(edges[-2])} km"
    return pd.cut(radius_km, edges, labels=labels, include_lowest=True)


def group_figure(
    table: pd.DataFrame,
    names: Sequence[str],
    colours: Palette,
    swatches: Sequence[str] | None = None,
    others: Mapping[str, pd.DataFrame] | None = None,
) -> go.Figure:
    """One line a group: the middle 80 % thin, the middle half thick, the median as a dot.

    Args:
        table: :func:`group_errors`, in the order to draw from the top.
        names: what to call each group.
        colours: the palette.
        swatches: a colour beside each name, such as that of a climate class.
        others: the same groups of other models, whose medians are drawn as open diamonds.
    """
    place = list(range(len(table)))
    figure = go.Figure()
    for low, high, width, alpha in (("p10", "p90", 3, 0.35), ("p25", "p75", 9, 0.55)):
        x = np.full(3 * len(table), np.nan)
        x[0::3], x[1::3] = (np.maximum(table[c].to_numpy(), FIRST_KM) for c in (low, high))
        figure.add_scatter(
            x=x,
            y=np.repeat(place, 3),
            mode="lines",
            line={"color": translucent(colours.muted, alpha), "width": width},
            hoverinfo="skip",
            showlegend=False,
        )
    for index, (name, other) in enumerate((others or {}).items(), start=1):
        medians = other.set_index("group")["median"].reindex(table["group"])
        figure.add_scatter(
            x=np.maximum(medians, FIRST_KM),
            y=place,
            mode="markers",
            marker={
                "color": model_colours(colours)[index],
                "size": 10,
                "symbol": "diamond-open",
                "line": {"width": 2},
            },
            name=html.escape(name),
            hovertemplate="%{x:,.0f} km",
        )
    rows = table.itertuples(index=False)
    figure.add_scatter(
        x=np.maximum(table["median"], FIRST_KM),
        y=place,
        mode="markers",
        marker={
            "color": [error_colour(km) for km in table["median"]],
            "size": 13,
            "line": {"color": colours.paper, "width": 2},
        },
        customdata=[
            f"<b>{html.escape(name)}</b><br>median {short_km(row.median)} km"
            f"<br>half between {short_km(row.p25)} and {short_km(row.p75)} km"
            f"<br>GeoScore {row.geoscore:,.0f}, {row.photos:,} photos"
            for name, row in zip(names, rows, strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    if swatches is not None:
        figure.add_scatter(
            x=[FIRST_KM * 0.72] * len(table),
            y=place,
            mode="markers",
            marker={"color": list(swatches), "size": 11, "symbol": "square"},
            hoverinfo="skip",
            showlegend=False,
            cliponaxis=False,
        )
    ticks = [
        f"{html.escape(name if len(name) <= 26 else name[:25] + '…')} "
        f"<span style='color:{colours.muted}'>{n:,}</span>"
        for name, n in zip(names, table["photos"], strict=True)
    ]
    figure.update_yaxes(
        tickvals=place,
        ticktext=ticks,
        range=[len(table) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        automargin=True,
    )
    error_axis(figure, colours)
    figure.update_layout(height=90 + 26 * len(table))
    return figure
