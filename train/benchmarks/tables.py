"""Time of reading, splitting and labelling a dataset's tables, against pandas alone."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic.dataclasses import dataclass as options_dataclass

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.demo.dataset import write_demo
from geoclip_core.training.options import CONFIG

ROWS = 119_008
"""Rows of OSV-Mini-129k."""


@options_dataclass(config=CONFIG, frozen=True, kw_only=True)
class TablesOptions:
    """Options of `benchmark tables`."""

    data: Path | None = None
    """dataset folder; by default a synthetic table of the size of OSV-Mini-129k"""


def tables(options: TablesOptions) -> int:
    """Time reading, splitting and labelling a dataset against pandas' own read."""
    print(benchmark_tables(options.data).text())
    return 0


@dataclass(frozen=True)
class TableBenchmark:
    """Seconds of one run."""

    rows: int
    pandas_alone: float
    """`pd.read_csv` of the same files."""
    reading: float
    """`read_dataset` without a val split."""
    splitting: float
    """`read_dataset` with a val split."""
    labelling: float
    """Vocabularies and the labels of every feature."""
    table_bytes: int
    """Memory of the table."""

    def text(self) -> str:
        """Return a table for the terminal."""
        steps = {
            "pandas alone": self.pandas_alone,
            "read": self.reading,
            "read and split": self.splitting,
            "vocabularies and labels": self.labelling,
        }
        lines = [f"{self.rows:,} rows, {self.table_bytes / 1e6:,.0f} MB as a table"]
        lines += [
            f"{name:<24} {seconds:7.2f} s  {seconds / self.pandas_alone:6.2f} × pandas"
            for name, seconds in steps.items()
        ]
        return "\n".join(lines)


def benchmark_tables(dataset: Path | None = None) -> TableBenchmark:
    """Time reading a dataset, by default a synthetic table of the size of OSV-Mini-129k."""
    with tempfile.TemporaryDirectory(prefix="tables-") as scratch:
        root = dataset or write_demo(Path(scratch) / "demo", ROWS, metadata_only=True)
        started = time.perf_counter()
        for path in sorted(root.glob("*_mini.csv")):
            pd.read_csv(path)
        pandas_alone = time.perf_counter() - started
        started = time.perf_counter()
        read_dataset(root, val_fraction=0)
        reading = time.perf_counter() - started
        started = time.perf_counter()
        table = read_dataset(root)
        splitting = time.perf_counter() - started
        started = time.perf_counter()
        table.labels(build_vocabularies(table.table))
        labelling = time.perf_counter() - started
    memory = int(table.table.memory_usage(deep=True).sum())
    return TableBenchmark(len(table), pandas_alone, reading, splitting, labelling, memory)
