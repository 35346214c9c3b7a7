"""The model card of a pretrained pair of towers."""

from collections.abc import Mapping
from typing import Any

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.evaluation.baselines import baseline_title
from geoclip_core.model.backbone import public_name
from geoclip_core.model.geolocation import GeolocationModel
from geoclip_core.training.options import FitOptions, PretrainOptions

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
        "none": "frozen",
        "last-block": "its last block trained",
        "all": "trained as a whole",
    }[options.train_backbone]
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


def bank_card(
    model: GeolocationModel,
    metrics: Mapping[str, Any],
    photos: PhotoDataset,
    options: FitOptions,
    command: str,
) -> str:
    """Markdown of the card, with the numbers of `metrics` (as `fit_bank` makes them)."""
    parts = [
        _front_matter(options),
        f"# {model.name}\n",
        _bank_card_summary(model, photos, options),
        "## Data and licence\n",
        _data(photos, options),
        "## How good it is\n",
        _bank_card_numbers(model, metrics, options),
        "## Limits\n",
        _bank_card_limits(len(photos)),
        "## Made by\n",
        f"```\n{command}\n```\n" if command else "`geoclip_core.training.fit_bank`\n",
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(options: FitOptions) -> str:
    if not options.license:
        return ""
    return f"---\nlicense: {options.license.lower().replace(' ', '-')}\n---\n"


def _bank_card_summary(model: GeolocationModel, photos: PhotoDataset, options: FitOptions) -> str:
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
            "- Coordinate head: bank. Kernel ridge regression from the embeddings of the "
            "training photos onto the score field exp(−d / 1492.7 km) "
            f"(kernel exp({head['gamma']:g} (cos − 1)), ridge {head['ridge']:g})."
        )
    else:
        lines.append("- Coordinate head: bank. The most similar training photos vote.")
    if model.context_heads is not None:
        lines.append(
            f"- Context: {' and '.join(model.features)}, by kernel ridge regression onto the "
            "labels; the probabilities join the embedding at the coordinate head, out of fold for "
            "the training photos."
        )
    else:
        lines.append("- No context: the coordinate head sees the embedding alone.")
    return "\n".join(lines) + "\n"


def _data(photos: PhotoDataset, options: FitOptions) -> str:
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


def _bank_card_numbers(
    model: GeolocationModel, metrics: Mapping[str, Any], options: FitOptions
) -> str:
    intervals = metrics["intervals"]
    validation, calibration = metrics["cross_validation"], model.calibration
    lines = [
        f"{options.bank.folds}-fold cross-validation over the {metrics['photos']} photos, repeated "
        f"{options.bank.repeats} times with other folds: each photo was located by models that had "
        "not seen it. In brackets: 95 % bootstrap intervals over photos. Baselines were fitted on "
        "the same training folds.\n",
        *([f"**{options.bank.note}**\n"] if options.bank.note else []),
        "| | GeoScore | median km | mean km | < 200 km | < 750 km | < 2,500 km |",
        "|---|---|---|---|---|---|---|",
        _bank_card_row(f"**{model.name}**", metrics, intervals),
    ]
    lines += [
        _bank_card_row(baseline_title(name), metrics["baselines"][name], None)
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


def _bank_card_row(
    title: str, numbers: Mapping[str, Any], intervals: Mapping[str, Any] | None
) -> str:
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


def _bank_card_limits(count: int) -> str:
    return (
        f"- It answers with one of {count} known places, so it cannot be nearer than the nearest "
        "of them.\n"
        "- It was made from street-level photos taken from roads. Indoor pictures, portraits, "
        "drawings and aerial pictures get an answer too, and that answer means nothing.\n"
        "- Countries with few or no training photos are named rarely or never.\n"
        "- The radius is honest on average over photos of the same kind, not for each photo.\n"
        "- It is an estimate, never evidence of where somebody was.\n"
    )


def pretrain_card(
    name: str,
    options: PretrainOptions,
    dataset: PhotoDataset,
    reports: Mapping[str, Mapping[str, Any]],
    stopped: str = "",
) -> str:
    """Markdown of a README.md.

    Args:
        name: of the model.
        options: how it was trained.
        dataset: all photos.
        reports: split -> `PairEncoder.measure`.
        stopped: where training was stopped, in words; empty if it ended by itself.
    """
    lines = [
        front_matter(options.license),
        f"# {name}",
        "An image tower and a text tower, trained so that a photo and a caption of where, when and "
        f"in which climate it was taken are close. Image tower: {public_name(options.backbone)}, "
        f"trained part: {options.train_backbone}.",
        f"Training was stopped early: {stopped}." if stopped else "",
        "## Data and licence",
        describe_data(options.license, dataset),
        "## How good it is",
        _table(reports),
        "## Use",
        "`python -m train fit --backbone FOLDER` trains geolocation heads on the image tower; with "
        "`--projection` on the space that it shares with captions.",
        "## Made by",
        "`python -m train pretrain --recipe config.yaml`, with the `config.yaml` of its run "
        "folder.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(reports)
    rows = [
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
        "| photos | " + " | ".join(f"{reports[s]['n']:,}" for s in names) + " |",
        "| contrastive loss | " + " | ".join(f"{reports[s]['loss']:.3f}" for s in names) + " |",
    ]
    for key in ("image_to_text", "text_to_image"):
        shares = [percent(reports[s]["retrieval"][key]) for s in names]
        rows.append(f"| retrieval among 16, {key.replace('_', ' ')} | {' | '.join(shares)} |")
    for feature in reports[names[0]]["zero_shot"] if names else ():
        cells = []
        for split in names:
            numbers = reports[split]["zero_shot"][feature]
            cells.append(f"{percent(numbers['top1'])} ({percent(numbers['majority'])})")
        rows.append(f"| {feature} from captions alone (majority class) | {' | '.join(cells)} |")
    return "\n".join(rows)
