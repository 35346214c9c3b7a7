"""Figures of how large the errors are: histogram and cumulative curve.

Each figure is drawn from a small table that is made first and can be downloaded. Nothing here knows
Streamlit: the page and the report draw the same figures.
"""

import html
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ui.theme import ERROR_LIMIT_KM, ERROR_MARKS_KM, Palette, error_colour, translucent

_BINS_PER_DECADE = 10
FIRST_KM = 1.0
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


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
    edges = FIRST_KM * 10 ** (np.arange(steps + 1) / _BINS_PER_DECADE)
    position = np.floor(np.log10(np.maximum(errors_km, FIRST_KM)) * _BINS_PER_DECADE).astype(int)
    below = int((errors_km < FIRST_KM).sum())
    photos = np.bincount(np.clip(position, 0, steps - 1), minlength=steps)
    photos[0] -= below
    table = pd.DataFrame(
        {
            "low_km": [0.0, *edges[:-1]],
            "high_km": [FIRST_KM, *edges[1:]],
            "photos": [below, *photos],
        }
    )
    table["share"] = table["photos"] / max(len(errors_km), 1)
    return table


def histogram_figure(tables: Mapping[str, pd.DataFrame], colours: Palette) -> go.Figure:
    """The first model's bins as bars on the error scale, the others as outlines over them."""
    figure = go.Figure()
    for index, (name, table) in enumerate(tables.items()):
        low = np.maximum(table["low_km"].to_numpy(), FIRST_KM / 10 ** (1 / _BINS_PER_DECADE))
        centre = np.sqrt(low * table["high_km"].to_numpy())
        hover = [
            f"{short_km(a)}–{short_km(b)} km: {n:,} photos ({s:.1%})"
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
    error_axis(figure, colours)
    return figure


def cumulative_curve(errors_km: np.ndarray) -> pd.DataFrame:
    """Share of photos below an error: ``error_km``, ``share``, on a grid that holds the marks."""
    grid = np.unique([*np.geomspace(FIRST_KM, ERROR_LIMIT_KM, 160), *map(float, ERROR_MARKS_KM)])
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
    error_axis(figure, colours)
    figure.update_layout(hovermode="x")
    return figure


def error_axis(figure: go.Figure, colours: Palette) -> None:
    """Make x a log axis in km with the benchmark thresholds marked, the legend a line on top."""
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


def short_km(value: float) -> str:
    """Kilometres without their unit, as short as they can be."""
    return f"{value:.1f}" if 0 < value < 10 and value % 1 else f"{value:,.0f}"
