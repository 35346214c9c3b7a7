"""What the doctor writes down: findings, and what a cleaned copy leaves out."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from geoclip_core.data import osv_mini
from geoclip_core.data.osv_mini import Problem

EXAMPLES = 20
# A photo is still good without these: a cleaned copy empties a wrong value and keeps the row.
BLANKED = ("captured_at", "climate", "country", "sub-region", "city", "sequence")
Severity = Literal["error", "warning"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        check: A short name for programs, for example "file-missing".
        severity: "error" must be fixed, "warning" is worth knowing.
        message: What it is and what to do, in one sentence.
        count: How many rows or files it concerns.
        examples: Up to `EXAMPLES` of them: file, row (as a spreadsheet counts), id, value.
    """

    check: str
    severity: Severity
    message: str
    count: int
    examples: tuple[dict[str, Any], ...] = ()


class Findings:
    """Collects findings, and what a cleaned copy leaves out.

    Attributes:
        tables: The rows of each split, as `osv_mini.parse` gives them.
        found: The findings so far.
        drop: For each split which rows (n,) a cleaned copy leaves out.
        blank: Split, column and rows of values that it empties instead.
    """

    def __init__(self, tables: dict[str, pd.DataFrame]) -> None:
        self.tables = tables
        self.found: list[Finding] = []
        self.drop = {split: np.zeros(len(table), dtype=bool) for split, table in tables.items()}
        self.blank: list[tuple[str, str, np.ndarray]] = []

    def rows(
        self,
        check: str,
        severity: Severity,
        message: str,
        masks: dict[str, np.ndarray],
        values: Callable[[str, int], Any] = lambda split, row: None,
        drop: bool | None = None,
    ) -> None:
        """Add a finding about rows, given as one mask a split."""
        count = sum(int(mask.sum()) for mask in masks.values())
        if not count:
            return
        examples = []
        for split, mask in masks.items():
            for row in np.flatnonzero(mask)[: EXAMPLES - len(examples)].tolist():
                photo = self.tables[split]["id"].iloc[row]
                file = osv_mini.csv_path(Path(), split).name
                example = {"file": file, "row": row + 2, "id": str(photo)[:60]}
                value = values(split, row)
                examples.append(example if value is None else example | {"value": value})
            if drop if drop is not None else severity == "error":
                self.drop[split] |= mask
        self.found.append(Finding(check, severity, message, count, tuple(examples)))

    def problem(self, split: str, problem: Problem) -> None:
        """Add what the reader found wrong in a column."""
        mask = np.zeros(len(self.tables[split]), dtype=bool)
        mask[problem.rows] = True
        shown = dict(zip(problem.rows.tolist(), problem.values, strict=True))
        if problem.column in BLANKED:
            self.blank.append((split, problem.column, problem.rows))
        self.rows(
            f"{problem.column}-invalid",
            "error",
            f"{problem.column} {problem.reason}",
            {split: mask},
            lambda _, row: shown[row],
            drop=problem.column not in BLANKED,
        )
