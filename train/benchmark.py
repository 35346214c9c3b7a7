"""Measured comparisons: ratios in one run, on the machine at hand.

gallery: one GeoCLIP query, the published package's own `predict` against ours, with the same random
image tower on both sides; says whether the answers are equal.
tables: reading, splitting and labelling a dataset (by default a synthetic one of 119,008 rows)
against pandas' own read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from train.benchmark_gallery import benchmark_gallery
from train.benchmark_tables import benchmark_tables


@dataclass(frozen=True)
class Options:
    """Options of ``python -m train benchmark``."""

    COMMAND: ClassVar[str] = "benchmark"
    POSITIONAL: ClassVar[tuple[str, ...]] = ("name",)

    name: Literal["gallery", "tables"]
    """What to measure."""
    data: Path | None = None
    """tables: the dataset; without it, a synthetic one."""
    wheel: Path | None = None
    """gallery: the geoclip wheel; without it, pip fetches it (35 MB)."""
    photo: Path | None = None
    """gallery: photo of the query; without it, noise."""
    places: int = 0
    """gallery: about how many of the gallery's places to use; 0: all of them."""
    queries: int = 3
    """gallery: how often our query is repeated; the median is shown. The package is asked once."""
    top_k: int = 5
    """gallery: how many of the first places must be the same."""
    seed: int = 0
    """gallery: random weights of the image tower."""

    def __post_init__(self) -> None:
        if self.places < 0 or self.queries < 1 or self.top_k < 1:
            raise ValueError("places must be 0 or more, queries and top-k 1 or more")


def run(options: Options) -> int:
    """Measure and print; 1 if the two sides answered differently."""
    if options.name == "tables":
        print(benchmark_tables(options.data).text())
        return 0
    result = benchmark_gallery(
        options.wheel,
        options.photo,
        places=options.places,
        queries=options.queries,
        top_k=options.top_k,
        seed=options.seed,
    )
    print(result.text())
    return 0 if result.equal_places else 1
