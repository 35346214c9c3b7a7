"""Figures of whether stated certainty can be believed: radii, risk, heads, confusions."""

import html
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ui.evaluation.errors import dash, model_colours
from ui.theme import Palette, blend, translucent


def coverage_figure(curves: Mapping[str, pd.DataFrame], colours: Palette) -> go.Figure:
    """Share of photos inside the stated radius, for photos with a similar radius.

    Args:
        curves: ``reliability.coverage_curve`` by model.
        colours: the palette.
    """
    figure = go.Figure()
    for target in (0.5, 0.9):
        figure.add_hline(target, line={"color": colours.border, "dash": "dot", "width": 1})
    for index, (name, curve) in enumerate(curves.items()):
        for mass, symbol in (("90", "circle-open"), ("50", "circle")):
            figure.add_scatter(
                x=curve["radius_50_km"],
                y=curve[f"coverage_{mass}"],
                mode="lines+markers",
                line={"color": model_colours(colours)[index], "dash": dash(index), "width": 2},
                marker={"symbol": symbol, "size": 9},
                name=html.escape(name),
                showlegend=mass == "50",
                legendgroup=name,
                customdata=curve["n"],
                hovertemplate=(
                    f"%{{y:.0%}} inside the {mass} % radius<br>stated 50 % radius about "
                    "%{x:,.0f} km, %{customdata:,} photos<extra></extra>"
                ),
            )
    ticks = [1, 10, 25, 50, 100, 200, 400, 1000, 2500, 5000, 10000]
    figure.update_xaxes(
        title="Stated 50 % radius (km)",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        showgrid=False,
    )
    figure.update_yaxes(
        title="Truth inside the radius",
        tickformat=".0%",
        range=[0, 1.04],
        tickvals=[0, 0.25, 0.5, 0.75, 0.9, 1],
    )
    return _finished(figure)


def scales_figure(curves: Mapping[str, pd.DataFrame], colours: Palette) -> go.Figure:
    """Coverage were every radius multiplied by a factor; honest radii cross their target at 1."""
    figure = go.Figure()
    figure.add_vline(1, line={"color": colours.border, "width": 1.5})
    for target in (0.5, 0.9):
        figure.add_hline(target, line={"color": colours.border, "dash": "dot", "width": 1})
    for index, (name, curve) in enumerate(curves.items()):
        for mass, width in (("90", 1.6), ("50", 3)):
            figure.add_scatter(
                x=curve["scale"],
                y=curve[f"coverage_{mass}"],
                mode="lines",
                line={"color": model_colours(colours)[index], "dash": dash(index), "width": width},
                name=html.escape(name),
                showlegend=mass == "50",
                legendgroup=name,
                hovertemplate=f"%{{y:.0%}} within %{{x:.2g}} × the {mass} % radius<extra></extra>",
            )
    ticks = [0.1, 0.3, 1, 3, 10]
    figure.update_xaxes(
        title="Radius multiplied by",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}×" for tick in ticks],
    )
    figure.update_yaxes(title="Truth inside", tickformat=".0%", range=[0, 1.04])
    return _finished(figure)


def risk_figure(curves: Mapping[str, pd.DataFrame], colours: Palette) -> go.Figure:
    """Median error of the photos that a model is surest of, against the share that is kept."""
    figure = go.Figure()
    for index, (name, curve) in enumerate(curves.items()):
        figure.add_scatter(
            x=curve["share"],
            y=curve["median_km"],
            mode="lines+markers",
            line={"color": model_colours(colours)[index], "dash": dash(index), "width": 2.5},
            marker={"size": 6},
            name=html.escape(name),
            customdata=np.stack([curve["radius_50_km"], curve["n"]], axis=1),
            hovertemplate=(
                "the surest %{x:.0%} (%{customdata[1]:,} photos, radius up to "
                "%{customdata[0]:,.0f} km): median error %{y:,.0f} km<extra></extra>"
            ),
        )
    figure.update_xaxes(title="Share of photos answered, surest first", tickformat=".0%")
    figure.update_yaxes(title="Median error (km)", rangemode="tozero")
    return _finished(figure)


def reliability_figure(curves: Mapping[str, pd.DataFrame], colours: Palette) -> go.Figure:
    """Claimed against reached accuracy of a head; on the diagonal a head is honest.

    Args:
        curves: ``context_metrics.reliability_curve`` by model.
        colours: the palette.
    """
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": colours.border, "dash": "dot", "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    for index, (name, curve) in enumerate(curves.items()):
        size = 6 + 20 * np.sqrt(curve["n"] / max(curve["n"].max(), 1))
        figure.add_scatter(
            x=curve["claimed"],
            y=curve["reached"],
            mode="lines+markers",
            line={"color": model_colours(colours)[index], "dash": dash(index), "width": 2},
            marker={"size": size, "line": {"width": 1, "color": colours.paper}},
            name=html.escape(name),
            customdata=curve["n"],
            hovertemplate=(
                "says %{x:.0%}, is right %{y:.0%} of the time<br>"
                "%{customdata:,} photos<extra></extra>"
            ),
        )
    figure.update_xaxes(title="Stated probability", tickformat=".0%", range=[-0.03, 1.03])
    figure.update_yaxes(title="Share right", tickformat=".0%", range=[-0.03, 1.03])
    return _finished(figure)


def confusion_figure(counts: pd.DataFrame, names: list[str], colours: Palette) -> go.Figure:
    """Rows are the truth, columns the guess; colour is the share of the row.

    Args:
        counts: ``context_metrics.confusion_counts``.
        names: short names of its classes, in its order.
        colours: the palette.
    """
    totals = counts.to_numpy().sum(axis=1, keepdims=True)
    shares = np.divide(counts.to_numpy(), totals, out=np.zeros(counts.shape), where=totals > 0)
    steps = [0, 0.25, 0.5, 0.75, 1]
    scale = [[s, blend((colours.paper, colours.candidate, colours.ink), s * 0.8)] for s in steps]
    names = [html.escape(name) for name in names]
    places = list(range(len(names)))
    hover = [
        [
            f"truth {names[i]}, guess {names[j]}<br>{counts.iat[i, j]:,} of {totals[i, 0]:,} "
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
            colorscale=scale,
            xgap=1,
            ygap=1,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            colorbar={"title": {"text": "Share of the truth", "side": "right"}, "tickformat": ".0%"}
            | {"thickness": 12, "outlinewidth": 0},
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


def pairs_figure(pairs: pd.DataFrame, names: list[str], colours: Palette) -> go.Figure:
    """The commonest mistakes as bars, the commonest on top.

    Args:
        pairs: ``context_metrics.confused_pairs``.
        names: "truth → guess" of each.
        colours: the palette.
    """
    place = list(range(len(pairs)))
    cut = [name if len(name) <= 52 else f"{name[:51]}…" for name in names]
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
        ticktext=[html.escape(name) for name in cut],
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


def _finished(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 8, "r": 16, "t": 34, "b": 8},
    )
    return figure
