"""Make datasets on the Dataset page: draw a demo set, import photos, fetch OSV-Mini.

Commands of ``python -m train`` do the work, each as a job with its folder in ``datasets/.jobs``.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image

from geoclip_core.data.kaggle import KAGGLE_PAGE
from geoclip_core.demo.scenes import SceneFacts, draw_scene
from geoclip_core.files import remove_left_overs, safe_name
from geoclip_core.jobs import JobError, Work, WorkStatus, job_folders
from ui.page import is_public, may_open, outside_roots
from ui.theme import markdown_text

_SCENES = (
    SceneFacts("1", 31.5, -97.1, "Cfa", 110, "Texas_US", "McLennan County_US", "Waco_US"),
    SceneFacts("8", 36.2, -115.1, "BWh", 190, "Nevada_US", "Clark County_US", "Las Vegas_US"),
    SceneFacts("7", 44.9, -123.0, "Csb", 290, "Oregon_US", "Marion County_US", "Salem_US"),
    SceneFacts("5", 42.9, -106.3, "Dfb", 15, "Wyoming_US", "Natrona County_US", "Casper_US"),
)
_CLEAN_UP_SECONDS = 5.0


@dataclass(frozen=True)
class DatasetJob:
    """One job of the page with its current status."""

    work: Work
    status: WorkStatus
    command: str
    """Command of ``python -m train``."""
    title: str
    """What it does, in words."""
    dataset: Path
    """The folder that it makes or checks."""

    @property
    def name(self) -> str:
        """Name of the job's folder, which is unique."""
        return self.work.folder.name

    def stop(self) -> None:
        """End the process and remove what it was building."""
        self.work.kill(after_seconds=_CLEAN_UP_SECONDS)
        # The command may have failed to do so because a worker process was still writing.
        remove_left_overs(self.dataset)

    def dismiss(self) -> None:
        """Remove the job from the list if it has ended."""
        if not self.status.active:
            shutil.rmtree(self.work.folder, ignore_errors=True)


def dataset_jobs(datasets: Path) -> list[DatasetJob]:
    """Return the jobs that were not dismissed, newest first; unreadable ones are left out."""
    found = []
    for folder in reversed(job_folders(datasets / ".jobs")):
        work = Work(folder)
        with contextlib.suppress(JobError, KeyError):
            status = work.status
            about = status.about
            job = DatasetJob(work, status, about["command"], about["title"], Path(about["dataset"]))
            found.append(job)
    return found


def start(
    datasets: Path, command: str, arguments: Sequence[str], title: str, dataset: Path
) -> None:
    """Start ``python -m train COMMAND ARGUMENTS`` in place of an ended job of the same kind.

    Paths in the arguments must be absolute. The command makes or checks the folder ``dataset``.

    Raises:
        OSError: the job's folder cannot be written.
        JobError: the process cannot be started, or the app is public.
    """
    if is_public():
        raise JobError("this app is public")
    dataset = dataset.absolute()
    for job in dataset_jobs(datasets):
        if (job.command, job.dataset) == (command, dataset):
            job.dismiss()
    work = Work.create(
        datasets.absolute() / ".jobs" / f"{time.time_ns()}-{command}",
        {"command": command, "title": title, "dataset": str(dataset)},
    )
    work.launch("train", [command, *arguments, "--status", str(work.status_path)])


def progress_strip(datasets: Path) -> list[DatasetJob]:
    """Draw the jobs and return the running ones, whose progress is redrawn every second."""
    found = dataset_jobs(datasets)
    running = [job for job in found if job.status.active]
    if running:
        _live(datasets, tuple(job.name for job in running))
    for job in found:
        if job.command == "doctor" and job.status.state == "finished":
            job.dismiss()  # its findings are shown below
        elif not job.status.active:
            _ended(job)
    return running


@st.fragment(run_every=1.0)
def _live(datasets: Path, names: tuple[str, ...]) -> None:
    running = [job for job in dataset_jobs(datasets) if job.status.active]
    if tuple(job.name for job in running) != names:
        # A job has ended, or another tab has started one: redraw the whole page.
        st.rerun()
    for job in running:
        status = job.status
        text, button = st.columns([8, 1], vertical_alignment="center")
        with text:
            st.progress(status.share, markdown_text(f"{job.title} · {_progress_words(job)}"))
        with button:
            if st.button("Stop", key=f"stop {job.name}", width="stretch"):
                job.stop()
                st.rerun()


def _progress_words(job: DatasetJob) -> str:
    status = job.status
    if not status.total:
        return "starting"
    if job.command != "import-photos":
        return f"{status.done:,} of {status.total:,} {status.unit}"
    # An import counts every photo twice: when it is read and when it is copied.
    photos = status.total // 2
    if status.done <= photos:
        return f"reading photo {status.done:,} of {photos:,}"
    return f"copying photo {status.done - photos:,} of {photos:,}"


def _ended(job: DatasetJob) -> None:
    status = job.status
    left, middle, right = st.columns([8, 1, 1], vertical_alignment="center")
    with left:
        if status.state == "finished":
            result = status.message.removesuffix(f" in {job.dataset}")
            st.success(markdown_text(f"{job.dataset.name} is ready: {result}"))
        elif status.state == "stopped":
            st.warning(markdown_text(f"{job.title}: stopped"))
        else:
            reason, _, rest = (status.error or "it did not start").partition("\n")
            st.error(markdown_text(f"{job.title}: {reason}"))
            st.code(rest or "\n".join(job.work.console_tail(12)), language=None, wrap_lines=True)
    with middle:
        if status.state == "finished":
            st.button(
                "Open",
                key=f"open {job.name}",
                type="primary",
                width="stretch",
                on_click=_open,
                args=(job,),
            )
    with right:
        st.button("Dismiss", key=f"dismiss {job.name}", width="stretch", on_click=job.dismiss)


def _open(job: DatasetJob) -> None:
    """Choose the dataset that a job has made (a widget callback)."""
    folder, here = job.dataset, Path.cwd()
    name = str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
    st.session_state["dataset"] = name
    st.session_state["dataset view"] = "Explore"
    job.dismiss()


def first_steps(datasets: Path) -> None:
    """Draw sample scenes and a button that makes a demo set, for users without a dataset."""
    with st.container(border=True):
        st.markdown(
            "**There is no dataset yet.** The quickest way to get one is to draw a demo set:"
        )
        for column, scene in zip(st.columns(len(_SCENES)), _scenes(), strict=True):
            column.image(scene, width="stretch", alt="A synthetic street scene")
        if st.button("Draw a demo set of 2,000", type="primary", icon=":material/brush:"):
            _start_demo(datasets, "demo", 2000, 0)
        st.caption(
            "Synthetic; takes half a minute and about 30 MB. Sky, ground and plants follow the "
            "climate and month, signs and landmarks the place, so a small model can learn them."
        )


def make(datasets: Path) -> None:
    """Draw the three forms that make a dataset."""
    demo, photos, kaggle = st.columns(3, gap="medium")
    with demo, st.form("demo", border=True):
        st.markdown("**:material/brush: Draw a demo set**")
        name = st.text_input("Name", "demo", key="demo name")
        rows = st.number_input("Photos", 20, 200_000, 2000, 100, key="demo rows")
        seed = st.number_input("Seed", 0, 10**6, 0, key="demo seed")
        drawn = st.toggle(
            "Draw the scenes",
            True,
            key="demo drawn",
            help="Switch off to write only the tables, for trying large datasets.",
        )
        st.caption(
            "Synthetic scenes at real towns in ten states of the USA. Replaces a demo set of the "
            "same name."
        )
        if st.form_submit_button("Draw", icon=":material/brush:"):
            _start_demo(datasets, name, int(rows), int(seed), drawn)
    with photos, st.form("import", border=True):
        st.markdown("**:material/add_photo_alternate: Import your photos**")
        folder = st.text_input("Folder of photos", key="import folder", placeholder="~/Pictures")
        name = st.text_input("Name", "my-photos", key="import name")
        csv = st.text_input(
            "CSV of positions (optional)",
            key="import csv",
            help="Columns file, latitude, longitude, captured_at; overrides EXIF, XMP and Google "
            "Takeout's JSON files.",
        )
        test = st.slider("Kept for testing", 0, 50, 15, format="%d %%", key="import test")
        link = st.toggle("Link instead of copying", False, key="import link")
        st.caption("The originals are never moved or changed. Importing again adds new photos.")
        if st.form_submit_button("Import", icon=":material/add_photo_alternate:"):
            _start_import(datasets, folder, name, csv, test / 100, link)
    with kaggle, st.form("download", border=True):
        st.markdown("**:material/download: Fetch OSV-Mini-129k**")
        name = st.text_input("Name", "osv-mini", key="download name")
        archive = st.text_input(
            "Archive (optional)",
            key="download archive",
            help="A ZIP file or folder that you downloaded yourself; nothing is downloaded then.",
        )
        st.caption(
            f"129,000 street photos of ten US states from [Kaggle]({KAGGLE_PAGE}), several "
            "gigabytes. An interrupted download continues where it stopped."
        )
        if st.form_submit_button("Fetch", icon=":material/download:"):
            _start_download(datasets, name, archive)


def _start_demo(datasets: Path, name: str, rows: int, seed: int, drawn: bool = True) -> None:
    target = _target(datasets, name)
    if target is None:
        return
    arguments = ["--output", str(target), "--rows", str(rows), "--seed", str(seed)]
    arguments += [] if drawn else ["--metadata-only"]
    start_or_explain(
        datasets, "demo-data", arguments, f"Drawing {rows:,} scenes for {target.name}", target
    )


def _start_import(
    datasets: Path, folder: str, name: str, csv: str, test: float, link: bool
) -> None:
    source = Path(folder.strip()).expanduser()
    target = _target(datasets, name)
    if _is_outside(source):
        return
    if not folder.strip() or not os.path.isdir(source):
        typed = markdown_text(folder.strip())
        st.error(f"There is no folder {typed}." if typed else "Type a folder.")
        return
    if target is None:
        return
    arguments = [str(source.absolute()), "--output", str(target), "--test-fraction", str(test)]
    if csv.strip():
        table = Path(csv.strip()).expanduser()
        if _is_outside(table):
            return
        if not os.path.isfile(table):
            st.error(f"There is no file {markdown_text(csv.strip())}.")
            return
        arguments += ["--positions", str(table.absolute())]
    arguments += ["--link"] if link else []
    start_or_explain(datasets, "import-photos", arguments, f"Importing {source.name}", target)


def _start_download(datasets: Path, name: str, archive: str) -> None:
    target = _target(datasets, name)
    if target is None:
        return
    arguments = ["osv-mini", "--output", str(target)]
    if archive.strip():
        source = Path(archive.strip()).expanduser()
        if _is_outside(source):
            return
        if not os.path.exists(source):
            st.error(f"There is no file or folder {markdown_text(archive.strip())}.")
            return
        arguments += ["--archive", str(source.absolute())]
    start_or_explain(datasets, "download", arguments, "Fetching OSV-Mini-129k", target)


def _is_outside(path: Path) -> bool:
    """Return whether the app may not open a path, and say so."""
    if may_open(path):
        return False
    st.error(markdown_text(outside_roots(path)))
    return True


def _target(datasets: Path, name: str) -> Path | None:
    safe = safe_name(name)
    if not safe:
        st.error("Give the dataset a name of letters and digits.")
        return None
    return datasets.absolute() / safe


def start_or_explain(
    datasets: Path, command: str, arguments: Sequence[str], title: str, dataset: Path
) -> None:
    """Call ``start`` and rerun the page, or show why the job cannot be started."""
    try:
        start(datasets, command, arguments, title, dataset)
    except (OSError, JobError) as error:
        st.error(markdown_text(f"The job cannot be started: {error}"), icon=":material/error:")
        return
    st.rerun()


@st.cache_data(show_spinner=False)
def _scenes() -> list[Image.Image]:
    return [draw_scene(facts) for facts in _SCENES]
