"""The results of one run with links to the other pages, and a table and chart of all runs."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from geoclip_core.errors import FileError
from geoclip_core.jobs import JobError
from geoclip_core.results import read_results
from ui.evaluation.sources import find_sources
from ui.page import PAGES, download, is_public, show_chart
from ui.theme import kilometres, markdown_text, palette, percent
from ui.training.charts import comparison_figure, metric_label, metric_names
from ui.training.form import label, run_values, shown
from ui.training.live import run_metrics
from ui.training.new import fit_on, take_options
from ui.training.runs import RunView, show_problems, took

_RESULTS = "metrics.json"
_ACCURACIES = ("25", "200", "750")
_MOST_COMPARED = 8
_NOT_COMPARED = {"output", "runs", "name", "resume", "recipe"}
_FIRST_METRICS = ("val/median_km", "val/loss", "train/loss")


def result_panel(item: RunView) -> None:
    """Draw the metrics of a finished run and the buttons that open its model on other pages."""
    if item.status.state == "finished":
        metrics, problems = results_of(item.run.folder)
        show_problems(problems)
        if item.status.task == "fit":
            _fit_numbers(metrics)
        else:
            _pretrain_numbers(metrics)
    if item.has_model:
        if item.status.state != "finished":
            st.caption("The run ended early; the buttons below open the model of its best step.")
        _open_buttons(item)
    elif (
        item.status.task == "pretrain"
        and item.run.checkpoint.is_dir()
        and not item.active
        and not is_public()
    ):
        st.button(
            "Train geolocation on this backbone",
            icon=":material/arrow_forward:",
            type="primary",
            key=f"fit on {item.name}",
            on_click=fit_on,
            args=(item,),
        )


def run_details(item: RunView) -> None:
    """Draw the options of a run, and how to train again with them."""
    try:
        config = item.run.config
    except JobError as error:
        st.caption(markdown_text(str(error)))
        return
    with st.expander("Options", icon=":material/tune:"):
        values = run_values(item.status.task, config)
        default = run_values(item.status.task, {})
        frame = pd.DataFrame(
            [
                {
                    "Option": label(name),
                    "Value": shown(value),
                    "Default": shown(default.get(name)),
                    "Differs": value != default.get(name),
                }
                for name, value in values.items()
            ]
        )
        st.dataframe(frame.sort_values("Differs", ascending=False, kind="stable"), hide_index=True)
        st.caption("The same training from the command line")
        recipe = item.run.folder / "config.yaml"
        st.code(f"python -m train {item.status.task} --recipe {recipe}", language="bash")
        if not is_public():
            st.button(
                "Train again with these options",
                icon=":material/replay:",
                key=f"again {item.name}",
                on_click=take_options,
                args=(item,),
            )


def results_of(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return a run's metrics.json, {} if it has none, and what cannot be read in a sentence."""
    problems: list[str] = []
    for path in (folder / _RESULTS, folder / "checkpoint" / _RESULTS):
        if not os.path.lexists(path):
            continue
        try:
            return read_results(path), problems
        except FileError as error:
            problems.append(str(error))
    return {}, problems


def _number_with_interval(
    metrics: Mapping[str, Any], path: Sequence[str], write: Callable[[float], str]
) -> tuple[str, str | None] | None:
    """Return a metric and its 95 % interval as text, or None if it was not measured."""
    value, bounds = _at(metrics, path), _at(metrics.get("intervals"), path)
    if not isinstance(value, int | float):
        return None
    if (
        not isinstance(bounds, list)
        or len(bounds) != 2
        or not all(isinstance(bound, int | float) for bound in bounds)
    ):
        return write(value), None
    return write(value), f"{write(bounds[0])} – {write(bounds[1])}"


def _fit_numbers(metrics: Mapping[str, Any]) -> None:
    numbers = {
        "Median error": _number_with_interval(metrics, ["median_km"], kilometres),
        "GeoScore": _number_with_interval(metrics, ["geoscore"], lambda v: f"{v:,.0f}"),
    }
    for radius in _ACCURACIES:
        path = ["accuracy_at_km", radius]
        numbers[f"Within {radius} km"] = _number_with_interval(metrics, path, percent)
    found = {name: number for name, number in numbers.items() if number is not None}
    if not found:
        return
    _metric_row(found)
    about = metrics.get("about") or {}
    split = markdown_text(str(about.get("split") or ""))
    where = f"the {split} split" if split else "held-out photos"
    text = f"On {metrics.get('n') or 0:,} photos of {where}, with 95 % intervals."
    constant = _at(metrics, ["baselines", "constant", "median_km"])
    if isinstance(constant, int | float):
        text += f" Median of the best constant guess: {kilometres(constant)}."
    st.caption(text)
    heads = {
        name: head
        for name, head in (metrics.get("context") or {}).items()
        if isinstance(head, dict) and isinstance(head.get("top1"), int | float)
    }
    if heads:
        text = " · ".join(
            f"{markdown_text(str(name))} **{percent(head['top1'])}**"
            + (f" ({percent(head['majority'])})" if head.get("majority") is not None else "")
            for name, head in heads.items()
        )
        st.markdown(f"Top-1 accuracy (in brackets: of always the most common class): {text}")


def _pretrain_numbers(metrics: Mapping[str, Any]) -> None:
    split = "test" if "test" in metrics else "val"
    report = metrics.get(split) or {}
    found: dict[str, tuple[str, str | None]] = {}
    among = _at(report, ["retrieval", "among"])
    share = _at(report, ["retrieval", "image_to_text"])
    if isinstance(share, int | float):
        found[f"Finds its caption among {among}"] = (
            percent(share),
            f"chance {percent(1 / max(int(among or 1), 1))}",
        )
    for feature, head in (report.get("zero_shot") or {}).items():
        if isinstance(_at(head, ["top1"]), int | float):
            majority = _at(head, ["majority"])
            always = None if majority is None else f"most common class {percent(majority)}"
            found[f"{label(feature)} from captions alone"] = (percent(head["top1"]), always)
    if found:
        _metric_row(found)
        st.caption(f"On {report.get('n') or 0:,} photos of the {split} split.")


def _metric_row(numbers: Mapping[str, tuple[str, str | None]]) -> None:
    with st.container(horizontal=True):
        for name, (value, interval) in numbers.items():
            title = markdown_text(name)
            st.metric(title, value, interval, delta_color="off", delta_arrow="off", border=True)


def _open_buttons(item: RunView) -> None:
    with st.container(horizontal=True, key="open-buttons"):
        for name in ("Map", "Context heads", "Evaluation"):
            pressed = st.button(
                f"Open on the {name.lower()} page" if name == "Map" else f"Open in {name}",
                icon=PAGES[name].icon,
                key=f"open {name} {item.name}",
                type="primary" if name == "Map" else "secondary",
            )
            if pressed:
                _choose(item, name)
                st.switch_page(PAGES[name].file)


def _choose(item: RunView, page: str) -> None:
    """Select a run's model on another page."""
    if page != "Evaluation":
        st.session_state["model"] = str(item.run.folder)
        return
    folder = item.run.folder.resolve()
    sources, _ = find_sources()
    for source in sources:
        if Path(source.path).resolve().is_relative_to(folder):
            st.session_state["evaluation dataset"] = source.data
            st.session_state["evaluation model"] = source


def _at(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(name)
    return tree


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
