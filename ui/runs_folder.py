"""Where training runs are kept: one answer for every page."""

import os
from pathlib import Path

import streamlit as st

RUNS_VARIABLE = "GEOCLIP_RUNS"
"""Environment variable: where runs are kept, instead of ``runs`` in the working directory."""

FOLDER_KEY = "runs folder"


def runs_folder() -> Path:
    """As typed on the Train page in this session, else ``GEOCLIP_RUNS``, else ``runs``."""
    chosen = str(st.session_state.get(FOLDER_KEY) or "").strip()
    return Path(chosen or os.environ.get(RUNS_VARIABLE, "").strip() or "runs").expanduser()
