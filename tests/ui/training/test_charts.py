import numpy as np
import pytest

from ui.theme import DARK, LIGHT
from ui.training import charts

ROWS = [
    *({"step": s, "time": 100.0 + s, "train/loss": 5 / s} for s in range(1, 101)),
    {"step": 100, "train/city": 3.2, "train/learning_rate": 1e-3},
    {"step": 50, "val/loss": 0.4, "val/median_km": 800.0, "val/climate_top1": 0.31},
    {"step": 100, "val/loss": 0.3, "val/median_km": 600.0, "val/climate_top1": 0.42},
]


def test_metrics_are_parted_by_what_they_measure():
    groups = {group.title: group for group in charts.metric_groups(ROWS)}
    assert list(groups) == [
        "Loss",
        "Error on the validation photos",
        "Right on the validation photos",
        "Loss of each context head",
        "Learning rate",
    ]
    assert groups["Loss"].names == ("train/loss", "val/loss")
    assert groups["Error on the validation photos"].unit == "km"


def test_series_leave_out_what_was_not_measured():
    rows = [*ROWS, {"step": 101, "train/loss": float("nan")}, {"train/loss": 3}, {"step": "x"}]
    steps, values = charts.series(rows, "val/median_km")
    assert steps.tolist() == [50, 100]
    assert values.tolist() == [800, 600]
    assert len(charts.series(rows, "train/loss")[0]) == 100
    assert charts.series([], "train/loss")[0].shape == (0,)


def test_smoothing_keeps_a_constant_and_leans_on_nothing():
    assert charts.smoothed(np.full(30, 7.0), 9) == pytest.approx(np.full(30, 7.0))
    by_hand = charts.smoothed(np.array([1.0, 0.0, 0.0]), 3)
    assert by_hand == pytest.approx([1, 1 / 3, 1 / 7])


def test_thinning_keeps_every_peak():
    steps = np.arange(100_000.0)
    values = np.zeros(100_000)
    values[54_321] = 9
    thin_steps, thin_values = charts.thinned(steps, values)
    assert len(thin_steps) <= charts.MOST_POINTS + 2
    assert thin_values[thin_steps == 54_321] == 9
    assert (thin_steps[0], thin_steps[-1]) == (0, 99_999)


def test_a_curve_shows_shares_as_percent_and_marks_the_best_step():
    groups = charts.metric_groups(ROWS)
    shares = charts.curves_figure(ROWS, groups[2], LIGHT)
    assert list(shares.data[0].y) == pytest.approx([31, 42])
    best = charts.best_step(ROWS, {"median_km": 600.0, "loss": 0.3})
    assert best == 100
    errors = charts.curves_figure(ROWS, groups[1], DARK, best)
    star = errors.data[-1]
    assert (star.marker.symbol, list(star.x), list(star.y)) == ("star", [100], [600])
    assert charts.best_step(ROWS, {}) is None


def test_several_runs_on_one_chart():
    figure = charts.comparison_figure({"a": ROWS, "b": ROWS[-2:]}, "val/median_km", LIGHT)
    assert [trace.name for trace in figure.data] == ["a", "b"]
    assert len({trace.line.color for trace in figure.data}) == 2


def test_minutes_of_work_leave_out_the_pause():
    rows = [{"step": i, "time": t} for i, t in enumerate([0, 10, 20, 100_020, 100_030])]
    assert [row["step"] * 60 for row in charts.minutes(rows)] == pytest.approx([0, 10, 20, 30, 40])


def test_errors_have_a_log_axis_only_where_it_would_have_ticks():
    wide = [{"step": s, "val/median_km": v} for s, v in enumerate((900, 40))]
    narrow = [{"step": s, "val/median_km": v} for s, v in enumerate((190, 160))]
    (group,) = charts.metric_groups(wide)
    assert charts.curves_figure(wide, group, LIGHT).layout.yaxis.type == "log"
    assert charts.curves_figure(narrow, group, LIGHT).layout.yaxis.type is None
