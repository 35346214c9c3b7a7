"""The results of a run: its metrics, its options, and links to the other pages."""

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
from ui.page import PAGES, is_public
from ui.theme import kilometres, markdown_text, percent
from ui.training.form import label, run_values, shown
from ui.training.new import fit_on, take_options
from ui.training.runs import RunView, show_problems

_RESULTS = "metrics.json"
_ACCURACIES = ("25", "200", "750")


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
