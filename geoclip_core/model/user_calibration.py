"""Calibrations of downloaded models, fitted on the user's own photos.

They are kept apart from the model's folder: a download replaces that folder and the cache may be
cleared, but the calibration is the user's own work. The file's name holds a fingerprint of the
weights, so that no other model is ever corrected by it.
"""

from pathlib import Path

from geoclip_core.atomic_writes import write_atomically
from geoclip_core.cache_folders import cache_folders
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.checkpoint import CheckpointError


def calibration_path(name: str, fingerprint: str) -> Path:
    """The file of a model's calibration, whether there is one or not."""
    return cache_folders().calibrations / f"{name}-{fingerprint}.json"


def read_user_calibration(name: str, fingerprint: str) -> Calibration | None:
    """The calibration of these very weights, or None.

    Raises:
        CheckpointError: if there is one that cannot be read.
    """
    path = calibration_path(name, fingerprint)
    if not path.is_file():
        return None
    try:
        return Calibration.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no calibration ({error}): delete it, or calibrate again"
        ) from error


def save_user_calibration(name: str, fingerprint: str, calibration: Calibration) -> Path:
    """Keep a calibration, whole or not at all, and say where."""
    path = calibration_path(name, fingerprint)
    write_atomically(path, calibration.to_json())
    return path
