"""The model card of a retrieval model: data, licence, numbers, limits."""

from collections.abc import Mapping
from typing import Any

from geoclip_core.data.table import PhotoDataset
from geoclip_core.loops.bank_model import BankOptions
from geoclip_core.loops.baselines import baseline_title
from geoclip_core.model.geolocation import GeolocationModel

ATTRIBUTION = "ATTRIBUTION.md"


def bank_card(
    model: GeolocationModel,
    metrics: Mapping[str, Any],
    photos: PhotoDataset,
    options: BankOptions,
    command: str,
) -> str:
    """Markdown of the card, with the numbers of `metrics` (as `fit_bank` makes them)."""
    parts = [
        _front_matter(options),
        f"# {model.name}\n",
        _summary(model, photos, options),
        "## Data and licence\n",
        _data(photos, options),
        "## How good it is\n",
        _numbers(model, metrics, options),
        "## Limits\n",
        _limits(len(photos)),
        "## Made by\n",
        f"```\n{command}\n```\n" if command else "`geoclip_core.loops.fit_bank`\n",
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(options: BankOptions) -> str:
    if not options.license:
        return ""
    return f"---\nlicense: {options.license.lower().replace(' ', '-')}\n---\n"


def _summary(model: GeolocationModel, photos: PhotoDataset, options: BankOptions) -> str:
    backbone, head = model.backbone_config, model.coordinate_head.options
    views = ", ".join(f"{width} × {height}" for height, width in model.backbone.preprocessing.views)
    lines = [
        f"Estimates where a photo was taken. A small model: {len(photos)} photos are all that it "
        "has seen, so its answer is a region more often than a place, and the radius that it gives "
        "beside every answer is part of the answer.\n",
        f"- Backbone: {backbone.name}, frozen, ImageNet weights; whole frame at {views} px; "
        f"features of the head and of blocks {', '.join(map(str, backbone.depths)) or 'none'} "
        f"({model.embedding_width:,} numbers a photo).",
    ]
    if head["vote"] == "kernel-ridge":
        lines.append(
            "- Coordinate head: retrieval. Kernel ridge regression from the embeddings of the "
            "training photos onto the score field exp(−d / 1492.7 km) "
            f"(kernel exp({head['gamma']:g} (cos − 1)), ridge {head['ridge']:g})."
        )
    else:
        lines.append("- Coordinate head: retrieval. The most similar training photos vote.")
    if model.context_heads is not None:
        lines.append(
            f"- Context: {' and '.join(model.features)}, by kernel ridge regression onto the "
            "labels; the probabilities join the embedding at the coordinate head, out of fold for "
            "the training photos."
        )
    else:
        lines.append("- No context: the coordinate head sees the embedding alone.")
    return "\n".join(lines) + "\n"


def _data(photos: PhotoDataset, options: BankOptions) -> str:
    lines = [f"{len(photos)} photos of {photos.name}, used for training only; none is in here.\n"]
    source = photos.root / ATTRIBUTION
    if source.is_file():
        quoted = source.read_text(encoding="utf-8").strip().splitlines()
        lines += [f"> {line}".rstrip() for line in quoted if not line.startswith("#")]
        lines.append("")
    if options.license:
        lines.append(
            f"The photos are under {options.license}; these weights carry the same licence."
        )
    return "\n".join(lines) + "\n"


def _numbers(model: GeolocationModel, metrics: Mapping[str, Any], options: BankOptions) -> str:
    intervals = metrics["intervals"]
    validation, calibration = metrics["cross_validation"], model.calibration
    lines = [
        f"{options.folds}-fold cross-validation over the {metrics['photos']} photos, repeated "
        f"{options.repeats} times with other folds: each photo was located by models that had not "
        "seen it. In brackets: 95 % bootstrap intervals over photos. Baselines were fitted on the "
        "same training folds.\n",
        *([f"**{options.note}**\n"] if options.note else []),
        "| | GeoScore | median km | mean km | < 200 km | < 750 km | < 2,500 km |",
        "|---|---|---|---|---|---|---|",
        _row(f"**{model.name}**", metrics, intervals),
    ]
    lines += [
        _row(baseline_title(name), metrics["baselines"][name], None)
        for name in ("constant", "nearest_photo")
        if name in metrics["baselines"]
    ]
    repeats = ", ".join(f"{score:,.0f}" for score in validation["geoscore_of_repeats"])
    lines += [
        "",
        f"GeoScore of each repeat: {repeats} (predictions.parquet holds the first). With photos "
        f"closer than {validation['group_km']:g} km kept in one fold: "
        f"{validation['geoscore_spatially_blocked']:,.0f}: a photo far from every training photo "
        "is harder.",
    ]
    if "geoscore_chosen_inside_folds" in validation:
        lines.append(
            "Views, depths, kernel and ridge were given here. If every fold chooses kernel and "
            "ridge for itself, the GeoScore is "
            f"{validation['geoscore_chosen_inside_folds']:,.0f}."
        )
    if metrics["context"]:
        lines += [
            "",
            "| context | top-1 | top-3 | always the commonest class |",
            "|---|---|---|---|",
        ]
    for feature, numbers in metrics["context"].items():
        bounds = intervals.get("context", {}).get(feature, {})
        shares = [
            f"{100 * numbers[k]:.1f} %{_bracket(bounds.get(k), 100)}" for k in ("top1", "top3")
        ]
        commonest = f"{100 * numbers['majority']:.1f} %"
        lines.append(f"| {feature} ({numbers['n']} photos) | {' | '.join(shares)} | {commonest} |")
    if calibration is not None:
        bounds = intervals["coverage"]
        inside = "; ".join(
            f"the {mass} % circle held {100 * share:.1f} %{_bracket(bounds.get(mass), 100)}"
            for mass, share in metrics["coverage"].items()
            if share is not None
        )
        lines += ["", f"Coverage, each photo judged by a calibration on the others: {inside}."]
    return "\n".join(lines) + "\n"


def _row(title: str, numbers: Mapping[str, Any], intervals: Mapping[str, Any] | None) -> str:
    cells = []
    for key in ("geoscore", "median_km", "mean_km"):
        bound = intervals.get(key) if intervals else None
        cells.append(f"{numbers[key]:,.0f}{_bracket(bound, 1)}")
    for threshold in (200, 750, 2500):
        share = numbers["accuracy_at_km"][str(threshold)]
        bound = intervals["accuracy_at_km"].get(str(threshold)) if intervals else None
        cells.append(f"{100 * share:.1f} %{_bracket(bound, 100)}")
    return f"| {title} | {' | '.join(cells)} |"


def _bracket(bound: list[float] | None, factor: float) -> str:
    if not bound:
        return ""
    digits = ",.0f" if factor == 1 else ".1f"
    return f" [{factor * bound[0]:{digits}}–{factor * bound[1]:{digits}}]"


def _limits(count: int) -> str:
    return (
        f"- It answers with one of {count} known places, so it cannot be nearer than the nearest "
        "of them.\n"
        "- It was made from street-level photos taken from roads. Indoor pictures, portraits, "
        "drawings and aerial pictures get an answer too, and that answer means nothing.\n"
        "- Countries with few or no training photos are named rarely or never.\n"
        "- The radius is honest on average over photos of the same kind, not for each photo.\n"
        "- It is an estimate, never evidence of where somebody was.\n"
    )
