"""What a retrieval model scores if its settings never saw the photos it is scored on.

Views, depths, kernel, ridge, readout and targets of the bundled models were found on the same
photos that cross-validation then scores. Here every fold makes the choice anew, from its training
photos alone (nested cross-validation); the difference is what the search flattered itself by. What
this cannot undo: the depths and the grids on offer were drawn up knowing those photos.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from geoclip_core.atomic_writes import write_atomically
from geoclip_core.earth.sphere import geoscore
from train.command_line import load_recipe
from train.options import build
from train.progress import ProgressBar

if TYPE_CHECKING:
    from geoclip_core.loops.bank_selection import SelectionResult


@dataclass(frozen=True)
class Options:
    """Options of ``python -m train benchmark selection``."""

    COMMAND: ClassVar[str] = "benchmark selection"

    data: Path
    """Folder of the dataset. All its photos take part."""
    views: tuple[str, ...] = ("260x260", "380x380", "320x512")
    """HEIGHTxWIDTH of the views to choose among; every subset is tried."""
    folds: int = 10
    """Folds of the outer cross-validation."""
    repeats: int = 3
    """Repeats with other folds."""
    seed: int = 0
    """Seed of the folds."""
    cache_dir: Path | None = None
    """Where embeddings are kept; by default the platform's cache folder."""
    output: Path | None = None
    """JSON file for every number."""

    def __post_init__(self) -> None:
        if self.folds < 2 or self.repeats < 1:
            raise ValueError("folds must be at least 2, repeats at least 1")


def run(options: Options) -> int:
    """Measure and print."""
    result = benchmark_selection(options)
    numbers = summary(result)
    low, high = numbers["geoscore_interval"]
    print(
        f"GeoScore {numbers['geoscore']:,.0f} [{low:,.0f}–{high:,.0f}], median "
        f"{numbers['median_km']:,.0f} km, {numbers['within_750_km']:.1%} within 750 km: "
        f"{options.folds}-fold cross-validation, {options.repeats} times, each fold choosing among "
        f"{result.settings:,} settings"
    )
    for (features, scales), count in result.chosen.most_common(5):
        views = " + ".join(options.views[view] for view in features.views)
        print(f"  {count} × views {views}, {len(features.depths)} depths, scales {scales} km")
    if options.output is not None:
        write_atomically(options.output, json.dumps(numbers, indent=2) + "\n")
    return 0


def benchmark_selection(options: Options) -> "SelectionResult":
    """Choose and score in every fold, with the depths of the recipe mini."""
    import torch

    from geoclip_core.data.table import read_dataset
    from geoclip_core.loops.acceleration import build_accelerator
    from geoclip_core.loops.bank_model import BankData
    from geoclip_core.loops.bank_selection import NestedSelection, candidate_features
    from geoclip_core.loops.fit import fit_backbone
    from geoclip_core.loops.fit_data import Embedder
    from geoclip_core.loops.fit_options import FitOptions
    from geoclip_core.loops.run_session import RunSession
    from geoclip_core.model.backbones import build_backbone

    recipe: dict[str, Any] = load_recipe(FitOptions, "mini-plain")
    recipe |= {"data": options.data, "views": options.views, "device": "cpu"}
    recipe |= {"folds": options.folds, "repeats": options.repeats, "seed": options.seed}
    fitting = build(FitOptions, recipe, "selection")
    dataset = read_dataset(options.data)
    backbone = build_backbone(fit_backbone(fitting))
    embedder = Embedder(fitting, RunSession(None), build_accelerator(fitting), backbone)
    embedded = embedder.every(dataset, cache_dir=options.cache_dir)
    photos = dataset.select(embedded.readable)
    values = np.asarray(embedded.values[embedded.readable], dtype=np.float32)
    selection = NestedSelection(
        BankData(torch.from_numpy(values), photos.coordinates, {}),
        candidate_features(len(options.views), len(fitting.depths)),
        fitting.bank_options,
        backbone.config,
        backbone.view_block_widths,
    )
    with ProgressBar("choosing", "folds") as bar:
        return selection.measure(bar.update)


def summary(result: "SelectionResult") -> dict[str, Any]:
    """GeoScore with its 95 % bootstrap interval over photos, median km, shares."""
    from geoclip_core.loops.intervals import mean_intervals

    errors = result.errors_km
    (interval,) = mean_intervals(geoscore(errors).mean(axis=0)[:, None])
    return {
        "geoscore": float(geoscore(errors).mean()),
        "geoscore_interval": list(interval),
        "median_km": float(np.median(errors)),
        "within_200_km": float((errors < 200).mean()),
        "within_750_km": float((errors < 750).mean()),
        "within_2500_km": float((errors < 2500).mean()),
        "settings": result.settings,
        "photos": int(errors.shape[1]),
        "repeats": int(errors.shape[0]),
    }
