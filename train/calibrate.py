"""Fit temperature and radius of a model on validation photos.

A model says how sure it is; this makes it true on photos that it has not learnt from. The numbers
and a diagram of before and after go into the checkpoint and its model card.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from geoclip_core.data.dataset import read_dataset
from train.measured_photos import Device, embed_split, load


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which model, and on which photos."""

    COMMAND: ClassVar[str] = "calibrate"

    model: str
    """run or checkpoint folder, or geoclip; a bundled model needs an output"""
    data: Path
    """dataset folder; of its training photos, the validation share is used and nothing else"""
    output: Path | None = None
    """folder for a calibrated copy of the checkpoint; by default the checkpoint itself changes"""
    val_fraction: float = 0.1
    """share of the training photos that is val; as the model was trained"""
    split_seed: int = 0
    """chance of the val split; as the model was trained"""
    batch_size: int = 32
    """photos that go through the backbone together"""
    workers: int = 2
    """threads that read photos"""
    device: Device = "auto"
    """where to compute; auto takes a GPU if there is one"""
    cache_dir: Path | None = None
    """where embeddings are kept; by default the platform's cache folder"""

    def __post_init__(self) -> None:
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, not {self.val_fraction}")
        if self.batch_size < 1 or self.workers < 1:
            raise ValueError("batch_size and workers must be 1 or more")


def run(options: Options) -> int:
    """Calibrate and say what changed."""
    from geoclip_core.evaluation import calibrate as loop
    from train.progress import ProgressBar

    dataset = read_dataset(options.data, val_fraction=options.val_fraction, seed=options.split_seed)
    choice = load(options.model, options.device)
    _check_target(choice, options)
    measured = embed_split(
        choice.model,
        dataset.split("val"),
        batch_size=options.batch_size,
        workers=options.workers,
        cache_dir=options.cache_dir,
        title="embedding val",
    )
    with ProgressBar("predicting", "photos") as bar:
        result = loop.calibrate(
            choice.model, measured.photos, measured.embeddings, progress=bar.update
        )
    print(_words(loop.summary(result)))
    print(_save(choice, options, result), file=sys.stderr)
    return 0


def _check_target(choice: Any, options: Options) -> None:
    """Refuse what cannot be written before any time is spent.

    Raises:
        ValueError: a bundled model without an output, or an output that is something else.
    """
    from geoclip_core.geoclip.model import GeoClip
    from geoclip_core.hub.models import BUNDLED

    if options.output is not None and options.output.exists() and any(options.output.iterdir()):
        raise ValueError(f"{options.output} is not empty: choose another folder")
    if isinstance(choice.model, GeoClip):
        return
    if choice.folder is None:
        raise ValueError(f"{choice.name} has no checkpoint folder to write to")
    if options.output is None and choice.folder.resolve().is_relative_to(BUNDLED.resolve()):
        raise ValueError(
            f"{choice.name} ships with the package and is not changed: give --output FOLDER for a "
            "calibrated copy"
        )


def _save(choice: Any, options: Options, result: Any) -> Path:
    from geoclip_core.evaluation.calibrate import save_calibration
    from geoclip_core.geoclip.model import GeoClip

    if isinstance(choice.model, GeoClip):
        return choice.model.keep_calibration(result.calibration)
    if options.output is not None:
        shutil.copytree(choice.folder, options.output, dirs_exist_ok=True)
    return save_calibration(options.output or choice.folder, result)


def _words(numbers: dict[str, Any]) -> str:
    lines = [f"{numbers['n']:,} validation photos{'':<11}{'before':>10}{'after':>10}{'honest':>10}"]
    for mass in ("50", "90"):
        crossed = numbers["cross_validated_coverage"].get(mass)
        lines.append(
            f"truth inside the {mass} % radius    "
            f"{numbers['before']['coverage'][mass]:>10.1%}{numbers['after']['coverage'][mass]:>10.1%}"
            + (f"{crossed:>10.1%}" if crossed is not None else "")
        )
    lines.append(
        f"log density at the truth       {numbers['before']['log_density']:>10.2f}"
        f"{numbers['after']['log_density']:>10.2f}"
    )
    lines.append("honest: each photo judged by a calibration on the others")
    return "\n".join(lines)
