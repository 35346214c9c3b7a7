"""Pairs of an image and a text tower with a shared space, and their image side as a backbone."""

import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from geoclip_core.checks import Width, checked
from geoclip_core.errors import BackboneError, FileError, first_line
from geoclip_core.files import read_json
from geoclip_core.model.backbone import Backbone, BackboneConfig, public_name
from geoclip_core.model.tensors import below, check_shapes, read_shapes, read_tensors
from geoclip_core.model.transformers_backbone import (
    check_description,
    check_model_files,
    find_last_block,
    network_config,
    preprocessing_facts,
    preprocessing_from,
    processor_settings,
    quietly,
    source_of,
)

IMAGE_TEXT_FORMAT = "geolocation-image-text"
"""Value of "format" in the config.json of a pretrained image tower with its own text tower."""
SMALL = "small"
"""Name of the text tower that is built without a download."""
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY_SIZE = 4096
LARGEST_SCALE = 100.0
FIRST_SCALE = 1 / 0.07
"""Largest and initial inverse temperature of CLIP (Radford et al., 2021, section 2.5)."""
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_SMALL_CONFIG: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "attention_dropout": 0.0,
    "max_position_embeddings": 77,
}

# transformers and tokenizers take seconds to import, so the functions that need them import them


def build_tokenizer(texts: Iterable[str]) -> Any:
    """Build a CLIP tokenizer with byte pairs learnt from texts, without a download.

    Normalisation, splitting and special tokens are CLIP's (Radford et al., 2021). Every byte has a
    token, so that any text can be encoded.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    clip_tokenizer: Any = CLIPTokenizer  # its type annotations reject merges as pairs
    template = clip_tokenizer(vocab={START: 0, END: 1}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [letter + "</w>" for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        # fixes the numbers of the endings, by which ties between pairs are broken
        special_tokens=[START, END, *endings],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(sorted(set(texts)), trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    return clip_tokenizer(vocab=dict(learnt["vocab"]), merges=merges, model_max_length=77)


def tokenise(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> dict[str, Tensor]:
    """Return token ids and mask, (b, t) each, with t ≤ `max_tokens`; longer texts are truncated."""
    encoded = tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


class TextTower(nn.Module):
    """A text model of transformers with its tokenizer; returns one vector (b, width) per text.

    That is the state of the end token for CLIP text models, the mean over the tokens for others.
    """

    def __init__(self, network: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        self._network_config = network_config(network)
        self.width = int(self._network_config.hidden_size)
        limit = int(getattr(self._network_config, "max_position_embeddings", 77) or 77)
        self.max_tokens = min(limit, 128)

    @property
    def description(self) -> dict[str, Any]:
        """The network's config (JSON types), from which `empty` builds it again."""
        return dict(self._network_config.to_dict())

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Turn tokens (b, t) into vectors (b, width)."""
        output = self.network(**tokens)
        if self._network_config.model_type == "clip_text_model":
            pooled: Tensor = output.pooler_output
            return pooled
        states: Tensor = output.last_hidden_state
        mask = tokens["attention_mask"][..., None].to(states)
        return (states * mask).sum(1) / mask.sum(1).clamp_min(1)

    @classmethod
    def small(cls, texts: Iterable[str]) -> "TextTower":
        """Build a small CLIP text model with random weights, and a tokenizer from the texts."""
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
        """Read a text model by hub id or folder.

        Raises:
            BackboneError: the model cannot be read.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel

        try:
            source, where = source_of(name)
            whole = AutoConfig.from_pretrained(source, **where)
            clip = whole.model_type == "clip"
            kind, config = (CLIPTextModel, whole.text_config) if clip else (AutoModel, whole)
            network = kind.from_pretrained(
                source, config=config, dtype=torch.float32, use_safetensors=True, **where
            )
            return cls(network, AutoTokenizer.from_pretrained(source, **where))
        except Exception as error:  # a crafted config raises errors of any kind
            raise BackboneError(
                f"text model {name!r} cannot be loaded: {first_line(error)} Without internet use "
                f"{SMALL!r}, which needs no download, or the folder of a downloaded model"
            ) from error

    @classmethod
    @quietly()
    def empty(cls, description: dict[str, Any], tokenizer_folder: Path) -> "TextTower":
        """Build a tower from its description with random weights and a saved tokenizer."""
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel

        check_description(description)
        check_model_files(tokenizer_folder)
        values = dict(description)
        config = cast(Any, AutoConfig.for_model(values.pop("model_type"), **values))
        auto: Any = AutoModel  # from_config has no types
        clip = config.model_type == "clip_text_model"
        network = (
            CLIPTextModel(config) if clip else auto.from_config(config, trust_remote_code=False)
        )
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_folder, local_files_only=True, trust_remote_code=False
        )
        return cls(network, tokenizer)


class ImageTextPair(nn.Module, ABC):
    """The interface of pretraining: an image and a text tower with a shared space of P dimensions.

    A subclass sets `backbone`, `tokenizer` and `max_tokens`, to which texts are truncated.
    """

    backbone: Backbone
    tokenizer: Any
    max_tokens: int

    @property
    @abstractmethod
    def log_inverse_temperature(self) -> nn.Parameter:
        """Natural logarithm of the factor on the similarities."""

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the similarities."""
        return self.log_inverse_temperature.exp().clamp_max(LARGEST_SCALE)

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return token ids and mask, (b, t) each; longer texts are truncated."""
        return tokenise(self.tokenizer, texts, self.max_tokens)

    @abstractmethod
    def text_modules(self) -> list[nn.Module]:
        """Return the modules that are trained together with the text tower."""

    @abstractmethod
    def bridges(self) -> list[nn.Parameter]:
        """Return the parameters that are always trained."""

    def encode_embedding(self, embedding: Tensor) -> Tensor:
        """Turn raw embeddings (b, D) into vectors (b, P) of length 1, the mean over the views."""
        views = embedding.reshape(len(embedding), -1, sum(self.backbone.view_block_widths))
        return functional.normalize(self.project_images(views).mean(1), dim=1)

    @abstractmethod
    def project_images(self, features: Tensor) -> Tensor:
        """Project features (b, views, width of one view) to (b, views, P)."""

    def encode_images(self, views: Sequence[Tensor]) -> Tensor:
        """Turn the views of b photos into vectors (b, P) of length 1."""
        return self.encode_embedding(self.backbone.embed(views))

    @abstractmethod
    def encode_tokens(self, tokens: dict[str, Tensor]) -> Tensor:
        """Turn the tokens of b texts into vectors (b, P) of length 1."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write both towers into an empty folder, which `backbone_config` then accepts."""


def _image_projection(width: int, output: int) -> nn.Sequential:
    """Build the projection of the features of one view (b, W) to (b, P)."""
    linear = nn.Linear(width, output, bias=False)
    return nn.Sequential(OrderedDict(norm=nn.LayerNorm(width), linear=linear))


class ImageTextModel(ImageTextPair):
    """Any backbone and any text tower, each with a projection to P shared dimensions."""

    def __init__(self, backbone: Backbone, text: TextTower, width: int) -> None:
        super().__init__()
        self.backbone, self.text, self.width = backbone, text, int(width)
        self.tokenizer, self.max_tokens = text.tokenizer, text.max_tokens
        self.image_projection = _image_projection(sum(backbone.view_block_widths), self.width)
        self.text_projection = nn.Linear(text.width, self.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())

    @property
    def log_inverse_temperature(self) -> nn.Parameter:
        """Natural logarithm of the factor on the similarities."""
        return self.log_scale

    def text_modules(self) -> list[nn.Module]:
        """Return the text tower."""
        return [self.text]

    def bridges(self) -> list[nn.Parameter]:
        """Return the parameters of both projections, and the temperature."""
        projections = (self.image_projection, self.text_projection)
        return [*(p for m in projections for p in m.parameters()), self.log_scale]

    def project_images(self, features: Tensor) -> Tensor:
        """Project features (b, views, width of one view) to (b, views, P)."""
        projected: Tensor = self.image_projection(features)
        return projected

    def encode_tokens(self, tokens: dict[str, Tensor]) -> Tensor:
        """Turn the tokens of b texts into vectors (b, P) of length 1."""
        return functional.normalize(self.text_projection(self.text(tokens)), dim=1)

    def save(self, folder: Path) -> None:
        """Write both towers into an empty folder, for `load` and for use as a backbone."""
        public = replace(self.backbone.config, name=public_name(self.backbone.config.name))
        config = {
            "format": IMAGE_TEXT_FORMAT,
            "version": 1,
            "width": self.width,
            "backbone": asdict(public),
            "architecture": self.backbone.architecture(),
            "text": self.text.description,
        }
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {n: t.detach().cpu().contiguous() for n, t in self.state_dict().items()}
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
        self.text.tokenizer.save_pretrained(folder / "tokenizer")

    @classmethod
    def load(cls, folder: Path, backbone: Backbone) -> "ImageTextModel":
        """Read what `save` wrote, in evaluation mode.

        Args:
            folder: folder of the model.
            backbone: built from the folder's `image_tower_description`.

        Raises:
            BackboneError: a file is missing or damaged; the message names it.
        """
        config = _read_config(folder)
        try:
            width = checked(Width, config["width"], folder / _CONFIG, "width")
            description = checked(dict[str, Any], config["text"], folder / _CONFIG, "text")
            with torch.device("meta"):  # takes no memory
                text = TextTower.empty(description, folder / "tokenizer")
                bridge = nn.Linear(text.width, width, bias=False)
            shapes = read_shapes(folder / _WEIGHTS)
            check_shapes(text, below(shapes, "text."), folder / _WEIGHTS)
            check_shapes(bridge, below(shapes, "text_projection."), folder / _WEIGHTS)
            text = TextTower.empty(description, folder / "tokenizer")
            model = cls(backbone, text, width)
        except BackboneError:
            raise
        except Exception as error:  # a crafted config raises errors of any kind
            raise BackboneError(f"{folder / _CONFIG} does not describe a model: {error}") from error
        _load(model, _read_weights(folder), folder)
        return model.eval()


class ImageTextBackbone(Backbone):
    """The image tower of a pretraining: its features, or with `projection` vectors (b, P).

    Args:
        config: its views and depths may differ from those of the pretraining, but the projection
            needs the depths that it was trained on.
        inner: the backbone built from `inner_config`.
        description: from `image_tower_description`.
    """

    def __init__(
        self, config: BackboneConfig, inner: Backbone, description: dict[str, Any]
    ) -> None:
        super().__init__(config)
        self._description, self.inner = description, inner
        self.preprocessing = inner.preprocessing
        self.view_block_widths = inner.view_block_widths
        self.projection: nn.Sequential | None = None
        if config.projection:
            width = int(description["width"])
            self.projection = _image_projection(sum(inner.view_block_widths), width)
            self.view_block_widths = (width,)
        self.eval()

    def read_weights(self, folder: Path) -> None:
        """Read the image tower's weights from the pretraining's folder.

        Raises:
            BackboneError: the file is missing or damaged.
        """
        weights = _read_weights(folder)
        parts = {
            f"{own}.{name.removeprefix(theirs)}": tensor
            for own, theirs in (("inner", "backbone."), ("projection", "image_projection."))
            for name, tensor in weights.items()
            if name.startswith(theirs) and (own == "inner" or self.projection is not None)
        }
        _load(self, parts, folder)

    def features(self, pixels: Tensor) -> Tensor:
        """Turn pixels (b, 3, height, width) into features, or their projection (b, P)."""
        features = self.inner.features(pixels)
        if self.projection is None:
            return features
        projected: Tensor = self.projection(features)
        return projected

    def last_block(self) -> list[nn.Module]:
        """Return the last block of the inner backbone, and the projection."""
        block = self.inner.last_block()
        return block if self.projection is None else [*block, self.projection]

    def architecture(self) -> dict[str, Any]:
        """Return the `image_tower_description`."""
        return self._description


@dataclass(frozen=True)
class _ImageTower:
    """What the config.json of a pretraining says about its image tower."""

    backbone: dict[str, Any]
    architecture: dict[str, Any]
    width: Width


def image_tower_description(folder: Path) -> dict[str, Any]:
    """Read "backbone", "architecture" and "width" from a pretraining's config.json.

    Raises:
        BackboneError: config.json is missing or damaged.
    """
    config = _read_config(folder)
    try:
        tower = checked(_ImageTower, config, folder / _CONFIG)
    except FileError as error:
        raise BackboneError(str(error)) from error
    return vars(tower)


def inner_config(config: BackboneConfig, description: dict[str, Any]) -> BackboneConfig:
    """Return the config of the backbone inside an `ImageTextBackbone`.

    Raises:
        BackboneError: the projection is requested with depths that it was not trained on.
    """
    try:
        trained = BackboneConfig.from_file(description["backbone"], Path(config.name) / _CONFIG)
    except FileError as error:
        raise BackboneError(str(error)) from error
    if not config.projection:
        depths, pooling = config.depths, config.depth_pooling
    elif config.depths in ((), trained.depths):
        depths, pooling = trained.depths, trained.depth_pooling
    else:
        raise BackboneError(
            f"the projection of {config.name} was trained on depths {trained.depths}, "
            f"not {config.depths}: omit the depths or the projection"
        )
    return replace(
        trained,
        views=config.views or trained.views,
        framing=config.framing if config.views else trained.framing,
        depths=depths,
        depth_pooling=pooling,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / _CONFIG)
    except FileError as error:
        raise BackboneError(str(error)) from error
    if not isinstance(config, dict) or config.get("format") != IMAGE_TEXT_FORMAT:
        raise BackboneError(f"{folder} contains no pretrained image and text towers")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(folder / _WEIGHTS)
    except FileError as error:
        raise BackboneError(str(error)) from error


def _load(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        mismatch = " ".join(str(error).splitlines()[1:2]).strip()  # line 0 names only the class
        raise BackboneError(
            f"{folder / _WEIGHTS} does not fit its {_CONFIG}: {mismatch}"
        ) from error


class ClipPair(ImageTextPair):
    """The two towers of a `CLIPModel`.

    Weights keep CLIP's names, so that other programs can read the result as a CLIP checkpoint.
    """

    @quietly()
    def __init__(self, config: BackboneConfig) -> None:
        """Read a checkpoint.

        Raises:
            BackboneError: the checkpoint cannot be found, or lacks a tower.
        """
        super().__init__()
        from transformers import AutoTokenizer, CLIPModel

        try:
            source, where = source_of(config.name, config.revision)
            loaded: Any = CLIPModel.from_pretrained(
                source,
                output_loading_info=True,
                dtype=torch.float32,
                use_safetensors=True,
                **where,
            )
            settings = processor_settings(source, where)
            self.tokenizer = AutoTokenizer.from_pretrained(source, **where)
        except Exception as error:  # a crafted config raises errors of any kind
            raise BackboneError(
                f"CLIP {config.name!r} cannot be loaded: {first_line(error)} Without internet use "
                "efficientnet-lite2, which is bundled, or the folder of a downloaded model"
            ) from error
        clip, missing = loaded[0], sorted(loaded[1]["missing_keys"])
        if missing:
            raise BackboneError(
                f"{config.name} lacks weights of a CLIP with two towers, for example {missing[0]}"
            )
        self.backbone: _ClipImages = _ClipImages(
            config, clip, preprocessing_facts(settings, clip.config)
        )
        self.max_tokens = int(clip.config.text_config.max_position_embeddings)

    @property
    def clip(self) -> Any:
        """The transformers `CLIPModel`."""
        return self.backbone.clip

    @property
    def log_inverse_temperature(self) -> nn.Parameter:
        """Natural logarithm of the factor on the similarities."""
        parameter: nn.Parameter = self.clip.logit_scale
        return parameter

    def text_modules(self) -> list[nn.Module]:
        """Return the text tower and its projection."""
        return [self.clip.text_model, self.clip.text_projection]

    def bridges(self) -> list[nn.Parameter]:
        """Return the temperature; the projections belong to the towers."""
        return [self.log_inverse_temperature]

    def project_images(self, features: Tensor) -> Tensor:
        """Return the features (b, views, P), which CLIP has already projected."""
        return features

    def encode_tokens(self, tokens: dict[str, Tensor]) -> Tensor:
        """Turn the tokens of b texts into vectors (b, P) of length 1."""
        return functional.normalize(self.clip.get_text_features(**tokens).pooler_output, dim=1)

    @quietly()
    def save(self, folder: Path) -> None:
        """Write a CLIP checkpoint with tokenizer and preprocessing."""
        self.clip.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        preprocessing = self.backbone.preprocessing
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
    """The image side of a `ClipPair`, which holds the whole CLIP and returns projected features."""

    def __init__(self, config: BackboneConfig, clip: Any, facts: dict[str, Any]) -> None:
        super().__init__(config)
        self.clip = clip
        self.preprocessing = preprocessing_from(config, facts)
        self.view_block_widths = (int(clip.config.projection_dim),)
        self._native = int(clip.config.vision_config.image_size)
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        """Turn pixels (b, 3, height, width) into projected features (b, P)."""
        other_size = tuple(pixels.shape[-2:]) != (self._native, self._native)
        output = self.clip.get_image_features(
            pixel_values=pixels, **({"interpolate_pos_encoding": True} if other_size else {})
        )
        projected: Tensor = output.pooler_output
        return projected

    def last_block(self) -> list[nn.Module]:
        """Return the vision tower's last layer, its last norm and the projection."""
        return [*find_last_block(self.clip.vision_model), self.clip.visual_projection]
