"""Reading image networks of the transformers library, with or without their weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from geoclip_core.cache_folders import downloaded_folder, is_offline
from geoclip_core.model.backbone import BackboneConfig

CLASS_TOKENS = {"clip_vision_model": 1, "vit": 1, "deit": 2, "dinov2": 1, "beit": 1}
"""Tokens before the patches, by model type."""
RANDOM_POOLER = ("vit", "deit")
"""Types whose classifiers are published without the weights of their pooler."""

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESAMPLE = {0: "bilinear", 1: "bicubic", 2: "bilinear", 3: "bicubic"}  # codes of PIL


class BackboneError(ValueError):
    """A backbone that cannot be built; the message says which and what to do."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' loading bars and its list of the text tower's unused weights."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def preprocessing_facts(settings: dict[str, Any], network_config: Any) -> dict[str, Any]:
    """Input size, normalisation and resampling from a preprocessor_config.json ({} if none).

    Returns:
        size (height, width), mean, std (on the 0-1 scale), resample.
    """
    vision = getattr(network_config, "vision_config", network_config)
    clip_like = "clip" in str(network_config.model_type)
    size = settings.get("crop_size") if settings.get("do_center_crop") else None
    size = size or settings.get("size") or getattr(vision, "image_size", None) or 224
    if isinstance(size, dict):
        side = size.get("shortest_edge") or size.get("longest_edge") or 224
        size = (size.get("height") or side, size.get("width") or side)
    size = (size, size) if isinstance(size, int) else tuple(size)
    mean = settings.get("image_mean") or (_CLIP_MEAN if clip_like else _IMAGENET_MEAN)
    std = settings.get("image_std") or (_CLIP_STD if clip_like else _IMAGENET_STD)
    if settings.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if settings.get("include_top") and "efficientnet" in str(network_config.model_type):
        # EfficientNet's processor divides by the deviation a second time for classifiers
        std = [float(value) ** 2 for value in std]
    scale = 255 * float(settings.get("rescale_factor") or 1 / 255)
    if settings.get("do_rescale") is False:
        scale = 255.0
    return {
        "size": [int(size[0]), int(size[1])],
        "mean": [float(value) / scale for value in mean],
        "std": [float(value) / scale for value in std],
        "resample": _RESAMPLE.get(settings.get("resample", 3), "bicubic"),
    }


def source_of(name: str, revision: str | None = None) -> tuple[str, dict[str, Any]]:
    """What to give `from_pretrained`: a downloaded model's folder before the hub, and how to ask.

    Returns:
        folder or hub id, and keyword arguments.
    """
    folder = None if revision else downloaded_folder(name)
    # Said aloud: left open, transformers asks on a terminal whether a repository's code may run.
    where: dict[str, Any] = {"trust_remote_code": False}
    if revision:
        where["revision"] = revision
    if is_offline():
        where["local_files_only"] = True
    return str(folder or name), where


@quietly()
def model_type(config: BackboneConfig) -> str:
    """What transformers calls the model of a hub id or folder ("clip", "resnet", ...).

    Raises:
        BackboneError: it cannot be found.
    """
    from transformers import AutoConfig

    source, where = source_of(config.name, config.revision)
    try:
        return str(AutoConfig.from_pretrained(source, **where).model_type)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(config, error) from error


@quietly()
def pretrained_network(
    config: BackboneConfig,
) -> tuple[dict[str, Any], dict[str, Any], nn.Module]:
    """Read an image network from the hub or a folder.

    Returns:
        its config, `preprocessing_facts`, and the network in float32.

    Raises:
        BackboneError: it cannot be found, is not an image model, or lacks weights.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    source, where = source_of(config.name, config.revision)
    try:
        whole = AutoConfig.from_pretrained(source, **where)
        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(source, **where)
        except OSError:
            settings = {}
        vision = _vision_config(whole)
        kind = _tower_class(vision, config.projection) or AutoModel
        network, loading = kind.from_pretrained(
            source, config=vision, output_loading_info=True, dtype=torch.float32, **where
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _cannot_load(config, error) from error
    missing = [key for key in loading["missing_keys"] if not _is_random_pooler(key, vision)]
    if missing:
        raise BackboneError(
            f"{config.name} lacks {len(missing)} weights of a {vision.model_type}, for example "
            f"{sorted(missing)[0]}: it is not a complete image model"
        )
    return vision.to_dict(), preprocessing_facts(settings, whole), network


@quietly()
def empty_network(description: dict[str, Any], projection: bool) -> nn.Module:
    """The network of a config, with random weights."""
    from transformers import AutoConfig, AutoModel

    values = dict(description)
    try:
        vision = AutoConfig.for_model(values.pop("model_type"), **values)
    except (KeyError, ValueError, TypeError) as error:
        raise BackboneError(f"the checkpoint's backbone cannot be built: {error}") from error
    kind = _tower_class(vision, projection)
    return kind(vision) if kind else AutoModel.from_config(vision)


def _cannot_load(config: BackboneConfig, error: Exception) -> BackboneError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return BackboneError(
        f"backbone {config.name!r} cannot be loaded: {reason[0]} Without internet use "
        "efficientnet-lite2, which is bundled, or the folder of a downloaded model"
    )


def _vision_config(whole: Any) -> Any:
    """The config of the image tower, where there is a text tower beside it."""
    vision = getattr(whole, "vision_config", None)
    if vision is None:
        if not any(hasattr(whole, name) for name in ("image_size", "num_channels")):
            raise ValueError(f"{whole.model_type} is not an image model.")
        return whole
    if _tower_class(vision, False) is None:
        raise ValueError(f"the image tower of a {whole.model_type} is not supported.")
    if getattr(whole, "projection_dim", None):
        vision.projection_dim = whole.projection_dim
    return vision


def _tower_class(vision: Any, projection: bool) -> type[nn.Module] | None:
    import transformers

    if vision.model_type == "clip_vision_model":
        name = "CLIPVisionModelWithProjection" if projection else "CLIPVisionModel"
        return getattr(transformers, name)
    if projection:
        raise BackboneError(f"only CLIP towers have a projection, a {vision.model_type} has none")
    return transformers.SiglipVisionModel if vision.model_type == "siglip_vision_model" else None


def _is_random_pooler(key: str, vision: Any) -> bool:
    return key.startswith("pooler.") and vision.model_type in RANDOM_POOLER
