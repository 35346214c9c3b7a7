"""Measure whether the marked parts of photos matter more than other parts."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from geoclip_core.data.dataset import read_dataset
from geoclip_core.errors import PhotoError
from geoclip_core.evaluation.intervals import mean_intervals
from geoclip_core.explain import Effect
from geoclip_core.files import write_atomically
from geoclip_core.jobs import ProgressBar
from geoclip_core.locator import Geolocator
from geoclip_core.training.options import options_class


@options_class
class ExplanationOptions:
    """Options of `benchmark explanation`."""

    data: Path
    """dataset folder"""
    model: str = "mini"
    """bundled name, run or checkpoint folder, or hub id"""
    split: Literal["train", "val", "test"] = "test"
    """split that the model was not trained on"""
    photos: Annotated[int, Ge(1)] = 100
    """number of photos, drawn at random"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the draw"""
    output: Path | None = None
    """JSON file for every number"""


def explanation(options: ExplanationOptions) -> int:
    """Measure whether the marked parts of photos matter more than others."""
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


def benchmark_explanation(options: ExplanationOptions) -> dict[str, Any]:
    """Explain photos and return the mean share of support that each answer loses.

    Raises:
        ValueError: no photo of the split can be read.
    """
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
                explained = locator.explain(path)
            except PhotoError:
                continue
            finally:
                bar.update(number, count)
            done += 1
            for answer, effect in explained.effects.items():
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


def _summary(effects: Sequence[Effect]) -> dict[str, Any]:
    """Return the mean shares of lost support, with 95 % bootstrap intervals over photos."""
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
