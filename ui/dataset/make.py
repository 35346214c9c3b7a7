"""Make datasets on the Dataset page: draw a demo set, import photos, fetch OSV-Mini.

Commands of ``python -m train`` do the work, each as a job with its folder in ``datasets/.jobs``.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image
from streamlit.runtime.uploaded_file_manager import UploadedFile

from geoclip_core.data.importing import SIDECAR_SUFFIXES, unpack_photos
from geoclip_core.data.kaggle import KAGGLE_PAGE
from geoclip_core.data.photos import photo_files
from geoclip_core.demo.scenes import SceneFacts, draw_scene
from geoclip_core.errors import DatasetError
from geoclip_core.files import remove_left_overs, safe_name
from geoclip_core.jobs import JobError, Work, WorkStatus, job_folders
from ui.page import choose_folder, is_public, may_open, outside_roots, typed_path, wrapping_columns
from ui.photos import SUFFIXES
from ui.theme import markdown_text

_SCENES = (
    SceneFacts("1", 31.5, -97.1, "Cfa", 110, "Texas_US", "McLennan County_US", "Waco_US"),
    SceneFacts("8", 36.2, -115.1, "BWh", 190, "Nevada_US", "Clark County_US", "Las Vegas_US"),
    SceneFacts("7", 44.9, -123.0, "Csb", 290, "Oregon_US", "Marion County_US", "Salem_US"),
    SceneFacts("5", 42.9, -106.3, "Dfb", 15, "Wyoming_US", "Natrona County_US", "Casper_US"),
)
_CLEAN_UP_SECONDS = 5.0
_DROP, _FOLDER = "Drop files", "Choose a folder"
_DROPPED = "dropped"
"""Folder in a job's folder: the files that were dropped, until they are imported."""
_MOST_MB = 2000
"""Megabytes of a dropped file. Files are in memory until they are imported."""
_UPLOADS = "import uploads"
"""Session key: number of uploads; part of the upload fields' keys, so that each one empties them.
"""


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

    def forget_dropped(self) -> None:
        """Remove the files that were dropped for an import that has ended."""
        shutil.rmtree(self.work.folder / _DROPPED, ignore_errors=True)

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
    datasets: Path,
    command: str,
    arguments: Sequence[str],
    title: str,
    dataset: Path,
    fill: Callable[[Path], Sequence[str]] | None = None,
) -> None:
    """Start ``python -m train COMMAND ARGUMENTS`` in place of an ended job of the same kind.

    Paths in the arguments must be absolute. The command makes or checks the folder ``dataset``.
    ``fill`` writes what the job needs into a folder, which is removed with the job, and returns
    more arguments.

    Raises:
        OSError: the job's folder cannot be written.
        JobError: the process cannot be started, or the app is public.
        DatasetError: raised by ``fill``.
    """
    if is_public():
        raise JobError("this app is public")
    dataset = dataset.absolute()
    for job in dataset_jobs(datasets):
        if (job.command, job.dataset) == (command, dataset):
            job.dismiss()
    folder = datasets.absolute() / ".jobs" / f"{time.time_ns()}-{command}"
    if fill is not None:
        try:
            arguments = [*arguments, *fill(folder)]
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    work = Work.create(folder, {"command": command, "title": title, "dataset": str(dataset)})
    work.launch("train", [command, *arguments, "--status", str(work.status_path)])


def progress_strip(datasets: Path) -> list[DatasetJob]:
    """Draw the jobs and return the running ones, whose progress is redrawn every second."""
    found = dataset_jobs(datasets)
    running = [job for job in found if job.status.active]
    if running:
        _live(datasets, tuple(job.name for job in running))
    for job in found:
        if job.status.state in ("finished", "stopped", "failed"):
            job.forget_dropped()
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
        st.markdown("**There is no dataset yet.** Import your photos below, or draw a demo set:")
        columns = wrapping_columns(len(_SCENES), "scenes", 130)
        for column, scene in zip(columns, _scenes(), strict=True):
            column.image(scene, width="stretch", alt="A synthetic street scene")
        if st.button("Draw a demo set of 2,000", type="primary", icon=":material/brush:"):
            _start_demo(datasets, "demo", 2000, 0)
        st.caption(
            "Synthetic; takes half a minute and about 30 MB. Sky, ground and plants follow the "
            "climate and month, signs and landmarks the place, so a small model can learn them."
        )


def make(datasets: Path) -> None:
    """Draw the three ways to make a dataset."""
    photos, others = wrapping_columns([3, 2], "make", 300)
    with photos, st.container(border=True, key="import"):
        _import_form(datasets)
    with others, st.form("demo", border=True):
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
    with others, st.form("download", border=True):
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


def _import_form(datasets: Path) -> None:
    """Draw the import of dropped files or of a folder."""
    st.markdown("**:material/add_photo_alternate: Import your photos**")
    way = st.segmented_control(
        "From",
        [_DROP, _FOLDER],
        default=_DROP,
        required=True,
        key="import way",
        label_visibility="collapsed",
    )
    times = st.session_state.get(_UPLOADS, 0)
    dropped: list[UploadedFile] = []
    folder = None
    if way == _DROP:
        dropped = st.file_uploader(
            "Photos with a GPS position, or a ZIP of them",
            type=[".zip", *SUFFIXES, *SIDECAR_SUFFIXES],
            accept_multiple_files=True,
            max_upload_size=_MOST_MB,
            key=f"import files {times}",
            help="Also the .xmp and .json files that a photo manager or Google Takeout has "
            "written beside the photos.",
        )
    else:
        folder = choose_folder("import folder")
        if folder is not None:
            st.caption("All photos in this folder and the folders in it are imported.")
    name = st.text_input("Name of the dataset", "my-photos", key="import name")
    with st.expander("More options"):
        table = st.file_uploader(
            "CSV of positions",
            type="csv",
            key=f"import csv {times}",
            help="Columns file, latitude, longitude, captured_at; overrides EXIF, XMP and Google "
            "Takeout's JSON files.",
        )
        test = st.slider("Kept for testing", 0, 50, 15, format="%d %%", key="import test")
        link = way == _FOLDER and st.toggle(
            "Link instead of copying",
            False,
            key="import link",
            help="Saves space if the datasets are on the same disk.",
        )
    st.caption("The originals are never moved or changed. Importing again adds new photos.")
    if st.button("Import", icon=":material/add_photo_alternate:", type="primary"):
        options = ["--test-fraction", str(test / 100), *(["--link"] if link else [])]
        _start_import(datasets, dropped if way == _DROP else folder, name, table, options)


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
    datasets: Path,
    source: Sequence[UploadedFile] | Path | None,
    name: str,
    table: UploadedFile | None,
    options: Sequence[str],
) -> None:
    """Import dropped files or a folder, with the positions of a CSV."""
    if not source:
        st.error("Choose a folder first." if source is None else "Drop photos or a ZIP first.")
        return
    if isinstance(source, Path) and _is_outside(source):
        return
    target = _target(datasets, name)
    if target is None:
        return

    def fill(folder: Path) -> list[str]:
        arguments = list(options)
        if table is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "positions.csv").write_bytes(table.getbuffer())
            arguments += ["--positions", str(folder / "positions.csv")]
        if isinstance(source, Path):
            return [str(source.absolute()), *arguments]
        place_dropped(source, folder / _DROPPED)
        # What was dropped lies on the disk of the dataset and is removed after the import.
        return [str(folder / _DROPPED), "--link", *arguments]

    title = f"Importing {source.name}" if isinstance(source, Path) else f"Importing {target.name}"
    arguments = ["--output", str(target)]
    with st.spinner("Reading the files …"):
        start_or_explain(datasets, "import-photos", arguments, title, target, fill)


def place_dropped(files: Sequence[UploadedFile], folder: Path) -> None:
    """Write dropped files into a folder, and unpack ZIPs there.

    Raises:
        DatasetError: a ZIP cannot be used, or there are no photos.
        OSError: a file cannot be written.
    """
    for number, file in enumerate(files):
        name = file.name.replace("\\", "/").rsplit("/", 1)[-1].replace("\0", "").lstrip(".")
        if name.lower().endswith(".zip"):
            unpack_photos(file, name, folder / f"{number}")
            continue
        stem, dot, suffix = name.rpartition(".")
        name = f"{stem[:100]}{dot}{suffix}"
        # Two photos of one name, from different folders, lie in different folders here as well.
        place = folder / name if not (folder / name).exists() else folder / f"{number}" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.getbuffer())
    if not photo_files(folder):
        raise DatasetError("There are no photos among these files")


def _start_download(datasets: Path, name: str, archive: str) -> None:
    target = _target(datasets, name)
    if target is None:
        return
    arguments = ["osv-mini", "--output", str(target)]
    if archive.strip():
        source = typed_path(archive)
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
    datasets: Path,
    command: str,
    arguments: Sequence[str],
    title: str,
    dataset: Path,
    fill: Callable[[Path], Sequence[str]] | None = None,
) -> None:
    """Call ``start`` and rerun the page, or show why the job cannot be started."""
    try:
        start(datasets, command, arguments, title, dataset, fill)
    except DatasetError as error:
        st.error(markdown_text(f"{error}."), icon=":material/error:")
        return
    except (OSError, JobError) as error:
        st.error(markdown_text(f"The job cannot be started: {error}"), icon=":material/error:")
        return
    # What was dropped for it is no longer needed in memory.
    st.session_state[_UPLOADS] = st.session_state.get(_UPLOADS, 0) + 1
    st.rerun()


@st.cache_data(show_spinner=False)
def _scenes() -> list[Image.Image]:
    return [draw_scene(facts) for facts in _SCENES]
