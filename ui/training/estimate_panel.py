"""The estimate of a training's time on the page, before it is started."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from geoclip_core.training.runs import RunError
from ui.theme import markdown_text
from ui.training.estimate import begin, measurement
from ui.training.live import LIVE_SECONDS, leave_message
from ui.training.runs import duration
from ui.training.timing import Estimate


def time_panel(root: Path, task: str, options: Mapping[str, Any], busy: bool) -> None:
    """What these options will take on this dataset, or a button to measure it.

    Args:
        root: where runs are kept.
        task: "fit" or "pretrain".
        options: all options, as a run keeps them.
        busy: whether a training is running, which would be slowed down and slow this down.
    """
    found = measurement(root, task, options)
    running = found is not None and found.state == "running"
    st.fragment(_panel, run_every=LIVE_SECONDS if running else None)(
        root, task, dict(options), busy, running
    )


def _panel(root: Path, task: str, options: dict[str, Any], busy: bool, was_running: bool) -> None:
    found = measurement(root, task, options)
    if was_running and (found is None or found.state != "running"):
        st.rerun(scope="app")
    if found is not None and found.state == "running":
        st.caption(":material/timer: Measuring on a few of your photos, about half a minute …")
        return
    if found is not None and found.estimate is not None:
        st.markdown(f":material/timer: {sentence(found.estimate, options)}")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "How long will it take?" if found is None else "Measure again",
            icon=":material/timer:",
            key="measure",
            help="Runs the same training on a sample of your photos and scales the time up.",
        )
        if found is not None:
            st.caption(f":red[{markdown_text(found.error)}]")
        elif busy:
            st.caption("A training is running: it would make this look slower than it is.")

    if pressed:
        try:
            begin(root, task, options)
        except RunError as error:
            leave_message("error", str(error))
        st.rerun(scope="app")  # with a panel that asks for the result every second


def sentence(estimate: Estimate, options: Mapping[str, Any]) -> str:
    """An estimate in words."""
    if not estimate.complete:
        return (
            f"More than **{duration(estimate.total)}**: even {estimate.photos} photos took "
            "minutes. Take smaller views, a smaller backbone or a GPU."
        )
    parts = []
    if estimate.embedding >= 1:
        parts.append(
            f"{duration(estimate.embedding)} to read and embed the photos"
            + (" (unless it was done before)" if _is_frozen(options) else "")
        )
    if estimate.learning >= 1:
        parts.append(f"{duration(estimate.learning)} to learn")
    text = f"About **{duration(estimate.total)}** on this computer"
    if parts:
        text += f": {' and '.join(parts)}"
    text += f". Measured on {estimate.photos} of your photos; "
    if options.get("coordinate_head") == "retrieval":
        return text + "the closed form and the evaluation at the end come on top."
    if int(options.get("patience") or 0) > 0:
        return text + "less if it ends early, the evaluation at the end comes on top."
    return text + "the evaluation at the end comes on top."


def _is_frozen(options: Mapping[str, Any]) -> bool:
    return options.get("train") == "backbone=none"
