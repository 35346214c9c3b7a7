"""Charts of the report and the Evaluation page, in plotly; their maps are in ``map_figures``.

Figures of several models take a table for each model; the first is that of the evaluated model.
"""

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from geoclip_core.data.vocabulary import class_name
from geoclip_core.earth.climate import climate_classes
from geoclip_core.evaluation.metrics import FIRST_KM, group_name, short_km
from geoclip_core.evaluation.style import (
    ERROR_LIMIT_KM,
    ERROR_MARKS_KM,
    Palette,
    blend,
    error_colour,
    kilometres,
    translucent,
)

Tables = Mapping[str, pd.DataFrame]
"""Name of a model -> its table."""

Figure = go.Figure

MOST_GROUPS = 25
"""Most groups that a figure shows clearly."""

ERROR_COLOR_LIMIT = math.log10(ERROR_LIMIT_KM)
"""The largest error on a log10 scale."""

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_RADIUS_TICKS = (1, 10, 25, 50, 100, 200, 400, 1000, 2500, 5000, 10000)
_SCALE_TICKS = (0.1, 0.3, 1, 3, 10)


def histogram_figure(tables: Tables, colours: Palette) -> go.Figure:
    """Draw ``metrics.error_bins``: the first model as bars, the others as outlines."""
    figure = go.Figure()
    for index, (name, table, line) in enumerate(_lines(tables, colours, 2)):
        high = table["high_km"].to_numpy()
        # a log axis cannot show 0 km, the start of the first bin: draw it as wide as the second
        low = np.maximum(table["low_km"].to_numpy(), FIRST_KM * high[0] / high[1])
        if index > 0:
            figure.add_scatter(
                x=np.repeat([*low, high[-1]], 2)[1:-1],
                y=np.repeat(table["share"], 2),
                mode="lines",
                line=line,
                name=name,
                hoverinfo="skip",
            )
            continue
        centre = np.sqrt(low * high)
        hover = [
            f"{short_km(a)}–{short_km(b)} km: {n:,} photos ({s:.1%})"
            for a, b, n, s in table[["low_km", "high_km", "photos", "share"]].to_numpy(object)
        ]
        figure.add_bar(
            x=centre,
            y=table["share"],
            width=(high - low) * 0.94,
            marker={"color": [error_colour(km) for km in centre], "line": {"width": 0}},
            customdata=hover,
            hovertemplate=f"%{{customdata}}<extra>{name}</extra>",
            name=name,
            showlegend=False,
        )
    figure.update_yaxes(title="Share of photos", tickformat=".0%", rangemode="tozero")
    return _on_error_axis(figure, colours)


def cumulative_figure(curves: Tables, baselines: Tables, colours: Palette) -> go.Figure:
    """Draw the share of photos within a distance, ``metrics.cumulative_curve``.

    Baselines are thin lines behind the models.
    """
    thin = {"color": translucent(colours.muted, 0.8), "width": 1.3}
    drawn = [
        (html.escape(name), curve, thin | {"dash": _DASHES[(at + 1) % len(_DASHES)]})
        for at, (name, curve) in enumerate(baselines.items())
    ]
    figure = go.Figure()
    for name, curve, line in [*drawn, *_lines(curves, colours, 3)]:
        figure.add_scatter(
            x=curve["error_km"],
            y=curve["share"],
            mode="lines",
            line=line,
            name=name,
            hovertemplate="%{y:.1%} within %{x:,.0f} km",
        )
    for curve in list(curves.values())[:1]:
        marks = curve[curve["error_km"].isin(ERROR_MARKS_KM)]
        figure.add_scatter(
            x=marks["error_km"],
            y=marks["share"],
            mode="markers+text",
            marker={"color": colours.best, "size": 8},
            text=[f"{share:.0%}" for share in marks["share"]],
            textposition="top left",
            textfont={"color": colours.ink, "size": 12},
            cliponaxis=False,
            showlegend=False,
            hoverinfo="skip",
        )
    figure.update_yaxes(title="Share of photos within", tickformat=".0%", range=[0, 1.04])
    figure.update_layout(hovermode="x")
    return _on_error_axis(figure, colours)


def group_figure(
    table: pd.DataFrame, column: str, colours: Palette, others: Tables | None = None
) -> go.Figure:
    """Draw a row per group: the middle 80 % thin, the middle half thick, the median a dot.

    Args:
        table: ``metrics.group_errors``, in the order to draw from the top.
        column: column of the groups; climate classes get the raster's colours.
        colours: colours of the chart.
        others: the same groups of other models; their medians are drawn as open diamonds.
    """
    names = [group_name(column, key) for key in table["group"]]
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
                "color": _model_colours(colours)[index],
                "size": 10,
                "symbol": "diamond-open",
                "line": {"width": 2},
            },
            name=html.escape(name),
            hovertemplate="%{x:,.0f} km",
        )
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
            f"{text}<br>GeoScore {score:,.0f}, {n:,} photos"
            for text, score, n in zip(
                spread_texts(names, table), table["geoscore"], table["photos"], strict=True
            )
        ],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    if column == "climate":
        figure.add_scatter(
            x=[FIRST_KM * 0.72] * len(table),
            y=place,
            mode="markers",
            marker={
                "color": [climate_classes()[int(key)].hex for key in table["group"]],
                "size": 11,
                "symbol": "square",
            },
            hoverinfo="skip",
            showlegend=False,
            cliponaxis=False,
        )
    ticks = [
        f"{html.escape(_shortened(name, 26))} <span style='color:{colours.muted}'>{n:,}</span>"
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
    figure.update_layout(height=90 + 26 * len(table))
    return _on_error_axis(figure, colours)


def coverage_figure(curves: Tables, colours: Palette) -> go.Figure:
    """Draw ``radii.coverage_curve``: the coverage of radii of similar size."""
    figure = _target_lines(colours)
    for name, curve, line in _lines(curves, colours, 2):
        for mass, symbol in (("90", "circle-open"), ("50", "circle")):
            figure.add_scatter(
                x=curve["radius_50_km"],
                y=curve[f"coverage_{mass}"],
                mode="lines+markers",
                line=line,
                marker={"symbol": symbol, "size": 9},
                name=name,
                showlegend=mass == "50",
                legendgroup=name,
                customdata=curve["n"],
                hovertemplate=(
                    f"%{{y:.0%}} inside the {mass} % radius<br>stated 50 % radius about "
                    "%{x:,.0f} km, %{customdata:,} photos<extra></extra>"
                ),
            )
    figure.update_xaxes(
        title="Stated 50 % radius (km)",
        type="log",
        tickvals=_RADIUS_TICKS,
        ticktext=[f"{tick:,}" for tick in _RADIUS_TICKS],
        showgrid=False,
    )
    figure.update_yaxes(
        title="Truth inside the radius",
        tickformat=".0%",
        range=[0, 1.04],
        tickvals=[0, 0.25, 0.5, 0.75, 0.9, 1],
    )
    return _with_legend(figure)


def scales_figure(curves: Tables, colours: Palette) -> go.Figure:
    """Draw ``radii.coverage_at_scales``: the coverage of scaled radii.

    The curves of calibrated radii cross their target at 1.
    """
    figure = _target_lines(colours)
    figure.add_vline(1, line={"color": colours.border, "width": 1.5})
    for name, curve, line in _lines(curves, colours, 3):
        for mass, width in (("90", 1.6), ("50", 3)):
            figure.add_scatter(
                x=curve["scale"],
                y=curve[f"coverage_{mass}"],
                mode="lines",
                line=line | {"width": width},
                name=name,
                showlegend=mass == "50",
                legendgroup=name,
                hovertemplate=f"%{{y:.0%}} within %{{x:.2g}} × the {mass} % radius<extra></extra>",
            )
    figure.update_xaxes(
        title="Radius multiplied by",
        type="log",
        tickvals=_SCALE_TICKS,
        ticktext=[f"{tick:g}×" for tick in _SCALE_TICKS],
    )
    figure.update_yaxes(title="Truth inside", tickformat=".0%", range=[0, 1.04])
    return _with_legend(figure)


def risk_figure(curves: Tables, colours: Palette) -> go.Figure:
    """Draw ``radii.risk_coverage``: the median error of the photos with the smallest radii."""
    figure = go.Figure()
    for name, curve, line in _lines(curves, colours, 2.5):
        figure.add_scatter(
            x=curve["share"],
            y=curve["median_km"],
            mode="lines+markers",
            line=line,
            marker={"size": 6},
            name=name,
            customdata=curve[["radius_50_km", "n"]],
            hovertemplate=(
                "the surest %{x:.0%} (%{customdata[1]:,} photos, radius up to "
                "%{customdata[0]:,.0f} km): median error %{y:,.0f} km<extra></extra>"
            ),
        )
    figure.update_xaxes(title="Share of photos answered, surest first", tickformat=".0%")
    figure.update_yaxes(title="Median error (km)", rangemode="tozero")
    return _with_legend(figure)


def reliability_figure(curves: Tables, colours: Palette) -> go.Figure:
    """Draw ``metrics.reliability_curve``; a calibrated head lies on the diagonal."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": colours.border, "dash": "dot", "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    for name, curve, line in _lines(curves, colours, 2):
        size = 6 + 20 * np.sqrt(curve["n"] / max(curve["n"].max(), 1))
        figure.add_scatter(
            x=curve["claimed"],
            y=curve["reached"],
            mode="lines+markers",
            line=line,
            marker={"size": size, "line": {"width": 1, "color": colours.paper}},
            name=name,
            customdata=curve["n"],
            hovertemplate=(
                "stated %{x:.0%}, right %{y:.0%} of the time<br>"
                "%{customdata:,} photos<extra></extra>"
            ),
        )
    figure.update_xaxes(title="Stated probability", tickformat=".0%", range=[-0.03, 1.03])
    figure.update_yaxes(title="Share right", tickformat=".0%", range=[-0.03, 1.03])
    return _with_legend(figure)


def confusion_figure(counts: pd.DataFrame, feature: str, colours: Palette) -> go.Figure:
    """Draw ``metrics.confusion_counts`` of a head, coloured by share of the row.

    Rows are true classes, columns guessed classes.
    """
    photos = counts.to_numpy()
    totals = photos.sum(axis=1, keepdims=True)
    shares = np.divide(photos, totals, out=np.zeros(photos.shape), where=totals > 0)
    steps = [0, 0.25, 0.5, 0.75, 1]
    names = [html.escape(class_name(feature, key)) for key in counts.index]
    places = list(range(len(names)))
    hover = [
        [
            f"truth {names[i]}, guess {names[j]}<br>{photos[i, j]:,} of {totals[i, 0]:,} "
            f"({shares[i, j]:.0%})"
            for j in places
        ]
        for i in places
    ]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=places,
            y=places,
            zmin=0,
            zmax=1,
            colorscale=[
                [s, blend((colours.paper, colours.candidate, colours.ink), s * 0.8)] for s in steps
            ],
            xgap=1,
            ygap=1,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            colorbar={
                "title": {"text": "Share of the truth", "side": "right"},
                "tickformat": ".0%",
                "thickness": 12,
                "outlinewidth": 0,
            },
        )
    )
    if len(names) <= 12:
        figure.update_traces(
            text=[[f"{v:.0%}" if v >= 0.005 else "" for v in row] for row in shares],
            texttemplate="%{text}",
            textfont={"size": 10},
        )
    ticks = {"tickvals": places, "ticktext": names, "showgrid": False, "zeroline": False}
    figure.update_xaxes(title="Guess", **ticks, tickangle=-60 if len(names) > 8 else 0)
    figure.update_yaxes(title="Truth", autorange="reversed", automargin=True, **ticks)
    figure.update_layout(
        height=max(260, 150 + 21 * len(names)), margin={"l": 8, "r": 8, "t": 12, "b": 8}
    )
    return figure


def pairs_figure(pairs: pd.DataFrame, feature: str, colours: Palette) -> go.Figure:
    """Draw ``metrics.confused_pairs`` of a head as bars, the most frequent at the top."""
    place = list(range(len(pairs)))
    names = [
        f"{class_name(feature, truth)} → {class_name(feature, guess)}"
        for truth, guess in pairs[["truth", "guess"]].to_numpy(object)
    ]
    figure = go.Figure(
        go.Bar(
            x=pairs["n"],
            y=place,
            orientation="h",
            marker={"color": translucent(colours.candidate, 0.75)},
            text=[
                f"{n:,} ({share:.0%})" for n, share in zip(pairs["n"], pairs["share"], strict=True)
            ],
            textposition="outside",
            cliponaxis=False,
            customdata=[html.escape(name) for name in names],
            hovertemplate="%{customdata}: %{x:,} photos<extra></extra>",
        )
    )
    figure.update_yaxes(
        tickvals=place,
        ticktext=[html.escape(_shortened(name, 52)) for name in names],
        range=[len(pairs) - 0.4, -0.6],
        automargin=True,
    )
    figure.update_xaxes(
        title="Photos (share of that truth)",
        range=[0, float(pairs["n"].max() if len(pairs) else 1) * 1.2],
        rangemode="tozero",
    )
    figure.update_layout(height=80 + 25 * len(pairs), margin={"l": 8, "r": 40, "t": 8, "b": 8})
    return figure


def error_axis(title: str = "Error (km)") -> dict[str, Any]:
    """Return a log axis in km with ticks at the thresholds, for ``update_xaxes``/``yaxes``."""
    return {
        "type": "log",
        "title": title,
        "tickvals": list(ERROR_MARKS_KM),
        "ticktext": [f"{mark:,}" for mark in ERROR_MARKS_KM],
        "minor": {"ticks": ""},
    }


def figure_html(figure: go.Figure, colours: Palette, height: int | None = None) -> str:
    """Return a figure as HTML for a page that holds :func:`figure_scripts`."""
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "color": colours.ink, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    if height:
        figure.update_layout(height=height)
    text: str = plotly.io.to_html(
        figure,
        include_plotlyjs=False,
        full_html=False,
        default_width="100%",
        default_height=f"{height or figure.layout.height or 420}px",
        config={"displaylogo": False, "responsive": True},
    )
    return text


def figure_scripts(topojson: Path) -> str:
    """Return plotly's code and the outlines of its maps, for a page without network access.

    ``topojson`` is a folder with ``world_110m.json`` and ``usa_110m.json``.
    """
    outlines = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(topojson.glob("*.json"))
    }
    assets = json.dumps({"topojson": outlines}, separators=(",", ":"))
    return f"<script>{get_plotlyjs()}</script><script>window.PlotlyGeoAssets = {assets};</script>"


def spread_texts(names: Sequence[str], table: pd.DataFrame) -> list[str]:
    """Return the name, median and middle half of each group, for its tooltip."""
    spread = table[["median", "p25", "p75"]].to_numpy(np.float64)
    return [
        f"<b>{html.escape(name)}</b><br>median {kilometres(median)}"
        f"<br>half between {kilometres(low)} and {kilometres(high)}"
        for name, (median, low, high) in zip(names, spread, strict=True)
    ]


def _model_colours(colours: Palette) -> tuple[str, ...]:
    return colours.best, colours.other, colours.candidate, colours.truth, colours.muted


def _lines(
    tables: Tables, colours: Palette, width: float
) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Yield escaped name, table and line style of each model, five at most.

    Models differ in dashes too, for readers who cannot tell the colours apart.
    """
    styles = zip(_model_colours(colours), _DASHES, strict=True)
    for (name, table), (colour, dash) in zip(tables.items(), styles, strict=False):
        yield html.escape(name), table, {"color": colour, "dash": dash, "width": width}


def _target_lines(colours: Palette) -> go.Figure:
    """Return a figure with dotted lines at 50 % and 90 %."""
    figure = go.Figure()
    for target in (0.5, 0.9):
        figure.add_hline(target, line={"color": colours.border, "dash": "dot", "width": 1})
    return figure


def _on_error_axis(figure: go.Figure, colours: Palette) -> go.Figure:
    """Make x a log axis in km that marks the benchmark thresholds."""
    for mark in ERROR_MARKS_KM:
        line = {"width": 1, "dash": "dot", "color": colours.border}
        figure.add_vline(mark, line=line, layer="below")
    figure.update_xaxes(
        **error_axis(),
        range=[np.log10(0.6), ERROR_COLOR_LIMIT],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(bargap=0)
    return _with_legend(figure)


def _with_legend(figure: go.Figure) -> go.Figure:
    """Put the legend in a line above the figure."""
    figure.update_layout(
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 8, "r": 16, "t": 34, "b": 8},
    )
    return figure


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
