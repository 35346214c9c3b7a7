"""One self-contained HTML report of an evaluation.

The file holds its figures, maps and everything that draws them: it can be mailed, and opens without
a server or the internet.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from geoclip_core.evaluation.evaluate import describe, predictions_of
from geoclip_core.evaluation.predictions import PredictionsError, read_predictions
from geoclip_core.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "geoclip_core" / "checkpoints"
STATIC = ROOT / "static"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which evaluation, what stands beside it, and where the report goes."""

    COMMAND: ClassVar[str] = "report"
    POSITIONAL: ClassVar[tuple[str, ...]] = ("run",)

    run: str
    """run or evaluation folder, predictions.parquet, or the name of a bundled model"""
    output: Path = Path("report.html")
    """the HTML file; one of that name is replaced"""
    beside: tuple[str, ...] = ()
    """up to three others on the same photos, drawn in the same figures"""
    photos: bool = False
    """embed small versions of the best and worst photos; mind their licence and their privacy"""

    def __post_init__(self) -> None:
        if len(self.beside) > 3:
            raise ValueError("at most three evaluations can stand beside the first")


def run(options: Options) -> int:
    """Write the report."""
    from geoclip_core.evaluation.report import ReportTable, report_html

    tables = []
    for name in (options.run, *options.beside):
        frame, about = _read(name)
        if tables:
            ids = tables[0].frame["id"]
            frame = frame[frame["id"].isin(set(ids))].reset_index(drop=True)
            if frame.empty:
                raise PredictionsError(f"{name} has no photo in common with {options.run}")
        taken = {table.name for table in tables}
        model = str(about["model"])
        tables.append(
            ReportTable(model if model not in taken else f"{model} ({name})", frame, about)
        )
    text = report_html(tables, STATIC, options.photos)
    write_atomically(options.output, text)
    print(f"{options.output} ({len(text.encode()) / 1e6:.1f} MB)", file=sys.stderr)
    return 0


def _read(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    path = predictions_of(name) or predictions_of(BUNDLED / name)
    if path is None:
        raise PredictionsError(
            f"{name} holds no predictions.parquet: give a run or evaluation folder, or make one "
            "with python -m train evaluate"
        )
    frame = read_predictions(path, candidates=False)
    if frame.empty:
        raise PredictionsError(f"{path} holds no photo")
    if "country_key" in frame and "predicted_country_key" not in frame:
        from geoclip_core.earth.gazetteer import Gazetteer
        from geoclip_core.evaluation.metrics import with_places

        frame = with_places(frame, Gazetteer.load())
    return frame, describe(path)
