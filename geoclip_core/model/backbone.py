"""The interface of backbones, which turn a photo's pixels into one embedding.

A backbone returns raw features, so that one cached embedding serves every head;
`geoclip_core.model.geolocation` standardises them with the statistics of the training photos.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from annotated_types import Interval, Len
from PIL import Image
from torch import Tensor, nn

from geoclip_core.checks import STRICT, Name, checked, shown
from geoclip_core.errors import BackboneError

Framing = Literal["squash", "crop"]
DepthPooling = Literal["mean", "mean-std"]
Views = tuple[tuple[int, int], ...]
Trained = Literal["none", "last-block", "all"]

MAX_VIEW_PIXELS = 1_500_000
"""Pixels of the largest view; the published networks read up to 0.6 million."""
MAX_VIEWS = 16
CPU_PIXELS = 600_000
"""Most pixels that are passed through a network at once on a CPU."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and normalisation of a photo for a backbone, giving one tensor per view.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    views: Views
    """(height, width) in pixels of each view, 1 to `MAX_VIEWS`."""
    framing: Framing = "squash"
    """Resize the whole frame to the view ("squash"), or only its centre ("crop")."""
    mean: Annotated[tuple[Annotated[float, Interval(ge=-1e6, le=1e6)], ...], Len(3, 3)] = (0.5,) * 3
    """Subtracted from each RGB channel on the 0-1 scale."""
    std: Annotated[tuple[Annotated[float, Interval(ge=1e-6, le=1e6)], ...], Len(3, 3)] = (0.5,) * 3
    """Divides each RGB channel after the mean is subtracted."""
    resample: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple((int(h), int(w)) for h, w in self.views))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if not self.views:
            raise ValueError("views must contain at least one size")
        check_views(self.views)
        if self.framing not in ("squash", "crop"):
            raise ValueError(f'framing must be "squash" or "crop", not {shown(self.framing)}')
        if self.resample not in ("bicubic", "bilinear"):
            raise ValueError(
                f'resample must be "bicubic" or "bilinear", not {shown(self.resample)}'
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need three numbers each, std above zero")

    @property
    def draft_size(self) -> tuple[int, int]:
        """Smallest (width, height) to decode a photo at, so that no view enlarges it."""
        return max(width for _, width in self.views), max(height for height, _ in self.views)

    def pixels(self, image: Image.Image) -> list[Tensor]:
        """Return one tensor (3, height, width) float32 per view, each resized from the photo."""
        if image.mode != "RGB":
            image = image.convert("RGB")
        method = Image.Resampling[self.resample.upper()]
        tensors = []
        for height, width in self.views:
            box = _centre_box(image.size, height, width) if self.framing == "crop" else None
            resized = image.resize((width, height), method, box=box)
            tensors.append(self.normalised(resized))
        return tensors

    def normalised(self, image: Image.Image) -> Tensor:
        """Turn an RGB picture into a tensor (3, height, width) float32 without resizing it."""
        values = np.asarray(image, dtype=np.float32) / np.float32(255)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1)))

    def batch(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Return one tensor (b, 3, height, width) per view, for `Backbone.embed`.

        Raises:
            ValueError: there are no images.
        """
        if not images:
            raise ValueError("a batch needs at least one photo")
        per_image = [self.pixels(image) for image in images]
        return [torch.stack(view) for view in zip(*per_image, strict=True)]


@dataclass(frozen=True)
class BackboneConfig:
    """Everything needed to build the same backbone again."""

    __pydantic_config__ = STRICT

    name: Name
    """A bundled name, "geoclip-image", a hub id, or a local folder."""
    kind: Name
    """The family: "efficientnet-lite", "transformers", "image-text" or "geoclip-image"."""
    views: Views = ()
    """(height, width) in pixels of each view; empty: the backbone's own size."""
    framing: Framing = "squash"
    depths: Annotated[tuple[Annotated[int, Interval(ge=0, le=1000)], ...], Len(0, 64)] = ()
    """Indices of inner blocks whose pooled features follow those of the head, in this order."""
    depth_pooling: DepthPooling = "mean-std"
    """Pool an inner block's feature map to its mean, or to mean and standard deviation."""
    projection: bool = False
    """Use the projected embedding of a CLIP tower instead of its pooled output."""
    revision: Name | None = None
    """Branch, tag or commit on the hub."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple((int(h), int(w)) for h, w in self.views))
        object.__setattr__(self, "depths", tuple(int(depth) for depth in self.depths))
        if not self.name or not self.kind:
            raise BackboneError("a backbone needs a name and a kind")
        if len(set(self.depths)) != len(self.depths):
            raise BackboneError(f"a depth occurs twice in {self.depths}")
        check_views(self.views)

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> "BackboneConfig":
        """Build a config from the fields that this or an earlier version saved (`asdict`)."""
        values = dict(description)
        if "fit" in values:  # earlier name of the field
            values["framing"] = values.pop("fit")
        return cls(**values)

    @classmethod
    def from_file(cls, description: object, path: Path) -> "BackboneConfig":
        """Check a description from a file of a stranger, and build a config from it.

        Raises:
            FileError: naming the field that is wrong.
        """
        if isinstance(description, dict) and "fit" in description:
            description = {**description, "framing": description["fit"]}
            del description["fit"]
        return checked(cls, description, path, "backbone")


def check_views(views: Views) -> None:
    """Check that views are between 32 × 32 and `MAX_VIEW_PIXELS` large, and not too many.

    Raises:
        BackboneError: naming the first that is not.
    """
    if len(views) > MAX_VIEWS:
        raise BackboneError(f"there may be up to {MAX_VIEWS} views, not {len(views)}")
    for height, width in views:
        if height < 32 or width < 32 or height * width > MAX_VIEW_PIXELS:
            raise BackboneError(
                f"views must have at least 32 × 32 and at most {MAX_VIEW_PIXELS:,} pixels, "
                f"not {height} × {width}"
            )


def cpu_parts(pixels: Tensor) -> tuple[Tensor, ...]:
    """Split a batch (b, 3, h, w) into parts of at most `CPU_PIXELS` pixels.

    The features of larger parts exceed a CPU's caches: with efficientnet-lite2, a photo of
    380 × 380 pixels takes three times as long in a batch of 32 as in a batch of 4.
    """
    return torch.split(pixels, max(1, CPU_PIXELS // (pixels.shape[2] * pixels.shape[3])))


class Backbone(nn.Module, ABC):
    """Base class of backbones. A subclass sets `preprocessing` and `view_block_widths`.

    An embedding lists, for each view, the features of the head and then those of each depth.
    """

    preprocessing: Preprocessing
    view_block_widths: tuple[int, ...]
    """Widths of the feature blocks of one view."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self._trained: Trained = "all"

    @property
    def block_widths(self) -> tuple[int, ...]:
        """Widths of the feature blocks of the whole embedding (views × blocks of a view)."""
        return self.view_block_widths * len(self.preprocessing.views)

    @property
    def embedding_width(self) -> int:
        """Width D of the embedding."""
        return sum(self.block_widths)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Compute the features (b, sum(view_block_widths)) of one view (b, 3, height, width)."""

    def embed(self, views: Sequence[Tensor]) -> Tensor:
        """Compute embeddings (b, D) float32 of a batch from `Preprocessing.batch`.

        Raises:
            ValueError: the number of views is wrong.
        """
        if len(views) != len(self.preprocessing.views):
            raise ValueError(
                f"{self.config.name} needs {len(self.preprocessing.views)} views, got {len(views)}"
            )
        device = self.device
        return torch.cat([self._view_features(view.to(device)) for view in views], dim=1)

    def _view_features(self, pixels: Tensor) -> Tensor:
        if pixels.device.type != "cpu" or torch.is_grad_enabled():
            return self.features(pixels).float()
        return torch.cat([self.features(part).float() for part in cpu_parts(pixels)])

    @abstractmethod
    def last_block(self) -> list[nn.Module]:
        """Return the modules that `set_trainable("last-block")` trains, each with parameters."""

    def architecture(self) -> dict[str, Any]:
        """Return a JSON-ready description for `build_backbone(config, architecture=...)`.

        It builds the same network without reading pretrained weights, for checkpoints that contain
        their own.
        """
        return {}

    def set_trainable(self, part: Trained) -> None:
        """Choose which part of the weights is trained: "none", the "last-block" or "all".

        Parts that are not trained stay in evaluation mode after `train()`, so that their BatchNorm
        statistics do not change.

        Raises:
            ValueError: `part` is none of these.
        """
        if part not in get_args(Trained):
            raise ValueError(f"part must be one of {', '.join(get_args(Trained))}, not {part!r}")
        self._trained = part
        for parameter in self.parameters():
            parameter.requires_grad_(part == "all")
        if part == "last-block":
            for module in self.last_block():
                module.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode like `nn.Module.train`, but keep untrained parts in evaluation mode."""
        super().train(mode and self._trained == "all")
        if mode and self._trained == "last-block":
            for module in self.last_block():
                module.train(True)
        self.training = mode
        return self

    def weights_hash(self) -> str:
        """Return sixteen hexadecimal digits that change with any weight."""
        return weights_hash(self)


def weights_hash(module: nn.Module) -> str:
    """Return sixteen hexadecimal digits that change with any weight or buffer of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        contiguous = tensor.detach().cpu().contiguous()
        digest.update(contiguous.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _centre_box(
    size: tuple[int, int], height: int, width: int
) -> tuple[float, float, float, float]:
    """Return the largest centred box (left, top, right, bottom) with the aspect ratio of a view."""
    picture_width, picture_height = size
    scale = min(picture_width / width, picture_height / height)
    box_width, box_height = width * scale, height * scale
    left, top = (picture_width - box_width) / 2, (picture_height - box_height) / 2
    return (
        max(left, 0.0),
        max(top, 0.0),
        min(left + box_width, float(picture_width)),
        min(top + box_height, float(picture_height)),
    )


def public_name(name: str) -> str:
    """Return a backbone's name for a checkpoint: a folder's path is reduced to its name."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return name
    return path.resolve().parent.name if path.name == "checkpoint" else path.resolve().name
