"""Backbones from the transformers library: CLIP and SigLIP vision towers, and image classifiers.

A hub id or a local folder names one: CLIP, SigLIP, ResNet, EfficientNet, ConvNeXt, ViT, DeiT, Swin,
DINOv2, or any other image model that `AutoModel` can load.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from geoclip_core.checks import shown
from geoclip_core.errors import BackboneError, first_line
from geoclip_core.files import MAX_TEXT, check_file, downloaded_folder, is_offline, readable
from geoclip_core.model.backbone import Backbone, BackboneConfig, Preprocessing
from geoclip_core.model.tensors import MAX_WEIGHTS

CLASS_TOKENS = {"clip_vision_model": 1, "vit": 1, "deit": 2, "dinov2": 1, "beit": 1}
"""Tokens before the patches, by model type."""
RANDOM_POOLER = ("vit", "deit")
"""Types whose classifiers are published without the pooler's weights."""
INTERPOLATES = ("clip_vision_model", "siglip_vision_model", "vit", "deit")
"""Types that accept photos of other sizes only if told to interpolate their position embedding."""
LAST_NORMS = ("post_layernorm", "layernorm", "norm", "head", "visual_projection")
"""Names of modules after the last layer."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESAMPLE = {0: "bilinear", 1: "bicubic", 2: "bilinear", 3: "bicubic"}  # codes of PIL

MAX_NUMBER = 1_000_000
"""Largest number in the description of a network."""
MAX_BLOCKS = 256
"""Blocks of a network. The largest published image towers have up to 56."""
MAX_WIDENING = 4.0
"""Largest factor on the number of blocks; EfficientNet-B7 has 3.1."""
MAX_OPERATIONS = 5e12
"""Floating point operations a photo. DINOv2 giant at 518 × 518 pixels takes 3.2e12."""
MAX_ACTIVATION = 2**28
"""Numbers in the largest tensor of a forward pass: 1 GB in float32."""
_COUNTS_BLOCKS = re.compile(r"layer|depth(?!wise)|stage|block|repeat|group", re.IGNORECASE)
_NAMES_A_NETWORK = re.compile(r"backbone|timm|auto_map|pretrained|quantization", re.IGNORECASE)
"""Fields with which a config makes transformers load another network, or code."""

# transformers takes seconds to import, so it is imported inside the functions that need it


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence transformers' loading bars and its list of weights that a model does not use."""
    from transformers.utils import logging

    functions: Any = logging  # untyped
    verbosity, bars = functions.get_verbosity(), functions.is_progress_bar_enabled()
    functions.set_verbosity_error()
    functions.disable_progress_bar()
    try:
        yield
    finally:
        functions.set_verbosity(verbosity)
        if bars:
            functions.enable_progress_bar()


def preprocessing_facts(settings: dict[str, Any], network_config: Any) -> dict[str, Any]:
    """Read input size, normalisation and resampling from a preprocessor_config.json.

    Args:
        settings: content of the file; {} if there is none.
        network_config: config of the network, for values that the settings omit.

    Returns:
        "size" (height, width), "mean" and "std" (on the 0-1 scale), "resample".
    """
    vision = getattr(network_config, "vision_config", network_config)
    clip_like = "clip" in str(network_config.model_type)
    size = settings.get("crop_size") if settings.get("do_center_crop") else None
    size = size or settings.get("size") or getattr(vision, "image_size", None) or 224
    if isinstance(size, dict):
        side = size.get("shortest_edge") or size.get("longest_edge") or 224
        size = (size.get("height") or side, size.get("width") or side)
    size = (size, size) if isinstance(size, int) else tuple(size)
    mean = settings.get("image_mean") or (CLIP_MEAN if clip_like else _IMAGENET_MEAN)
    std = settings.get("image_std") or (CLIP_STD if clip_like else _IMAGENET_STD)
    if settings.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if settings.get("include_top") and "efficientnet" in str(network_config.model_type):
        # for classifiers, EfficientNet's processor divides by the deviation twice
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


def preprocessing_from(config: BackboneConfig, facts: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing of a backbone, given `preprocessing_facts`."""
    views = config.views or (facts["size"],)
    return Preprocessing(
        views, config.framing, facts["mean"], facts["std"], resample=facts["resample"]
    )


def source_of(
    name: str, revision: str | None = None, local: bool = False
) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained`; a downloaded model is preferred to the hub.

    Args:
        name: folder or hub id.
        revision: of the hub id.
        local: never use the network, as for a name that stands in a checkpoint.

    Returns:
        Folder or hub id, and keyword arguments.

    Raises:
        FileError: a file of the folder is a device or a pipe, or too large.
    """
    folder = None if revision else downloaded_folder(name)
    path = folder or Path(name).expanduser()
    # By default, transformers asks on the terminal whether a repository's code may run.
    where: dict[str, Any] = {"trust_remote_code": False}
    if revision:
        where["revision"] = revision
    if path.is_dir():
        check_model_files(path)
    if local or is_offline() or path.is_dir():
        where["local_files_only"] = True
    return str(folder or name), where


def check_model_files(folder: Path) -> int:
    """Check the files of a model's folder that transformers opens; return the bytes of its weights.

    Raises:
        FileError: a file is a device or a pipe, or too large.
    """
    total = 0
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            total += check_file(path, MAX_WEIGHTS)
        elif path.suffix in (".json", ".txt", ".model"):
            check_file(path, 4 * MAX_TEXT)
    return total


@quietly()
def model_type(config: BackboneConfig) -> str:
    """Return the transformers type ("clip", "resnet", ...) of the model in a hub id or folder.

    Raises:
        BackboneError: the model cannot be found.
    """
    from transformers import AutoConfig

    try:
        source, where = source_of(config.name, config.revision)
        return str(AutoConfig.from_pretrained(source, **where).model_type)
    except Exception as error:  # a crafted config raises errors of any kind
        raise _cannot_load(config, error) from error


@quietly()
def pretrained_network(
    config: BackboneConfig, local: bool = False
) -> tuple[dict[str, Any], dict[str, Any], nn.Module]:
    """Read an image network from the hub or a folder, from safetensors alone.

    Args:
        config: names it.
        local: never use the network.

    Returns:
        Its config, `preprocessing_facts`, and the network in float32.

    Raises:
        BackboneError: the network cannot be found, is not an image model, or lacks weights.
    """
    from transformers import AutoConfig, AutoModel

    try:
        source, where = source_of(config.name, config.revision, local)
        whole = AutoConfig.from_pretrained(source, **where)
        settings = processor_settings(source, where)
        vision = image_config(whole)
        check_memory(vision.to_dict(), config.projection, Path(source))
        kind: Any = _tower_class(vision, config.projection) or AutoModel
        network, loading = kind.from_pretrained(
            source,
            config=vision,
            output_loading_info=True,
            dtype=torch.float32,
            use_safetensors=True,
            **where,
        )
        facts = preprocessing_facts(settings, whole)
    except BackboneError:
        raise
    except Exception as error:  # a crafted config raises errors of any kind
        raise _cannot_load(config, error, local) from error
    missing = [key for key in loading["missing_keys"] if not _is_random_pooler(key, vision)]
    if missing:
        raise BackboneError(
            f"{config.name} lacks {len(missing)} weights of a {vision.model_type}, for example "
            f"{sorted(missing)[0]}: it is not a complete image model"
        )
    return vision.to_dict(), facts, network


def check_memory(description: dict[str, Any], projection: bool, folder: Path) -> None:
    """Check that the config of a folder does not describe far more weights than its files hold.

    Raises:
        BackboneError: it does, or `check_description` refuses it.
    """
    if not folder.is_dir():  # a hub id: the files may not be here yet
        check_description(description)
        return
    with torch.device("meta"):
        network = empty_network(description, projection)
    numbers = sum(math.prod(tensor.shape) for tensor in network.state_dict().values())
    held = check_model_files(folder)
    if numbers > held + 100_000_000:  # a number takes a byte or more; poolers may be missing
        raise BackboneError(
            f"{folder / 'config.json'} describes {numbers:,} weights, but the files of weights "
            f"beside it have {readable(held)}"
        )


def processor_settings(source: str, where: dict[str, Any]) -> dict[str, Any]:
    """Read the preprocessor_config.json of a hub id or folder; {} if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(source, **where)[0]
    except OSError:
        return {}
    return settings


@quietly()
def empty_network(description: dict[str, Any], projection: bool) -> nn.Module:
    """Build the network of a config with random weights, without the network or other files.

    Raises:
        BackboneError: the config does not describe an image model, or one that is too large.
    """
    from transformers import AutoConfig, AutoModel

    check_description(description)
    values = dict(description)
    auto = cast(Any, AutoModel)  # from_config has no types
    try:
        vision = AutoConfig.for_model(values.pop("model_type"), **values)
        tower = _tower_class(vision, projection)
        network: nn.Module = (
            tower(vision) if tower else auto.from_config(vision, trust_remote_code=False)
        )
    except BackboneError:
        raise
    except Exception as error:  # a crafted config raises errors of any kind
        raise BackboneError(
            f"the described network cannot be built: {first_line(error)}"
        ) from error
    return network.eval()


def check_description(description: dict[str, Any]) -> None:
    """Check that a transformers config is small enough to build, and loads nothing else.

    Raises:
        BackboneError: naming the field.
    """
    blocks = 0.0
    for field, value in _leaves(description):
        if _NAMES_A_NETWORK.search(field) and value not in (None, False, ""):
            raise BackboneError(f"the network's {field} names another network, which is not loaded")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        counts = _COUNTS_BLOCKS.search(field.rpartition(".")[2])
        if not abs(value) <= MAX_NUMBER:  # also NaN
            raise BackboneError(f"the network's {field} is out of range: {shown(value)}")
        if counts and isinstance(value, int):
            blocks += max(value, 0)
        elif counts and value > MAX_WIDENING:
            raise BackboneError(
                f"the network's {field} may be at most {MAX_WIDENING}, not {shown(value)}"
            )
    if blocks > MAX_BLOCKS:
        raise BackboneError(f"the network has {blocks:,.0f} blocks; at most {MAX_BLOCKS} are read")


def _leaves(value: object, field: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of nested JSON with the path of their fields."""
    if isinstance(value, dict):
        for name, inner in value.items():
            # labels are numbered, and there may be thousands
            if name not in ("id2label", "label2id"):
                yield from _leaves(inner, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner, field)
    else:
        yield field, value


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Records the number of elements of the largest tensor that any operation returns."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else (result,):
            if isinstance(item, Tensor):
                self.numbers = max(self.numbers, item.numel())
        return result


def forward_costs(
    forward: Callable[[Tensor], list[Tensor]], views: Iterable[tuple[int, int]]
) -> tuple[list[int], float, int]:
    """Run a network on the meta device, which computes shapes alone.

    Args:
        forward: from pixels (1, 3, height, width) to blocks (1, width) each.
        views: (height, width) of each view.

    Returns:
        Widths of the blocks, floating point operations of all views, and elements of the largest
        tensor.
    """
    widths: list[int] = []
    largest = _LargestTensor()  # type: ignore[no-untyped-call]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, largest:
        for height, width in views:
            blocks = forward(torch.zeros(1, 3, height, width, device="meta"))
            widths = widths or [int(block.shape[1]) for block in blocks]
    return widths, float(counter.get_total_flops()), largest.numbers


def network_config(network: nn.Module) -> Any:
    """Return the config of a transformers network, which `nn.Module` does not declare."""
    return network.config


def _cannot_load(config: BackboneConfig, error: Exception, local: bool = False) -> BackboneError:
    if local and not Path(config.name).expanduser().is_dir():
        return BackboneError(
            f"backbone {config.name!r} is not on this computer: fetch it once with "
            f"`python -m geoclip_core download {config.name}`"
        )
    return BackboneError(
        f"backbone {config.name!r} cannot be loaded: {first_line(error)} Without internet use "
        "efficientnet-lite2, which is bundled, or the folder of a downloaded model"
    )


def image_config(whole: Any) -> Any:
    """Return the config of the image tower, for a model with or without a text tower.

    Raises:
        ValueError: the model has no image tower, or one that is not supported.
    """
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


def _tower_class(vision: Any, projection: bool) -> Callable[..., nn.Module] | None:
    """Return the class of a CLIP or SigLIP tower; None for other models."""
    import transformers as hf  # its attributes are imported only when they are used

    if vision.model_type == "clip_vision_model":
        return hf.CLIPVisionModelWithProjection if projection else hf.CLIPVisionModel
    if projection:
        raise BackboneError(f"only CLIP towers have a projection, a {vision.model_type} has none")
    return hf.SiglipVisionModel if vision.model_type == "siglip_vision_model" else None


def _is_random_pooler(key: str, vision: Any) -> bool:
    return key.startswith("pooler.") and vision.model_type in RANDOM_POOLER


class TransformersBackbone(Backbone):
    """An image model of transformers, reduced to pooled features.

    Features of the head: the pooled output; for ViT and DeiT the class token; for DINOv2 the class
    token and the mean of the patches, as in its own linear evaluation (Oquab et al., 2023). With
    `config.projection`, a CLIP tower returns its projected embedding instead.

    Args:
        config: model, views and depths.
        architecture: from `architecture()`; builds the network with random weights, for a
            checkpoint that contains its own. None: the pretrained weights are read.
        local: never use the network.

    Raises:
        BackboneError: the model cannot be found, is not an image model, lacks weights, has no
            block at one of the depths, or would take more than `MAX_OPERATIONS` or
            `MAX_ACTIVATION` for a photo.
    """

    def __init__(
        self,
        config: BackboneConfig,
        architecture: dict[str, Any] | None = None,
        local: bool = False,
    ) -> None:
        super().__init__(config)
        if architecture is not None:
            self._description, pixels = architecture["transformers"], architecture["pixels"]
            self.network = empty_network(self._description, config.projection)
        else:
            self._description, pixels, self.network = pretrained_network(config, local)
        self._network_config = network_config(self.network)
        self._type = str(self._network_config.model_type)
        if self._type in RANDOM_POOLER:
            self.network.register_module("pooler", None)
        self._pixels = pixels
        self.preprocessing = preprocessing_from(config, pixels)
        self.view_block_widths = self._measured_widths()
        self.eval()

    def _measured_widths(self) -> tuple[int, ...]:
        """Return the widths of the blocks, from a pass on the meta device that computes nothing."""
        with torch.device("meta"):
            shapes = empty_network(self._description, self.config.projection)
            if self._type in RANDOM_POOLER:
                shapes.register_module("pooler", None)
        try:
            widths, operations, numbers = forward_costs(
                lambda pixels: self._blocks(pixels, shapes), self.preprocessing.views
            )
        except BackboneError:
            raise
        except Exception as error:  # a crafted config raises errors of any kind
            raise BackboneError(
                f"{self.config.name} cannot read its views: {first_line(error)}"
            ) from error
        if operations > MAX_OPERATIONS or numbers > MAX_ACTIVATION:
            raise BackboneError(
                f"{self.config.name} needs {operations:.2g} operations and {4 * numbers:.2g} bytes "
                "for a photo, which is too much: take smaller views"
            )
        return tuple(widths)

    def features(self, pixels: Tensor) -> Tensor:
        """Turn pixels (b, 3, height, width) into features (b, head + inner blocks)."""
        return torch.cat(self._blocks(pixels, self.network), dim=1)

    def architecture(self) -> dict[str, Any]:
        """Return the model's config as transformers writes it, and `preprocessing_facts`."""
        return {"transformers": self._description, "pixels": self._pixels}

    def last_block(self) -> list[nn.Module]:
        """Return the last layer or stage with weights, and the norms and projection after it."""
        return find_last_block(self.network)

    def _blocks(self, pixels: Tensor, network: nn.Module) -> list[Tensor]:
        depths = self.config.depths
        extra: dict[str, Any] = {"output_hidden_states": True} if depths else {}
        if self._type in INTERPOLATES and tuple(pixels.shape[-2:]) != self._native_size():
            extra["interpolate_pos_encoding"] = True
        output = network(pixel_values=pixels, **extra)
        blocks = self._head(output)
        if not depths:
            return blocks
        # the first hidden state is that of the embedding layer; depth 0 is the block after it
        states = output.hidden_states[1:]
        if wrong := [depth for depth in depths if not 0 <= depth < len(states)]:
            raise BackboneError(
                f"{self.config.name} has blocks 0 to {len(states) - 1}, not {wrong[0]}"
            )
        return [*blocks, *(self._pool(states[depth]) for depth in depths)]

    def _head(self, output: Any) -> list[Tensor]:
        projected = getattr(output, "image_embeds", None)
        if projected is not None:
            return [projected]
        state = output.last_hidden_state
        if self._type.startswith("dinov2"):
            return [state[:, 0], state[:, self._class_tokens() :].mean(1)]
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return [pooled.flatten(1)]
        if state.ndim == 4:
            return [state.flatten(2).mean(2)]
        return [state[:, 0] if self._class_tokens() else state.mean(1)]

    def _pool(self, state: Tensor) -> Tensor:
        """Pool a map (b, c, h, w) or tokens (b, t, c) as `config.depth_pooling` says."""
        patches = state if state.ndim == 4 else state[:, self._class_tokens() :].transpose(1, 2)
        flat = patches.flatten(2)
        mean = flat.mean(2)
        if self.config.depth_pooling == "mean":
            return mean
        variance = (flat - mean[..., None]).square().mean(2)
        return torch.cat([mean, (variance + 1e-12).sqrt()], dim=1)

    def _class_tokens(self) -> int:
        registers = int(getattr(self._network_config, "num_register_tokens", 0) or 0)
        if self._type == "dinov2_with_registers":
            return 1 + registers
        return CLASS_TOKENS.get(self._type, 0)

    def _native_size(self) -> tuple[int, int]:
        size = self._network_config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return height, width


def find_last_block(network: nn.Module) -> list[nn.Module]:
    """Return the last layer with parameters in the network's last list, and the modules after it.

    Raises:
        BackboneError: the network has no list of layers, so there is no last block.
    """
    tower = getattr(network, "vision_model", network)
    inner = getattr(tower, "encoder", tower)
    lists = [child for child in inner.children() if isinstance(child, nn.ModuleList) and len(child)]
    if not lists:
        raise BackboneError(
            f"{type(network).__name__} has no list of layers: train_backbone must be none or all"
        )
    last = [layer for layer in lists[-1] if any(True for _ in layer.parameters())][-1]
    children = list(inner.children())
    after = children[children.index(lists[-1]) + 1 :]  # EfficientNet has one more convolution
    for owner in (tower, network):
        after += [getattr(owner, n) for n in LAST_NORMS if getattr(owner, n, None) is not None]
    kept = [module for module in dict.fromkeys(after) if any(True for _ in module.parameters())]
    return [last, *kept]
