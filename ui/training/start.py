"""The first start of the Train page: which dataset, and what a training will look like."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from geoclip_core.data.osv_mini import FILE_SPLITS, csv_path
from ui.charts import show_chart
from ui.datasets_folder import datasets_folder
from ui.page import page_names
from ui.session import choose, kept
from ui.static_files import STATIC
from ui.theme import palette
from ui.training.charts import curves_figure
from ui.training.series import best_step, metric_groups

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
    pages = page_names()
    if "Dataset" in pages and st.button("Go to the Dataset page", icon=":material/arrow_forward:"):
        st.switch_page(pages["Dataset"])


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
