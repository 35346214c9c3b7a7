"""Options of `python -m train pretrain`."""

from dataclasses import dataclass
from typing import ClassVar

from geoclip_core.data.captions import DROP_PROBABILITY
from geoclip_core.data.vocabulary import DEFAULT_FEATURES, KNOWN_FEATURES
from geoclip_core.loops.training_options import Trained, TrainingOptions


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
