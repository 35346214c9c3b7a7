"""Read GeoCLIP's files: the release, its gallery, and the image tower."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Len
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from geoclip_core.checks import Positive, checked
from geoclip_core.errors import FileError
from geoclip_core.files import open_file
from geoclip_core.geoclip.gallery import DEFAULT_SIGMAS, LocationEncoder
from geoclip_core.model.geoclip_image import (
    CLIP_REPOSITORY,
    CONFIG,
    FORMAT_VERSION,
    MODEL_TYPE,
    WEIGHTS,
    GeoClipFilesError,
    filled,
    filled_image_mlp,
    pixel_statistics,
    read_release_config,
    read_tensors,
    read_tower,
)
from geoclip_core.model.transformers_backbone import check_model_files, quietly

GALLERY = "coordinates_100K.csv"
MAX_GALLERY_BYTES = 50_000_000
MAX_GALLERY_WORK = 4e12
"""Places × weights of the location encoder; the published model has 0.9e12 and takes half a minute
to encode them."""
MAX_LOGIT_SCALE = 20.0
"""Largest absolute value of the logarithm; the published one is 4.6."""
_TOWER_PARTS = ("vision_model.", "visual_projection.")


@dataclass(frozen=True)
class GeoClipRelease:
    """The parts of a release, without the image tower."""

    folder: Path
    location_encoder: LocationEncoder
    image_mlp: nn.Sequential
    """Turns projected features of the image tower into location vectors."""
    logit_scale: float
    """Natural logarithm of the factor on the cosines."""
    coordinates: NDArray[np.float64]
    """(n, 2) places of the gallery, in degrees."""


def read_release(folder: str | Path) -> GeoClipRelease:
    """Read the folder of a release, in evaluation mode.

    Raises:
        GeoClipFilesError: a file is missing, damaged, or does not fit the others.
    """
    source = Path(folder)
    config = read_release_config(source)
    try:
        sigmas = list(checked(_Sigmas, config, source / CONFIG).sigma)
    except FileError as error:
        raise GeoClipFilesError(str(error)) from error
    tensors = read_tensors(source / WEIGHTS)
    scale = tensors.pop("logit_scale", None)
    if scale is None or scale.numel() != 1:
        raise GeoClipFilesError(f"{source / WEIGHTS} lacks the number logit_scale")
    image = _section(tensors, "image_encoder.mlp.")
    location = _section(tensors, "location_encoder.")
    if tensors:
        raise GeoClipFilesError(f"{source / WEIGHTS} contains unknown weights {min(tensors)}")
    if not abs(float(scale)) <= MAX_LOGIT_SCALE:
        raise GeoClipFilesError(f"{source / WEIGHTS}: logit_scale is out of range: {float(scale)}")
    encoder = _location_encoder(location, sigmas, source / WEIGHTS)
    coordinates = read_gallery_csv(source / _gallery_name(config, source))
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    if weights * len(coordinates) > MAX_GALLERY_WORK:
        raise GeoClipFilesError(
            f"{source}: to encode {len(coordinates):,} places with {weights:,} weights takes too "
            "long"
        )
    return GeoClipRelease(
        folder=source,
        location_encoder=encoder,
        image_mlp=filled_image_mlp(image, source / WEIGHTS),
        logit_scale=float(scale),
        coordinates=coordinates,
    )


@dataclass(frozen=True)
class _Sigmas:
    """The standard deviations of the frequencies in a release's config."""

    sigma: Annotated[tuple[Positive, ...], Len(1, 16)] = DEFAULT_SIGMAS


def release_config() -> dict[str, Any]:
    """Return the content of the published model's config.json."""
    return {
        "model_type": MODEL_TYPE,
        "format_version": FORMAT_VERSION,
        "sigma": list(DEFAULT_SIGMAS),
        "gallery_file": GALLERY,
        "backbone": {"repo_id": CLIP_REPOSITORY, "revision": "main"},
    }


def read_gallery_csv(path: Path) -> NDArray[np.float64]:
    """Read coordinates (n, 2) in degrees from a CSV with the columns LAT and LON.

    Raises:
        GeoClipFilesError: the file cannot be read, or a line is invalid; the line is named.
    """
    import pandas as pd  # takes a second, which other models need not wait

    try:
        with open_file(path, MAX_GALLERY_BYTES) as stream:
            table = pd.read_csv(stream, usecols=["LAT", "LON"])
        values = table[["LAT", "LON"]].to_numpy(dtype=np.float64)
    except FileError as error:
        raise GeoClipFilesError(str(error)) from error
    except (OSError, ValueError, OverflowError, pd.errors.ParserError) as error:
        raise GeoClipFilesError(f"{path} needs numeric columns LAT and LON: {error}") from error
    if not len(values):
        raise GeoClipFilesError(f"{path} contains no places")
    wrong = ~(np.isfinite(values).all(axis=1) & (np.abs(values) <= (90, 180)).all(axis=1))
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0])
        raise GeoClipFilesError(f"{path}, line {line + 2}: {values[line].tolist()} is invalid")
    return values


def _gallery_name(config: Mapping[str, Any], source: Path) -> str:
    name = config.get("gallery_file")
    if not isinstance(name, str) or not name.endswith(".csv") or Path(name).name != name:
        raise GeoClipFilesError(f"{source / CONFIG}: gallery_file must name a CSV in that folder")
    return name


def _section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the tensors under a prefix from the mapping, and return them without the prefix."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _location_encoder(
    weights: dict[str, Tensor], sigmas: list[float], path: Path
) -> LocationEncoder:
    renamed = {_our_name(name): tensor for name, tensor in weights.items()}
    frequencies = renamed.get("branches.0.0.frequencies")
    hidden, head = renamed.get("branches.0.1.weight"), renamed.get("branches.0.7.weight")
    if frequencies is None or hidden is None or head is None:
        raise GeoClipFilesError(f"{path} lacks the layers of location_encoder")
    if hidden.ndim != 2 or head.ndim != 2 or frequencies.ndim != 2:
        raise GeoClipFilesError(f"{path} has layers of location_encoder of other shapes")
    sizes = {"frequencies": len(frequencies), "hidden": len(hidden), "width": len(head)}
    return filled(lambda: LocationEncoder(sigmas, **sizes), renamed, path)


def _our_name(name: str) -> str:
    """Translate the name of a published weight: LocEnc1.capsule.3.bias -> branches.1.3.bias."""
    branch, _, rest = name.partition(".")
    number = branch.removeprefix("LocEnc")
    if rest == "capsule.0.b":
        return f"branches.{number}.0.frequencies"
    if rest.startswith("head.0."):
        return f"branches.{number}.7.{rest.removeprefix('head.0.')}"
    return f"branches.{number}.{rest.removeprefix('capsule.')}"


@quietly()
def extract_tower(source: Path, target: Path) -> None:
    """Read the vision tower of a whole CLIP in `source` and write it to the folder `target`.

    Raises:
        GeoClipFilesError: the tower cannot be read.
    """
    tower: Any = read_tower(source)
    tower.save_pretrained(target)
    statistics = pixel_statistics(source)
    preprocessor = {"image_mean": statistics["mean"], "image_std": statistics["std"]}
    text = json.dumps(preprocessor, indent=2) + "\n"
    (target / "preprocessor_config.json").write_text(text, encoding="utf-8")


def tower_digest(folder: Path) -> str:
    """Return hexadecimal digits that identify a tower's weights, without reading all of them.

    Only tensors of up to a million numbers (biases, norms, the projection) are read, 10 MB of the
    1.2 GB of ViT-L/14: any training changes them.

    Raises:
        GeoClipFilesError: a file is missing or damaged.
    """
    digest = hashlib.sha256()
    try:
        check_model_files(folder)
    except FileError as error:
        raise GeoClipFilesError(str(error)) from error
    single = folder / WEIGHTS
    parts = [] if single.is_file() else sorted(folder.glob("model-*.safetensors"))
    for path in parts or [single]:
        try:
            with safe_open(path, framework="pt") as stored:
                for name in sorted(stored.keys()):
                    if not name.startswith(_TOWER_PARTS):
                        continue
                    if math.prod(stored.get_slice(name).get_shape()) <= 1_000_000:
                        values = stored.get_tensor(name).float().contiguous().numpy()
                        digest.update(name.encode() + values.tobytes())
        except (OSError, SafetensorError) as error:
            raise GeoClipFilesError(f"{path} cannot be read as safetensors: {error}") from error
    return digest.hexdigest()
