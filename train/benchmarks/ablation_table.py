"""The table of an ablation: results by row, their numbers, and Markdown of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from geoclip_core.earth.sphere import geoscore

if TYPE_CHECKING:
    from geoclip_core.loops.ablation import AblationResult

Key = tuple[str, str, str]
"""Head, context, pretraining: what tells a row from the others."""


@dataclass
class AblationTable:
    """Results by row, in the order of the table."""

    title: str
    features: tuple[str, ...]
    rows: dict[Key, dict[int, list["AblationResult"]]] = field(default_factory=dict)
    """Head, context, pretraining -> seed -> results, one for each fold."""

    def add(self, key: Key, seed: int, result: "AblationResult") -> None:
        """Count a result in."""
        self.rows.setdefault(key, {}).setdefault(seed, []).append(result)

    def numbers(self, key: Key) -> dict[str, Any]:
        """Median km, GeoScore with its deviation over seeds, context top-1, seconds."""
        seeds = self.rows[key].values()
        results = [result for folds in seeds for result in folds]
        errors = np.concatenate([result.errors_km for result in results])
        scores = [
            float(geoscore(np.concatenate([fold.errors_km for fold in folds])).mean())
            for folds in seeds
        ]
        context = {}
        for feature in self.features:
            pairs = [result.hits[feature] for result in results if feature in result.hits]
            if sum(known for _, known in pairs):
                right, known = (sum(values) for values in zip(*pairs, strict=True))
                context[feature] = right / known
        return {
            "median_km": float(np.median(errors)),
            "mean_km": float(errors.mean()),
            "geoscore": float(np.mean(scores)),
            "geoscore_deviation": float(np.std(scores)),
            "within_200_km": float((errors < 200).mean()),
            "context": context,
            "seconds": float(np.mean([result.seconds for result in results])),
        }

    def report(self) -> dict[str, Any]:
        """Every number, in JSON types."""
        return {
            "title": self.title,
            "rows": [
                {"head": h, "use_context": c, "pretraining": p, **self.numbers((h, c, p))}
                for h, c, p in self.rows
            ],
        }


def markdown(report: Mapping[str, Any]) -> str:
    """The table of a report, under its title."""
    rows = report["rows"]
    features = list(dict.fromkeys(feature for row in rows for feature in row["context"]))
    names = ["coordinate head", "context", "pretraining", "median km", "GeoScore", "< 200 km"]
    names += [f"{feature} top-1" for feature in features] + ["seconds"]
    lines = [report["title"], "", "| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        known = row["context"]
        cells = [
            row["head"],
            row["use_context"],
            row["pretraining"],
            f"{row['median_km']:,.0f}",
            f"{row['geoscore']:,.0f} ± {row['geoscore_deviation']:.0f}",
            f"{row['within_200_km']:.0%}",
            *(f"{known[feature]:.0%}" if feature in known else "" for feature in features),
            f"{row['seconds']:.1f}" if row["seconds"] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
