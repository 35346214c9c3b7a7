"""Options of `python -m train pretrain`."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from geoclip_core.data.captions import DROP_PROBABILITY
from geoclip_core.data.vocabulary import DEFAULT_FEATURES, KNOWN_FEATURES

Trained = Literal["backbone=none", "backbone=last-block", "backbone=all"]
FREEZE = {"backbone=none": "all", "backbone=last-block": "last-block", "backbone=all": "none"}
"""What `Backbone.freeze` is told for each."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What every training needs to know."""

    recipe: str | None = None
    """recipe of train/recipes by name, or the path of a YAML file; flags go before it"""
    data: Path | None = None
    """dataset folder (OSV-Mini-129k, a demo set, imported photos)"""
    output: Path | None = None
    """folder of the run; by default a new one in the runs folder, named by time and recipe"""
    runs: Path = Path("runs")
    """folder in which runs are kept"""
    resume: Path | None = None
    """run folder to continue from its last saved step; its own options hold, so give no others"""
    backbone: str = "efficientnet-lite2"
    """efficientnet-lite2 (bundled), a hub id such as openai/clip-vit-base-patch32, the folder of a
    transformers model, or the run folder of a pretraining"""
    views: tuple[str, ...] = ()
    """HEIGHTxWIDTH of each view of a photo, such as 260x260; none: the backbone's own size"""
    fit: Literal["squash", "crop"] = "squash"
    """whether the whole frame is squashed into a view, or its centre cropped to the same shape"""
    train: Trained = "backbone=none"
    """which part of the backbone learns; frozen means frozen, BatchNorm statistics included"""
    augment: float = 1.0
    """strength of crops, colours and JPEG noise (0: none) where the backbone learns; never flips"""
    epochs: int = 40
    """passes over the training photos"""
    batch_size: int = 128
    """photos of one optimizer step, over all processes and accumulation parts"""
    accumulation: int = 1
    """parts into which a step is cut to save memory"""
    learning_rate: float = 2e-3
    """highest learning rate of everything but the backbone"""
    backbone_learning_rate: float = 2e-5
    """highest learning rate of the backbone's trained part"""
    weight_decay: float = 0.05
    """decoupled weight decay of weight matrices (AdamW)"""
    warmup: float = 0.05
    """share of all steps in which the learning rate rises; after it a cosine down to zero"""
    clip_norm: float = 1.0
    """largest norm of the gradient; 0 for no limit"""
    patience: int = 10
    """epochs without a better validation after which to end; 0: never"""
    val_fraction: float = 0.1
    """share of the training photos that is cut out by spatial blocks for validation"""
    seed: int = 0
    """chance of splits, weights, order and augmentation"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute; auto takes a GPU if there is one"""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """mixed precision; auto takes bf16 on a GPU that has it, else full precision"""
    workers: int = 2
    """threads that read photos"""
    cache_dir: Path | None = None
    """where embeddings are kept between runs; by default the platform's cache folder"""
    log_every: int = 10
    """steps between two lines of metrics.jsonl"""
    save_seconds: float = 60.0
    """how often the state is saved inside an epoch; it is also saved after every validation"""

    def __post_init__(self) -> None:
        if self.resume is not None:
            self._refuse_others()
            return
        if self.data is None:
            raise ValueError("data must be given: the folder of a dataset (or resume: a run)")
        self.view_sizes  # noqa: B018  raises for a view that cannot be read
        at_least = {
            "epochs": 1,
            "batch_size": 1,
            "accumulation": 1,
            "patience": 0,
            "workers": 1,
            "log_every": 1,
            "seed": 0,
            "augment": 0,
            "clip_norm": 0,
            "weight_decay": 0,
            "save_seconds": 0,
        }
        for name, lowest in at_least.items():
            if not getattr(self, name) >= lowest:
                raise ValueError(f"{name} must be at least {lowest}, not {getattr(self, name)}")
        for name in ("learning_rate", "backbone_learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the steps below 1, not {self.warmup}")
        if not 0 < self.val_fraction <= 0.5:
            raise ValueError(
                f"val_fraction must lie above 0 and up to 0.5, not {self.val_fraction}: the best "
                "step and the calibration are chosen on it"
            )
        if self.accumulation > self.batch_size:
            raise ValueError(
                f"accumulation {self.accumulation} cuts a step of batch_size {self.batch_size} "
                "into parts of less than one photo"
            )
        if self.device == "cpu" and self.precision == "fp16":
            raise ValueError("precision fp16 needs a GPU: a CPU computes it wrongly or not at all")

    @property
    def view_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each view."""
        return view_sizes(self.views)

    @property
    def frozen(self) -> bool:
        """Whether nothing of the backbone learns."""
        return self.train == "backbone=none"

    def _refuse_others(self) -> None:
        """With --resume every option but the device comes from the run."""
        for option in dataclasses.fields(self):
            if option.name in ("resume", "device", "runs"):
                continue
            default = option.default
            if default is dataclasses.MISSING:
                default = option.default_factory()
            if getattr(self, option.name) != default:
                raise ValueError(
                    f"resume continues a run with its own options: leave out {option.name}"
                )


def view_sizes(views: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """(height, width) of views that are written like 320x512, or 260 for a square.

    Raises:
        ValueError: naming the one that cannot be read, or is too small or too large.
    """
    sizes = []
    for view in views:
        match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", view)
        if not match:
            raise ValueError(f"views: {view!r} is not of the form HEIGHTxWIDTH, like 260x260")
        height, width = int(match[1]), int(match[2] or match[1])
        if not all(32 <= side <= 2048 for side in (height, width)):
            raise ValueError(f"views: {view!r} must have sides of 32 to 2048 pixels")
        sizes.append((height, width))
    return tuple(sizes)


@dataclass(frozen=True)
class BankOptions:
    """How a retrieval model is fitted."""

    features: tuple[str, ...] = ("climate", "country")
    """Context features with a head each."""
    use_context: bool = True
    """Let context heads join the embedding at the coordinate head; off: no context heads at all."""
    vote: Literal["cosine", "kernel-ridge"] = "kernel-ridge"
    """How the bank answers: "kernel-ridge" up to 5,000 photos, "cosine" for more."""
    field_scales: tuple[float, ...] = (1492.7, 4000.0)
    """Kilometres in which the targets of kernel ridge fall off: GeoScore's own, and a wider one."""
    gammas: tuple[float, ...] = (1.5,)
    """Kernel widths exp(γ (similarity − 1)); of several, the data choose inside each fold."""
    ridges: tuple[float, ...] = (0.05,)
    """Ridges; of several, the data choose inside each fold."""
    readout_temperatures: tuple[float, ...] = (0.03,)
    """Sharpness of the field from which the answer is read; of several, the data choose."""
    temperature: float = 0.2
    """Divides the votes before the softmax, until calibration corrects it."""
    context_weight: float = 0.02
    """Share of the context in the similarity of the coordinate head, from 0 to below 1."""
    agreement: float = 0.8
    """Weight of places whose known context agrees with the photo's; 0 leaves it out."""
    context_gammas: tuple[float, ...] = (1.0,)
    """Kernel widths of the context heads; of several, the data choose inside each fold."""
    context_ridges: tuple[float, ...] = (0.1,)
    """Ridges of the context heads; of several, the data choose inside each fold."""
    join_width: int = 32
    """Numbers that each context feature hands to the coordinate head."""
    folds: int = 10
    """Folds of the cross-validation."""
    repeats: int = 3
    """How often the cross-validation is repeated with other folds."""
    group_km: float = 50.0
    """Photos closer than this stay in one fold in the spatially blocked cross-validation."""
    seed: int = 0
    """Seed of the folds."""
    use_all_rows: bool = False
    """Learn from the rows of every split. The numbers come from cross-validation either way."""
    license: str = ""
    """Licence of the photos, which the weights then carry as well ("CC BY-SA 4.0")."""
    note: str = ""
    """What a reader of the model card has to know about its numbers, in a sentence or two."""

    def __post_init__(self) -> None:
        if not 0 <= self.context_weight < 1:
            raise ValueError(f"context_weight must lie in [0, 1), not {self.context_weight}")
        if self.folds < 2 or self.repeats < 1:
            raise ValueError("folds must be at least 2 and repeats at least 1")
        if self.use_context and not self.features:
            raise ValueError("context is on but no feature is named: name some or switch it off")
        for name in (
            "gammas",
            "ridges",
            "readout_temperatures",
            "context_gammas",
            "context_ridges",
        ):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} needs at least one value, each above zero")
        if self.agreement < 0:
            raise ValueError(f"agreement must not be negative, not {self.agreement}")


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


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainingOptions):
    """Contrastive alignment of photos and captions."""

    COMMAND: ClassVar[str] = "pretrain"

    train: Trained = "backbone=last-block"
    """which part of the image tower learns; with backbone=none only its projection and the text"""
    train_text: bool = True
    """whether the text tower learns; a small one that is made on the spot always does"""
    text: str = "small"
    """text tower of a backbone that brings none: small (made on the spot, nothing to download), or
    the hub id or folder of a text model; a CLIP checkpoint keeps its own"""
    width: int = 256
    """dimensions that photos and captions share; a CLIP checkpoint keeps its own"""
    features: tuple[str, ...] = DEFAULT_FEATURES
    """what captions may mention (climate, month, country, state, county, city)"""
    drop_probability: float = DROP_PROBABILITY
    """how likely each part of a caption is left out in training"""
    epochs: int = 10
    """passes over the training photos"""
    learning_rate: float = 1e-3
    """highest learning rate of projections and of a text tower that is made on the spot"""
    backbone_learning_rate: float = 1e-4
    """highest learning rate of what was pretrained before"""
    patience: int = 0
    """epochs without a better validation loss after which to end; 0: never"""
    license: str = ""
    """licence of the photos, which goes into the model card (CC BY-SA 4.0, ...)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume is not None:
            return
        if self.batch_size < 2:
            raise ValueError(
                "batch_size must be at least 2: a caption needs others to be told apart from"
            )
        if self.accumulation != 1:
            raise ValueError(
                "accumulation must be 1 here: parts of a step would not see each other's captions; "
                "take a smaller batch_size, smaller views, or more processes"
            )
        if wrong := [f for f in self.features if f not in KNOWN_FEATURES]:
            raise ValueError(
                f"features: there is no {wrong[0]!r}; known are {', '.join(KNOWN_FEATURES)}"
            )
        if not self.features:
            raise ValueError("features: captions need something to mention")
        if not 0 <= self.drop_probability < 1:
            raise ValueError(f"drop_probability must lie in [0, 1), not {self.drop_probability}")
        if self.width < 2:
            raise ValueError(f"width must be at least 2, not {self.width}")
