"""GeoCLIP on disk: a folder of `config.json`, `model.safetensors` and the gallery as CSV.

The layout is that of GeoCLIP's own releases (format version 1), so that a folder or a hub
repository made by its authors loads here, and the other way round. `image_tower/`, a CLIP model in
the layout of transformers, may lie inside the folder; then it is complete without a network.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from geoclip_core.model.checkpoint import CheckpointError
from geoclip_core.model.location_encoder import DEFAULT_SIGMAS, LocationEncoder

MODEL_TYPE, FORMAT_VERSION = "geoclip-geolocation", 1
CONFIG, WEIGHTS, GALLERY, IMAGE_TOWER = (
    "config.json",
    "model.safetensors",
    "coordinates_100K.csv",
    "image_tower",
)
CLIP_REPOSITORY = "openai/clip-vit-large-patch14"


class GeoClipFilesError(CheckpointError):
    """A GeoCLIP folder cannot be read; the message names the file and says what is wrong."""


@dataclass(frozen=True)
class GeoClipRelease:
    """The parts of a release, all but the image tower."""

    folder: Path
    location_encoder: LocationEncoder
    image_mlp: nn.Sequential
    """From the projected features of the image tower to location vectors."""
    logit_scale: float
    """Natural logarithm of the factor on the cosines."""
    coordinates: NDArray[np.float64]
    """(n, 2) the gallery's places."""


def read_release(folder: str | Path) -> GeoClipRelease:
    """Read the folder of a release, in evaluation mode.

    Raises:
        GeoClipFilesError: if a file is missing, damaged, or does not fit the others.
    """
    source = Path(folder)
    config = read_config(source)
    sigmas = config.get("sigma", list(DEFAULT_SIGMAS))
    if not isinstance(sigmas, list) or not all(_is_positive(sigma) for sigma in sigmas):
        raise GeoClipFilesError(f"{source / CONFIG}: sigma must be a list of positive numbers")
    tensors = _read_tensors(source / WEIGHTS)
    scale = tensors.pop("logit_scale", None)
    if scale is None or scale.numel() != 1:
        raise GeoClipFilesError(f"{source / WEIGHTS} lacks the number logit_scale")
    image = _section(tensors, "image_encoder.mlp.")
    location = _section(tensors, "location_encoder.")
    if tensors:
        raise GeoClipFilesError(f"{source / WEIGHTS} holds the unknown weights {min(tensors)}")
    return GeoClipRelease(
        folder=source,
        location_encoder=_location_encoder(location, sigmas, source / WEIGHTS),
        image_mlp=_image_mlp(image, source / WEIGHTS),
        logit_scale=float(scale),
        coordinates=read_gallery_csv(source / _gallery_name(config, source)),
    )


def read_image_mlp(folder: str | Path) -> nn.Sequential:
    """The image side of a release alone, without its location encoder and gallery."""
    source = Path(folder)
    read_config(source)
    tensors = _read_tensors(source / WEIGHTS, prefix="image_encoder.mlp.")
    return _image_mlp(_section(tensors, "image_encoder.mlp."), source / WEIGHTS)


def is_release(folder: Path) -> bool:
    """Whether a folder says of itself that it is a GeoCLIP release."""
    try:
        read_config(folder)
    except GeoClipFilesError:
        return False
    return True


def read_config(folder: Path) -> dict[str, Any]:
    """The checked `config.json` of a release."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GeoClipFilesError(f"there is no {path}") from error
    except (OSError, ValueError) as error:
        raise GeoClipFilesError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise GeoClipFilesError(f"{path} does not describe a GeoCLIP release ({MODEL_TYPE})")
    if config.get("format_version") != FORMAT_VERSION:
        raise GeoClipFilesError(
            f"{path} has format version {config.get('format_version')!r}; "
            f"this program reads {FORMAT_VERSION}"
        )
    return config


def release_config(sigmas: tuple[float, ...] = DEFAULT_SIGMAS) -> dict[str, Any]:
    """The `config.json` of the published model."""
    return {
        "model_type": MODEL_TYPE,
        "format_version": FORMAT_VERSION,
        "sigma": list(sigmas),
        "gallery_file": GALLERY,
        "backbone": {"repo_id": CLIP_REPOSITORY, "revision": "main"},
    }


def read_gallery_csv(path: Path) -> NDArray[np.float64]:
    """Coordinates (n, 2) from a CSV with the columns LAT and LON.

    Raises:
        GeoClipFilesError: naming the first line that is no place on Earth.
    """
    try:
        table = pd.read_csv(path, usecols=["LAT", "LON"])
        values = table[["LAT", "LON"]].to_numpy(dtype=np.float64)
    except FileNotFoundError as error:
        raise GeoClipFilesError(f"there is no gallery {path}") from error
    except (OSError, ValueError) as error:
        raise GeoClipFilesError(f"{path} needs number columns LAT and LON: {error}") from error
    if not len(values):
        raise GeoClipFilesError(f"{path} holds no places")
    wrong = ~(np.isfinite(values).all(axis=1) & (np.abs(values) <= (90, 180)).all(axis=1))
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0])
        raise GeoClipFilesError(f"{path}, line {line + 2}: {values[line].tolist()} is no place")
    return values


def _gallery_name(config: Mapping[str, Any], source: Path) -> str:
    name = config.get("gallery_file")
    if not isinstance(name, str) or not name.endswith(".csv") or Path(name).name != name:
        raise GeoClipFilesError(f"{source / CONFIG}: gallery_file must name a CSV of that folder")
    return name


def _read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as stored:
            names = [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118
            tensors = {name: stored.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise GeoClipFilesError(f"there is no {path}") from error
    except (OSError, SafetensorError) as error:
        raise GeoClipFilesError(f"{path} cannot be read as safetensors: {error}") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise GeoClipFilesError(f"{path}: {name} must hold finite numbers")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors under a prefix out of the mapping, without the prefix."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _image_mlp(weights: dict[str, Tensor], path: Path) -> nn.Sequential:
    first, last = weights.get("0.weight"), weights.get("2.weight")
    if first is None or last is None or first.ndim != 2 or last.ndim != 2:
        raise GeoClipFilesError(f"{path} lacks the two layers of image_encoder.mlp")
    mlp = nn.Sequential(
        nn.Linear(first.shape[1], first.shape[0]),
        nn.ReLU(),
        nn.Linear(last.shape[1], last.shape[0]),
    )
    return _filled(mlp, weights, path)


def _location_encoder(
    weights: dict[str, Tensor], sigmas: list[float], path: Path
) -> LocationEncoder:
    renamed = {_our_name(name): tensor for name, tensor in weights.items()}
    frequencies = renamed.get("branches.0.0.frequencies")
    hidden, head = renamed.get("branches.0.1.weight"), renamed.get("branches.0.7.weight")
    if frequencies is None or hidden is None or head is None:
        raise GeoClipFilesError(f"{path} lacks the layers of location_encoder")
    encoder = LocationEncoder(
        sigmas, frequencies=len(frequencies), hidden=len(hidden), width=len(head)
    )
    return _filled(encoder, renamed, path)


def _our_name(name: str) -> str:
    """Name of a released weight in our encoder: LocEnc1.capsule.3.bias -> branches.1.3.bias."""
    branch, _, rest = name.partition(".")
    number = branch.removeprefix("LocEnc")
    if rest == "capsule.0.b":
        return f"branches.{number}.0.frequencies"
    if rest.startswith("head.0."):
        return f"branches.{number}.7.{rest.removeprefix('head.0.')}"
    return f"branches.{number}.{rest.removeprefix('capsule.')}"


def _filled(module: nn.Module, weights: dict[str, Tensor], path: Path) -> Any:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise GeoClipFilesError(f"{path} does not fit its own layers: {detail}") from error
    return module.eval().requires_grad_(False)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
