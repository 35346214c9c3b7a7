"""A table of all runs, and a chart of the selected ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from geoclip_core.jobs import JobError
from ui.page import download, show_chart
from ui.theme import palette
from ui.training.charts import comparison_figure, metric_label, metric_names
from ui.training.form import label, run_values, shown
from ui.training.live import run_metrics
from ui.training.results import results_of
from ui.training.runs import RunView, took

_MOST_COMPARED = 8
_NOT_COMPARED = {"output", "runs", "name", "resume", "recipe"}
_FIRST_METRICS = ("val/median_km", "val/loss", "train/loss")


def overview(views: Sequence[RunView]) -> None:
    """Draw a table of all runs to select from, and compare the selected ones."""
    titles = unique_titles(views)
    table = runs_frame(views)
    event = st.dataframe(
        table,
        hide_index=True,
        key="all runs",
        on_select="rerun",
        selection_mode="multi-row",
        column_config={
            "Progress": st.column_config.ProgressColumn(format="%d %%", min_value=0, max_value=100),
            "Started": st.column_config.DatetimeColumn(format="D MMM, HH:mm"),
            "Minutes": st.column_config.NumberColumn(format="%.1f"),
            "GeoScore": st.column_config.NumberColumn(format="%.0f"),
            "Median km": st.column_config.NumberColumn(format="%.0f"),
            "Best median km (val)": st.column_config.NumberColumn(format="%.0f"),
        },
        placeholder="–",
    )
    download("Runs (CSV)", lambda: table, "runs.csv")
    chosen = [views[row] for row in event.selection.rows if row < len(views)]
    if not chosen:
        st.caption("Tick runs on the left to compare them. Until then, the newest are shown.")
        chosen = [item for item in views if run_metrics(item.run)]
    if len(chosen) > _MOST_COMPARED:
        st.caption(f"Only the first {_MOST_COMPARED} are drawn.")
    compare(chosen[:_MOST_COMPARED], titles)


def compare(views: Sequence[RunView], titles: Mapping[str, str]) -> None:
    """Draw one metric of several runs in a chart, and list the options in which they differ."""
    curves = {titles[item.name]: run_metrics(item.run) for item in views}
    names = metric_names([row for rows in curves.values() for row in rows])
    if not names:
        st.info("No run has metrics yet.", icon=":material/show_chart:")
        return
    first = next((name for name in _FIRST_METRICS if name in names), names[0])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Compare by",
            names,
            index=names.index(first),
            format_func=metric_label,
            key="compare by",
            persist_state="session",
            width=340,
        )
        by_time = st.toggle("By minutes instead of steps", key="by time", persist_state="session")
    figure = comparison_figure(curves, name, palette(), by_time=by_time)
    show_chart(figure, "comparison", height=380)
    if len(views) > 1:
        _differences(views, titles)


def runs_frame(views: Sequence[RunView]) -> pd.DataFrame:
    """Return a table with one row per run."""
    rows = []
    for item in views:
        seconds, scores = took(item), _scores(item)
        rows.append(
            {
                "Run": item.title,
                "State": item.look.word,
                "Progress": round(100 * item.status.progress),
                "Task": item.status.task,
                "GeoScore": scores.get("geoscore"),
                "Median km": scores.get("median_km"),
                "On": scores.get("on", ""),
                "Best median km (val)": item.status.best.get("median_km"),
                "Started": pd.Timestamp(item.status.created_at, unit="s", tz="UTC"),
                "Minutes": None if seconds is None else seconds / 60,
            }
        )
    numbers = ["GeoScore", "Median km", "Best median km (val)", "Minutes"]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, "float64"))


def _scores(item: RunView) -> dict[str, Any]:
    """Return the measured scores of a finished run, and "on": the photos that they are of."""
    if item.status.state != "finished":
        return {}
    metrics, _ = results_of(item.run.folder)
    split = str((metrics.get("about") or {}).get("split") or "")
    numbers = {name: metrics.get(name) for name in ("geoscore", "median_km")}
    known = {name: value for name, value in numbers.items() if isinstance(value, int | float)}
    return {**known, "on": split} if known else {}


def unique_titles(views: Sequence[RunView]) -> dict[str, str]:
    """Return the title of each run by folder name, with its time where titles are equal."""
    titles = [item.title for item in views]
    return {
        item.name: item.title if titles.count(item.title) == 1 else f"{item.title} {item.stamp}"
        for item in views
    }


def option_differences(views: Sequence[RunView]) -> dict[str, list[Any]]:
    """Return the options in which runs differ, with the value of each run."""
    configs = []
    for item in views:
        try:
            configs.append(run_values(item.status.task, item.run.config))
        except JobError:
            configs.append({})
    names = dict.fromkeys(name for config in configs for name in config)
    found = {}
    for name in names:
        values = [config.get(name) for config in configs]
        if name not in _NOT_COMPARED and any(value != values[0] for value in values):
            found[name] = values
    return found


def _differences(views: Sequence[RunView], titles: Mapping[str, str]) -> None:
    differences = option_differences(views)
    if not differences:
        st.caption("These runs have the same options.")
        return
    st.markdown("**Options that differ**")
    frame = pd.DataFrame(
        {
            titles[item.name]: [shown(values[i]) for values in differences.values()]
            for i, item in enumerate(views)
        },
        index=pd.Index([label(name) for name in differences], name="Option"),
    )
    st.dataframe(frame)
