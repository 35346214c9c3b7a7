"""Charts of a dataset: photos by state, month and climate."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geoclip_core.data.vocabulary import MONTHS
from geoclip_core.earth.climate import climate_names
from ui.dataset.data import class_name
from ui.theme import Palette

_MOST_BARS = 15


def place_bars(table: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Photos by state, or by country where there are several; and which of the two it is."""
    feature = "country" if table["country_key"].nunique() > 1 else "state"
    counts = table[f"{feature}_key"].value_counts()
    shown = counts.head(_MOST_BARS)
    names = [class_name(feature, key) for key in shown.index]
    values = shown.tolist()
    if len(counts) > _MOST_BARS:
        names.append(f"{len(counts) - _MOST_BARS} others")
        values.append(int(counts.iloc[_MOST_BARS:].sum()))
    figure = _bars(names, values, [colours.candidate] * len(values))
    return figure, feature


def month_bars(table: pd.DataFrame, colours: Palette) -> go.Figure:
    """Photos by month of capture (UTC), January first."""
    month = table["month"].to_numpy()
    counts = np.bincount(month[month >= 0], minlength=12).tolist()
    return _bars(list(MONTHS), counts, [colours.candidate] * 12)


def climate_bars(table: pd.DataFrame, colours: Palette) -> go.Figure:
    """Photos by climate, in the colours of the climate map, the most frequent first."""
    climate = table["climate"].to_numpy()
    counts = pd.Series(climate[climate >= 0]).value_counts().head(_MOST_BARS)
    classes = [climate_names()[index] for index in counts.index]
    figure = _bars([c.symbol for c in classes], counts.tolist(), [c.hex for c in classes])
    figure.update_traces(
        customdata=[c.name for c in classes],
        hovertemplate="%{y}, %{customdata}<br>%{x:,} photos<extra></extra>",
        # Some of the map's colours are close to the page's own.
        marker_line={"width": 0.6, "color": colours.muted},
    )
    return figure


def _bars(names: list[str], values: list[int], fill: list[str]) -> go.Figure:
    """Lying bars in the given order, the first on top; a scale from zero."""
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
    # Half a photo is no mark on an axis.
    steps = {"dtick": 1} if max(values, default=0) < 6 else {}
    figure.update_xaxes(title="Photos", rangemode="tozero", **steps)
    return figure
