"""Rehearse the way from photos to a measured model on a drawn set: time, memory and disk by step.

Every step is a command of this project in a process of its own. A rehearsal that was interrupted
continues at the first step that was not finished. `tables` times only the reading of a dataset.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Ge

from geoclip_core.checks import checked
from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.vocabulary import build_vocabularies
from geoclip_core.demo.dataset import write_demo
from geoclip_core.files import read_json, write_atomically, write_json
from geoclip_core.training.options import FitOptions, options_class
from train.benchmarks.measure import (
    FULL_ROWS,
    ROOT,
    Cost,
    Interrupted,
    cores,
    processor,
    run_measured,
    versions,
)
from train.recipes import recipe_options

DATA = "datasets/drawn"
RESULT, TABLE = "rehearsal.json", "rehearsal.md"
_CONTINUED = ("embed", "evaluate")
"""Steps that go on where they were interrupted; the others begin again."""


@options_class
class RehearsalOptions:
    """Options of `benchmark rehearsal`."""

    rows: Annotated[int, Ge(100)] = 3000
    """photos to draw; OSV-Mini-129k has 119,008"""
    folder: Path = Path("rehearsal")
    """folder of the set, the run and the table; steps that are finished there are not repeated"""
    recipe: str = "osv-mini"
    """recipe of the training"""
    output: Path | None = None
    """folder to which the table is copied as rehearsal.json and rehearsal.md"""


@dataclass(frozen=True)
class Step:
    """One command, and what it took."""

    name: str
    command: list[str]
    """As typed after the name of the interpreter."""
    seconds: float
    cpu_seconds: float
    """Of the command's processes together."""
    peak_mb: float
    """Most memory of its largest process."""
    disk_mb: float
    """By how much the folder of the rehearsal grew."""


@dataclass(frozen=True)
class Rehearsal:
    """A finished rehearsal."""

    rows: int
    recipe: str
    processor: str
    cores: int
    versions: dict[str, str]
    steps: list[Step]
    result: dict[str, float]
    """Of the evaluation: photos, geoscore, median_km, within_25_km, within_200_km, inside_50 and
    inside_90 (share of the photos inside the radius), and {feature}_top1."""


def rehearsal(options: RehearsalOptions) -> int:
    """Draw a set, check it, embed, train, evaluate, report, open the pages; write what it took."""
    done = rehearse(options)
    text = markdown(done)
    for folder in (options.folder, options.output):
        if folder is not None:
            write_json(folder / RESULT, asdict(done))
            write_atomically(folder / TABLE, text)
    print(text)
    return 0


def commands(options: RehearsalOptions) -> dict[str, list[str]]:
    """Return the arguments of Python of each step by its name, to be run in the folder."""
    recipe = recipe_options(FitOptions, options.recipe)
    train, cache = ["-m", "train"], ["--cache-dir", "embeddings"]
    seen = ["--backbone", recipe.backbone, "--framing", recipe.framing]
    seen += ["--views", *recipe.views] if recipe.views else []
    seen += ["--depths", *map(str, recipe.depths)] if recipe.depths else []
    seen += ["--depth-pooling", recipe.depth_pooling]
    data = ["--data", DATA]
    return {
        "draw": [*train, "demo-data", "--rows", str(options.rows), "--output", DATA],
        "doctor": [*train, "doctor", DATA],
        "embed": [*train, "embed", *data, *cache, *seen],
        "fit": [*train, "fit", "--recipe", options.recipe, *data, *cache, "--output", "runs/run"],
        "evaluate": [
            *(*train, "evaluate", "--model", "runs/run", *data, *cache),
            *("--output", "evaluations/run"),
        ],
        "report": [*train, "report", "evaluations/run", "--output", "report.html"],
        "pages": [str(ROOT / "scripts" / "open_pages.py")],
    }


def rehearse(
    options: RehearsalOptions, run: Callable[[Sequence[str], Path], Cost] | None = None
) -> Rehearsal:
    """Run the steps that are not finished, and return all of them.

    Args:
        options: options of the command.
        run: runs a command in a folder; by default as a process.

    Raises:
        Interrupted: Ctrl-C was pressed; what the step took is added when it is continued.
        ValueError: a step failed, or the folder holds a rehearsal with other options.
    """
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "steps.json"
    state = _read(file, options)
    steps = state.steps
    for name, command in commands(options).items():
        if name in {step.name for step in steps}:
            continue
        if name == "fit":  # what an interrupted training left
            shutil.rmtree(folder / "runs", ignore_errors=True)
        before = size_mb(folder)
        print("python " + " ".join(command), file=sys.stderr, flush=True)
        stop = None
        try:
            used = (run or run_measured)(command, folder)
        except Interrupted as interrupted:
            used, stop = interrupted.cost, interrupted
        step = Step(
            *(name, [word.removeprefix(f"{ROOT}/") for word in command]),
            *(used.seconds, used.cpu_seconds, used.peak_mb),
            size_mb(folder) - before,
        )
        if state.begun is not None and state.begun.name == name:
            step = _together(state.begun, step)
        if stop is None:
            steps.append(step)
        state = replace(state, begun=step if stop is not None and name in _CONTINUED else None)
        write_json(file, asdict(state))
        if stop is not None:
            raise stop
    return Rehearsal(
        options.rows,
        options.recipe,
        processor(),
        cores(),
        versions(),
        steps,
        headline(folder / "evaluations" / "run" / "metrics.json"),
    )


@dataclass(frozen=True)
class _State:
    """The content of steps.json."""

    rows: int
    recipe: str
    steps: list[Step]
    """Those that are finished."""
    begun: Step | None = None
    """What an interrupted step, which will be continued, took so far."""


def _together(begun: Step, rest: Step) -> Step:
    """Return a step that was interrupted once as one."""
    return replace(
        rest,
        seconds=begun.seconds + rest.seconds,
        cpu_seconds=begun.cpu_seconds + rest.cpu_seconds,
        peak_mb=max(begun.peak_mb, rest.peak_mb),
        disk_mb=begun.disk_mb + rest.disk_mb,
    )


def _read(file: Path, options: RehearsalOptions) -> _State:
    """Return how far a rehearsal is.

    Raises:
        ValueError: it was begun with other options.
    """
    if not file.exists():
        return _State(options.rows, options.recipe, [])
    found = checked(_State, read_json(file), file)
    if (found.rows, found.recipe) != (options.rows, options.recipe):
        raise ValueError(
            f"{file.parent} holds a rehearsal of {found.rows:,} rows with the recipe "
            f"{found.recipe}: choose another folder, or delete it"
        )
    return found


def size_mb(folder: Path) -> float:
    """Return the size in MB of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(place, name)).st_size
    return total / 1e6


def headline(path: Path) -> dict[str, float]:
    """Return the main numbers of a metrics.json, as in `Rehearsal.result`."""
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    shares, inside = metrics["accuracy_at_km"], metrics["coverage"]
    return {
        "photos": metrics["n"],
        "geoscore": metrics["geoscore"],
        "median_km": metrics["median_km"],
        **{f"within_{km}_km": shares[km] for km in ("25", "200")},
        **{f"inside_{mass}": inside[mass] for mass in ("50", "90")},
        **{f"{f}_top1": numbers["top1"] for f, numbers in metrics["context"].items()},
    }


def markdown(done: Rehearsal) -> str:
    """Return a rehearsal as a Markdown document."""
    libraries = ", ".join(f"{name} {number}" for name, number in done.versions.items())
    factor, whole = FULL_ROWS / done.rows, done.rows >= FULL_ROWS
    more = "" if whole else f" expected for {FULL_ROWS:,} |"
    lines = [
        "# Rehearsal of OSV-Mini-129k on drawn photos",
        "",
        f"`python -m train benchmark rehearsal --rows {done.rows}`: {done.rows:,} drawn photos, "
        f"recipe `{done.recipe}`, {done.cores} cores ({done.processor}); {libraries}.",
        "",
    ]
    if not whole:
        lines += [
            f"The numbers expected for {FULL_ROWS:,} photos are these multiplied by "
            f"{factor:.1f}: computed, not measured, and too high where starting takes most of "
            "the time.",
            "",
        ]
    lines += [
        f"| step | minutes | CPU minutes | peak memory, MB | disk, MB |{more}",
        "|---|---|---|---|---|" + ("---|" if more else ""),
    ]
    for step in done.steps:
        row = (
            f"| {step.name} | {step.seconds / 60:.1f} | {step.cpu_seconds / 60:.1f} | "
            f"{step.peak_mb:,.0f} | {step.disk_mb:,.0f} |"
        )
        if more:
            row += f" {step.cpu_seconds * factor / 60:.0f} CPU minutes, "
            row += f"{step.disk_mb * factor:,.0f} MB |"
        lines.append(row)
    minutes = sum(step.seconds for step in done.steps) / 60
    cpu = sum(step.cpu_seconds for step in done.steps) / 60
    lines.append(f"| together | {minutes:.1f} | {cpu:.1f} | | |" + (" |" if more else ""))
    result = done.result
    lines += [
        "",
        f"Test split, {result['photos']:,.0f} drawn photos: GeoScore {result['geoscore']:,.0f}, "
        f"median {result['median_km']:,.0f} km, {result['within_25_km']:.0%} within 25 km, "
        f"{result['within_200_km']:.0%} within 200 km; the 50 % radius holds "
        f"{result['inside_50']:.0%} of the true places, the 90 % radius {result['inside_90']:.0%}.",
        "",
        "The photos are drawn: the result shows that everything works, not how good a model of "
        "real photos will be. Peak memory is that of the largest process, memory maps included. "
        "Minutes are longer if the computer does other work at the same time, and so are CPU "
        "minutes, since threads that wait for each other spin.",
    ]
    return "\n".join(lines) + "\n"


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
