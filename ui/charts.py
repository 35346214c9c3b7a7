"""Plotly charts of the pages, with geography from this server.

Every chart is shown by ``show_chart``, which sets the address of the local topojson; plotly's geo
charts would fetch it from a CDN otherwise.
"""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from ui.page import STATIC_ADDRESS
from ui.theme import ERROR_LIMIT_KM, ERROR_MARKS_KM, ERROR_SCALE, Palette

CONFIG: dict[str, Any] = {
    "topojsonURL": f"{STATIC_ADDRESS}/topojson/",
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
    """Return a log axis in km with ticks at the thresholds, for ``update_xaxes``/``yaxes``."""
    return {
        "type": "log",
        "title": title,
        "tickvals": list(ERROR_MARKS_KM),
        "ticktext": [f"{mark:,}" for mark in ERROR_MARKS_KM],
        "minor": {"ticks": ""},
    }


def error_marker(errors_km: Sequence[float], **options: Any) -> dict[str, Any]:
    """Return a trace's ``marker`` coloured by the error in km; ``options`` are added to it."""
    return {
        "color": [math.log10(max(float(error), 1.0)) for error in errors_km],
        "colorscale": ERROR_COLORSCALE,
        "cmin": 0,
        "cmax": ERROR_COLOR_LIMIT,
        "showscale": True,
        **options,
    }


def world_figure(colours: Palette, **geo: Any) -> go.Figure:
    """Return an empty world with local coastlines and countries, for ``Scattergeo`` traces.

    Args:
        colours: of land, sea and borders.
        geo: further settings of ``layout.geo``, such as ``scope="usa"``.
    """
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
