"""Where downloaded models and what is derived from them are kept, and whether we are offline.

One environment variable moves everything, `GEOCLIP_CACHE`; without it, models and galleries go to
the platform's cache folder and calibrations, which are the user's own work, to its data folder.
Nothing is created here: whoever writes makes the folder.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "GEOCLIP_CACHE"
OFFLINE_VARIABLE = "GEOCLIP_OFFLINE"
MANIFEST = "download.json"
"""Lies in the folder of every model that was placed whole."""
_APPLICATION = "geoclip-core"
_YES = {"1", "true", "yes", "on"}


@dataclass(frozen=True)
class CacheFolders:
    """The folders of one cache."""

    models: Path
    """One folder a downloaded model, each complete or not there at all."""
    partial: Path
    """Transfers under way or interrupted; beside `models`, so that a rename is atomic."""
    galleries: Path
    """Encoded galleries, derived from models: can be deleted at any time."""
    calibrations: Path
    """Temperatures and radii fitted on the user's photos, one file a model."""


def cache_folders(root: Path | str | None = None) -> CacheFolders:
    """The folders under `root`, else under `GEOCLIP_CACHE`, else where the platform keeps them."""
    chosen = str(root) if root is not None else os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen:
        cache = data = Path(chosen).expanduser().absolute()
    else:
        cache = platformdirs.user_cache_path(_APPLICATION, appauthor=False)
        data = platformdirs.user_data_path(_APPLICATION, appauthor=False)
    return CacheFolders(
        models=cache / "models",
        partial=cache / "partial",
        galleries=cache / "galleries",
        calibrations=data / "calibrations",
    )


def downloaded_folder(name: str) -> Path | None:
    """The folder of a model "user/name" that was downloaded and placed, or None."""
    folder = cache_folders().models / name.replace("/", "--")
    return folder if name and (folder / MANIFEST).is_file() else None


def is_offline(flag: bool = False) -> bool:
    """Whether the network must not be touched: by a flag, `GEOCLIP_OFFLINE` or `HF_HUB_OFFLINE`."""
    return flag or any(
        os.environ.get(name, "").strip().lower() in _YES
        for name in (OFFLINE_VARIABLE, "HF_HUB_OFFLINE")
    )
