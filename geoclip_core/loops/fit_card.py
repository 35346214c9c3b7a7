"""The model card of a trained model: data, licence, numbers, limits, and how it was made."""

from collections.abc import Mapping
from typing import Any

from geoclip_core.data.table import PhotoDataset
from geoclip_core.loops.fit_options import FitOptions
from geoclip_core.model.geolocation import GeolocationModel

ATTRIBUTION = "ATTRIBUTION.md"


def fit_card(
    model: GeolocationModel,
    options: FitOptions,
    dataset: PhotoDataset,
    split: str,
    report: Mapping[str, Any] | None,
    stopped: str = "",
) -> str:
    """Markdown of a README.md.

    Args:
        model: the model.
        options: how it was trained.
        dataset: all photos, with their splits.
        split: which one the numbers are of.
        report: `metrics.summarise`; None if the run was stopped before it was evaluated.
        stopped: where training was stopped, in words; empty if it ended by itself.
    """
    parts = [
        front_matter(options.license),
        f"# {model.name}",
        _summary(model, options),
        f"Training was stopped early: {stopped}." if stopped else "",
        "## Data and licence",
        describe_data(options.license, dataset),
        "## How good it is",
        _numbers(report, split) if report else "Not evaluated: the run was stopped before its end.",
        "## Limits",
        _limits(dataset),
        "## Made by",
        "`python -m train fit --recipe config.yaml`, with the `config.yaml` of its run folder.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(license: str) -> str:
    """The licence in the form that model hubs read; empty if it is not known."""
    return f"---\nlicense: {license.lower().replace(' ', '-')}\n---" if license else ""


def _summary(model: GeolocationModel, options: FitOptions) -> str:
    learnt = {
        "backbone=none": "frozen",
        "backbone=last-block": "its last block trained",
        "backbone=all": "trained as a whole",
    }[options.train]
    head = {
        "geocells": f"geocells, {model.config.head_options.get('cells')} of them, with an offset",
        "regression": "regression on the sphere",
    }[model.config.coordinate_head]
    context = "none: the coordinate head sees the embedding alone"
    if model.features:
        sizes = [f"{feature} ({len(model.vocabularies[feature])})" for feature in model.features]
        context = ", ".join(sizes) + ", whose logits join the embedding at the coordinate head"
    return "\n".join(
        [
            "Estimates where a photo was taken.",
            "",
            f"- Backbone: {model.backbone_config.name}, {learnt}; {model.embedding_width:,} "
            "numbers a photo.",
            f"- Context heads: {context}.",
            f"- Coordinate head: {head}.",
        ]
    )


def describe_data(license: str, dataset: PhotoDataset) -> str:
    """What the photos are, and whose."""
    counts = dataset.table["split"].value_counts()
    sizes = ", ".join(f"{counts.get(s, 0):,} {s}" for s in ("train", "val", "test"))
    lines = [f"{dataset.name}: {sizes} photos."]
    if dataset.synthetic:
        lines.append(
            "**These photos are synthetic**: drawn by this project, they show no real "
            "place, and a model trained on them knows nothing of real photos."
        )
    lines.append(
        f"Licence of the photos: {license}, which the weights then carry as well."
        if license
        else "Licence of the photos: not stated by whoever trained this model."
    )
    attribution = dataset.root / ATTRIBUTION
    if attribution.is_file():
        lines.append(attribution.read_text(encoding="utf-8", errors="replace").strip())
    return "\n\n".join(lines)


def _numbers(report: Mapping[str, Any], split: str) -> str:
    chosen = (
        "The best epoch was chosen by the median error on the val split; test photos chose nothing."
        if split == "test"
        else "There is no test split: the best epoch was chosen on these very photos."
    )
    lines = [
        f"On {report['n']:,} photos of the {split} split. {chosen}",
        "",
        "| | GeoScore | median km | mean km | within 25 km | 200 km | 750 km |",
        "|---|---|---|---|---|---|---|",
        _row("this model", report),
    ]
    for name, numbers in report.get("baselines", {}).items():
        lines.append(_row(name.replace("_", " "), numbers))
    if report.get("context"):
        lines += ["", "| context head | top-1 | top-3 | macro F1 |", "|---|---|---|---|"]
        for feature, numbers in report["context"].items():
            cells = [percent(numbers.get(key)) for key in ("top1", "top3", "macro_f1")]
            lines.append(f"| {feature} | {' | '.join(cells)} |")
    coverage = report.get("coverage") or {}
    if coverage:
        inside = ", ".join(f"{mass} % radius: {percent(v)}" for mass, v in coverage.items())
        lines += ["", f"Truth inside the radius that is given with each answer: {inside}."]
    return "\n".join(lines)


def _row(name: str, numbers: Mapping[str, Any]) -> str:
    within = numbers.get("accuracy_at_km", {})
    cells = [f"{numbers[key]:,.0f}" for key in ("geoscore", "median_km", "mean_km")]
    cells += [percent(within.get(key)) for key in ("25", "200", "750")]
    return f"| {name} | {' | '.join(cells)} |"


def percent(value: float | None) -> str:
    """A share for a table."""
    return "–" if value is None else f"{value:.1%}"


def _limits(dataset: PhotoDataset) -> str:
    states = dataset.table.loc[dataset.table["split"] == "train", "state"].nunique()
    countries = dataset.table.loc[dataset.table["split"] == "train", "country"].nunique()
    return (
        f"It has seen photos of {states} states in {countries} countries and answers with places "
        "among them, wherever a photo was really taken. Its answers are estimates: the radius "
        "belongs to them. Do not use it to find people."
    )
