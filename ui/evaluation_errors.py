"""Figures of how large the errors are: histogram, cumulative curve, and errors by group.

Each figure is drawn from a small table that is made first and can be downloaded. Nothing here knows
Streamlit: the page and the report draw the same figures.
"""

import html
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geoclip_core.earth.sphere import geoscore
from ui.theme import ERROR_LIMIT_KM, ERROR_MARKS_KM, Palette, error_colour, translucent

_BINS_PER_DECADE = 10
_FIRST_KM = 1.0
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
#: Stated radii at which confidence is split.
RADIUS_EDGES_KM = (0, 25, 100, 200, 400, 750, 1500, 2500, 5000, ERROR_LIMIT_KM)


def model_colours(colours: Palette) -> tuple[str, ...]:
    """Colours of the chosen model and of those beside it, in their order."""
    return colours.best, colours.other, colours.candidate, colours.truth, colours.muted


def dash(index: int) -> str:
    """Line style of the model at a position: colour is not the only difference."""
    return _DASHES[index % len(_DASHES)]


def error_bins(errors_km: np.ndarray) -> pd.DataFrame:
    """Photos in bins of equal width in log km: ``low_km``, ``high_km``, ``photos``, ``share``.

    The first bin holds everything below 1 km.
    """
    steps = int(np.ceil(np.log10(ERROR_LIMIT_KM) * _BINS_PER_DECADE))
    edges = _FIRST_KM * 10 ** (np.arange(steps + 1) / _BINS_PER_DECADE)
    position = np.floor(np.log10(np.maximum(errors_km, _FIRST_KM)) * _BINS_PER_DECADE).astype(int)
    below = int((errors_km < _FIRST_KM).sum())
    photos = np.bincount(np.clip(position, 0, steps - 1), minlength=steps)
    photos[0] -= below
    table = pd.DataFrame(
        {
            "low_km": [0.0, *edges[:-1]],
            "high_km": [_FIRST_KM, *edges[1:]],
            "photos": [below, *photos],
        }
    )
    table["share"] = table["photos"] / max(len(errors_km), 1)
    return table


def histogram_figure(tables: Mapping[str, pd.DataFrame], colours: Palette) -> go.Figure:
    """The first model's bins as bars on the error scale, the others as outlines over them."""
    figure = go.Figure()
    for index, (name, table) in enumerate(tables.items()):
        low = np.maximum(table["low_km"].to_numpy(), _FIRST_KM / 10 ** (1 / _BINS_PER_DECADE))
        centre = np.sqrt(low * table["high_km"].to_numpy())
        hover = [
            f"{_km(a)}–{_km(b)} km: {n:,} photos ({s:.1%})"
            for a, b, n, s in table.itertuples(index=False)
        ]
        if index == 0:
            figure.add_bar(
                x=centre,
                y=table["share"],
                width=(table["high_km"].to_numpy() - low) * 0.94,
                marker={"color": [error_colour(km) for km in centre], "line": {"width": 0}},
                customdata=hover,
                hovertemplate="%{customdata}<extra>" + html.escape(name) + "</extra>",
                name=html.escape(name),
                showlegend=False,
            )
        else:
            figure.add_scatter(
                x=np.repeat([*low, table["high_km"].iloc[-1]], 2)[1:-1],
                y=np.repeat(table["share"], 2),
                mode="lines",
                line={
                    "color": model_colours(colours)[index],
                    "width": 2,
                    "dash": dash(index),
                },
                name=html.escape(name),
                hoverinfo="skip",
            )
    figure.update_yaxes(title="Share of photos", tickformat=".0%", rangemode="tozero")
    _error_axis(figure, colours)
    return figure


def cumulative_curve(errors_km: np.ndarray) -> pd.DataFrame:
    """Share of photos below an error: ``error_km``, ``share``, on a grid that holds the marks."""
    grid = np.unique([*np.geomspace(_FIRST_KM, ERROR_LIMIT_KM, 160), *map(float, ERROR_MARKS_KM)])
    ordered = np.sort(errors_km)
    share = np.searchsorted(ordered, grid, side="left") / max(len(ordered), 1)
    return pd.DataFrame({"error_km": grid, "share": share})


def cumulative_figure(
    curves: Mapping[str, pd.DataFrame],
    baselines: Mapping[str, pd.DataFrame],
    colours: Palette,
) -> go.Figure:
    """Share of photos within a distance; baselines as thin lines behind the models."""
    figure = go.Figure()
    for index, (name, curve) in enumerate(baselines.items()):
        figure.add_scatter(
            x=curve["error_km"],
            y=curve["share"],
            mode="lines",
            line={"color": translucent(colours.muted, 0.8), "width": 1.3, "dash": dash(index + 1)},
            name=html.escape(name),
            hovertemplate="%{y:.1%} within %{x:,.0f} km",
        )
    for index, (name, curve) in enumerate(curves.items()):
        colour = model_colours(colours)[index]
        figure.add_scatter(
            x=curve["error_km"],
            y=curve["share"],
            mode="lines",
            line={"color": colour, "width": 3, "dash": dash(index)},
            name=html.escape(name),
            hovertemplate="%{y:.1%} within %{x:,.0f} km",
        )
        if index == 0:
            marks = curve[curve["error_km"].isin(ERROR_MARKS_KM)]
            figure.add_scatter(
                x=marks["error_km"],
                y=marks["share"],
                mode="markers+text",
                marker={"color": colour, "size": 8},
                text=[f"{share:.0%}" for share in marks["share"]],
                textposition="top left",
                textfont={"color": colours.ink, "size": 12},
                cliponaxis=False,
                showlegend=False,
                hoverinfo="skip",
            )
    figure.update_yaxes(title="Share of photos within", tickformat=".0%", range=[0, 1.04])
    _error_axis(figure, colours)
    figure.update_layout(hovermode="x")
    return figure


def group_errors(frame: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """Errors by group: ``group``, ``photos``, ``p10`` … ``p90`` in km, ``geoscore``.

    Rows whose key is missing are left out; groups are ordered by photos, commonest first.
    """
    grouped = frame["error_km"].groupby(keys.to_numpy(), observed=True, dropna=True)
    table = grouped.quantile([0.1, 0.25, 0.5, 0.75, 0.9]).unstack()
    table.columns = ["p10", "p25", "median", "p75", "p90"]
    table.insert(0, "photos", grouped.size())
    scores = pd.Series(geoscore(frame["error_km"].to_numpy(np.float64)))
    table["geoscore"] = scores.groupby(keys.to_numpy(), observed=True, dropna=True).mean()
    table = table.sort_values("photos", ascending=False, kind="stable")
    return table.rename_axis("group").reset_index()


def radius_group(radius_km: pd.Series) -> pd.Series:
    """The bin of the stated 50 % radius as text, ordered; missing where no radius is stated."""
    edges = list(RADIUS_EDGES_KM)
    labels = [f"{_km(a)}–{_km(b)} km" for a, b in itertools.pairwise(edges)]
    labels[-1] = f"over {_km(edges[-2])} km"
    return pd.cut(radius_km, edges, labels=labels, include_lowest=True)


def group_figure(
    table: pd.DataFrame,
    names: Sequence[str],
    colours: Palette,
    swatches: Sequence[str] | None = None,
) -> go.Figure:
    """One line a group: the middle 80 % thin, the middle half thick, the median as a dot.

    Args:
        table: :func:`group_errors`, in the order to draw from the top.
        names: what to call each group.
        colours: the palette.
        swatches: a colour beside each name, such as that of a climate class.
    """
    place = list(range(len(table)))
    figure = go.Figure()
    for low, high, width, alpha in (("p10", "p90", 3, 0.35), ("p25", "p75", 9, 0.55)):
        x = np.full(3 * len(table), np.nan)
        x[0::3], x[1::3] = (np.maximum(table[c].to_numpy(), _FIRST_KM) for c in (low, high))
        figure.add_scatter(
            x=x,
            y=np.repeat(place, 3),
            mode="lines",
            line={"color": translucent(colours.muted, alpha), "width": width},
            hoverinfo="skip",
            showlegend=False,
        )
    rows = table.itertuples(index=False)
    figure.add_scatter(
        x=np.maximum(table["median"], _FIRST_KM),
        y=place,
        mode="markers",
        marker={
            "color": [error_colour(km) for km in table["median"]],
            "size": 13,
            "line": {"color": colours.paper, "width": 2},
        },
        customdata=[
            f"<b>{html.escape(name)}</b><br>median {_km(row.median)} km"
            f"<br>half between {_km(row.p25)} and {_km(row.p75)} km"
            f"<br>GeoScore {row.geoscore:,.0f}, {row.photos:,} photos"
            for name, row in zip(names, rows, strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    if swatches is not None:
        figure.add_scatter(
            x=[_FIRST_KM * 0.72] * len(table),
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
    _error_axis(figure, colours)
    figure.update_layout(height=90 + 26 * len(table))
    return figure


def _error_axis(figure: go.Figure, colours: Palette) -> None:
    for mark in ERROR_MARKS_KM:
        line = {"width": 1, "dash": "dot", "color": colours.border}
        figure.add_vline(mark, line=line, layer="below")
    figure.update_xaxes(
        type="log",
        title="Error (km)",
        tickvals=list(ERROR_MARKS_KM),
        ticktext=[f"{mark:,}" for mark in ERROR_MARKS_KM],
        range=[np.log10(0.6), np.log10(ERROR_LIMIT_KM)],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 8, "r": 16, "t": 34, "b": 8},
        bargap=0,
    )


def _km(value: float) -> str:
    return f"{value:.1f}" if 0 < value < 10 and value % 1 else f"{value:,.0f}"
