"""The image side of GeoCLIP as a backbone: a CLIP vision tower, and an MLP to location vectors.

Vivanco Cepeda et al. 2023, section 3.2. The embedding holds both blocks, CLIP's projected features
and GeoCLIP's vector: the second finds places in the gallery, and heads trained on top may read
from the first what the second has dropped.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoclip_core.errors import CheckpointError
from geoclip_core.files import cache_folders
from geoclip_core.geoclip.weights import (
    CLIP_REPOSITORY,
    IMAGE_TOWER,
    ClipPreprocessing,
    GeoClipFilesError,
    empty_tower,
    is_release,
    pixel_statistics,
    read_config,
    read_image_mlp,
    read_tower,
)
from geoclip_core.model.backbone import Backbone, BackboneConfig

NAME = "geoclip-image"
MODEL = "geoclip"
CONFIG = BackboneConfig(name=NAME, kind=NAME, fit="crop", projection=True)
"""What `--backbone geoclip-image` means."""


class ModelNotDownloadedError(CheckpointError):
    """A model is wanted that is not on this computer; the message says how to fetch it."""


class GeoClipImage(Backbone):
    """CLIP vision tower with its projection, and GeoCLIP's image MLP."""

    def __init__(
        self, config: BackboneConfig, tower: nn.Module, mlp: nn.Sequential, pixels: dict[str, Any]
    ) -> None:
        """Put the parts together.

        Args:
            config: its `fit` chooses between CLIP's centre crop and squashing the whole frame.
            tower: a transformers `CLIPVisionModelWithProjection`.
            mlp: from the tower's projected features to location vectors.
            pixels: `mean` and `std` of the tower's preprocessing.
        """
        super().__init__(config)
        width, wanted = tower.config.projection_dim, mlp[0].in_features
        if width != wanted:
            raise GeoClipFilesError(
                f"the image tower gives {width} features, GeoCLIP's image side reads {wanted}: "
                f"it belongs to {CLIP_REPOSITORY}"
            )
        side = tower.config.image_size
        if config.views not in ((), ((side, side),)):
            raise ValueError(f"{NAME} sees {side} × {side} pixels, not the views {config.views}")
        self.tower, self.mlp = tower, mlp
        self.preprocessing = ClipPreprocessing(views=((side, side),), fit=config.fit, **pixels)
        self.view_block_widths = (width, mlp[-1].out_features)

    def features(self, pixels: Tensor) -> Tensor:
        """(b, 3, side, side) -> (b, projected + location width), see the module's text."""
        projected = self.tower(pixel_values=pixels).image_embeds
        return torch.cat([projected, self.mlp(projected)], dim=1)

    def last_block(self) -> list[nn.Module]:
        """The tower's last layer and all that follows it."""
        vision = self.tower.vision_model
        return [
            vision.encoder.layers[-1],
            vision.post_layernorm,
            self.tower.visual_projection,
            self.mlp,
        ]

    def architecture(self) -> dict[str, Any]:
        """What `build_geoclip_image` builds the same network from."""
        return {
            "tower": self.tower.config.to_dict(),
            "mlp": [self.mlp[0].in_features, self.mlp[0].out_features, self.mlp[-1].out_features],
            "pixels": {"mean": self.preprocessing.mean, "std": self.preprocessing.std},
        }


def build_geoclip_image(
    config: BackboneConfig = CONFIG, architecture: dict[str, Any] | None = None
) -> GeoClipImage:
    """The backbone of the downloaded `geoclip`, or of a folder in the layout of its releases.

    Args:
        config: `name` is "geoclip-image" or a folder.
        architecture: what `GeoClipImage.architecture` gave: builds the network with random
            weights, for a checkpoint that brings its own.

    Raises:
        ModelNotDownloadedError: if the model or its image tower is not on this computer.
        GeoClipFilesError: if a file is damaged.
    """
    if architecture:
        first, hidden, last = architecture["mlp"]
        mlp = nn.Sequential(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last))
        return GeoClipImage(config, empty_tower(architecture["tower"]), mlp, architecture["pixels"])
    folder = geoclip_folder(config.name)
    tower = tower_folder(folder)
    return GeoClipImage(config, read_tower(tower), read_image_mlp(folder), pixel_statistics(tower))


def geoclip_folder(name: str | Path = MODEL) -> Path:
    """The folder of a GeoCLIP: the downloaded one, or the one that is named."""
    if str(name) in (NAME, MODEL):
        folder = cache_folders().models / MODEL
        if not is_release(folder):
            raise ModelNotDownloadedError(
                "geoclip is not on this computer: fetch it once with "
                "`python -m geoclip_core download geoclip` (1.75 GB, MIT licence)"
            )
        return folder
    folder = Path(name).expanduser()
    read_config(folder)
    return folder


def tower_folder(folder: Path) -> Path:
    """Where the image tower of a GeoCLIP folder lies: inside it, or among the downloads."""
    backbone = read_config(folder).get("backbone") or {}
    repository = str(backbone.get("repo_id") or CLIP_REPOSITORY)
    models = cache_folders().models
    places = [
        folder / IMAGE_TOWER,
        models / repository.replace("/", "--"),
        models / MODEL / IMAGE_TOWER,
    ]
    for place in places if repository == CLIP_REPOSITORY else places[:2]:
        if (place / "config.json").is_file():
            return place
    raise ModelNotDownloadedError(
        f"the image tower {repository} of {folder} is not on this computer: fetch it with "
        f"`python -m geoclip_core download {repository}`, or put it into {places[0]}"
    )
