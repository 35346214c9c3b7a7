"""The geolocation model: normaliser, context heads and coordinate head on a photo's embedding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from annotated_types import Len
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.checks import STRICT, Name
from geoclip_core.data import KNOWN_FEATURES
from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.model.backbone import Backbone, BackboneConfig, weights_hash
from geoclip_core.model.bank_heads import BankHead, KernelContextHeads, KernelContextJoin
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.context_heads import ContextHeads, ContextJoin, overruled
from geoclip_core.model.coordinate_heads import CoordinateHead, GeocellHead, RegressionHead
from geoclip_core.model.domain import Domain
from geoclip_core.model.posterior import Posterior

ContextSource = Literal["photo", "map"]
STATISTICS_PART = 8192
"""Number of embeddings whose statistics are computed together."""


class EmbeddingNormaliser(nn.Module):
    """Standardises each dimension, then scales each block of the embedding to length √width.

    Entries are then about 1 in size. The statistics are buffers, saved with the heads; before `fit`
    they are 0 and 1.

    Raises:
        ValueError: there are no blocks, or a width is not positive.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, block_widths: Sequence[int]) -> None:
        super().__init__()
        self.block_widths = tuple(int(width) for width in block_widths)
        if not self.block_widths or min(self.block_widths) < 1:
            raise ValueError(f"block widths must be positive, not {self.block_widths}")
        self.width = sum(self.block_widths)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("scale", torch.ones(self.width))

    def check_weights(self) -> None:
        """Check that the loaded scale is above zero.

        Raises:
            ValueError: it is not.
        """
        if not float(self.scale.min()) > 0:
            raise ValueError("the scale of the normaliser must be above zero")

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> "EmbeddingNormaliser":
        """Set mean and standard deviation to those of training embeddings (n, D).

        Raises:
            ValueError: there are no embeddings, or they have another shape.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width or not len(embeddings):
            raise ValueError(f"expected embeddings (n, {self.width}), got {embeddings.shape}")
        # in parts, because twice the precision of all photos may take gigabytes
        parts = torch.split(embeddings, STATISTICS_PART)
        count = len(embeddings)
        mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / count
        squares = torch.stack([(part.double() - mean).square().sum(0) for part in parts]).sum(0)
        deviation = (squares / count).sqrt()
        self.mean.copy_(mean.float())
        # otherwise a feature that is constant in training would become huge when it changes
        floor = 1e-3 * deviation.mean().clamp_min(1e-12)
        self.scale.copy_(deviation.clamp_min(floor).float())
        return self

    @torch.no_grad()
    def unlikeness(self, embedding: Tensor) -> Tensor:
        """Return how unlike the training photos raw embeddings (b, D) are: (b,) float64.

        The logarithm of the mean squared standard score: the Mahalanobis distance to the mean of
        the training photos with a diagonal covariance (Lee et al., "A Simple Unified Framework for
        Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018, with one
        class). It is about 0 for photos of the same kind.
        """
        scores = (embedding.to(self.mean.dtype) - self.mean) / self.scale
        return scores.double().square().mean(dim=1).clamp_min(1e-9).log()

    def forward(self, embedding: Tensor) -> Tensor:
        """Standardise raw embeddings (b, D), each block to length √width."""
        values = (embedding.to(self.mean.dtype) - self.mean) / self.scale
        blocks = []
        for block in torch.split(values, list(self.block_widths), dim=1):
            norm = block.norm(dim=1, keepdim=True).clamp_min(1e-6)
            blocks.append(block * (block.shape[1] ** 0.5 / norm))
        return torch.cat(blocks, dim=1)


COORDINATE_HEADS: dict[str, Callable[..., CoordinateHead[Any]]] = {
    "regression": RegressionHead,
    "geocells": GeocellHead,
    "bank": BankHead,
}
CONTEXT_HEADS = ("linear", "kernel-ridge")


@dataclass(frozen=True)
class ModelConfig:
    """The heads of a model; with the backbone's config, the whole architecture.

    Raises:
        ValueError: a head is unknown, or `use_context` is set without features.
    """

    __pydantic_config__ = STRICT

    features: Annotated[tuple[Name, ...], Len(0, len(KNOWN_FEATURES))] = ()
    """Context features, each with a head; not used without context."""
    use_context: bool = True
    """Whether there are context heads, whose logits the coordinate head reads."""
    coordinate_head: str = "geocells"
    """One of `COORDINATE_HEADS`."""
    head_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the coordinate head (its `options`)."""
    context_heads: str = "linear"
    """One of `CONTEXT_HEADS`: "linear" is trained by gradient, "kernel-ridge" needs a bank head."""
    context_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the context heads beyond width and vocabularies."""
    join_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the context join beyond the vocabularies."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        if self.coordinate_head not in COORDINATE_HEADS:
            raise ValueError(
                f"coordinate head must be one of {', '.join(COORDINATE_HEADS)}, "
                f"not {self.coordinate_head!r}"
            )
        if self.context_heads not in CONTEXT_HEADS:
            raise ValueError(
                f"context heads must be one of {', '.join(CONTEXT_HEADS)}, "
                f"not {self.context_heads!r}"
            )
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"a feature occurs twice in {', '.join(self.features)}")
        if self.use_context and not self.features:
            raise ValueError("context is on but there are no features: name some or switch it off")


@dataclass(frozen=True)
class Estimate:
    """A model's prediction for one photo."""

    posterior: Posterior
    context: dict[str, NDArray[np.float64]]
    """Feature -> probabilities (classes,) in the order of its vocabulary."""


class Locatable(Protocol):
    """The interface of models that locate photos: `GeolocationModel` and `GeoClip`."""

    calibration: Calibration | None
    """Applied by `predict`; None: posteriors are not calibrated."""

    @property
    def backbone(self) -> Backbone | None:
        """The network that embeds photos; None if the model was loaded without it."""

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        """Classes of each context feature that `predict` returns; empty without context heads."""

    @property
    def context_source(self) -> ContextSource:
        """Whether context is predicted from the photo or looked up on the map."""

    def predict(self, embedding: Tensor | NDArray[np.floating]) -> list[Estimate]:
        """Return one estimate for each raw embedding (b, D) of the backbone."""

    def weights_hash(self) -> str:
        """Return sixteen hexadecimal digits that change with any weight of the model."""

    @property
    def domain(self) -> Domain | None:
        """What its training photos are; None: not recorded."""

    def unlikeness(self, embedding: Tensor | NDArray[np.floating]) -> NDArray[np.float64] | None:
        """Return how unlike the training photos embeddings (b, D) are: (b,); None: unknown."""


@dataclass(frozen=True)
class Output:
    """Outputs of one forward pass, for losses."""

    context: dict[str, Tensor]
    """Feature -> logits (b, classes)."""
    coordinates: Any
    """Output of the coordinate head, for its `loss`, `answers` and `posteriors`."""


class GeolocationModel(nn.Module):
    """Heads on the embeddings of a backbone.

    With `config.use_context`, the coordinate head reads the normalised embedding and the projected
    logits of the context heads; without it, the embedding alone.

    Args:
        config: the heads.
        backbone_config: config of the backbone that computes the embeddings.
        block_widths: widths of the blocks of an embedding.
        vocabularies: classes of (at least) the context features; None without context.
        calibration: applied by `predict`; None: uncalibrated.
        name: for the model card.

    Raises:
        ValueError: a feature has no vocabulary, or an option of a head is invalid.
    """

    context_source: ContextSource = "photo"

    def __init__(
        self,
        config: ModelConfig,
        backbone_config: BackboneConfig,
        block_widths: Sequence[int],
        vocabularies: Mapping[str, Vocabulary] | None = None,
        calibration: Calibration | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone_config = backbone_config
        self.block_widths = tuple(int(width) for width in block_widths)
        self.calibration = calibration
        self.name = name
        self.domain: Domain | None = None
        known = dict(vocabularies or {})
        missing = [feature for feature in config.features if feature not in known]
        if config.use_context and missing:
            raise ValueError(f"no vocabulary for the context feature {missing[0]!r}")
        self.features = config.features if config.use_context else ()
        self.vocabularies = {feature: known[feature] for feature in self.features}
        self.normaliser = EmbeddingNormaliser(self.block_widths)
        joined_widths = self.block_widths
        self.context_heads: ContextHeads | KernelContextHeads | None = None
        self.context_join: ContextJoin | KernelContextJoin | None = None
        if config.use_context:
            width, words = sum(self.block_widths), self.vocabularies
            if config.context_heads == "linear":
                self.context_heads = ContextHeads(width, words, **config.context_options)
                self.context_join = ContextJoin(words, **config.join_options)
            else:
                self.context_heads = KernelContextHeads(width, words, **config.context_options)
                self.context_join = KernelContextJoin(words, **config.join_options)
            joined_widths = (*self.block_widths, self.context_join.output_width)
        head = COORDINATE_HEADS[config.coordinate_head](joined_widths, **config.head_options)
        self.coordinate_head: CoordinateHead[Any] = head
        if isinstance(self.context_heads, KernelContextHeads):
            # both heads read the same bank of training embeddings, which is stored once
            self.context_heads.attach(head)
        self.backbone: Backbone | None = None

    @property
    def embedding_width(self) -> int:
        """Width D of an embedding."""
        return sum(self.block_widths)

    def attach_backbone(self, backbone: Backbone) -> None:
        """Set the backbone that embeds photos.

        Raises:
            ValueError: its block widths differ from those of the model.
        """
        if backbone.block_widths != self.block_widths:
            raise ValueError(
                f"backbone {backbone.config.name} gives blocks of {backbone.block_widths}, "
                f"the heads were built for {self.block_widths}"
            )
        self.backbone = backbone

    def check_weights(self) -> None:
        """Check that the loaded weights of the heads can give an estimate.

        Raises:
            ValueError: naming the weights that cannot.
        """
        self.normaliser.check_weights()
        self.coordinate_head.check_weights()
        if isinstance(self.context_heads, KernelContextHeads):
            self.context_heads.check_weights()

    def weights_hash(self) -> str:
        """Return sixteen hexadecimal digits that change with any weight, backbone included."""
        return weights_hash(self)

    def unlikeness(self, embedding: Tensor | NDArray[np.floating]) -> NDArray[np.float64]:
        """Return `EmbeddingNormaliser.unlikeness` (b,) of raw embeddings (b, D)."""
        values = torch.as_tensor(embedding).to(self.normaliser.mean.device, torch.float32)
        scores: NDArray[np.float64] = self.normaliser.unlikeness(values).cpu().numpy()
        return scores

    def forward(
        self,
        embedding: Tensor,
        given: Mapping[str, int] | None = None,
        use_context: bool = True,
    ) -> Output:
        """Compute context logits and coordinate output of raw embeddings (b, D).

        `given` and `use_context` are those of `predict`.
        """
        normalised = self.normaliser(embedding)
        if self.context_heads is None or self.context_join is None:
            return Output({}, self.coordinate_head(normalised))
        logits = self.context_heads(normalised)
        if given:
            logits = overruled(logits, given, self.vocabularies)
        joined = self.context_join(logits)
        if not use_context:
            joined = self.context_join.neutral(joined)
        return Output(logits, self.coordinate_head(torch.cat([normalised, joined], dim=1)))

    @torch.no_grad()
    def predict(
        self,
        embedding: Tensor | NDArray[np.floating],
        given: Mapping[str, int] | None = None,
        use_context: bool = True,
    ) -> list[Estimate]:
        """Return one estimate for each raw embedding (b, D), calibrated if the model is.

        Args:
            embedding: of b photos.
            given: feature -> class index that is known to be true. It replaces what that head (and
                the heads of places around and inside it) reads in the photo.
            use_context: False: the coordinate head gets a context that says nothing.

        Raises:
            ValueError: the embeddings have another width, or a feature has no head.
        """
        if unknown := [feature for feature in given or {} if feature not in self.vocabularies]:
            raise ValueError(f"the model has no head for {unknown[0]}")
        values = torch.as_tensor(embedding)
        if values.ndim != 2 or values.shape[1] != self.embedding_width:
            raise ValueError(
                f"expected embeddings (b, {self.embedding_width}), got {tuple(values.shape)}"
            )
        was_training = self.training
        self.eval()
        values = values.to(self.normaliser.mean.device, torch.float32)
        output = self(values, given, use_context)
        self.train(was_training)
        prior = None if self.domain is None else self.domain.prior
        posteriors = self.coordinate_head.posteriors(output.coordinates, self.calibration, prior)
        context = {
            feature: logits.double().softmax(dim=1).cpu().numpy()
            for feature, logits in output.context.items()
        }
        return [
            Estimate(posterior, {feature: rows[i] for feature, rows in context.items()})
            for i, posterior in enumerate(posteriors)
        ]
