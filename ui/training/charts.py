"""Curves of trainings: losses, validation, and several runs on one chart."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from ui.charts import error_axis
from ui.theme import Palette, translucent
from ui.training.series import (
    TRAIN,
    VAL,
    Array,
    Group,
    Rows,
    kind_of,
    metric_label,
    minutes,
    series,
    smoothed,
    thinned,
)

KM_TICKS = (1, 2, 5, 10, 25, 50, 100, 200, 400, 750, 1500, 2500, 5000, 10_000, 20_000)
"""The benchmark thresholds, and enough between them for one run's curve."""

CRITERIA = ("val/median_km", "val/loss")
"""What the best step is chosen by: of `fit`, of `pretrain`."""

NOISY = 60
"""From so many points on, a training curve is drawn smoothed."""

LIGHT_LINES = (
    *("#2f6fde", "#c2570c", "#8b4fc9", "#0f8a8a"),
    *("#b0306a", "#6b7a00", "#7a5230", "#465a70"),
)
DARK_LINES = (
    "#6ea8fe",
    "#ff9838",
    "#c79bf2",
    "#4cc9c0",
    "#f58ab8",
    "#c3cf4a",
    "#d3a681",
    "#a9b8c9",
)
"""Lines that differ by name only: runs, context heads."""


def curves_figure(
    rows: Rows, group: Group, colours: Palette, best_at: float | None = None
) -> go.Figure:
    """One run's metrics of one group; noisy training losses faint, with their smooth course."""
    figure = go.Figure()
    lines = line_colours(colours)
    for number, name in enumerate(group.names):
        steps, values = series(rows, name)
        values = values * (100 if group.unit == "%" else 1)
        colour = lines[number % len(lines)]
        shown_name = metric_label(name, group)
        if name.startswith(TRAIN) and len(values) >= NOISY:
            raw = thinned(steps, values)
            figure.add_trace(_line(*raw, shown_name, translucent(colour, 0.28), 1, faint=True))
            values = smoothed(values, len(values) // 20)
        figure.add_trace(
            _line(*thinned(steps, values), shown_name, colour, 2, dots=name.startswith(VAL))
        )
    if best_at is not None:
        _mark_best(figure, rows, group, best_at, colours)
    _lay_out(figure, group.unit, colours, legend=len(group.names) > 1)
    return figure


def comparison_figure(
    runs: Mapping[str, Rows], name: str, colours: Palette, *, by_time: bool = False
) -> go.Figure:
    """One metric of several runs on one chart.

    Args:
        runs: title → rows.
        name: the metric.
        colours: of the theme.
        by_time: minutes since the first row instead of steps.
    """
    figure = go.Figure()
    unit = kind_of(name)[1]
    lines = line_colours(colours)
    for number, (title, rows) in enumerate(runs.items()):
        if by_time:
            rows = minutes(rows)
        steps, values = series(rows, name)
        if not len(steps):
            continue
        values = values * (100 if unit == "%" else 1)
        if name.startswith(TRAIN) and len(values) >= NOISY:
            values = smoothed(values, len(values) // 20)
        figure.add_trace(
            _line(
                *thinned(steps, values),
                title,
                lines[number % len(lines)],
                2,
                dots=name.startswith(VAL),
            )
        )
    _lay_out(figure, unit, colours, legend=True, x="Minutes of work" if by_time else "Step")
    return figure


def line_colours(colours: Palette) -> tuple[str, ...]:
    """Colours for lines that differ by name only."""
    return DARK_LINES if colours.dark else LIGHT_LINES


def _mark_best(
    figure: go.Figure, rows: Rows, group: Group, best_at: float, colours: Palette
) -> None:
    for name in set(CRITERIA).intersection(group.names):
        steps, values = series(rows, name)
        at = np.flatnonzero(steps == best_at)
        if len(at):
            figure.add_trace(
                go.Scatter(
                    x=[best_at],
                    y=[values[at[0]]],
                    mode="markers",
                    marker={"symbol": "star", "size": 14, "color": colours.best},
                    hovertemplate=f"best: %{{y:,.4g}} {group.unit}<extra></extra>",
                    showlegend=False,
                )
            )


def _line(
    steps: Array,
    values: Array,
    name: str,
    colour: str,
    width: float,
    *,
    dots: bool = False,
    faint: bool = False,
) -> go.Scatter:
    return go.Scatter(
        x=steps.tolist(),
        y=values.tolist(),
        name=name,
        mode="lines+markers" if dots and len(steps) < 80 else "lines",
        line={"color": colour, "width": width},
        marker={"size": 5},
        showlegend=not faint,
        hoverinfo="skip" if faint else None,
        hovertemplate=None if faint else "%{y:.4g}<extra>%{fullData.name}</extra>",
    )


def _lay_out(
    figure: go.Figure, unit: str, colours: Palette, *, legend: bool, x: str = "Step"
) -> None:
    figure.update_layout(
        # What the viewer has zoomed to stays while new points arrive.
        uirevision="keep",
        hovermode="x unified",
        showlegend=legend,
        legend={
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "font": {"size": 11},
        },
        font={"color": colours.ink},
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": x, "rangemode": "tozero"},
        yaxis={"title": unit or None, "rangemode": "tozero" if unit else "normal"},
    )
    if unit == "km":
        _km_axis(figure)


def _km_axis(figure: go.Figure) -> None:
    """A log axis, if the errors span enough of it for two of its ticks."""
    values = np.array([y for trace in figure.data for y in trace.y if y > 0])
    if len(values) and values.max() > 2.5 * values.min():
        ticks = {"tickvals": KM_TICKS, "ticktext": [f"{tick:,}" for tick in KM_TICKS]}
        figure.update_yaxes({**error_axis("km"), **ticks, "rangemode": "normal"})
