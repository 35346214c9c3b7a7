"""Plotly charts of the pages, with geography from this server.

Every chart is shown by ``show_chart``, which sets the address of the local topojson; plotly's geo
charts would fetch it from a CDN otherwise.
"""

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from ui.page import STATIC_ADDRESS

CONFIG: dict[str, Any] = {
    "topojsonURL": f"{STATIC_ADDRESS}/topojson/",
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
}


def show_chart(figure: go.Figure, key: str, *, height: int | None = None, **options: Any) -> Any:
    """Show a figure across the column, with narrow margins where it sets none.

    The height is in pixels. Options and result are those of ``st.plotly_chart``, which returns the
    selection if ``on_select`` asks for one.
    """
    margin = figure.layout.margin
    if margin.l is None and margin.t is None:
        top = 44 if figure.layout.title.text else 12
        figure.update_layout(margin={"l": 8, "r": 8, "t": top, "b": 8})
    if height:
        figure.update_layout(height=height)
    return st.plotly_chart(figure, width="stretch", key=key, config=CONFIG, **options)
