"""Image geolocation: a photo in, latitude and longitude out, on your own computer."""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

# huggingface_hub fetches a list for its statistics before it reads a local folder, even with
# local_files_only; it looks at this variable when it is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if (_constants := sys.modules.get("huggingface_hub.constants")) is not None:
    _constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from geoclip_core.errors import (
        BackboneError,
        CheckpointError,
        DatasetError,
        DownloadError,
        HintError,
        PhotoError,
        PlaceError,
    )
    from geoclip_core.explain import Explanation
    from geoclip_core.locator import Geolocator
    from geoclip_core.model.checkpoint import bundled_models
    from geoclip_core.prediction import Candidate, Claim, Exif, Failure, Prediction

# Imported at first use (PEP 562), because most of these modules import torch.
_MODULES = {
    "BackboneError": "errors",
    "Candidate": "prediction",
    "CheckpointError": "errors",
    "Claim": "prediction",
    "DatasetError": "errors",
    "DownloadError": "errors",
    "Exif": "prediction",
    "Explanation": "explain",
    "Failure": "prediction",
    "Geolocator": "locator",
    "HintError": "errors",
    "PhotoError": "errors",
    "PlaceError": "errors",
    "Prediction": "prediction",
    "bundled_models": "model.checkpoint",
}

__all__ = [
    "BackboneError",
    "Candidate",
    "CheckpointError",
    "Claim",
    "DatasetError",
    "DownloadError",
    "Exif",
    "Explanation",
    "Failure",
    "Geolocator",
    "HintError",
    "PhotoError",
    "PlaceError",
    "Prediction",
    "bundled_models",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
