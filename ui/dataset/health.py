"""The view "Check" of the Dataset page: the findings of the doctor, and a button to run it."""

import dataclasses
import os
from datetime import datetime
from pathlib import Path

import pandas as pd
import streamlit as st

from geoclip_core.data.doctor import REPORT_FILE, SavedFinding, SavedReport, read_report
from geoclip_core.errors import FileError
from ui.dataset.make import start_or_explain
from ui.page import is_public
from ui.theme import markdown_text


def health(root: Path, datasets: Path, busy: bool) -> None:
    """Draw the report of a dataset's last check, and a button for a new one (not if ``busy``).

    In public mode there is no button.
    """
    report, problem = _last_report(root / REPORT_FILE)
    if not is_public():
        _check_button(root, datasets, busy, report is not None)
    if problem:
        st.warning(markdown_text(problem), icon=":material/warning:")
    if report is None:
        st.markdown(
            "The check finds photos that are missing, truncated or not images, rows that are out "
            "of range or duplicated, states that do not match the coordinates, and test photos "
            "close to training photos. It changes nothing."
        )
        return
    _summary(root, report)
    for number, finding in enumerate(report.findings):
        _finding(number, finding)
    if report.must_fix:
        st.markdown("To write the tables without the faulty rows into a new folder:")
        st.code(f'python -m train doctor "{root}" --write-clean "{root}-clean"', language="bash")


def _check_button(root: Path, datasets: Path, busy: bool, again: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        photos = st.toggle(
            "Open every photo",
            value=True,
            key="doctor photos",
            help="Finds truncated files and files that are no images; about 1,000 a second.",
        )
        if st.button(
            "Check again" if again else "Check this dataset",
            type="secondary" if again else "primary",
            icon=":material/stethoscope:",
            disabled=busy,
        ):
            arguments = [str(root.absolute()), "--photos" if photos else "--no-photos"]
            start_or_explain(datasets, "doctor", arguments, f"Checking {root.name}", root)


def _last_report(path: Path) -> tuple[SavedReport | None, str]:
    """Return the report of the last check, None if there is none, and why it cannot be read."""
    if not os.path.lexists(path):
        return None, ""
    try:
        return read_report(path), ""
    except FileError as error:
        return None, f"{error}. Check again to replace it."


def _summary(root: Path, report: SavedReport) -> None:
    when = datetime.fromtimestamp((root / REPORT_FILE).stat().st_mtime).astimezone()
    rows = sum(report.rows.values())
    about = f"{rows:,} rows and {report.photos_checked:,} photo files, {when:%Y-%m-%d %H:%M}"
    errors = sum(finding.severity == "error" for finding in report.findings)
    if errors:
        kinds = "1 kind of error" if errors == 1 else f"{errors} kinds of errors"
        st.error(f"**{kinds} must be fixed.** Checked: {about}.", icon=":material/error:")
    else:
        st.success(f"**No faults found.** Checked: {about}.", icon=":material/check_circle:")


def _finding(number: int, finding: SavedFinding) -> None:
    error = finding.severity == "error"
    icon = ":material/error:" if error else ":material/info:"
    message = finding.message
    title = f"{markdown_text(message[:1].upper() + message[1:])} · **{finding.count:,}**"
    with st.expander(title, icon=icon, expanded=error and number < 3):
        if finding.examples:
            table = pd.DataFrame(map(dataclasses.asdict, finding.examples), dtype=object)
            table = table.dropna(axis="columns", how="all")
            table = table.where(table.notna(), "").astype("str")
            st.dataframe(table.rename(columns=str.capitalize), hide_index=True)
            if finding.count > len(finding.examples):
                st.caption(f"The first {len(finding.examples)} of them.")
        else:
            st.caption("The report lists no examples of this.")
