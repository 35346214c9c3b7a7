"""A new training: its dataset, task, recipe and options, and the button that starts it."""

import contextlib
import json
import os
from pathlib import Path
from typing import TypeGuard

import streamlit as st

from geoclip_core.data.dataset import (
    FILE_SPLITS,
    REQUIRED,
    csv_path,
    read_description,
    too_small,
)
from geoclip_core.data.tables import read_csv
from geoclip_core.errors import DatasetError
from geoclip_core.files import remember_opened, was_opened
from geoclip_core.jobs import JobError
from geoclip_core.training.options import FEW_PHOTOS, FitOptions, OptionsError, TrainingOptions
from geoclip_core.training.runs import CONFIG
from train.recipes import recipe_description, recipe_names, recipe_options
from train.training import lasting_config
from ui.page import (
    PAGES,
    STATIC,
    address_of,
    choose,
    datasets_folder,
    is_public,
    may_open,
    outside_roots,
    runs_folder,
    show_chart,
    typed_path,
    with_typed,
)
from ui.theme import markdown_text, palette
from ui.training.charts import best_step, curves_figure, metric_groups
from ui.training.form import (
    FIXED,
    LAYOUTS,
    Filled,
    flat,
    options_form,
    shown,
    widget_key,
)
from ui.training.live import leave_message, show_message
from ui.training.runs import (
    NEW_TRAINING,
    OPTIONS,
    VIEW_KEY,
    RunView,
    run_labels,
    select_run,
    show_run,
    start,
)

_EXAMPLE = STATIC / "examples" / "training-run.json"
_TASKS = {
    "fit": ("Geolocation", "Trains context heads and a coordinate head on a backbone."),
    "pretrain": (
        "Pretraining",
        "Trains an image and a text tower to match photos with their captions (climate, month, "
        "places). The image tower is then a backbone for a geolocation model.",
    ),
}
_EXTEND = "extend"
_CHOICES = {
    "fit": _TASKS["fit"],
    _EXTEND: (
        "Extend a model",
        "Adds your photos to the bank of a model: it gets better where they were taken and keeps "
        "most of what it knows of the world. Embedding and measuring take most of the time.",
    ),
    "pretrain": _TASKS["pretrain"],
}
"""What can be started -> title and description."""
_DEFAULTS = "The defaults"
_TASK, _RECIPE, _NAME, _BASE = "train task", "train recipe", "train name", "train base"


def choose_dataset() -> Path | None:
    """Draw a select box for a dataset of the datasets folder or a typed path; return its folder."""
    # A hidden folder is a dataset that is still being written.
    found = sorted(folder for folder in datasets_folder().glob("[!.]*/") if _is_dataset(folder))
    known = [str(folder) for folder in found]
    linked = st.query_params.get("dataset", "")
    # an address may name a folder elsewhere only if its user has opened it before
    if linked and not is_public() and was_opened(linked) and _is_dataset(Path(linked)):
        known.append(linked)
    options = with_typed(known, "dataset")
    chosen = choose(
        "Dataset",
        options,
        "dataset",
        format_func=lambda name: Path(name).name or name,
        address=("dataset", lambda name: address_of(Path(name))),
        help="A folder with train_mini.csv and its photos; type a path for one elsewhere.",
        placeholder="Type the path of a dataset" if not options else None,
        accept_new_options=True,
    )
    if not chosen:
        return None
    folder = typed_path(chosen)
    if not may_open(folder):
        st.error(markdown_text(outside_roots(chosen)))
        return None
    if not _is_dataset(folder):
        st.error(markdown_text(_no_dataset(folder)))
        return None
    if not is_public():
        remember_opened(folder)
    return folder


def first_start() -> None:
    """Show the curves of a recorded training, for users without a run."""
    example = json.loads(_EXAMPLE.read_text(encoding="utf-8"))
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


def _no_dataset(folder: Path) -> str:
    """Return why a folder is no dataset, in a sentence."""
    if not os.path.isdir(folder):
        return f"There is no folder {folder}."
    return f"There is no train_mini.csv in {folder}: it is no dataset. Import its photos first."


def _is_dataset(folder: Path) -> bool:
    return any(os.path.isfile(csv_path(folder, split)) for split in FILE_SPLITS)


def new_training(views: list[RunView], data: Path | None) -> None:
    """Draw the form of a new training; recipes include the options of existing runs."""
    show_message()
    st.session_state.setdefault(_TASK, "fit")
    task = st.segmented_control(
        "Task",
        list(_CHOICES),
        required=True,
        format_func=lambda name: _CHOICES[name][0],
        key=_TASK,
        persist_state="session",
    )
    assert task is not None  # required above
    st.caption(_CHOICES[task][1])
    if task == _EXTEND:
        _extension(data)
        return
    cls = OPTIONS[task]
    recipe = _choose_recipe(task, views, data)
    try:
        base = flat(recipe_options(cls, recipe) if recipe else cls())
    except OptionsError as error:
        st.error(markdown_text(str(error)), icon=":material/error:")
        return
    fixed = {name: base[name] for name in FIXED if name in base}
    fixed["data"] = str(data.absolute()) if data else None
    if not _is_file(recipe):
        fixed["recipe"] = recipe
    filled = options_form(
        cls,
        base,
        _form_key(task, recipe),
        LAYOUTS[task],
        fixed=fixed,
        suggestions={"backbone": _backbones(views)},
    )
    _changed_line(task, recipe, filled)
    options = filled.checked.options
    wrong = filled.elsewhere or "Some options are not valid: see the red lines above."
    problem = (_too_few(data) if data else "") or ("" if options else wrong)
    default = _name_of(recipe, views) if _is_file(recipe) else recipe or task
    _start_bar(task, default, options, problem, data)


def _extension(data: Path | None) -> None:
    """Draw the form that adds the photos of a dataset to a model."""
    # Imported here because they load torch.
    from geoclip_core.training.extend import LEAST_ADDED, bank_models
    from ui.models import available_models, model_labels

    names = bank_models(available_models())
    labels = model_labels(names)
    base = choose(
        "Model to extend",
        names,
        _BASE,
        default="mini",
        format_func=lambda name: labels.get(name, name),
        help="A bundled model, or a run of yours, whose coordinate head is a bank.",
        width=420,
    )
    photos = _photos_in(data) if data else None
    problem = ""
    if photos is not None and photos < LEAST_ADDED:
        problem = f"{LEAST_ADDED} photos are needed to extend a model, and there are {photos}."
    options = FitOptions(data=data.absolute(), extend=base) if data and base else None
    default = f"{labels.get(base, base)} extended" if base else _EXTEND
    _start_bar("fit", default, options, problem, data)


def take_options(item: RunView) -> None:
    """Open the form with the options of a run (a widget callback)."""
    st.session_state[VIEW_KEY] = NEW_TRAINING
    with contextlib.suppress(JobError):
        if extended := item.run.config.get("extend"):
            st.session_state[_TASK] = _EXTEND
            st.session_state[_BASE] = str(extended)
            return
    st.session_state[_TASK] = item.status.task
    st.session_state[_recipe_key(item.status.task)] = _config_of(item)


def fit_on(item: RunView) -> None:
    """Open the form of a fit on the backbone of a pretraining run (a widget callback)."""
    st.session_state[VIEW_KEY] = NEW_TRAINING
    leave_message("done", f"{item.title} is now the backbone of a new training.")
    st.session_state[_TASK] = "fit"
    recipe = st.session_state.setdefault(_recipe_key("fit"), _first_recipe("fit", None))
    key = _form_key("fit", None if recipe == _DEFAULTS else recipe)
    st.session_state[widget_key(key, "backbone")] = str(item.run.folder)


def _photos_in(data: Path) -> int | None:
    """Return the rows of a dataset's train_mini.csv; None if it cannot be read."""
    path = csv_path(data, "train")
    if not os.path.isfile(path):
        return 0
    try:
        return _rows(str(path), path.stat().st_mtime_ns)
    except (OSError, DatasetError):
        return None  # the run will name what is wrong


def _is_drawn(data: Path) -> bool:
    try:
        return read_description(data).get("synthetic") is True
    except DatasetError:
        return False  # the run will name what is wrong


@st.cache_data(max_entries=20, show_spinner=False)
def _rows(path: str, _changed: int) -> int:
    return len(read_csv(Path(path), REQUIRED, REQUIRED))


def _choose_recipe(task: str, views: list[RunView], data: Path | None) -> str | None:
    names = recipe_names(task)
    first, key = _first_recipe(task, data), _recipe_key(task)
    # another dataset gets its own proposal, unless something else was chosen
    proposed = f"proposed {key}"
    if st.session_state.get(key) == st.session_state.get(proposed):
        st.session_state[key] = first
    st.session_state[proposed] = first
    labels = run_labels(views)
    own = {_config_of(item): labels[item.name] for item in views if item.status.task == task}
    choice = choose(
        "Recipe",
        [*names, _DEFAULTS, *own],
        key,
        default=first,
        format_func=lambda name: f"As the run {own[name]}" if name in own else name,
        help="Options that belong together; each can be changed below.",
        width=420,
    )
    if choice in names:
        st.caption(markdown_text(recipe_description(choice)))
    return None if choice == _DEFAULTS else choice


def _changed_line(task: str, recipe: str | None, filled: Filled) -> None:
    if not filled.changed:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        text = ", ".join(
            f"{name.replace('_', ' ').replace('.', ' ')} {shown(new)} (was {shown(old)})"
            for name, (old, new) in filled.changed.items()
        )
        st.caption(f"**Changed from the recipe:** {markdown_text(text)}")
        st.button(
            "Back to the recipe",
            type="tertiary",
            on_click=_new_form,
            args=(task, recipe),
            key="reset",
        )


def _start_bar(
    task: str,
    default: str,
    options: TrainingOptions | None,
    problem: str,
    data: Path | None,
) -> None:
    """Draw the name of the run and the button that starts it, or what is in its way."""
    if data is None and st.session_state.get("dataset"):
        pass  # the sidebar says what is wrong with the folder
    elif data is None:
        st.warning(
            "There is no dataset yet. The Dataset page draws a synthetic demo set in half a "
            "minute, or imports a folder of your own photos.",
            icon=":material/photo_library:",
        )
        if st.button("Go to the Dataset page", icon=":material/arrow_forward:"):
            st.switch_page(PAGES["Dataset"].file)
    elif problem:
        st.error(markdown_text(problem), icon=":material/error:")
    with st.container(horizontal=True, vertical_alignment="bottom", key="start-bar"):
        typed = st.text_input(
            "Name of the run",
            key=_NAME,
            placeholder=default,
            max_chars=200,
            persist_state="session",
            width=320,
        )
        name = (typed or "").strip() or default
        st.button(
            "Start training",
            type="primary",
            icon=":material/play_arrow:",
            key="start",
            disabled=options is None or data is None or bool(problem),
            on_click=_start,
            args=(task, options, name),
        )
    st.caption(f"Will be saved in {markdown_text(str(runs_folder()))}")


def _name_of(config: str, views: list[RunView]) -> str:
    """Return the name of the run whose config.yaml this is."""
    return next((item.title for item in views if _config_of(item) == config), "")


def _too_few(data: Path) -> str:
    photos = _photos_in(data)
    sentence = "" if photos is None else too_small(photos)
    return sentence and f"{sentence[0].upper()}{sentence[1:]}."


def _start(task: str, options: TrainingOptions, name: str) -> None:
    try:
        run = start(runs_folder(), task, lasting_config(options), name)
    except JobError as error:
        leave_message("error", str(error))
        return
    select_run(run.folder.name)
    show_run()


def _backbones(views: list[RunView]) -> list[str]:
    # Imported here because it loads torch.
    from geoclip_core.model.backbones import SUGGESTED

    pretrained = [
        str(item.run.folder)
        for item in views
        if item.status.task == "pretrain" and item.run.checkpoint.is_dir()
    ]
    return [*SUGGESTED, *pretrained]


def _config_of(item: RunView) -> str:
    return str(item.run.folder / CONFIG)


def _first_recipe(task: str, data: Path | None) -> str:
    """Return the recipe to propose: for few photos of one's own one that trains on few."""
    names = recipe_names(task)
    if data is not None and "small" in names and not _is_drawn(data):
        photos = _photos_in(data)
        if photos is not None and photos < FEW_PHOTOS:
            return "small"
    return "demo" if "demo" in names else [*names, _DEFAULTS][0]


def _form_key(task: str, recipe: str | None) -> str:
    form = f"train {task} {recipe}"
    return f"{form} {st.session_state.get(form, 0)}"


def _new_form(task: str, recipe: str | None) -> None:
    """Start the form from the recipe again (a widget callback).

    The widgets get new keys: with the old ones the browser would send its values again.
    """
    form = f"train {task} {recipe}"
    st.session_state[form] = st.session_state.get(form, 0) + 1


def _recipe_key(task: str) -> str:
    return f"{_RECIPE} {task}"


def _is_file(recipe: str | None) -> TypeGuard[str]:
    return recipe is not None and recipe.endswith((".yaml", ".yml"))
