"""Photos and captions in one space: an image tower, a text tower, and what brings them together."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from geoclip_core.model.backbone import Backbone, BackboneConfig
from geoclip_core.model.backbones import IMAGE_TEXT_FORMAT, build_backbone, public_name
from geoclip_core.model.text_tower import TextTower
from geoclip_core.model.transformers_loading import BackboneError

LARGEST_SCALE = 100.0
FIRST_SCALE = 1 / 0.07
"""Inverse temperature, as CLIP clamps and begins it (Radford et al., 2021, section 2.5)."""
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class ImageProjection(nn.Module):
    """Features of one view (b, W) -> (b, P)."""

    def __init__(self, width: int, output: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, output, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise and project."""
        return self.linear(self.norm(features))


class ImageTextModel(nn.Module):
    """Any backbone and any text tower, each with a projection to P shared dimensions."""

    def __init__(self, backbone: Backbone, text: TextTower, width: int = 256) -> None:
        super().__init__()
        self.backbone, self.text, self.width = backbone, text, int(width)
        self.image_projection = ImageProjection(sum(backbone.view_block_widths), self.width)
        self.text_projection = nn.Linear(text.width, self.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (b, t) each."""
        return self.text.tokens(texts)

    def text_modules(self) -> list[nn.Module]:
        """What "train the text tower" means."""
        return [self.text]

    def bridges(self) -> list[nn.Parameter]:
        """What always learns: both projections and the temperature."""
        projections = (self.image_projection, self.text_projection)
        return [*(p for m in projections for p in m.parameters()), self.log_scale]

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the similarities."""
        return self.log_scale.exp().clamp_max(LARGEST_SCALE)

    def encode_embedding(self, embedding: Tensor) -> Tensor:
        """Raw embeddings (b, D) of the backbone -> (b, P) of length 1; views are averaged."""
        views = embedding.unflatten(1, (-1, sum(self.backbone.view_block_widths)))
        return functional.normalize(self.image_projection(views).mean(1), dim=1)

    def encode_images(self, views: Sequence[Tensor]) -> Tensor:
        """Views of b photos -> (b, P) of length 1."""
        return self.encode_embedding(self.backbone.embed(views))

    def encode_tokens(self, tokens: dict[str, Tensor]) -> Tensor:
        """Tokens of b texts -> (b, P) of length 1."""
        return functional.normalize(self.text_projection(self.text(tokens)), dim=1)

    def save(self, folder: Path) -> None:
        """Write the model into an empty folder, to be read by `load` and as a backbone."""
        public = replace(self.backbone.config, name=public_name(self.backbone.config.name))
        config = {
            "format": IMAGE_TEXT_FORMAT,
            "version": 1,
            "width": self.width,
            "backbone": public.to_dict(),
            "architecture": self.backbone.architecture(),
            "text": self.text.description,
        }
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {n: t.detach().cpu().contiguous() for n, t in self.state_dict().items()}
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
        self.text.tokenizer.save_pretrained(folder / "tokenizer")

    @classmethod
    def load(cls, folder: Path) -> "ImageTextModel":
        """Read what `save` wrote, in evaluation mode.

        Raises:
            BackboneError: naming the file that is missing or damaged.
        """
        config = _read_config(folder)
        try:
            inner = BackboneConfig(**config["backbone"])
            backbone = build_backbone(inner, architecture=config["architecture"])
            text = TextTower.empty(config["text"], folder / "tokenizer")
            model = cls(backbone, text, config["width"])
        except (KeyError, TypeError, OSError) as error:
            raise BackboneError(f"{folder / _CONFIG} does not describe a model: {error}") from error
        _load(model, _read_weights(folder), folder)
        return model.eval()


class ImageTextBackbone(Backbone):
    """The image tower of a pretraining: its features, or with `projection` the shared space.

    Args:
        config: `name` is the folder; `views` and `depths` other than those of the pretraining may
            be asked for, except that the projection reads what it was trained on.
        architecture: what `architecture()` gave, to build it without its folder.
    """

    def __init__(self, config: BackboneConfig, architecture: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        self._description = architecture or _inner_description(Path(config.name))
        facts = self._description
        trained = BackboneConfig(**facts["backbone"])
        if config.projection and config.depths not in ((), trained.depths):
            raise BackboneError(
                f"the projection of {config.name} was trained on depths {trained.depths}, "
                f"not {config.depths}: leave depths out, or projection off"
            )
        depths = trained.depths if config.projection else config.depths
        inner = replace(
            trained,
            views=config.views or trained.views,
            fit=config.fit if config.views else trained.fit,
            depths=depths,
            depth_pooling=trained.depth_pooling if config.projection else config.depth_pooling,
        )
        self.inner = build_backbone(inner, architecture=facts["architecture"])
        self.preprocessing = self.inner.preprocessing
        self.view_block_widths = self.inner.view_block_widths
        self.projection: ImageProjection | None = None
        if config.projection:
            self.projection = ImageProjection(sum(self.inner.view_block_widths), facts["width"])
            self.view_block_widths = (facts["width"],)
        if architecture is None:
            weights = _read_weights(Path(config.name))
            parts = {
                f"{own}.{name.removeprefix(theirs)}": tensor
                for own, theirs in (("inner", "backbone."), ("projection", "image_projection."))
                for name, tensor in weights.items()
                if name.startswith(theirs) and (own == "inner" or config.projection)
            }
            _load(self, parts, Path(config.name))
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        """(b, 3, height, width) -> the inner backbone's features, or their projection (b, P)."""
        features = self.inner.features(pixels)
        return features if self.projection is None else self.projection(features)

    def last_block(self) -> list[nn.Module]:
        """The last block of the inner backbone, and the projection."""
        block = self.inner.last_block()
        return block if self.projection is None else [*block, self.projection]

    def architecture(self) -> dict[str, Any]:
        """The pretraining's backbone and width."""
        return self._description


def _inner_description(folder: Path) -> dict[str, Any]:
    config = _read_config(folder)
    try:
        return {name: config[name] for name in ("backbone", "architecture", "width")}
    except KeyError as error:
        raise BackboneError(f"{folder / _CONFIG} lacks {error.args[0]!r}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{folder / _CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("format") != IMAGE_TEXT_FORMAT:
        raise BackboneError(f"{folder} holds no pretrained image and text towers")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{folder / _WEIGHTS} cannot be read: {error}") from error


def _load(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()
        raise BackboneError(
            f"{folder / _WEIGHTS} does not fit its {_CONFIG}: {' '.join(reason[1:2]).strip()}"
        ) from error
