"""The registry of backbones: builds a `Backbone` from a name, a hub id or a folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from geoclip_core.errors import BackboneError, FileError, first_line
from geoclip_core.files import read_json
from geoclip_core.model.backbone import Backbone, BackboneConfig
from geoclip_core.model.efficientnet_lite import EfficientNetLite
from geoclip_core.model.geoclip_image import (
    GEOCLIP_IMAGE,
    GEOCLIP_IMAGE_CONFIG,
    MODEL_TYPE,
    WEIGHTS,
    build_geoclip_image,
)
from geoclip_core.model.image_text import (
    IMAGE_TEXT_FORMAT,
    ImageTextBackbone,
    ImageTextModel,
    image_tower_description,
    inner_config,
)
from geoclip_core.model.tensors import below, check_shapes, read_shapes
from geoclip_core.model.transformers_backbone import TransformersBackbone

BUNDLED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
SUGGESTED = (
    "efficientnet-lite2",  # bundled, needs no download
    "openai/clip-vit-base-patch32",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-large-patch14",
    "geolocal/StreetCLIP",  # CLIP large, pretrained on street photos
    "microsoft/resnet-50",
    "google/efficientnet-b3",
    "facebook/convnext-tiny-224",
    "google/vit-base-patch16-224",
    "microsoft/swin-tiny-patch4-window7-224",
    "facebook/dinov2-base",
)
"""Names to suggest to a user; other hub ids and folders of a supported family work as well."""


def backbone_config(name: str | Path, **changes: Any) -> BackboneConfig:
    """Return the config of a backbone by its name.

    Args:
        name: a bundled name, "geoclip-image", a hub id, or the folder of a transformers model, a
            GeoCLIP release, a pretraining run or its checkpoint.
        changes: fields of `BackboneConfig` to set (views, framing, depths, ...).

    Raises:
        BackboneError: the name is none of these, or the folder contains no image model.
    """
    text = str(name).strip()
    if text in BUNDLED:
        config = BackboneConfig(text, "efficientnet-lite")
    elif text == GEOCLIP_IMAGE:
        config = GEOCLIP_IMAGE_CONFIG
    elif folder := model_folder(text):
        described = _described(folder)
        if described.get("model_type") == MODEL_TYPE:
            config = BackboneConfig(str(folder), GEOCLIP_IMAGE, framing="crop")
        elif described.get("format") == IMAGE_TEXT_FORMAT:
            config = BackboneConfig(str(folder), "image-text")
        elif "model_type" in described:
            config = BackboneConfig(str(folder), "transformers")
        else:
            raise BackboneError(
                f"{folder} contains no image backbone: give the folder of a transformers model or "
                "of a finished pretraining run"
            )
    elif _looks_like_hub_id(text):
        config = BackboneConfig(text, "transformers")
    else:
        raise BackboneError(
            f"no backbone {text!r}: it is not a folder, not a hub id (owner/name), and not one of "
            f"the bundled {', '.join(BUNDLED)}"
        )
    return replace(config, **changes)


def build_backbone(
    config: BackboneConfig | str | Path,
    device: str | torch.device = "cpu",
    architecture: dict[str, Any] | None = None,
    local: bool = False,
) -> Backbone:
    """Build a backbone with its pretrained weights, in evaluation mode.

    Args:
        config: a config, or a name for `backbone_config`.
        device: device of the weights.
        architecture: from `Backbone.architecture`; builds the network with random weights, for a
            checkpoint that contains its own. It may come from a stranger.
        local: never use the network, as for a config from a checkpoint.

    Raises:
        BackboneError: the backbone cannot be built, or lacks the depths or views of the config; the
            message says what to do.
    """
    if not isinstance(config, BackboneConfig):
        config = backbone_config(config)
    if config.kind not in _BUILDERS:
        kinds = ", ".join(_BUILDERS)
        raise BackboneError(f"unknown kind of backbone {config.kind!r}; use one of {kinds}")
    try:
        backbone = _BUILDERS[config.kind](config, architecture, local)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if architecture is None:
            raise
        reason = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise BackboneError(f"the architecture of {config.name} {reason}") from error
    return backbone.to(device).eval()


def load_image_text(folder: Path) -> ImageTextModel:
    """Read both towers that a pretraining saved, in evaluation mode.

    Raises:
        BackboneError: a file is missing or damaged; the message names it.
    """
    description = image_tower_description(folder)
    backbone = build_backbone(
        BackboneConfig.from_dict(description["backbone"]), architecture=description["architecture"]
    )
    return ImageTextModel.load(folder, backbone)


def model_folder(name: str | Path) -> Path | None:
    """Return the folder that contains config.json: the path itself or its subfolder checkpoint."""
    path = Path(name).expanduser()
    for folder in (path, path / "checkpoint"):
        if (folder / "config.json").is_file():
            return folder
    return None


def _efficientnet(
    config: BackboneConfig, architecture: dict[str, Any] | None, local: bool
) -> Backbone:
    return EfficientNetLite(config, pretrained=architecture is None)


def _geoclip_image(
    config: BackboneConfig, architecture: dict[str, Any] | None, local: bool
) -> Backbone:
    return build_geoclip_image(config, architecture)


def _image_text(
    config: BackboneConfig, architecture: dict[str, Any] | None, local: bool
) -> Backbone:
    folder = Path(config.name)
    description = image_tower_description(folder) if architecture is None else architecture
    inner_architecture = description["architecture"]
    if not isinstance(inner_architecture, dict):
        raise BackboneError(f"{config.name} does not describe its image tower")
    inner_description = inner_config(config, description)
    if architecture is None:
        with torch.device("meta"):  # takes no memory
            empty = build_backbone(inner_description, "meta", inner_architecture, local=True)
        try:
            shapes = below(read_shapes(folder / WEIGHTS), "backbone.")
            check_shapes(empty, shapes, folder / WEIGHTS)
        except FileError as error:
            raise BackboneError(str(error)) from error
    device = torch.get_default_device()  # "meta" where a checkpoint's shapes are checked first
    inner = build_backbone(inner_description, device, inner_architecture, local=True)
    backbone = ImageTextBackbone(config, inner, description)
    if architecture is None:
        backbone.read_weights(folder)
    return backbone


_BUILDERS: dict[str, Callable[[BackboneConfig, dict[str, Any] | None, bool], Backbone]] = {
    "efficientnet-lite": _efficientnet,
    "transformers": TransformersBackbone,
    "image-text": _image_text,
    GEOCLIP_IMAGE: _geoclip_image,
}


def _described(folder: Path) -> dict[str, Any]:
    try:
        value = read_json(folder / "config.json")
    except FileError:
        return {}
    return value if isinstance(value, dict) else {}


def _looks_like_hub_id(text: str) -> bool:
    owner, slash, name = text.partition("/")
    allowed = all(part and not part.startswith((".", "~")) for part in (owner, name))
    return bool(slash) and allowed and "/" not in name
