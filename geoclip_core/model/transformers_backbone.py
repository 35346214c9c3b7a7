"""Backbones from the transformers library: CLIP and SigLIP vision towers, and image classifiers.

Any of them by hub id or local folder: CLIP, SigLIP, ResNet, EfficientNet, ConvNeXt, ViT, DeiT,
Swin, DINOv2 and what else `AutoModel` knows that takes pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from geoclip_core.model.backbone import Backbone, BackboneConfig, Preprocessing
from geoclip_core.model.transformers_loading import (
    CLASS_TOKENS,
    RANDOM_POOLER,
    BackboneError,
    empty_network,
    pretrained_network,
)

_INTERPOLATES = ("clip_vision_model", "siglip_vision_model", "vit", "deit")
_LAST_NORMS = ("post_layernorm", "layernorm", "norm", "head", "visual_projection")


class TransformersBackbone(Backbone):
    """An image model of transformers, reduced to pooled features.

    Features of the head: the pooled output; for ViT and DeiT the class token; for DINOv2 the class
    token and the mean of the patches, as in its own linear evaluation (Oquab et al., 2023). With
    `config.projection` a CLIP tower gives its projected embedding instead.

    Args:
        config: which model, views, depths.
        architecture: what `architecture()` gave: builds the network with random weights, for a
            checkpoint that brings its own. None: read the pretrained weights.

    Raises:
        BackboneError: it cannot be found, is not an image model, or lacks weights.
    """

    def __init__(self, config: BackboneConfig, architecture: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        if architecture:
            self._description, pixels = architecture["transformers"], architecture["pixels"]
            self.network = empty_network(self._description, config.projection)
        else:
            self._description, pixels, self.network = pretrained_network(config)
        self.network.eval()
        self._type = str(self.network.config.model_type)
        if self._type in RANDOM_POOLER:
            self.network.pooler = None
        self._pixels = pixels
        self.preprocessing = Preprocessing(
            views=config.views or (tuple(pixels["size"]),),
            fit=config.fit,
            mean=tuple(pixels["mean"]),
            std=tuple(pixels["std"]),
            resample=pixels["resample"],
        )
        height, width = self.preprocessing.views[0]
        with torch.no_grad():
            blocks = self._blocks(torch.zeros(1, 3, height, width))
        self.view_block_widths = tuple(block.shape[1] for block in blocks)
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        """(b, 3, height, width) -> (b, head + inner blocks)."""
        return torch.cat(self._blocks(pixels), dim=1)

    def architecture(self) -> dict[str, Any]:
        """The model's config and the preprocessing, as `transformers` writes them."""
        return {"transformers": self._description, "pixels": self._pixels}

    def last_block(self) -> list[nn.Module]:
        """The last layer or stage that has weights, and the norms and projection behind it."""
        return find_last_block(self.network)

    def _blocks(self, pixels: Tensor) -> list[Tensor]:
        depths = self.config.depths
        extra: dict[str, Any] = {"output_hidden_states": True} if depths else {}
        if self._type in _INTERPOLATES and tuple(pixels.shape[-2:]) != self._native_size():
            extra["interpolate_pos_encoding"] = True
        output = self.network(pixel_values=pixels, **extra)
        blocks = self._head(output)
        if not depths:
            return blocks
        # the first hidden state is the embedding layer: depth 0 is the first block behind it
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
        """Mean, and standard deviation if wanted, over a map (b, c, h, w) or tokens (b, t, c)."""
        patches = state if state.ndim == 4 else state[:, self._class_tokens() :].transpose(1, 2)
        flat = patches.flatten(2)
        mean = flat.mean(2)
        if self.config.depth_pooling == "mean":
            return mean
        variance = (flat - mean[..., None]).square().mean(2)
        return torch.cat([mean, (variance + 1e-12).sqrt()], dim=1)

    def _class_tokens(self) -> int:
        registers = int(getattr(self.network.config, "num_register_tokens", 0) or 0)
        if self._type == "dinov2_with_registers":
            return 1 + registers
        return CLASS_TOKENS.get(self._type, 0)

    def _native_size(self) -> tuple[int, int]:
        size = self.network.config.image_size
        return (size, size) if isinstance(size, int) else tuple(size)


def find_last_block(network: nn.Module) -> list[nn.Module]:
    """Last element with parameters of the network's main list of layers, and what follows it.

    Raises:
        BackboneError: no list of layers, so that "the last block" means nothing.
    """
    tower = getattr(network, "vision_model", network)
    inner = getattr(tower, "encoder", tower)
    lists = [child for child in inner.children() if isinstance(child, nn.ModuleList) and len(child)]
    if not lists:
        raise BackboneError(
            f"{type(network).__name__} has no list of layers: train backbone=none or backbone=all"
        )
    last = [layer for layer in lists[-1] if any(True for _ in layer.parameters())][-1]
    seen_list = False
    behind: list[nn.Module] = []
    for child in inner.children():  # EfficientNet ends its encoder with one more convolution
        seen_list = seen_list or child is lists[-1]
        if seen_list and child is not lists[-1]:
            behind.append(child)
    for owner in dict.fromkeys((tower, network)):
        behind += [getattr(owner, n) for n in _LAST_NORMS if getattr(owner, n, None) is not None]
    kept = [module for module in dict.fromkeys(behind) if any(True for _ in module.parameters())]
    return [last, *kept]
