"""Whether the parts of a photo that are marked as reasons matter more than other parts of it."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from geoclip_core.files import write_atomically
from train.progress import ProgressBar

if TYPE_CHECKING:
    from geoclip_core.explain import Effect


@dataclass(frozen=True)
class Options:
    """Options of ``python -m train benchmark explanation``."""

    COMMAND: ClassVar[str] = "benchmark explanation"

    data: Path
    """Folder of the dataset."""
    model: str = "mini"
    """Bundled name, run or checkpoint folder, or hub id."""
    split: Literal["train", "val", "test"] = "test"
    """Photos that the model has not seen."""
    photos: int = 100
    """At most so many photos, drawn by the seed."""
    seed: int = 0
    """Seed of the draw."""
    output: Path | None = None
    """JSON file for every number."""

    def __post_init__(self) -> None:
        if self.photos < 1:
            raise ValueError("photos must be at least 1")


def run(options: Options) -> int:
    """Measure and print."""
    numbers = benchmark_explanation(options)
    print(
        f"{numbers['model']} on {numbers['photos']} photos, {numbers['seconds_a_photo']:.1f} s "
        "a photo. Support lost when a fifth of the photo is covered (95 % interval):"
    )
    for answer, row in numbers["answers"].items():
        marked, elsewhere = (
            f"{row[key]:6.1%} [{row[f'{key}_interval'][0]:.1%}, {row[f'{key}_interval'][1]:.1%}]"
            for key in ("marked", "elsewhere")
        )
        print(
            f"  {answer:<10} marked {marked}   same shape elsewhere {elsewhere}   "
            f"stands out in {row['stands_out']:.0%} of the photos"
        )
    if options.output is not None:
        write_atomically(options.output, json.dumps(numbers, indent=2) + "\n")
    return 0


def benchmark_explanation(options: Options) -> dict[str, Any]:
    """Explain photos and sum up what covering takes from each answer.

    Raises:
        ValueError: the split has no photo that can be read.
    """
    from geoclip_core.data.dataset import read_dataset
    from geoclip_core.errors import PhotoError
    from geoclip_core.locator import Geolocator

    dataset = read_dataset(options.data).split(options.split)
    count = min(options.photos, len(dataset))
    rows = np.random.default_rng(options.seed).choice(len(dataset), count, replace=False)
    locator = Geolocator.load(options.model)
    locator.accelerate()
    effects: dict[str, list[Effect]] = {}
    started = time.monotonic()
    done = 0
    with ProgressBar("explaining", "photos") as bar:
        for number, path in enumerate(dataset.select(np.sort(rows)).paths, 1):
            try:
                explanation = locator.explain(path)
            except PhotoError:
                continue
            finally:
                bar.update(number, count)
            done += 1
            for answer, effect in explanation.effects.items():
                effects.setdefault(answer, []).append(effect)
    if not done:
        raise ValueError(f"{options.data}: no photo of the split {options.split} can be read")
    return {
        "model": locator.name,
        "dataset": dataset.name,
        "split": options.split,
        "photos": done,
        "seconds_a_photo": (time.monotonic() - started) / done,
        "answers": {answer: _summary(found) for answer, found in effects.items()},
    }


def _summary(effects: Sequence["Effect"]) -> dict[str, Any]:
    """Mean shares of the support that go, with 95 % bootstrap intervals over photos."""
    from geoclip_core.evaluation.intervals import mean_intervals

    marked = [effect.marked_loss / effect.support for effect in effects]
    elsewhere = [np.mean(effect.elsewhere) / effect.support for effect in effects]
    intervals = mean_intervals(np.array([marked, elsewhere]).T)
    return {
        "marked": float(np.mean(marked)),
        "marked_interval": list(intervals[0]),
        "elsewhere": float(np.mean(elsewhere)),
        "elsewhere_interval": list(intervals[1]),
        "stands_out": float(np.mean([effect.stands_out for effect in effects])),
    }
