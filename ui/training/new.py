"""A new training: task, recipe, dataset, options, and the button that starts it."""

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from geoclip_core.data.dataset import FILE_SPLITS, csv_path
from geoclip_core.files import safe_name
from geoclip_core.jobs import JobError
from geoclip_core.training.runs import CONFIG
from train.command_line import recipes
from train.options import OptionsError, describe
from train.run_command import lasting_config
from ui.charts import show_chart
from ui.page import PAGES, STATIC, choose, datasets_folder, kept, runs_folder
from ui.theme import markdown_text, palette
from ui.training.charts import best_step, curves_figure, metric_groups
from ui.training.form import (
    FIXED,
    LAYOUTS,
    Checked,
    Filled,
    label,
    options_form,
    recipe_description,
    recipe_values,
    reset,
    shown,
    widget_key,
)
from ui.training.live import leave_message, show_message
from ui.training.runs import RunView, run_labels, select_run, start

EXAMPLE = STATIC / "examples" / "training-run.json"


def choose_dataset() -> Path | None:
    """The dataset of this session: one of the folder of datasets, or a folder that is typed."""
    typed = kept("typed dataset", list)
    # A hidden folder is a dataset that is still being written.
    found = sorted(folder for folder in datasets_folder().glob("[!.]*/") if _is_dataset(folder))
    options = [*map(str, found), *typed]
    current = st.session_state.get("dataset")
    if isinstance(current, str) and current.strip() and current not in options:
        typed.append(current)
        options.append(current)
    chosen = choose(
        "Dataset",
        options,
        "dataset",
        format_func=lambda name: Path(name).name or name,
        help="A folder with train_mini.csv and its photos; type a path for one elsewhere.",
        placeholder="Type the path of a dataset" if not options else None,
        accept_new_options=True,
    )
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if not _is_dataset(folder):
        st.error(f"There is no train_mini.csv in `{folder}`.".replace("``", "`"))
        return None
    return folder


def no_dataset_hint() -> None:
    """Where a dataset comes from, with the way there."""
    st.warning(
        "There is no dataset yet. The Dataset page draws a synthetic demo set in half a minute, "
        "or imports a folder of your own photos.",
        icon=":material/photo_library:",
    )
    if st.button("Go to the Dataset page", icon=":material/arrow_forward:"):
        st.switch_page(PAGES["Dataset"].file)


def first_start() -> None:
    """Before the first run: what a training looks like, from a recorded one."""
    example = _example()
    if not example:
        return
    with st.container(border=True):
        st.markdown(f"**What a training looks like** · {example['about']}")
        rows, colours = example["rows"], palette()
        best = best_step(rows, example.get("best", {}))
        groups = [group for group in metric_groups(rows) if not group.aside][:3]
        for column, group in zip(st.columns(len(groups)), groups, strict=True):
            with column:
                st.caption(group.title + (f" ({group.unit})" if group.unit else ""))
                figure = curves_figure(rows, group, colours, best)
                show_chart(figure, f"example {group.title}", height=260)


def _is_dataset(folder: Path) -> bool:
    return any(csv_path(folder, split).is_file() for split in FILE_SPLITS)


@cache
def _example() -> dict[str, Any]:
    try:
        return json.loads(EXAMPLE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


TASKS = {
    "fit": ("Geolocation", "Context heads and a coordinate head on a backbone."),
    "pretrain": (
        "Pretraining",
        "Photos and their captions (climate, month, places) are brought together; the result is a "
        "backbone for a geolocation model.",
    ),
}
DEFAULTS = "The defaults"
_TASK, _RECIPE, _NAME = "train task", "train recipe", "train name"


def options_class(task: str) -> type:
    """The options dataclass of a command."""
    return importlib.import_module(f"train.{task}").Options


def new_training(views: list[RunView], data: Path | None) -> None:
    """The whole of a new training, from the task to the start button.

    Args:
        views: the runs there are, whose options can be taken again.
        data: the chosen dataset; None if there is none.
    """
    show_message()
    st.session_state.setdefault(_TASK, "fit")
    task = st.segmented_control(
        "Task",
        list(TASKS),
        required=True,
        format_func=lambda name: TASKS[name][0],
        key=_TASK,
        persist_state="session",
    )
    st.caption(TASKS[task][1])
    cls = options_class(task)
    recipe = _choose_recipe(task, views)
    try:
        base = recipe_values(cls, recipe)
    except OptionsError as error:
        st.error(markdown_text(str(error)), icon=":material/error:")
        return
    key = _form_key(task, recipe)
    fixed = {"data": str(data.absolute()) if data else None}
    fixed |= {name: base[name] for name in FIXED if name in base and name != "data"}
    fixed["recipe"] = base["recipe"] if _is_file(recipe) else recipe
    filled = options_form(
        cls, base, key, LAYOUTS[task], fixed=fixed, suggestions=_suggestions(views)
    )
    _changed_line(cls, key, filled)
    _start_bar(task, recipe, filled.checked, data)


def take_options(item: RunView) -> None:
    """Open the form with the options of a run; a callback."""
    st.session_state[_TASK] = item.status.task
    st.session_state[_recipe_key(item.status.task)] = _config_of(item)


def fit_on(item: RunView) -> None:
    """Open the form of a fit on the backbone that a pretraining made; a callback."""
    st.session_state[_TASK] = "fit"
    recipe = st.session_state.setdefault(_recipe_key("fit"), _first_recipe("fit"))
    key = _form_key("fit", None if recipe == DEFAULTS else recipe)
    (backbone,) = (o for o in describe(options_class("fit")) if o.name == "backbone")
    st.session_state[widget_key(key, backbone)] = str(item.run.folder)


def _choose_recipe(task: str, views: list[RunView]) -> str | None:
    names = recipes(task)
    labels = run_labels(views)
    own = {_config_of(item): labels[item.name] for item in views if item.status.task == task}
    choice = choose(
        "Recipe",
        [*names, DEFAULTS, *own],
        _recipe_key(task),
        default=_first_recipe(task),
        format_func=lambda name: f"As the run {own[name]}" if name in own else name,
        help="A set of options that belong together. Every one can be changed below.",
        width=420,
    )
    if choice in names and (text := recipe_description(choice)):
        st.caption(markdown_text(text))
    return None if choice == DEFAULTS else choice


def _changed_line(cls: type, key: str, filled: Filled) -> None:
    if not filled.changed:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        text = ", ".join(
            f"{label(name).lower()} {shown(new)} (was {shown(old)})"
            for name, (old, new) in filled.changed.items()
        )
        st.caption(f"**Changed from the recipe:** {markdown_text(text)}")
        st.button(
            "Back to the recipe", type="tertiary", on_click=reset, args=(cls, key), key="reset"
        )


def _start_bar(task: str, recipe: str | None, checked: Checked, data: Path | None) -> None:
    if data is None:
        no_dataset_hint()
    elif not checked.fits:
        st.error(
            markdown_text(checked.problem or "Some options do not fit: see the red lines above."),
            icon=":material/error:",
        )
    with st.container(horizontal=True, vertical_alignment="bottom", key="start-bar"):
        default = safe_name(Path(recipe).parent.name[16:] if _is_file(recipe) else recipe or task)
        typed = st.text_input(
            "Name of the run",
            key=_NAME,
            placeholder=default,
            max_chars=200,
            persist_state="session",
            width=320,
        )
        name = safe_name(typed or "") or default or task
        st.button(
            "Start training",
            type="primary",
            icon=":material/play_arrow:",
            key="start",
            disabled=not checked.fits or data is None,
            on_click=_start,
            args=(task, checked.options, name),
        )
    st.caption(f"Will be kept in {markdown_text(str(runs_folder()))}/*time*-{markdown_text(name)}")


def _start(task: str, options: Any, name: str) -> None:
    try:
        run = start(runs_folder(), task, lasting_config(options), name)
    except JobError as error:
        leave_message("error", str(error))
        return
    select_run(run.folder.name)
    st.session_state["train view"] = "This run"


def _suggestions(views: list[RunView]) -> dict[str, list[str]]:
    from geoclip_core.model.backbones import SUGGESTED

    pretrained = [
        str(item.run.folder)
        for item in views
        if item.status.task == "pretrain" and item.run.checkpoint.is_dir()
    ]
    return {"backbone": [*SUGGESTED, *pretrained]}


def _config_of(item: RunView) -> str:
    return str(item.run.folder / CONFIG)


def _first_recipe(task: str) -> str:
    names = recipes(task)
    return "demo" if "demo" in names else [*names, DEFAULTS][0]


def _form_key(task: str, recipe: str | None) -> str:
    return f"train {task} {recipe}"


def _recipe_key(task: str) -> str:
    return f"{_RECIPE} {task}"


def _is_file(recipe: str | None) -> bool:
    return recipe is not None and recipe.endswith((".yaml", ".yml"))
