"""Options of `python -m train fit`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from geoclip_core.data.vocabulary import DEFAULT_FEATURES, KNOWN_FEATURES
from geoclip_core.loops.bank_model import BankOptions
from geoclip_core.loops.training_options import TrainingOptions

_GEOCELLS = ("cells", "smoothing", "offset_rank")
_RETRIEVAL = ("vote", "gammas", "ridges", "context_share", "folds", "repeats", "all_rows", "note")


def _context_weights() -> dict[str, float]:
    return {
        "climate": 1.0,
        "month": 1.0,
        "country": 1.0,
        "state": 1.0,
        "county": 0.5,
        "city": 0.25,
    }


@dataclass(frozen=True, kw_only=True)
class FitOptions(TrainingOptions):
    """Context heads and a coordinate head on a backbone."""

    COMMAND: ClassVar[str] = "fit"

    depths: tuple[int, ...] = ()
    """inner blocks of the backbone whose pooled features join those of its end, such as 7 14 20"""
    depth_pooling: Literal["mean", "mean-std"] = "mean-std"
    """what is kept of an inner block: its mean, or mean and standard deviation"""
    projection: bool = False
    """use the projected embedding of a CLIP tower or of a pretrained backbone"""
    coordinate_head: Literal["geocells", "regression", "retrieval"] = "geocells"
    """geocells: cells and an offset; regression: a point; retrieval: a bank of training photos,
    best for hundreds of photos, possible for a few thousand"""
    use_context: bool = True
    """context heads, whose logits join the embedding at the coordinate head; without: neither"""
    features: tuple[str, ...] = DEFAULT_FEATURES
    """context features to learn (climate, month, country, state, county, city); those without
    labels in the training photos are left out"""
    context_weights: dict[str, float] = field(default_factory=_context_weights)
    """weight of each feature's loss; large vocabularies need a low one"""
    coordinate_weight: float = 1.0
    """weight of the coordinate head's loss"""
    class_balance: float = 0.0
    """how much rare classes are favoured in the context losses: 0 not at all, 1 fully"""
    context_hidden: int = 0
    """width of a hidden layer that all context heads share; 0: none"""
    join_width: int = 16
    """numbers to which each feature's logits are projected for the coordinate head"""
    hidden: int = 0
    """width of a hidden layer in the coordinate head; 0: none"""
    dropout: float = 0.3
    """share of the heads' inputs that is dropped in training"""
    cells: int = 0
    """most geocells; 0: one per 15 training photos, up to 1,000"""
    smoothing: float = 0.5
    """decay of the cells' smoothed targets, in typical distances of neighbouring cells; 0: none"""
    offset_rank: int = 32
    """width of the offset network; 0: answers are the centres of cells"""
    vote: Literal["cosine", "kernel-ridge"] = BankOptions.vote
    """retrieval: how the bank votes; kernel-ridge is for up to 5,000 photos"""
    gammas: tuple[float, ...] = BankOptions.gammas
    """retrieval: kernel widths exp(γ (cosine − 1)) to choose from"""
    ridges: tuple[float, ...] = BankOptions.ridges
    """retrieval by kernel-ridge: ridges to choose from"""
    context_share: float = BankOptions.context_weight
    """retrieval: share of the context in the similarity of photos, from 0 to below 1"""
    folds: int = BankOptions.folds
    """retrieval: folds of the cross-validation that measures and calibrates the model"""
    repeats: int = BankOptions.repeats
    """retrieval: how often the cross-validation is repeated with other folds"""
    all_rows: bool = BankOptions.use_all_rows
    """retrieval: learn from the photos of every split; the numbers are cross-validated"""
    license: str = ""
    """licence of the photos, which goes into the model card (CC BY-SA 4.0, ...)"""
    note: str = ""
    """retrieval: what a reader of the model card has to know about its numbers"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume is not None:
            return
        if wrong := [f for f in self.features if f not in KNOWN_FEATURES]:
            raise ValueError(
                f"features: there is no {wrong[0]!r}; known are {', '.join(KNOWN_FEATURES)}"
            )
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features: one occurs twice in {', '.join(self.features)}")
        if self.use_context and not self.features:
            raise ValueError("use_context needs features: name some, or give --no-use-context")
        if wrong := [f for f in self.context_weights if f not in KNOWN_FEATURES]:
            raise ValueError(f"context_weights: there is no feature {wrong[0]!r}")
        for feature, weight in self.context_weights.items():
            if not weight >= 0:
                raise ValueError(f"context_weights: {feature}={weight} is negative")
        if not 0 <= self.dropout < 1 or not 0 <= self.class_balance <= 1:
            raise ValueError("dropout must lie in [0, 1), class_balance in [0, 1]")
        for name in ("hidden", "context_hidden", "cells", "smoothing", "offset_rank"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("coordinate_weight", "join_width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        self._refuse_of_other_heads()
        self.bank_options  # noqa: B018  raises for values that a bank cannot have
        if self.coordinate_head == "retrieval" and not self.frozen:
            raise ValueError(
                "coordinate_head retrieval keeps embeddings of the backbone as it is: "
                "train must be backbone=none"
            )
        if self.projection and self.backbone.startswith("efficientnet-lite"):
            raise ValueError(f"projection: {self.backbone} has none; CLIP towers do")

    @property
    def bank_options(self) -> BankOptions:
        """What the closed form of the retrieval head needs."""
        return BankOptions(
            features=self.features if self.use_context else (),
            use_context=self.use_context,
            vote=self.vote,
            gammas=self.gammas,
            ridges=self.ridges,
            context_weight=self.context_share,
            join_width=self.join_width,
            folds=self.folds,
            repeats=self.repeats,
            seed=self.seed,
            use_all_rows=self.all_rows,
            license=self.license,
            note=self.note,
        )

    def _refuse_of_other_heads(self) -> None:
        for head, names in (("geocells", _GEOCELLS), ("retrieval", _RETRIEVAL)):
            if self.coordinate_head == head:
                continue
            for name in names:
                if getattr(self, name) != getattr(type(self), name, ()):
                    raise ValueError(
                        f"{name} belongs to coordinate_head {head}, not to {self.coordinate_head}"
                    )

    def context_weight(self, feature: str) -> float:
        """Weight of a feature's loss; 1 unless one is given."""
        return self.context_weights.get(feature, 1.0)
