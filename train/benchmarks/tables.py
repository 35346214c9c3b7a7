"""Time reading, splitting and labelling a dataset's tables against pandas alone."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.demo.dataset import write_demo
from geoclip_core.training.options import options_class
from train.benchmarks.measure import FULL_ROWS


@options_class
class TablesOptions:
    """Options of `benchmark tables`."""

    data: Path | None = None
    """dataset folder; by default a synthetic table of the size of OSV-Mini-129k"""


def tables(options: TablesOptions) -> int:
    """Time reading, splitting and labelling a dataset against pandas alone."""
    print(benchmark_tables(options.data).text())
    return 0


@dataclass(frozen=True)
class TableBenchmark:
    """Result of the benchmark."""

    rows: int
    seconds: dict[str, float]
    """Step -> CPU seconds; the first is pandas alone."""
    table_bytes: int
    """Memory of the table in bytes."""

    def text(self) -> str:
        """Return a table for the terminal."""
        pandas_alone = next(iter(self.seconds.values()))
        lines = [f"{self.rows:,} rows, {self.table_bytes / 1e6:,.0f} MB as a table"]
        lines += [
            f"{name:<24} {seconds:7.2f} s  {seconds / pandas_alone:6.2f} × pandas"
            for name, seconds in self.seconds.items()
        ]
        return "\n".join(lines)


def benchmark_tables(dataset: Path | None = None, rows: int = FULL_ROWS) -> TableBenchmark:
    """Time the steps on a dataset, by default a synthetic one of so many rows."""
    with tempfile.TemporaryDirectory(prefix="tables-") as scratch:
        root = dataset or write_demo(Path(scratch) / "demo", rows, metadata_only=True)
        times = [time.process_time()]
        for path in sorted(root.glob("*_mini.csv")):
            pd.read_csv(path)
        times.append(time.process_time())
        read_dataset(root, val_fraction=0)
        times.append(time.process_time())
        photos = read_dataset(root)
        times.append(time.process_time())
        photos.labels(build_vocabularies(photos.table))
        times.append(time.process_time())
    steps = ("pandas alone", "read", "read and split", "vocabularies and labels")
    seconds = dict(zip(steps, np.diff(times).tolist(), strict=True))
    memory = int(photos.table.memory_usage(deep=True).sum())
    return TableBenchmark(len(photos), seconds, memory)
