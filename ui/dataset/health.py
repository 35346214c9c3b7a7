"""The view "Check" of the Dataset page: the findings of the doctor, and a button to run it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from geoclip_core.data.doctor import REPORT_FILE
from ui.dataset.make import start_or_explain
from ui.page import is_public
from ui.theme import markdown_text


def health(root: Path, datasets: Path, busy: bool) -> None:
    """Draw the report of a dataset's last check, and a button for a new one (not if ``busy``).

    In public mode there is no button.
    """
    report = read_report(root / REPORT_FILE)
    if not is_public():
        _check_button(root, datasets, busy, report is not None)
    if report is None:
        st.markdown(
            "The check finds photos that are missing, truncated or not images, rows that are out "
            "of range or duplicated, states that do not match the coordinates, and test photos "
            "close to training photos. It changes nothing."
        )
        return
    _summary(root, report)
    for number, finding in enumerate(report["findings"]):
        _finding(number, finding)
    if report.get("must_fix"):
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


def read_report(path: Path) -> dict[str, Any] | None:
    """Return the report of the doctor, or None if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("findings"), list):
        return None
    findings = [f for f in content["findings"] if isinstance(f, dict) and "message" in f]
    return {**content, "findings": findings}


def _summary(root: Path, report: dict[str, Any]) -> None:
    when = datetime.fromtimestamp((root / REPORT_FILE).stat().st_mtime).astimezone()
    rows = sum(report.get("rows", {}).values())
    about = (
        f"{rows:,} rows and {report.get('photos_checked', 0):,} photo files, {when:%Y-%m-%d %H:%M}"
    )
    errors = sum(finding.get("severity") == "error" for finding in report["findings"])
    if errors:
        kinds = "1 kind of error" if errors == 1 else f"{errors} kinds of errors"
        st.error(f"**{kinds} must be fixed.** Checked: {about}.", icon=":material/error:")
    else:
        st.success(f"**No faults found.** Checked: {about}.", icon=":material/check_circle:")


def _finding(number: int, finding: dict[str, Any]) -> None:
    error = finding.get("severity") == "error"
    icon = ":material/error:" if error else ":material/info:"
    message = str(finding["message"])
    title = f"{markdown_text(message[:1].upper() + message[1:])} · **{finding.get('count', 0):,}**"
    with st.expander(title, icon=icon, expanded=error and number < 3):
        examples = finding.get("examples") or []
        if examples:
            table = pd.DataFrame(examples).rename(columns=str.capitalize)
            st.dataframe(table.astype("str"), hide_index=True)
            if finding.get("count", 0) > len(examples):
                st.caption(f"The first {len(examples)} of them.")
        else:
            st.caption("The report lists no examples of this.")
