"""A CLIP vision tower with its projection, read from a folder in the layout of transformers."""

import hashlib
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
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from geoclip_core.errors import CheckpointError
from geoclip_core.geoclip.gallery import DEFAULT_SIGMAS, LocationEncoder
from geoclip_core.model.backbone import Preprocessing

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


# Statistics of OpenAI's CLIP, for folders without preprocessor_config.json.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_PARTS = ("vision_model.", "visual_projection.")
_LONGEST = 8
"""What lies beyond this many short sides is cut off before resizing: a strip of 1 × 5,000 pixels
would otherwise grow to 224 × 1,120,000."""


class ClipTowerError(CheckpointError):
    """A CLIP folder cannot be read; the message names the file and says what is wrong."""


@dataclass(frozen=True)
class ClipPreprocessing(Preprocessing):
    """CLIP's own crop: the short side to the view's size, whole pixels cut off the long side."""

    def pixels(self, image: Image.Image) -> list[Tensor]:
        """Tensors (3, height, width) float32, one a view, as CLIP's image processor makes them."""
        if self.fit != "crop":
            return super().pixels(image)
        picture = image.convert("RGB")
        method = Image.Resampling[self.resample.upper()]
        tensors = []
        for side, _ in self.views:
            short = min(picture.size)
            picture = _without_ends(picture, _LONGEST * short)
            width, height = (int(side * length / short) for length in picture.size)
            left, top = (width - side) // 2, (height - side) // 2
            square = picture.resize((width, height), method).crop(
                (left, top, left + side, top + side)
            )
            values = np.asarray(square, dtype=np.float32) / np.float32(255)
            values = (values - np.float32(self.mean)) / np.float32(self.std)
            tensors.append(torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))))
        return tensors


def read_tower(folder: Path) -> nn.Module:
    """The vision tower of a CLIP folder in the layout of transformers; the text tower is not read.

    Raises:
        ClipTowerError: if a file is missing, damaged, or does not fit the others.
    """
    weights = _read_weights(folder)
    vision = _vision_config(folder, weights)
    tower = empty_tower(vision, device="meta")
    try:
        # The tensors themselves become the weights: no second copy of 1.2 GB.
        tower.load_state_dict({k: t.float() for k, t in weights.items()}, assign=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:400]
        raise ClipTowerError(f"{folder}: weights and config.json disagree: {detail}") from error
    return tower.eval()


def extract_tower(source: Path, target: Path) -> None:
    """Write the vision tower of a whole CLIP into a folder of its own.

    Raises:
        ClipTowerError: if the source holds no tower, or cannot be read.
    """
    weights = _read_weights(source)
    vision = _vision_config(source, weights)
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "clip_vision_model", **vision}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    statistics = pixel_statistics(source)
    preprocessor = {"image_mean": statistics["mean"], "image_std": statistics["std"]}
    text = json.dumps(preprocessor, indent=2) + "\n"
    (target / "preprocessor_config.json").write_text(text, encoding="utf-8")


def _read_weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118
                    if name.startswith(_PARTS):
                        weights[name] = stored.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ClipTowerError(f"{path} cannot be read as safetensors: {error}") from error
    # Older checkpoints keep the row numbers 0, 1, 2 ... as a weight.
    weights.pop("vision_model.embeddings.position_ids", None)
    if "visual_projection.weight" not in weights:
        raise ClipTowerError(f"{folder} holds no CLIP vision tower with a projection")
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise ClipTowerError(f"{folder}: {name} must hold finite numbers")
    return weights


def _vision_config(folder: Path, weights: dict[str, Tensor]) -> dict[str, Any]:
    config = _read_json(folder / "config.json")
    vision = config.get("vision_config", config)
    if not isinstance(vision, dict):
        raise ClipTowerError(f"{folder / 'config.json'}: vision_config must be an object")
    # Some configurations tell another width than the weights have.
    return {**vision, "projection_dim": len(weights["visual_projection.weight"])}


def tower_digest(folder: Path) -> str:
    """Digits that tell one tower's weights from another's, without reading all of them.

    Biases, norms and the projection are read, 10 MB of the 1.2 GB of ViT-L/14: no training leaves
    them as they were.
    """
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as stored:
                for name in sorted(stored.keys()):
                    if not name.startswith(_PARTS):
                        continue
                    if math.prod(stored.get_slice(name).get_shape()) <= 1_000_000:
                        values = stored.get_tensor(name).float().contiguous().numpy()
                        digest.update(name.encode() + values.tobytes())
        except (OSError, SafetensorError) as error:
            raise ClipTowerError(f"{path} cannot be read as safetensors: {error}") from error
    return digest.hexdigest()


def empty_tower(config: dict[str, Any], device: str = "cpu") -> nn.Module:
    """A tower with random weights (or, on the device "meta", none) from its `vision_config`."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    known = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version")}
    try:
        with torch.device(device):
            tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**known))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ClipTowerError(f"this describes no CLIP vision tower: {error}") from error
    if device == "meta":
        # Row numbers are no weight, so no file brings them.
        embeddings = tower.vision_model.embeddings
        count = embeddings.position_embedding.num_embeddings
        embeddings.register_buffer("position_ids", torch.arange(count)[None], persistent=False)
    return tower.eval()


def _without_ends(picture: Image.Image, longest: int) -> Image.Image:
    (width, height), (kept_x, kept_y) = picture.size, (min(s, longest) for s in picture.size)
    if (kept_x, kept_y) == (width, height):
        return picture
    left, top = (width - kept_x) // 2, (height - kept_y) // 2
    return picture.crop((left, top, left + kept_x, top + kept_y))


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    names = set(_read_json(index).get("weight_map", {}).values())
    if any(Path(str(name)).name != name for name in names):
        raise ClipTowerError(f"{index} names files outside its folder")
    return [folder / name for name in sorted(names)]


def pixel_statistics(folder: Path) -> dict[str, Any]:
    """`mean` and `std` of a tower's preprocessing, from its folder or as CLIP has them."""
    path = folder / "preprocessor_config.json"
    config = _read_json(path) if path.is_file() else {}
    return {
        "mean": tuple(config.get("image_mean", _MEAN)),
        "std": tuple(config.get("image_std", _STD)),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClipTowerError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ClipTowerError(f"{path} must hold a JSON object")
    return value
