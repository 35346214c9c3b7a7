"""Charts of trainings: losses and validation metrics of one run, and a comparison of runs."""

import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from geoclip_core.data import KNOWN_FEATURES
from geoclip_core.evaluation.figures import error_axis
from ui.theme import Palette, translucent
from ui.training.form import label

TRAIN, VAL = "train/", "val/"
MOST_POINTS = 1200
"""Curves with more points are thinned before they are sent to the browser."""
MOST_CURVES = 24
"""Metrics that one chart draws."""

LOSS = ("Loss", "")
ERROR = ("Error on the validation photos", "km")
SHARES = ("Right on the validation photos", "%")
HEADS = ("Loss of each context head", "")
SCORE = ("GeoScore on the validation photos", "points of 5,000")
RATE = ("Learning rate", "")
SCALE = ("Scale of the similarities", "")
_ORDER = (LOSS, ERROR, SHARES, HEADS, SCORE, RATE, SCALE)
_ASIDE = (SCORE, RATE, SCALE)
KM_TICKS = (1, 2, 5, 10, 25, 50, 100, 200, 400, 750, 1500, 2500, 5000, 10_000, 20_000)
"""The benchmark thresholds, with ticks between them for the curve of a single run."""
CRITERIA = ("val/median_km", "val/loss")
"""Metrics that `fit` and `pretrain` choose their best step by."""
NOISY = 60
"""Training curves with at least so many points are smoothed."""
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
"""Colours of lines that differ only by name, such as runs or context heads."""
_SHARE_WORDS = ("top1", "top3", "top5", "accuracy", "zero_shot", "retrieval", "within")

Rows = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Metrics that are drawn in one chart."""

    title: str
    unit: str
    """Unit of the vertical axis: "km", "%", or "" for a loss."""
    names: tuple[str, ...]
    aside: bool = False
    """Whether it is shown in an expander only."""


def metric_groups(rows: Rows) -> list[Group]:
    """Return the charts for the metrics of a run: losses, errors in km, shares, the rest."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in metric_names(rows):
        groups.setdefault(kind_of(name), []).append(name)
    order = sorted(groups, key=_ORDER.index)
    return [Group(*kind, tuple(sorted(groups[kind], key=_rank)), kind in _ASIDE) for kind in order]


def metric_names(rows: Rows) -> list[str]:
    """Return the metrics that occur in the rows, in order of first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in ("step", "time")]


def series(rows: Rows, name: str) -> tuple[Array, Array]:
    """Return steps and values of one metric, (n,) each; rows without it are left out."""
    points = [
        (row["step"], row[name])
        for row in rows
        if _is_number(row.get(name)) and _is_number(row.get("step"))
    ]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def smoothed(values: Array, span: int) -> Array:
    """Return the exponential moving mean over about `span` values, unbiased at the start."""
    return pd.Series(values).ewm(span=span).mean().to_numpy()


def thinned(steps: Array, values: Array) -> tuple[Array, Array]:
    """Return about `MOST_POINTS` points: the lowest and the highest value of each stretch."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    edges = np.linspace(0, len(steps), MOST_POINTS // 2 + 1).astype(int)
    keep = [0, len(steps) - 1]
    for start, end in itertools.pairwise(edges):
        part = values[start:end]
        if len(part):
            keep += [start + int(part.argmin()), start + int(part.argmax())]
    rows = np.unique(keep)
    return steps[rows], values[rows]


def minutes(rows: Rows) -> list[dict[str, Any]]:
    """Return the rows with minutes of work in place of the step.

    A gap longer than ten times the median gap is a pause between two starts and is left out.
    """
    times = np.array([row.get("time", np.nan) for row in rows], dtype=np.float64)
    gaps = np.diff(times, prepend=times[:1])
    gaps[~np.isfinite(gaps)] = 0.0
    usual = float(np.median(gaps[1:])) if len(gaps) > 1 else 0.0
    longest = max(10 * usual, 30.0)
    work = np.cumsum(np.where(gaps > longest, usual, np.maximum(gaps, 0.0))) / 60
    return [{**row, "step": float(at)} for row, at in zip(rows, work, strict=True)]


def best_step(rows: Rows, best: Mapping[str, float]) -> float | None:
    """Return the step at which the metrics `best` were measured, or None."""
    for row in rows if best else ():
        if all(row.get(VAL + name) == value for name, value in best.items()):
            return row.get("step")
    return None


def metric_label(name: str, group: Group | None = None) -> str:
    """Return the label of a metric: "val/median_km" is "Median km".

    The split is added unless all metrics of the group belong to one split.
    """
    split, _, rest = name.partition("/")
    rest = rest or split
    text = label(rest.removesuffix("_top1") if group and group.unit == "%" else rest)
    text = text.replace("/", " ")
    both = group is None or len({member.partition("/")[0] for member in group.names}) > 1
    if not both or split not in ("train", "val"):
        return text
    return f"{text}, {'training' if split == 'train' else 'validation'}"


def kind_of(name: str) -> tuple[str, str]:
    """Return title and unit of the chart that a metric belongs to."""
    rest = name.partition("/")[2] or name
    if rest.endswith("_km"):
        return ERROR
    if rest == "geoscore":
        return SCORE
    if rest == "scale":
        return SCALE
    if "learning_rate" in rest:
        return RATE
    if any(word in rest for word in _SHARE_WORDS):
        return SHARES
    return HEADS if rest in KNOWN_FEATURES else LOSS


def _rank(name: str) -> tuple[int, str]:
    """Sort key: the optimised metric first, then the context features in their usual order."""
    split, _, rest = name.partition("/")
    feature = rest.removesuffix("_top1").removesuffix("_zero_shot")
    if rest in ("loss", "median_km"):
        return -1, split
    return KNOWN_FEATURES.index(feature) if feature in KNOWN_FEATURES else 99, rest + split


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def curves_figure(
    rows: Rows, group: Group, colours: Palette, best_at: float | None = None
) -> go.Figure:
    """Draw one group of metrics of one run; noisy training losses faint, with a smoothed curve."""
    figure = go.Figure()
    lines = line_colours(colours)
    for number, name in enumerate(group.names[:MOST_CURVES]):
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
    """Draw one metric of several runs (title → rows), by step or by minutes of work."""
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
    """Return colours for lines that differ only by name."""
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
        name=html.escape(name),  # plotly reads a part of HTML
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
        # Keeps the zoom while new points arrive.
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
    """Set a log axis if the errors span at least two of its ticks."""
    values = np.array([y for trace in figure.data for y in trace.y if y > 0])
    if len(values) and values.max() > 2.5 * values.min():
        ticks = {"tickvals": KM_TICKS, "ticktext": [f"{tick:,}" for tick in KM_TICKS]}
        figure.update_yaxes({**error_axis("km"), **ticks, "rangemode": "normal"})
