"""Photos and captions in one space: an image tower, a text tower, and what brings them together."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from geoclip_core.errors import BackboneError
from geoclip_core.model.backbone import (
    IMAGE_TEXT_FORMAT,
    Backbone,
    BackboneConfig,
    Preprocessing,
    public_name,
)
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.transformers_backbone import (
    find_last_block,
    preprocessing_facts,
    quietly,
    source_of,
)

SMALL = "small"
START, END = "<|startoftext|>", "<|endoftext|>"
_SMALL_CONFIG = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "attention_dropout": 0.0,
    "max_position_embeddings": 77,
}


def tokenise(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> dict[str, Tensor]:
    """Token ids and mask, (b, t) each, with t ≤ `max_tokens`: longer texts are cut."""
    encoded = tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def build_tokenizer(texts: Iterable[str], vocabulary_size: int = 4096) -> Any:
    """A CLIP tokenizer whose byte pairs are learnt from texts; nothing is downloaded.

    Normalisation, splitting and special tokens are CLIP's (Radford et al., 2021). Every byte has a
    token, so that any text can be written.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    template = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [letter + "</w>" for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        # named beforehand, endings have fixed numbers; by themselves they get them by chance, and
        # ties between pairs are broken by number
        special_tokens=[START, END, *endings],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(sorted(set(texts)), trainer)
    learnt = json.loads(learner.to_str())["model"]
    words = dict(learnt["vocab"])
    merges = [tuple(pair) for pair in learnt["merges"]]
    return CLIPTokenizer(vocab=words, merges=merges, model_max_length=77)


class TextTower(nn.Module):
    """A text model of transformers and its tokenizer: texts in, one vector (b, width) out.

    CLIP text models are read at their end token; others as the mean over the tokens of a text.
    """

    def __init__(self, network: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        config = network.config
        self.width = int(config.hidden_size)
        limit = int(getattr(config, "max_position_embeddings", 77) or 77)
        self.max_tokens = min(limit, 128)

    @property
    def description(self) -> dict[str, Any]:
        """The network's config (JSON types), from which `empty` builds it again."""
        return self.network.config.to_dict()

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (b, t) each; longer texts are cut."""
        return tokenise(self.tokenizer, texts, self.max_tokens)

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Tokens (b, t) -> vectors (b, width)."""
        output = self.network(**tokens)
        if self.network.config.model_type == "clip_text_model":
            return output.pooler_output
        mask = tokens["attention_mask"][..., None].to(output.last_hidden_state)
        return (output.last_hidden_state * mask).sum(1) / mask.sum(1).clamp_min(1)

    @classmethod
    def small(cls, texts: Iterable[str]) -> "TextTower":
        """A three-layer CLIP text model with random weights and a tokenizer of these texts."""
        from transformers import CLIPTextConfig, CLIPTextModel

        tokenizer = build_tokenizer(texts)
        ids = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        config = CLIPTextConfig(vocab_size=len(tokenizer), **_SMALL_CONFIG, **ids)
        return cls(CLIPTextModel(config), tokenizer)

    @classmethod
    @quietly()
    def pretrained(cls, name: str) -> "TextTower":
        """Any text model by hub id or folder.

        Raises:
            BackboneError: it cannot be read.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel

        source, where = source_of(name)
        try:
            whole = AutoConfig.from_pretrained(source, **where)
            kind = CLIPTextModel if whole.model_type == "clip" else AutoModel
            config = whole.text_config if whole.model_type == "clip" else whole
            network = kind.from_pretrained(source, config=config, dtype=torch.float32, **where)
            return cls(network, AutoTokenizer.from_pretrained(source, **where))
        except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(
                f"text model {name!r} cannot be loaded: {reason} Without internet use "
                f"{SMALL!r}, which is made on the spot, or the folder of a downloaded model"
            ) from error

    @classmethod
    @quietly()
    def empty(cls, description: dict[str, Any], tokenizer_folder: Path) -> "TextTower":
        """The tower of a description with random weights, and a saved tokenizer."""
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel

        values = dict(description)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        clip = config.model_type == "clip_text_model"
        network = CLIPTextModel(config) if clip else AutoModel.from_config(config)
        return cls(network, AutoTokenizer.from_pretrained(tokenizer_folder))


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


class ImageTextPair(nn.Module, ABC):
    """An image tower and a text tower with one space of P dimensions: what pretraining needs.

    A subclass sets `backbone`.
    """

    backbone: Backbone

    @property
    @abstractmethod
    def log_scale_parameter(self) -> nn.Parameter:
        """Natural logarithm of the inverse temperature of the similarities."""

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return token ids and mask, (b, t) each; longer texts are cut."""

    @abstractmethod
    def text_modules(self) -> list[nn.Module]:
        """Return the modules that are trained if the text tower is."""

    @abstractmethod
    def bridges(self) -> list[nn.Parameter]:
        """Return the parameters that are always trained."""

    @abstractmethod
    def encode_embedding(self, embedding: Tensor) -> Tensor:
        """Turn raw embeddings (b, D) of the backbone into vectors (b, P) of length 1."""

    @abstractmethod
    def encode_tokens(self, tokens: dict[str, Tensor]) -> Tensor:
        """Turn the tokens of b texts into vectors (b, P) of length 1."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write both towers into an empty folder, which `backbone_config` then accepts."""

    def encode_images(self, views: Sequence[Tensor]) -> Tensor:
        """Turn the views of b photos into vectors (b, P) of length 1."""
        return self.encode_embedding(self.backbone.embed(views))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the similarities."""
        return self.log_scale_parameter.exp().clamp_max(LARGEST_SCALE)


class ImageTextModel(ImageTextPair):
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
    def log_scale_parameter(self) -> nn.Parameter:
        """Natural logarithm of the inverse temperature of the similarities."""
        return self.log_scale

    def encode_embedding(self, embedding: Tensor) -> Tensor:
        """Raw embeddings (b, D) of the backbone -> (b, P) of length 1; views are averaged."""
        views = embedding.unflatten(1, (-1, sum(self.backbone.view_block_widths)))
        return functional.normalize(self.image_projection(views).mean(1), dim=1)

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


class ClipPair(ImageTextPair):
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
    def log_scale_parameter(self) -> nn.Parameter:
        """Natural logarithm of the inverse temperature of the similarities."""
        return self.clip.logit_scale

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (b, t) each."""
        return tokenise(self.tokenizer, texts, self.max_tokens)

    def encode_embedding(self, embedding: Tensor) -> Tensor:
        """Projected features (b, P × views) -> (b, P) of length 1; views are averaged."""
        views = embedding.unflatten(1, (-1, sum(self.backbone.view_block_widths)))
        return functional.normalize(views.mean(1), dim=1)

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
