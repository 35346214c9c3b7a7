"""The strip above the Dataset page that shows what is being drawn, imported, checked or fetched."""

from pathlib import Path

import streamlit as st

from ui.dataset.jobs import Job, dismiss, jobs, log_tail, stop
from ui.theme import markdown_text


def progress_strip(datasets: Path) -> list[Job]:
    """Draw the strip; while something runs it refreshes itself, without the rest of the page.

    Returns:
        The jobs that run.
    """
    found = jobs(datasets)
    for job in found:
        # A check that went well shows its findings below: nothing more to say.
        if job.command == "doctor" and job.state == "finished":
            dismiss(job)
    running = [job for job in found if job.state == "running"]
    if running:
        _live(datasets, tuple(job.folder.name for job in running))
    for job in found:
        if job.state != "running" and not (job.command == "doctor" and job.state == "finished"):
            _ended(job)
    return running


@st.fragment(run_every=1.0)
def _live(datasets: Path, names: tuple[str, ...]) -> None:
    running = [job for job in jobs(datasets) if job.state == "running"]
    if tuple(job.folder.name for job in running) != names:
        # One has ended, or another tab has started one: the whole page has changed.
        st.rerun()
    for job in running:
        text, button = st.columns([8, 1], vertical_alignment="center")
        with text:
            if job.total:
                words = f"{job.title} · {job.done:,} of {job.total:,} {job.unit}"
                st.progress(min(job.done / job.total, 1.0), markdown_text(words))
            else:
                st.progress(0.0, markdown_text(f"{job.title} …"))
        with button:
            if st.button("Stop", key=f"stop {job.folder.name}", width="stretch"):
                stop(job)
                st.rerun()


def _ended(job: Job) -> None:
    done = job.state == "finished"
    box = st.success if done else st.warning if job.state == "stopped" else st.error
    message = markdown_text(job.message.splitlines()[0]) if job.message else ""
    left, middle, right = st.columns([8, 1, 1], vertical_alignment="center")
    with left:
        box(f"{markdown_text(job.title)}: {message}" if message else markdown_text(job.title))
        rest = "\n".join(job.message.splitlines()[1:])
        if job.state == "failed":
            rest = rest or log_tail(job)
        if rest:
            st.code(rest, language=None, wrap_lines=True)
    with middle:
        if done:
            st.button(
                "Open",
                key=f"open {job.folder.name}",
                type="primary",
                width="stretch",
                on_click=_open,
                args=(job,),
            )
    with right:
        st.button(
            "Dismiss",
            key=f"dismiss {job.folder.name}",
            width="stretch",
            on_click=dismiss,
            args=(job,),
        )


def _open(job: Job) -> None:
    """Choose the dataset that a job has made; runs before the page is drawn."""
    folder = job.dataset
    here = Path.cwd()
    name = str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
    st.session_state["dataset"] = name
    st.session_state["dataset view"] = "Explore"
    dismiss(job)
