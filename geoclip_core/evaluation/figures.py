"""Figures of whether stated certainty can be believed: radii, risk, heads, confusions."""

import html
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geoclip_core.data.vocabulary import KNOWN_FEATURES, class_name
from geoclip_core.earth.climate import climate_names
from geoclip_core.earth.sphere import geoscore
from ui.theme import ERROR_LIMIT_KM, ERROR_MARKS_KM, Palette, blend, error_colour, translucent

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


def group_name(column: str, key: str | float) -> str:
    """What to call a group."""
    feature = column.removesuffix("_key")
    return class_name(feature, key) if feature in KNOWN_FEATURES else str(key)


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
