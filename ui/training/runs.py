"""The runs of the Train page: list them, describe their state, start and end them.

All state is in the run folders, so a reload, a second tab and a restarted app show the same.
"""

import contextlib
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from geoclip_core.data.dataset import splits_in
from geoclip_core.errors import DatasetError
from geoclip_core.files import save_error
from geoclip_core.jobs import JobError, waits_for
from geoclip_core.training.options import (
    FitOptions,
    OptionsError,
    PretrainOptions,
    TrainingOptions,
    from_mapping,
)
from geoclip_core.training.runs import Run, RunStatus, find_runs, title_of
from ui.page import (
    RUNS_KEY,
    RUNS_VARIABLE,
    choose,
    is_public,
    may_open,
    outside_roots,
    runs_folder,
)
from ui.theme import duration, markdown_text

TRAIN = "train"
"""The module whose commands train; tests replace it by a quick one."""
_RUN_KEY = "run"
VIEW_KEY = "train view"
"""Session key of what the page shows: one of `VIEWS`."""
ONE_RUN, ALL_RUNS, NEW_TRAINING = "This run", "All runs", "New training"
VIEWS = {ONE_RUN: "run", ALL_RUNS: "all", NEW_TRAINING: "new"}
"""What the page can show -> its name in the address."""
_STAMP = re.compile(r"^(\d{8}-\d{6})-")
OPTIONS: dict[str, type[TrainingOptions]] = {"fit": FitOptions, "pretrain": PretrainOptions}
"""Task -> its options."""

Colour = Literal["blue", "violet", "orange", "green", "red"]


@dataclass(frozen=True)
class StateLook:
    """How the page shows a state."""

    word: str
    icon: str
    colour: Colour


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
    """A run with its current status."""

    run: Run
    status: RunStatus
    stopping: bool = False
    """Whether it was asked to stop and still runs."""
    waits_for: str | None = None
    """Name of the run that has to end before this one starts."""

    @property
    def name(self) -> str:
        """Name of the folder, which is unique in the runs folder."""
        return self.run.folder.name

    @property
    def title(self) -> str:
        """The name that the user gave it."""
        return self.status.title or title_of(self.name)

    @property
    def stamp(self) -> str:
        """The time in its name, which distinguishes runs with the same title."""
        found = _STAMP.match(self.name)
        return found.group(1) if found else ""

    @property
    def look(self) -> StateLook:
        """How the page shows its state."""
        if self.stopping:
            return LOOKS["stopping"]
        return LOOKS["starting" if self.starting else self.status.state]

    @property
    def starting(self) -> bool:
        """Whether its process is still loading libraries."""
        return self.status.state == "queued" and self.active and not self.waits_for

    @property
    def active(self) -> bool:
        """Whether its process runs or waits."""
        return self.status.active

    @property
    def ended_early(self) -> bool:
        """Whether it stopped, failed, or is queued without a process that would start it."""
        return not self.active and self.status.state != "finished"

    @property
    def no_resume(self) -> str:
        """Why resuming it cannot work, in a sentence; "" if it can."""
        if self.status.mistake:
            return "It would fail in the same way: correct its data or options, and train again."
        try:
            config = self.run.config
            options = from_mapping(OPTIONS[self.status.task], config, "config.yaml")
            splits_in(options.dataset_folder())
        except (JobError, OptionsError, DatasetError, OSError) as error:
            return f"It cannot be resumed: {error}"
        return ""

    @property
    def has_model(self) -> bool:
        """Whether its model can be opened on the other pages."""
        return self.status.task == "fit" and (self.run.checkpoint / "config.json").is_file()


def choose_runs_folder() -> Path:
    """Draw a field for the runs folder, in an expander; nothing in public mode."""
    if is_public():
        return runs_folder()
    with st.expander("Where runs are saved", icon=":material/folder:"):
        st.text_input(
            "Runs folder",
            key=RUNS_KEY,
            placeholder=str(runs_folder()),
            help=f"A folder on the computer that runs the app. The environment variable "
            f"{RUNS_VARIABLE} sets it permanently.",
            persist_state="session",
        )
        typed = str(st.session_state.get(RUNS_KEY) or "").strip()
        if typed and not may_open(typed):
            st.error(markdown_text(outside_roots(typed)))
        path = str(runs_folder().absolute()).replace("`", "")
        st.caption(f":material/folder: `{path}`")
    return runs_folder()


def run_views(root: Path) -> list[RunView]:
    """Return the runs of a folder, newest first."""
    return found_runs(root)[0]


def found_runs(root: Path) -> tuple[list[RunView], list[str]]:
    """Return the runs of a folder, newest first, and a sentence for each that cannot be read."""
    runs, problems = find_runs(root)
    views = []
    for run in runs:
        with contextlib.suppress(JobError):  # deleted in the meantime
            views.append(view(run))
    return views, problems


def view(run: Run) -> RunView:
    """Return a run with its current status.

    Raises:
        JobError: its folder is gone or cannot be read.
    """
    status = run.status
    first = waits_for(run.folder) if status.state == "queued" else None
    stopping = status.state == "running" and run.stop_requested()
    return RunView(run, status, stopping, first.name if first else None)


def start(root: Path, task: str, options: Mapping[str, Any], name: str) -> Run:
    """Make a run folder and start its process, which waits while another run is active.

    The options are plain values; the name is as the user typed it.

    Raises:
        JobError: the folder cannot be written, the process cannot be started, or an option names a
            folder that the app may not open.
    """
    _expect_private()
    for value in _paths(options):
        if not may_open(value):
            raise JobError(outside_roots(value))
    try:
        run = Run.create(root, name or task, options, task)
    except OSError as error:
        raise JobError(str(save_error(root, error))) from error
    _launch(run, task)
    return run


def resume(run: Run) -> None:
    """Continue a run that stopped or failed from its last saved state.

    Raises:
        JobError: it runs or waits, has finished, or its process cannot be started.
    """
    _expect_private()
    status = run.status
    if status.active or status.state == "finished":
        raise JobError(f"{run.name} is {status.state}: there is nothing to continue")
    run.clear_stop()
    _launch(run, status.task)


def stop(run: Run) -> None:
    """Ask a run to end after its current step; a run that waits is taken from the queue.

    Raises:
        JobError: it waits on another computer.
    """
    _expect_private()
    state = run.status.state
    if state in ("queued", "running"):
        run.request_stop()
    if state == "queued":
        run.interrupt()  # a waiting process does not check for requests


def kill(run: Run) -> None:
    """End a run at once. What it did since its last saved state is lost.

    Raises:
        JobError: it runs on another computer.
    """
    _expect_private()
    if run.status.state in ("queued", "running"):
        run.kill("Ended at once, before the current step was done.")


def delete(root: Path, run: Run) -> None:
    """Remove a run's folder, and nothing outside of it.

    Links are removed, but never what they point to. A waiting run is taken from the queue first.

    Raises:
        JobError: it is running, or its folder is not directly in `root`.
    """
    _expect_private()
    folder = run.folder.absolute()
    if folder.name in ("", ".", "..") or folder.parent.resolve() != root.resolve():
        raise JobError(f"{run.folder} is not in {root}: it cannot be deleted from here")
    if folder.is_symlink():
        folder.unlink()
        return
    state = run.status.state
    if state == "running":
        raise JobError(f"{run.name} is running: stop it before deleting it")
    if state == "queued":
        stop(run)
    try:
        # Renamed first, so that it leaves every list at once even if removing it takes a while.
        aside = folder.with_name(f".deleted-{folder.name}-{time.time_ns()}")
        folder.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise JobError(f"{run.name} cannot be deleted: {error}") from error


def _paths(options: Mapping[str, Any]) -> list[str]:
    """Return the values of a training's options that name a file or folder."""
    found = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            found += _paths(value)
        elif isinstance(value, str | Path) and name not in ("recipe", "output", "runs", "resume"):
            path = Path(value).expanduser()
            if name in ("data", "cache_dir") or os.path.lexists(path):
                found.append(str(path))
    return found


def _expect_private() -> None:
    if is_public():
        raise JobError("this app is public: runs cannot be started, stopped or deleted")


def _launch(run: Run, task: str) -> None:
    run.launch(TRAIN, [task, "--resume", str(run.folder.absolute())], in_turn=True)


def show_problems(problems: Sequence[str]) -> None:
    """Say what cannot be read, a sentence each; after the fifth, only how many more there are."""
    if not problems:
        return
    lines = [f"- {markdown_text(problem)}." for problem in problems[:5]]
    if len(problems) > 5:
        lines.append(f"- and {len(problems) - 5:,} more.")
    st.warning("\n".join(["Some files are left out:", "", *lines]), icon=":material/warning:")


def choose_run(views: list[RunView]) -> RunView | None:
    """Draw a select box for the run to show; the default is the running one, else the newest."""
    by_name = {item.name: item for item in views}
    labels = run_labels(views)
    running = [item.name for item in views if item.status.state == "running"]
    chosen = choose(
        "Run",
        list(by_name),
        _RUN_KEY,
        default=running[0] if running else None,
        format_func=lambda name: labels.get(name, name),
        address=("run", str),
        on_change=show_run,
    )
    return by_name.get(chosen) if chosen else None


def select_run(name: str) -> None:
    """Select a run; call it in a callback or before the select box is drawn."""
    st.session_state[_RUN_KEY] = name


def show_run() -> None:
    """Show the selected run, whatever was shown before (a widget callback)."""
    st.session_state[VIEW_KEY] = ONE_RUN


def run_labels(views: list[RunView]) -> dict[str, str]:
    """Return a unique label for each run, by the name of its folder."""
    titles = Counter(item.title for item in views)
    labels = {
        item.name: item.title if titles[item.title] == 1 else f"{item.title} · {created(item)}"
        for item in views
    }
    often = Counter(labels.values())
    return {name: text if often[text] == 1 else name for name, text in labels.items()}


def created(item: RunView) -> str:
    """Return when a run was created, such as "22 Nov, 14:05"."""
    moment = datetime.fromtimestamp(item.status.created_at)
    return f"{moment.day} {moment:%b}, {moment:%H:%M}"


def progress_sentence(item: RunView) -> str:
    """Return the current phase, the progress, and the time left once it is known."""
    status = item.status
    if status.state == "queued":
        if not item.active:
            return "The app ended before this training began."
        if item.waits_for is None:
            return "Loading libraries; this takes a few seconds."
        first = title_of(item.waits_for)
        return f"Waiting for **{markdown_text(first)}** to end; then it starts automatically."
    parts = [markdown_text(status.phase[:1].upper() + status.phase[1:])] if status.phase else []
    if status.total_steps:
        parts.append(f"step {status.step:,} of {status.total_steps:,}")
    parts.append(f"{100 * status.progress:.0f} %")
    if status.state == "running":
        if item.stopping:
            parts.append("ends after the current step")
        elif status.eta_seconds is not None:
            # The estimate covers one phase: reading photos says nothing about training speed.
            phase = status.phase.partition(",")[0]
            phase = markdown_text(phase) or "this phase"
            parts.append(f"about {duration(status.eta_seconds)} of {phase} left")
        else:
            parts.append("estimating the time left")
    return " · ".join(parts)


def took(item: RunView) -> float | None:
    """Return seconds from the last start to the end or to now; None if the run never started."""
    status = item.status
    if status.started_at is None:
        return None
    end = time.time() if item.active else status.updated_at
    return max(0.0, end - status.started_at)
