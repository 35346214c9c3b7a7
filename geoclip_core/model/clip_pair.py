"""A CLIP checkpoint with both of its towers, for contrastive pretraining."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoclip_core.model.backbone import Backbone, BackboneConfig, Preprocessing
from geoclip_core.model.image_text import LARGEST_SCALE
from geoclip_core.model.text_tower import tokenise
from geoclip_core.model.transformers_backbone import find_last_block
from geoclip_core.model.transformers_loading import (
    BackboneError,
    preprocessing_facts,
    quietly,
    source_of,
)


class ClipPair(nn.Module):
    """`CLIPModel` behind the interface of `ImageTextModel`.

    It keeps CLIP's names for its weights, so that the result is a CLIP checkpoint that anything
    that reads CLIP can read.
    """

    @quietly()
    def __init__(self, config: BackboneConfig) -> None:
        """Read a checkpoint.

        Raises:
            BackboneError: it cannot be found, or lacks a tower.
        """
        super().__init__()
        from transformers import AutoTokenizer, CLIPModel
        from transformers.image_processing_base import ImageProcessingMixin

        source, where = source_of(config.name, config.revision)
        try:
            clip, loading = CLIPModel.from_pretrained(
                source, output_loading_info=True, dtype=torch.float32, **where
            )
            try:
                settings, _ = ImageProcessingMixin.get_image_processor_dict(source, **where)
            except OSError:
                settings = {}
            self.tokenizer = AutoTokenizer.from_pretrained(source, **where)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(
                f"CLIP {config.name!r} cannot be loaded: {reason} Without internet use "
                "efficientnet-lite2, which is bundled, or the folder of a downloaded model"
            ) from error
        if loading["missing_keys"]:
            raise BackboneError(
                f"{config.name} lacks weights of a CLIP with two towers, for example "
                f"{sorted(loading['missing_keys'])[0]}"
            )
        facts = preprocessing_facts(settings, clip.config)
        self.backbone = _ClipImages(config, clip, facts)
        self.max_tokens = int(clip.config.text_config.max_position_embeddings)

    @property
    def clip(self) -> nn.Module:
        """The transformers model."""
        return self.backbone.clip

    def text_modules(self) -> list[nn.Module]:
        """What "train the text tower" means."""
        return [self.clip.text_model, self.clip.text_projection]

    def bridges(self) -> list[nn.Parameter]:
        """What always learns: the temperature. The projections belong to the towers."""
        return [self.clip.logit_scale]

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the similarities."""
        return self.clip.logit_scale.exp().clamp_max(LARGEST_SCALE)

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (b, t) each."""
        return tokenise(self.tokenizer, texts, self.max_tokens)

    def encode_embedding(self, embedding: Tensor) -> Tensor:
        """Projected features (b, P × views) -> (b, P) of length 1; views are averaged."""
        views = embedding.unflatten(1, (-1, sum(self.backbone.view_block_widths)))
        return functional.normalize(views.mean(1), dim=1)

    def encode_images(self, views: Sequence[Tensor]) -> Tensor:
        """Views of b photos -> (b, P) of length 1."""
        return self.encode_embedding(self.backbone.embed(views))

    def encode_tokens(self, tokens: dict[str, Tensor]) -> Tensor:
        """Tokens of b texts -> (b, P) of length 1."""
        return functional.normalize(self.clip.get_text_features(**tokens).pooler_output, dim=1)

    @quietly()
    def save(self, folder: Path) -> None:
        """Write a CLIP checkpoint with tokenizer and preprocessing."""
        self.clip.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        preprocessing: Preprocessing = self.backbone.preprocessing
        height, width = preprocessing.views[0]
        settings: dict[str, Any] = {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"height": height, "width": width},
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(preprocessing.mean),
            "image_std": list(preprocessing.std),
            "resample": 3 if preprocessing.resample == "bicubic" else 2,
        }
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


class _ClipImages(Backbone):
    """The image side of a `ClipPair`: it owns the whole CLIP and gives projected features."""

    def __init__(self, config: BackboneConfig, clip: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__(config)
        self.clip = clip
        self.preprocessing = Preprocessing(
            views=config.views or (tuple(facts["size"]),),
            fit=config.fit,
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            resample=facts["resample"],
        )
        self.view_block_widths = (int(clip.config.projection_dim),)
        self._native = int(clip.config.vision_config.image_size)
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        """(b, 3, height, width) -> projected features (b, P)."""
        other_size = tuple(pixels.shape[-2:]) != (self._native, self._native)
        output = self.clip.get_image_features(
            pixel_values=pixels, **({"interpolate_pos_encoding": True} if other_size else {})
        )
        return output.pooler_output

    def last_block(self) -> list[nn.Module]:
        """The vision tower's last layer, its last norm and the projection."""
        return [*find_last_block(self.clip.vision_model), self.clip.visual_projection]
