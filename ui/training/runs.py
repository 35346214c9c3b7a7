"""Which runs there are, where they are kept, and how each is doing, in words."""

import re
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import streamlit as st

from geoclip_core.training.runs import STATUS, Run, RunError, RunStatus, list_runs
from ui.page import RUNS_KEY, RUNS_VARIABLE, choose, runs_folder
from ui.theme import duration, markdown_text
from ui.training.queue import goes_first

_RUN_KEY = "run"
_STAMP = re.compile(r"^(\d{8}-\d{6})-(.+)$")


@dataclass(frozen=True)
class StateLook:
    """How a state is shown."""

    word: str
    icon: str
    colour: str
    """Of ``st.badge``."""


LOOKS = {
    "starting": StateLook("starting", ":material/rocket_launch:", "blue"),
    "queued": StateLook("waiting", ":material/hourglass_empty:", "violet"),
    "running": StateLook("running", ":material/play_arrow:", "blue"),
    "stopping": StateLook("stopping", ":material/pause:", "orange"),
    "finished": StateLook("finished", ":material/check:", "green"),
    "stopped": StateLook("stopped", ":material/pause:", "orange"),
    "failed": StateLook("failed", ":material/error:", "red"),
}


@dataclass(frozen=True)
class RunView:
    """A run with its status as of now."""

    run: Run
    status: RunStatus
    stopping: bool = False
    """Whether it was asked to stop and has not yet."""
    waits_for: str | None = None
    """Name of the run that has to end before this one begins."""

    @property
    def name(self) -> str:
        """Name of the folder, which is unique in the runs folder."""
        return self.run.folder.name

    @property
    def title(self) -> str:
        """What people called it."""
        return title_of(self.name)

    @property
    def stamp(self) -> str:
        """Its time, which tells runs of one title apart."""
        found = _STAMP.match(self.name)
        return found.group(1) if found else ""

    @property
    def look(self) -> StateLook:
        """How its state is shown."""
        if self.stopping:
            return LOOKS["stopping"]
        return LOOKS["starting" if self.starting else self.status.state]

    @property
    def starting(self) -> bool:
        """Whether its process is loading, before the first line of its log."""
        return self.status.state == "queued" and not self.waits_for and not self.orphaned

    @property
    def active(self) -> bool:
        """Whether it runs or waits."""
        return self.status.state in ("queued", "running")

    @property
    def orphaned(self) -> bool:
        """Whether it is queued, but no process will ever begin it."""
        return self.status.state == "queued" and self.status.pid is None

    @property
    def has_model(self) -> bool:
        """Whether its model can be opened on the other pages."""
        return self.status.task == "fit" and (self.run.checkpoint / "config.json").is_file()


def title_of(name: str) -> str:
    """What people called a run, from the name of its folder."""
    found = _STAMP.match(name)
    return found.group(2) if found else name


def choose_runs_folder() -> Path:
    """A field for the runs folder, folded away."""
    with st.expander("Where runs are kept", icon=":material/folder:"):
        st.text_input(
            "Runs folder",
            key=RUNS_KEY,
            placeholder=str(runs_folder()),
            help=f"A folder on the computer that runs the app. The environment variable "
            f"{RUNS_VARIABLE} sets it for good.",
            persist_state="session",
        )
        st.caption(f":material/folder: {_escaped_path(runs_folder())}")
    return runs_folder()


def run_views(root: Path) -> list[RunView]:
    """The runs of a folder, the newest first."""
    views = []
    for run in list_runs(root):
        try:
            views.append(view(run))
        except RunError:
            continue  # deleted while we looked
    return views


def view(run: Run) -> RunView:
    """A run as of now.

    Raises:
        RunError: its folder is gone or cannot be read.
    """
    status = run.status
    first = goes_first(run) if status.state == "queued" else None
    stopping = status.state == "running" and run.stop_requested()
    return RunView(run, status, stopping, first.name if first else None)


def unreadable_runs(root: Path) -> list[str]:
    """Names of folders that look like runs, but whose status cannot be read."""
    names = []
    for path in sorted(root.glob(f"*/{STATUS}")) if root.is_dir() else []:
        if path.parent.name.startswith("."):
            continue
        try:
            _ = Run(path.parent).recorded_status
        except RunError:
            names.append(path.parent.name)
    return names


def choose_run(views: list[RunView]) -> RunView | None:
    """A select box for the run to look at; at first the one at work, else the newest."""
    by_name = {item.name: item for item in views}
    labels = run_labels(views)
    at_work = [item.name for item in views if item.status.state == "running"]
    chosen = choose(
        "Run",
        list(by_name),
        _RUN_KEY,
        default=at_work[0] if at_work else None,
        format_func=labels.__getitem__,
    )
    return by_name.get(chosen) if chosen else None


def select_run(name: str) -> None:
    """Choose a run from code; in a callback, or before the select box is drawn."""
    st.session_state[_RUN_KEY] = name


def run_labels(views: list[RunView]) -> dict[str, str]:
    """Name of the folder → what to call a run in a list; no two are the same."""
    labels = {item.name: f"{item.title} · {created(item)}" for item in views}
    often = Counter(labels.values())
    return {name: text if often[text] == 1 else name for name, text in labels.items()}


def created(item: RunView) -> str:
    """When it was made: "22 Nov, 14:05"."""
    moment = datetime.fromtimestamp(item.status.created_at)
    return f"{moment.day} {moment:%b}, {moment:%H:%M}"


def progress_sentence(item: RunView) -> str:
    """What is going on and how long it will take, as far as that was measured."""
    status = item.status
    if status.state == "queued":
        if item.orphaned:
            return "Nobody will start it: the app ended before its process began. Resume starts it."
        if item.waits_for is None:
            return "Loading the libraries, which takes some seconds."
        first = title_of(item.waits_for)
        return f"Waiting for **{markdown_text(first)}** to end. It starts by itself then."
    parts = [status.phase[:1].upper() + status.phase[1:]] if status.phase else []
    if status.total_steps:
        parts.append(f"step {status.step:,} of {status.total_steps:,}")
    parts.append(f"{100 * status.progress:.0f} %")
    if status.state == "running":
        if item.stopping:
            parts.append("ends after the current step")
        elif status.eta_seconds is not None:
            # The loop measures one phase at a time: reading photos says nothing about learning.
            phase = status.phase.partition(",")[0]
            parts.append(f"about {duration(status.eta_seconds)} of {phase or 'this phase'} left")
        else:
            parts.append("measuring the time left")
    return " · ".join(parts)


def took(item: RunView, now: float | None = None) -> float | None:
    """Seconds since the last start, up to the end or to now; None if it never began."""
    status = item.status
    if status.started_at is None:
        return None
    end = (time.time() if now is None else now) if item.active else status.updated_at
    return max(0.0, end - status.started_at)


def _escaped_path(path: Path) -> str:
    return f"`{str(path.absolute()).replace('`', '')}`"
