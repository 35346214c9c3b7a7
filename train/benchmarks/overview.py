"""All comparisons of speed and memory in one table, each row measured in a process of its own."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from geoclip_core.files import write_atomically, write_json
from geoclip_core.training.options import options_class
from train.benchmarks.measure import cores, processor, run_measured, versions
from train.benchmarks.rows import GROUPS, ONE_THREAD, Row


@options_class
class AllOptions:
    """Options of `benchmark all`."""

    quick: bool = False
    """fewer rounds and photos, for under five minutes"""
    rows: tuple[str, ...] = ()
    """names of the groups of rows to measure; by default all"""
    output: Path | None = None
    """JSON file for every number; a Markdown table is written next to it"""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.rows) - set(GROUPS))
        if unknown:
            raise ValueError(f"rows: {unknown[0]!r} is none of {', '.join(GROUPS)}")


@dataclass(frozen=True)
class Overview:
    """All rows, and where they were measured."""

    measured_at: str
    """Date."""
    quick: bool
    processor: str
    cores: int
    load: tuple[float, float]
    """Processes that wanted to run, averaged over a minute, before and after."""
    versions: dict[str, str]
    seconds: float
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything for a JSON file."""
        return {**vars(self), "rows": [row.to_json() for row in self.rows]}


def all(options: AllOptions) -> int:  # the name of the command
    """Measure this project beside what would be used instead, row by row, in one table."""
    names = options.rows or tuple(GROUPS)
    started, before, rows = time.monotonic(), os.getloadavg()[0], []
    for number, name in enumerate(names, 1):
        print(f"{number}/{len(names)} {name}", file=sys.stderr, flush=True)
        found = measured_group(name, options.quick)
        for row in found:  # printed now, so that an interrupted run has shown something
            print(_line(row) if row.values else row.note, file=sys.stderr, flush=True)
        rows += found
    done = Overview(
        datetime.now(UTC).date().isoformat(),
        options.quick,
        processor(),
        cores(),
        (before, os.getloadavg()[0]),
        versions(),
        time.monotonic() - started,
        tuple(rows),
    )
    text = markdown(done)
    if options.output is not None:
        write_json(options.output, done.to_json())
        write_atomically(options.output.with_suffix(".md"), text)
    print(text)
    return 0


def measured_group(name: str, quick: bool) -> list[Row]:
    """Return the rows of a group, measured in another process; one that says why if it failed."""
    with tempfile.TemporaryDirectory(prefix="row-") as scratch:
        folder = Path(scratch)
        code = (
            "import json, pathlib\nfrom train.benchmarks.rows import GROUPS\n"
            f"rows = GROUPS[{name!r}][0]({quick})\n"
            "pathlib.Path('rows.json').write_text(json.dumps([row.to_json() for row in rows]))"
        )
        try:
            run_measured(["-c", code], folder, ONE_THREAD if GROUPS[name][1] else None)
        except ValueError as error:
            return [Row(name, "", "", "", note=f"could not be measured: {last_line(str(error))}")]
        found = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    for row in found:
        del row["met"]
    return TypeAdapter(list[Row]).validate_python(found)


def last_line(text: str) -> str:
    """Return the last line of an error message that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def markdown(done: Overview) -> str:
    """Return the table as Markdown."""
    libraries = ", ".join(f"{name} {number}" for name, number in done.versions.items())
    quick = " --quick" if done.quick else ""
    lines = [
        "# Speed and memory, side by side",
        "",
        f"`python -m train benchmark all{quick}`, {done.measured_at}, {done.seconds / 60:.0f} "
        f"minutes on {done.cores} cores ({done.processor}) with {done.load[0]:.1f} to "
        f"{done.load[1]:.1f} other processes; {libraries}.",
        "",
        "Ratios are this project divided by the other side, medians of alternating runs, with the "
        "lowest and highest ratio of the rounds.",
        "",
        "| row | this project | other side | ratio | peak MB | bar | met |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in done.rows]
    notes = [f"- {row.name}: {row.note}." for row in done.rows if row.note]
    return "\n".join([*lines, "", *notes]) + "\n"


def _line(row: Row) -> str:
    values = row.values
    sides: Sequence[str] = [
        f"{text}: {_number(values[side])} {row.unit}" if side in values else "not measured"
        for side, text in (("ours", row.ours), ("theirs", row.theirs))
    ]
    ratio = ""
    if "ratio" in values:
        spread = f"{_number(values['ratio_lowest'])}–{_number(values['ratio_highest'])}"
        ratio = f"{_number(values['ratio'])} ({spread})"
    peak = f"{values['peak_mb']:,.0f}" if "peak_mb" in values else ""
    bars = []
    for bar in row.bars:
        shown = f"{bar.measure.replace('_', ' ')} {bar.kind} {_number(bar.limit)}"
        if bar.measure not in ("ours", "ratio", "peak_mb") and bar.measure in values:
            shown += f" (is {_number(values[bar.measure])})"
        bars.append(shown)
    met = {True: "yes", False: "no", None: ""}[row.met]
    cells = (row.name, *sides, ratio, peak, "; ".join(bars), met)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
