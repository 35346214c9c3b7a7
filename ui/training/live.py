"""One run on the Train page: its state, progress, curves and log, and the buttons to control it."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from geoclip_core.jobs import JobError
from geoclip_core.training.runs import METRICS, MetricsTable, Run
from ui.page import is_public, show_chart
from ui.theme import duration, markdown_text, palette
from ui.training.charts import MOST_CURVES, Group, best_step, curves_figure, metric_groups
from ui.training.runs import (
    RunView,
    created,
    delete,
    kill,
    progress_sentence,
    resume,
    run_views,
    show_problems,
    stop,
    took,
    view,
)

LIVE_SECONDS = 1.0
CURVE_SECONDS = 3.0
"""Slower than the progress, because drawing curves takes processor time from the training."""
WATCH_SECONDS = 2.0
MOST_ROWS = 5000
"""Rows of metrics.jsonl that are drawn; curves are thinned to fewer points."""
_LOG_LINES = 12
_MESSAGE = "train message"
_STOP_HELP = "Saves and ends after the current step. The run can be resumed at any time."
_END_HELP = "Ends without waiting for the current step. Progress since the last save is lost."
_RESUME_HELP = "Continues from the last saved state."


def run_head(item: RunView) -> None:
    """Draw the run's name, its state, and when it was created."""
    with st.container(horizontal=True, vertical_alignment="center", key="run-head"):
        st.subheader(markdown_text(item.title), anchor=False, width="content")
        st.badge(item.look.word, icon=item.look.icon, color=item.look.colour)
    facts = [markdown_text(item.status.task), created(item)]
    with contextlib.suppress(JobError):
        if data := item.run.config.get("data"):
            facts.append(f"on {markdown_text(Path(str(data)).name)}")
    if (seconds := took(item)) is not None and not item.active:
        facts.append(f"took {duration(seconds)}")
    st.caption(" · ".join(facts))


def run_actions(root: Path, item: RunView) -> None:
    """Draw the buttons for the run's state: stop, end, resume, delete; none in public mode."""
    if is_public():
        return
    show_message()
    state = item.status.state
    with st.container(horizontal=True, key="run-actions"):
        if item.active and not item.stopping:
            word = "Take from the queue" if item.waits_for else "Stop"
            _action(word, ":material/stop_circle:", stop, item, help=_STOP_HELP)
        if item.stopping:
            _action("End now", ":material/dangerous:", kill, item, help=_END_HELP)
        if item.ended_early and not item.no_resume:
            _action(
                "Resume", ":material/play_circle:", resume, item, help=_RESUME_HELP, type="primary"
            )
        if state != "running":
            with st.popover("Delete", icon=":material/delete:"):
                st.markdown(
                    f"Delete **{markdown_text(item.title)}** with its model, metrics and "
                    "predictions? This cannot be undone."
                )
                st.button(
                    "Delete for good",
                    key=f"delete {item.name}",
                    type="primary",
                    on_click=_attempt,
                    args=(lambda: delete(root, item.run), f"{item.title} was deleted."),
                )
    if item.ended_early and (reason := item.no_resume):
        st.caption(markdown_text(reason))


def live_panel(item: RunView) -> None:
    """Show the progress of a running training, updated every second, with its curves and log."""
    if item.status.state != "finished":
        _every(LIVE_SECONDS, item, _progress)
    _every(CURVE_SECONDS, item, _curves)


def _every(seconds: float, item: RunView, draw: Callable[[RunView], None]) -> None:
    def fresh(folder: Path) -> None:
        try:
            draw(view(Run(folder)))
        except JobError as error:
            st.caption(markdown_text(str(error)))

    fresh.__qualname__ = draw.__qualname__  # Streamlit identifies fragments by this name
    st.fragment(fresh, run_every=seconds if item.active else None)(item.run.folder)


def failure_panel(item: RunView) -> None:
    """Show why a run failed, with the last lines of its log and console."""
    if item.status.state != "failed":
        return
    error = item.status.error or "The training failed."
    st.error(markdown_text(error), icon=":material/error:")
    if item.status.mistake:
        return  # the log would only repeat it
    lines = [line for line in item.run.log_tail(20) if not line.endswith(error)]
    printed = [line for line in item.run.console_tail() if line.strip()]
    if printed and printed[-1].strip() not in (line.strip() for line in lines):
        # Last messages of Python or the system are printed, not logged.
        lines = [*lines[-8:], *printed] if lines else printed
    if lines:
        st.caption("Last lines of the log")
        st.code("\n".join(lines), language=None, wrap_lines=True)


def watch(root: Path, views: Sequence[RunView]) -> None:
    """Rerun the page when a run starts, ends, appears or is deleted, wherever that was done."""
    st.fragment(_watch, run_every=WATCH_SECONDS)(root, _signature(views))


def show_message() -> None:
    """Show what the last button press did, or why it failed."""
    kind, text = st.session_state.pop(_MESSAGE, ("", ""))
    if kind == "error":
        st.error(markdown_text(text), icon=":material/error:")
    elif text:
        st.toast(markdown_text(text))


def leave_message(kind: str, text: str) -> None:
    """Keep a message for the next run of the page. The kind is "error" or "done"."""
    st.session_state[_MESSAGE] = (kind, text)


def _progress(item: RunView) -> None:
    st.progress(min(max(item.status.progress, 0.0), 1.0), progress_sentence(item))


def _curves(item: RunView) -> None:
    rows = run_metrics(item.run)
    show_problems([problem] if (problem := metrics_problem(item.run)) else [])
    groups = metric_groups(rows)
    if not groups and item.status.state == "running":
        st.caption(
            "Curves appear with the first training steps, after the photos are read and embedded."
        )
    best = best_step(rows, item.status.best)
    shown = [group for group in groups if not group.aside]
    for start in range(0, len(shown), 2):
        for column, group in zip(st.columns(2), shown[start : start + 2], strict=False):
            with column:
                _chart(item, rows, group, best)
    if aside := [group for group in groups if group.aside]:
        key = f"more curves {item.name}"
        more = st.expander("More curves", icon=":material/show_chart:", key=key, on_change="rerun")
        if more.open:
            for column, group in zip(more.columns(2), aside, strict=False):
                with column:
                    _chart(item, rows, group, best)
    _log(item)


def _chart(item: RunView, rows: list[dict[str, float]], group: Group, best: float | None) -> None:
    unit = f" ({markdown_text(group.unit)})" if group.unit else ""
    st.markdown(f"**{markdown_text(group.title)}**{unit}")
    figure = curves_figure(rows, group, palette(), best)
    show_chart(figure, f"curves {item.name} {group.title}", height=280)
    if (more := len(group.names) - MOST_CURVES) > 0:
        st.caption(f"{more:,} more metrics are not drawn.")


def _log(item: RunView) -> None:
    lines = item.run.log_tail(_LOG_LINES)
    if not lines or item.status.state == "failed":
        return
    with st.expander("Log", expanded=item.active, icon=":material/notes:"):
        st.code("\n".join(lines), language=None, wrap_lines=True)
        st.caption(f"Last lines of {markdown_text(str(item.run.folder / 'log.txt'))}")


def _watch(root: Path, before: tuple[Any, ...]) -> None:
    if _signature(run_views(root)) != before:
        st.rerun(scope="app")


def _signature(views: Sequence[RunView]) -> tuple[Any, ...]:
    return tuple(
        (item.name, item.status.state, item.stopping, item.active, item.waits_for) for item in views
    )


def run_metrics(run: Run) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.jsonl, at most `MOST_ROWS` of training and of validation.

    The file is read again only when it has changed.
    """
    try:
        known = (run.folder / METRICS).stat()
    except OSError:
        return []
    return _read_metrics(run.folder, known.st_mtime_ns, known.st_size, known.st_ino).rows


def metrics_problem(run: Run) -> str:
    """Return which part of a run's metrics.jsonl cannot be read, and why; "" if all can."""
    try:
        known = (run.folder / METRICS).stat()
    except OSError:
        return ""
    return _read_metrics(run.folder, known.st_mtime_ns, known.st_size, known.st_ino).problem


@st.cache_data(max_entries=64, show_spinner=False)
def _read_metrics(folder: Path, *_version: int) -> MetricsTable:
    return Run(folder).metrics_table(MOST_ROWS)


def _action(word: str, icon: str, act: Callable[[Run], None], item: RunView, **button: Any) -> None:
    st.button(
        word,
        icon=icon,
        key=f"{word} {item.name}",
        on_click=_attempt,
        args=(lambda: act(item.run), ""),
        **button,
    )


def _attempt(act: Callable[[], None], done: str) -> None:
    try:
        act()
    except (JobError, OSError) as error:
        leave_message("error", str(error))
    else:
        leave_message("done", done)
