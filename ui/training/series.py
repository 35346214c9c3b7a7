"""The metrics of runs as series: which belong together, smoothed, thinned, by minutes."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoclip_core.data.vocabulary import KNOWN_FEATURES
from ui.training.values import label

TRAIN, VAL = "train/", "val/"
MOST_POINTS = 1200
"""A curve of more points is thinned before it travels to the browser."""

LOSS = ("Loss", "")
ERROR = ("Error on the validation photos", "km")
SHARES = ("Right on the validation photos", "%")
HEADS = ("Loss of each context head", "")
SCORE = ("GeoScore on the validation photos", "points of 5,000")
RATE = ("Learning rate", "")
SCALE = ("Scale of the similarities", "")
_ORDER = (LOSS, ERROR, SHARES, HEADS, SCORE, RATE, SCALE)
_ASIDE = (SCORE, RATE, SCALE)
_SHARE_WORDS = ("top1", "top3", "top5", "accuracy", "zero_shot", "retrieval", "within")

Rows = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Metrics that belong on one chart."""

    title: str
    unit: str
    """Of the vertical axis: "km", "%", or "" for a loss."""
    names: tuple[str, ...]
    aside: bool = False
    """Whether it is folded away."""


def metric_groups(rows: Rows) -> list[Group]:
    """The charts that a run's metrics fill: losses, errors in km, shares, the rest."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in metric_names(rows):
        groups.setdefault(kind_of(name), []).append(name)
    order = sorted(groups, key=_ORDER.index)
    return [Group(*kind, tuple(sorted(groups[kind], key=_rank)), kind in _ASIDE) for kind in order]


def metric_names(rows: Rows) -> list[str]:
    """Every metric that some row has, in the order in which they first appear."""
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(name for name in row if name not in ("step", "time"))
    return list(names)


def series(rows: Rows, name: str) -> tuple[Array, Array]:
    """Steps and values of one metric, (n,) each; rows without it are left out."""
    points = [
        (row["step"], row[name])
        for row in rows
        if _is_number(row.get(name)) and _is_number(row.get("step"))
    ]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def smoothed(values: Array, span: int) -> Array:
    """Exponential moving mean over about `span` values, without a start that leans on nothing."""
    if span <= 1 or len(values) < 3:
        return values
    keep = 1 - 2 / (span + 1)
    weights, mean, out = 0.0, 0.0, np.empty_like(values)
    for i, value in enumerate(values):
        mean, weights = keep * mean + value, keep * weights + 1
        out[i] = mean / weights
    return out


def thinned(steps: Array, values: Array, most: int = MOST_POINTS) -> tuple[Array, Array]:
    """At most about `most` points that keep the lowest and highest value of each stretch."""
    if len(steps) <= most:
        return steps, values
    edges = np.linspace(0, len(steps), most // 2 + 1).astype(int)
    keep = [0, len(steps) - 1]
    for start, end in itertools.pairwise(edges):
        part = values[start:end]
        if len(part):
            keep += [start + int(part.argmin()), start + int(part.argmax())]
    rows = np.unique(keep)
    return steps[rows], values[rows]


def minutes(rows: Rows) -> list[dict[str, Any]]:
    """The rows with the minutes of work in place of the step; a pause between two starts is left
    out, as far as it is longer than ten times the usual gap between rows.
    """
    times = np.array([row.get("time", np.nan) for row in rows], dtype=np.float64)
    gaps = np.diff(times, prepend=times[:1])
    gaps[~np.isfinite(gaps)] = 0.0
    usual = float(np.median(gaps[1:])) if len(gaps) > 1 else 0.0
    longest = max(10 * usual, 30.0)
    work = np.cumsum(np.where(gaps > longest, usual, np.maximum(gaps, 0.0))) / 60
    return [{**row, "step": float(at)} for row, at in zip(rows, work, strict=True)]


def best_step(rows: Rows, best: Mapping[str, float]) -> float | None:
    """The step at which the best validation so far was measured, from its numbers."""
    for row in rows if best else ():
        if all(row.get(VAL + name) == value for name, value in best.items()):
            return row.get("step")
    return None


def metric_label(name: str, group: Group | None = None) -> str:
    """A metric as people call it: "val/median_km" is "Median km"; both splits on a chart say so."""
    split, _, rest = name.partition("/")
    rest = rest or split
    text = label(rest.removesuffix("_top1") if group and group.unit == "%" else rest)
    text = text.replace("/", " ")
    both = group is None or len({member.partition("/")[0] for member in group.names}) > 1
    if not both or split not in ("train", "val"):
        return text
    return f"{text}, {'training' if split == 'train' else 'validation'}"


def kind_of(name: str) -> tuple[str, str]:
    """Title and unit of the chart on which a metric belongs."""
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
    """What is optimised first, then the context features in the order of the house."""
    split, _, rest = name.partition("/")
    feature = rest.removesuffix("_top1").removesuffix("_zero_shot")
    if rest in ("loss", "median_km"):
        return -1, split
    return KNOWN_FEATURES.index(feature) if feature in KNOWN_FEATURES else 99, rest + split


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
