"""Where datasets are kept: one answer for every page."""

import os
from pathlib import Path

DATASETS_VARIABLE = "GEOCLIP_DATASETS"
"""Environment variable: where datasets are kept, instead of ``datasets`` in the working folder."""


def datasets_folder() -> Path:
    """``GEOCLIP_DATASETS``, else ``datasets``."""
    return Path(os.environ.get(DATASETS_VARIABLE, "").strip() or "datasets").expanduser()
