"""GeoCLIP's image side as a backbone: a CLIP vision tower and an MLP to location vectors.

Vivanco Cepeda et al. 2023, section 3.2. The embedding has two blocks: CLIP's projected features,
for heads trained on the embedding, and GeoCLIP's location vector, which is compared with the
gallery.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from geoclip_core.checks import Finite, Width, checked
from geoclip_core.errors import CheckpointError, FileError
from geoclip_core.files import cache_folders, read_json
from geoclip_core.model import tensors as tensor_files
from geoclip_core.model.backbone import Backbone, BackboneConfig, Preprocessing
from geoclip_core.model.transformers_backbone import (
    CLIP_MEAN,
    CLIP_STD,
    check_memory,
    check_model_files,
    empty_network,
    image_config,
    network_config,
    quietly,
)

Module = TypeVar("Module", bound=nn.Module)
GEOCLIP, GEOCLIP_IMAGE = "geoclip", "geoclip-image"
GEOCLIP_IMAGE_CONFIG = BackboneConfig(GEOCLIP_IMAGE, GEOCLIP_IMAGE, framing="crop", projection=True)
"""Config of `--backbone geoclip-image`."""
MODEL_TYPE, FORMAT_VERSION = "geoclip-geolocation", 1
CONFIG, WEIGHTS, IMAGE_TOWER = "config.json", "model.safetensors", "image_tower"
CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
LONGEST_CROP = 8
"""Photos are cropped to this many times their short side before resizing: a strip of 1 × 5,000
pixels would otherwise be enlarged to 224 × 1,120,000."""


class GeoClipFilesError(CheckpointError):
    """A file of GeoCLIP cannot be read; the message names the file and the cause."""


@dataclass(frozen=True)
class ClipPreprocessing(Preprocessing):
    """CLIP's own crop: scale the short side to the view's size, then cut off the long side."""

    def pixels(self, image: Image.Image) -> list[Tensor]:
        """Return one tensor (3, height, width) float32 per view, as CLIP's image processor does."""
        if self.framing != "crop":
            return super().pixels(image)
        picture = image.convert("RGB")
        longest = LONGEST_CROP * min(picture.size)
        picture = _centre_crop(picture, *(min(side, longest) for side in picture.size))
        method = Image.Resampling[self.resample.upper()]
        tensors = []
        for side, _ in self.views:
            short = min(picture.size)
            width, height = (int(side * length / short) for length in picture.size)
            square = _centre_crop(picture.resize((width, height), method), side, side)
            tensors.append(self.normalised(square))
        return tensors


def _centre_crop(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


class GeoClipImage(Backbone):
    """CLIP vision tower with its projection, and GeoCLIP's image MLP.

    Args:
        config: its framing chooses between CLIP's centre crop and squashing the whole frame.
        tower: a transformers `CLIPVisionModelWithProjection`.
        mlp: turns the tower's projected features into location vectors.
        pixels: `mean` and `std` of the tower's preprocessing.

    Raises:
        GeoClipFilesError: the tower's projection does not fit the MLP.
        ValueError: the config asks for other views than the tower's own.
    """

    def __init__(
        self, config: BackboneConfig, tower: nn.Module, mlp: nn.Sequential, pixels: dict[str, Any]
    ) -> None:
        super().__init__(config)
        self._tower_config = network_config(tower)
        hidden, first = mlp.get_parameter("0.weight").shape
        self._mlp_widths = [first, hidden, len(mlp.get_parameter("2.weight"))]
        width, wanted = int(self._tower_config.projection_dim), self._mlp_widths[0]
        if width != wanted:
            raise GeoClipFilesError(
                f"the image tower gives {width} features, but GeoCLIP's MLP reads {wanted}: "
                f"use the tower of {CLIP_REPOSITORY}"
            )
        side = int(self._tower_config.image_size)
        if config.views not in ((), ((side, side),)):
            raise ValueError(
                f"{GEOCLIP_IMAGE} reads {side} × {side} pixels, not the views {config.views}"
            )
        self.tower, self.mlp = tower, mlp
        self.preprocessing = ClipPreprocessing(
            views=((side, side),), framing=config.framing, **pixels
        )
        self.view_block_widths = (width, self._mlp_widths[-1])

    def features(self, pixels: Tensor) -> Tensor:
        """Turn pixels (b, 3, side, side) into features (b, projected width + location width)."""
        projected: Tensor = self.tower(pixel_values=pixels).image_embeds
        return torch.cat([projected, self.mlp(projected)], dim=1)

    def last_block(self) -> list[nn.Module]:
        """Return the tower's last layer and all modules after it."""
        vision: Any = self.tower.vision_model
        after = (vision.post_layernorm, self.tower.get_submodule("visual_projection"), self.mlp)
        return [vision.encoder.layers[-1], *after]

    def architecture(self) -> dict[str, Any]:
        """Describe the network for `build_geoclip_image`."""
        return {
            "tower": self._tower_config.to_dict(),
            "mlp": self._mlp_widths,
            "pixels": {"mean": self.preprocessing.mean, "std": self.preprocessing.std},
        }


@dataclass(frozen=True)
class _ImageMlp:
    """The widths of an MLP in a description."""

    mlp: tuple[Width, Width, Width]


def build_geoclip_image(
    config: BackboneConfig, architecture: dict[str, Any] | None = None
) -> GeoClipImage:
    """Build the image side of the downloaded GeoCLIP, or of a release's folder.

    Args:
        config: `name` is "geoclip-image" or a folder.
        architecture: from `GeoClipImage.architecture`; builds the network with random weights,
            for a checkpoint that contains its own.

    Raises:
        CheckpointError: GeoCLIP or its image tower is not on this computer.
        GeoClipFilesError: a file is damaged.
    """
    if architecture is not None:
        mlp = image_mlp(*checked(_ImageMlp, {"mlp": architecture["mlp"]}, config.name).mlp)
        tower = empty_network(architecture["tower"], projection=True)
        return GeoClipImage(config, tower, mlp, architecture["pixels"])
    folder = geoclip_folder(config.name)
    tower_files = tower_folder(folder)
    prefix = "image_encoder.mlp."
    tensors = read_tensors(folder / WEIGHTS, prefix)
    mlp = filled_image_mlp(
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, folder / WEIGHTS
    )
    return GeoClipImage(config, read_tower(tower_files), mlp, pixel_statistics(tower_files))


def geoclip_folder(name: str | Path = GEOCLIP) -> Path:
    """Return the folder of the downloaded GeoCLIP, or check and return the named one.

    Raises:
        CheckpointError: GeoCLIP is not on this computer, or the folder contains no release.
    """
    if str(name) in (GEOCLIP, GEOCLIP_IMAGE):
        folder = cache_folders().models / GEOCLIP
        if not is_release(folder):
            raise CheckpointError(
                "geoclip is not on this computer: download it once with "
                "`python -m geoclip_core download geoclip` (1.75 GB, MIT licence)"
            )
        return folder
    folder = Path(name).expanduser()
    read_release_config(folder)
    return folder


def tower_folder(folder: Path) -> Path:
    """Find the image tower of a GeoCLIP folder: inside it, or among the downloads.

    Raises:
        CheckpointError: the tower is in neither place, or the folder contains no release.
    """
    content = read_release_config(folder).get("backbone")
    repo_id = content.get("repo_id") if isinstance(content, dict) else None
    repository = repo_id if isinstance(repo_id, str) and repo_id else CLIP_REPOSITORY
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repository):
        raise GeoClipFilesError(f"{folder / CONFIG}: repo_id must be a repository user/name")
    models = cache_folders().models
    places = [
        folder / IMAGE_TOWER,
        models / repository.replace("/", "--"),
        models / GEOCLIP / IMAGE_TOWER,
    ]
    for place in places if repository == CLIP_REPOSITORY else places[:2]:
        if (place / CONFIG).is_file():
            return place
    raise CheckpointError(
        f"the image tower {repository} of {folder} is not on this computer: download it with "
        f"`python -m geoclip_core download {repository}`, or copy it to {places[0]}"
    )


def is_release(folder: Path) -> bool:
    """Return whether a folder's config.json describes a GeoCLIP release."""
    try:
        read_release_config(folder)
    except GeoClipFilesError:
        return False
    return True


def read_release_config(folder: Path) -> dict[str, Any]:
    """Read and check the config.json of a release.

    Raises:
        GeoClipFilesError: the file is missing, damaged, or of another format.
    """
    path = folder / CONFIG
    config = _read_json(path)
    if config.get("model_type") != MODEL_TYPE:
        raise GeoClipFilesError(f"{path} does not describe a GeoCLIP release ({MODEL_TYPE})")
    if config.get("format_version") != FORMAT_VERSION:
        raise GeoClipFilesError(
            f"{path} has format version {config.get('format_version')!r}; "
            f"this version reads {FORMAT_VERSION}"
        )
    return config


@quietly()
def read_tower(folder: Path) -> nn.Module:
    """Read the vision tower of a CLIP folder as transformers writes it, without the text tower.

    Returns:
        `CLIPVisionModelWithProjection` in float32.

    Raises:
        GeoClipFilesError: a file is missing, damaged, or does not fit the others.
    """
    # transformers takes seconds to import
    from transformers import AutoConfig, CLIPVisionModelWithProjection

    try:
        check_model_files(folder)
        config = image_config(AutoConfig.from_pretrained(folder, **_LOCAL))
        check_memory(config.to_dict(), projection=True, folder=folder)
        loaded: Any = CLIPVisionModelWithProjection.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **_LOCAL,
        )
    except Exception as error:  # a crafted config raises errors of any kind
        raise GeoClipFilesError(
            f"the CLIP vision tower in {folder} cannot be read: {str(error).strip()[:400]}"
        ) from error
    tower: nn.Module = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        raise GeoClipFilesError(f"the CLIP vision tower in {folder} lacks the weights {missing[0]}")
    for name, tensor in tower.named_parameters():
        if not torch.isfinite(tensor).all():
            raise GeoClipFilesError(f"{folder}: {name} must contain finite numbers")
    return tower


@dataclass(frozen=True)
class _PixelStatistics:
    """What a preprocessor_config.json says about the normalisation of pixels."""

    image_mean: tuple[Finite, Finite, Finite] = CLIP_MEAN
    image_std: tuple[Finite, Finite, Finite] = CLIP_STD


def pixel_statistics(folder: Path) -> dict[str, tuple[float, ...]]:
    """Read `mean` and `std` of a tower's preprocessing, CLIP's own if the folder has none.

    Raises:
        GeoClipFilesError: they are not three numbers each.
    """
    path = folder / "preprocessor_config.json"
    config = _read_json(path) if path.exists() else {}
    try:
        statistics = checked(_PixelStatistics, config, path)
    except FileError as error:
        raise GeoClipFilesError(str(error)) from error
    return {"mean": statistics.image_mean, "std": statistics.image_std}


def image_mlp(first: int, hidden: int, last: int) -> nn.Sequential:
    """Build the MLP from projected features to location vectors, with random weights."""
    return nn.Sequential(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last))


def filled_image_mlp(weights: dict[str, Tensor], path: Path) -> nn.Sequential:
    """Build the MLP from its weights; `path` is named in errors.

    Raises:
        GeoClipFilesError: weights are missing, or have other shapes.
    """
    first, last = weights.get("0.weight"), weights.get("2.weight")
    if first is None or last is None or first.ndim != 2 or last.ndim != 2:
        raise GeoClipFilesError(f"{path} lacks the two layers of image_encoder.mlp")
    return filled(lambda: image_mlp(first.shape[1], first.shape[0], last.shape[0]), weights, path)


def filled(build: Callable[[], Module], weights: dict[str, Tensor], path: Path) -> Module:
    """Build a frozen module and load its weights; `path` is named in errors.

    Raises:
        GeoClipFilesError: names or shapes do not fit.
    """
    try:
        with torch.device("meta"):  # takes no memory
            build().load_state_dict(weights, assign=True)
        module = build()
        module.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise GeoClipFilesError(f"{path} does not fit its own layers: {detail}") from error
    return module.eval().requires_grad_(False)


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the weights under a prefix in float32.

    Raises:
        GeoClipFilesError: the file is missing or damaged, or has numbers that are not finite.
    """
    try:
        tensors = tensor_files.read_tensors(path, prefix)
    except FileError as error:
        raise GeoClipFilesError(str(error)) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise GeoClipFilesError(f"{path}: {name} must contain finite numbers")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except FileError as error:
        raise GeoClipFilesError(str(error)) from error
    if not isinstance(value, dict):
        raise GeoClipFilesError(f"{path} must contain a JSON object")
    return value
