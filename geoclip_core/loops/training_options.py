"""Options that `fit` and `pretrain` share: one dataclass, a docstring under each field.

Command line, recipes, help texts and the train page's form are all made from these dataclasses.
Impossible combinations are refused here, before anything is loaded.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
        for field in dataclasses.fields(self):
            if field.name in ("resume", "device", "runs"):
                continue
            default = field.default
            if default is dataclasses.MISSING:
                default = field.default_factory()
            if getattr(self, field.name) != default:
                raise ValueError(
                    f"resume continues a run with its own options: leave out {field.name}"
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
