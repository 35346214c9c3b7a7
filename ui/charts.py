"""Plotly charts in the look of the house, with geography from this server.

Every chart goes through :func:`show_chart`: it sets the address of the local topojson, without
which plotly's geo charts would ask a CDN.
"""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from ui import static_files
from ui.theme import ERROR_LIMIT_KM, ERROR_MARKS_KM, ERROR_SCALE, Palette, palette

CONFIG: dict[str, Any] = {
    "topojsonURL": f"{static_files.FROM_PAGE}/topojson/",
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
}

ERROR_COLORSCALE = [
    [place / (len(ERROR_SCALE) - 1), colour] for place, colour in enumerate(ERROR_SCALE)
]
"""For traces whose colour is log10 of the error in km, from 0 to ``ERROR_COLOR_LIMIT``."""

ERROR_COLOR_LIMIT = math.log10(ERROR_LIMIT_KM)


def show_chart(figure: go.Figure, key: str, *, height: int | None = None, **options: Any) -> Any:
    """Show a figure across the column.

    Args:
        figure: the figure; its margins are tightened where it sets none.
        key: unique on the page.
        height: in pixels.
        options: further arguments of ``st.plotly_chart``, such as ``on_select`` or ``alt``.

    Returns:
        What ``st.plotly_chart`` returns: the selection if ``on_select`` asks for one.
    """
    margin = figure.layout.margin
    if margin.l is None and margin.t is None:
        top = 44 if figure.layout.title.text else 12
        figure.update_layout(margin={"l": 8, "r": 8, "t": top, "b": 8})
    if height:
        figure.update_layout(height=height)
    return st.plotly_chart(figure, width="stretch", key=key, config=CONFIG, **options)


def error_axis(title: str = "Error (km)") -> dict[str, Any]:
    """A log axis in km with ticks at the benchmark thresholds, for ``update_xaxes``/``yaxes``."""
    return {
        "type": "log",
        "title": title,
        "tickvals": list(ERROR_MARKS_KM),
        "ticktext": [f"{mark:,}" for mark in ERROR_MARKS_KM],
        "minor": {"ticks": ""},
    }


def error_marker(errors_km: Sequence[float], colorbar: bool = True, **options: Any) -> dict:
    """A trace's ``marker`` whose colour is the error in km, on the scale of the house."""
    return {
        "color": [math.log10(max(float(error), 1.0)) for error in errors_km],
        "colorscale": ERROR_COLORSCALE,
        "cmin": 0,
        "cmax": ERROR_COLOR_LIMIT,
        "showscale": colorbar,
        "colorbar": {
            "title": {"text": "Error (km)", "side": "right"},
            "tickvals": [math.log10(mark) for mark in ERROR_MARKS_KM],
            "ticktext": [f"{mark:,}" for mark in ERROR_MARKS_KM],
            "thickness": 12,
            "outlinewidth": 0,
        },
        **options,
    }


def world_figure(colours: Palette | None = None, **geo: Any) -> go.Figure:
    """An empty world with local coastlines and countries, to add ``Scattergeo`` traces to.

    Args:
        colours: the palette; by default the one of the viewer's theme.
        geo: further settings of ``layout.geo``, such as ``scope="usa"`` or ``fitbounds``.
    """
    colours = colours or palette()
    settings: dict[str, Any] = {
        "projection": {"type": "natural earth"},
        "bgcolor": "rgba(0,0,0,0)",
        "showland": True,
        "landcolor": colours.land,
        "showocean": True,
        "oceancolor": colours.sea,
        "showlakes": False,
        "showcountries": True,
        "countrycolor": colours.border,
        "countrywidth": 0.5,
        "subunitcolor": colours.subdivision,
        "coastlinecolor": colours.border,
        "coastlinewidth": 0.7,
        "showframe": False,
        "lataxis": {"range": [-60, 85]},
    }
    if geo.get("scope", "world") != "world":
        del settings["projection"], settings["lataxis"]
    return go.Figure(layout={"geo": {**settings, **geo}, "margin": dict.fromkeys("lrtb", 0)})
