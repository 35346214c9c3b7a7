"""Image geolocation: a photo in, latitude and longitude out, on your own machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoclip_core.errors import CheckpointError, PhotoError
    from geoclip_core.explain import Explanation
    from geoclip_core.hub.models import bundled_models
    from geoclip_core.locator import Geolocator
    from geoclip_core.prediction import Candidate, Exif, Failure, Prediction

# Handed on at first use (PEP 562): whoever only reads a table need not wait for torch.
_HOMES = {
    "Candidate": "geoclip_core.prediction",
    "CheckpointError": "geoclip_core.errors",
    "Exif": "geoclip_core.prediction",
    "Explanation": "geoclip_core.explain",
    "Failure": "geoclip_core.prediction",
    "Geolocator": "geoclip_core.locator",
    "PhotoError": "geoclip_core.errors",
    "Prediction": "geoclip_core.prediction",
    "bundled_models": "geoclip_core.hub.models",
}

__all__ = [
    "Candidate",
    "CheckpointError",
    "Exif",
    "Explanation",
    "Failure",
    "Geolocator",
    "PhotoError",
    "Prediction",
    "bundled_models",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
