"""Model cards: the README.md of the checkpoints of `fit` and `pretrain`."""

from collections.abc import Mapping
from typing import Any

from geoclip_core.data.dataset import PhotoDataset
from geoclip_core.evaluation.baselines import baseline_title
from geoclip_core.files import read_bytes
from geoclip_core.model.backbone import public_name
from geoclip_core.model.domain import Domain
from geoclip_core.model.geolocation import GeolocationModel
from geoclip_core.training.options import FitOptions, PretrainOptions

ATTRIBUTION = "ATTRIBUTION.md"
"""File of a dataset that names the photographers; cards quote it."""
MAX_ATTRIBUTION = 10**6
MAX_QUOTED = 60
"""Lines that a card quotes of another."""
WITHIN_KM = (25, 200, 750, 2500)
"""Distances for which the tables give the share of photos."""
_TRAINED = {
    "none": "frozen",
    "last-block": "with its last block trained",
    "all": "trained as a whole",
}


def fit_card(
    model: GeolocationModel,
    options: FitOptions,
    dataset: PhotoDataset,
    split: str,
    report: Mapping[str, Any] | None,
    stopped: str = "",
) -> str:
    """Return the card of a model that was trained by gradient descent, as Markdown.

    Args:
        model: the trained model.
        options: its training options.
        dataset: all photos, with their splits.
        split: the split that was evaluated.
        report: `metrics.summarise` on that split; None if the run was stopped before it.
        stopped: when training was stopped ("after 3 of 9 steps"); empty if it was not.
    """
    return _card(
        options.license,
        f"# {model.name}",
        _fit_summary(model, options),
        f"Training was stopped early: {stopped}." if stopped else "",
        "## Data and licence",
        _data(options.license, dataset, model.domain),
        "## How good it is",
        _fit_numbers(model, report, split)
        if report
        else "Not evaluated: the run was stopped before its end.",
        "## Limits",
        _fit_limits(dataset),
        "## Made by",
        "`python -m train fit --recipe config.yaml`, with the `config.yaml` of its run folder.",
    )


def bank_card(
    model: GeolocationModel,
    metrics: Mapping[str, Any],
    photos: PhotoDataset,
    options: FitOptions,
    command: str,
) -> str:
    """Return the card of a bank model, as Markdown.

    Args:
        model: the fitted model, with its backbone.
        metrics: the result of `fit_bank`.
        photos: the photos in the bank.
        options: options of the fit.
        command: command line of the fit.
    """
    return _card(
        options.license,
        f"# {model.name}",
        _bank_summary(model, len(photos)),
        "## Data and licence",
        _data(options.license, photos, model.domain),
        "## How good it is",
        _bank_numbers(model, metrics, options, len(photos)),
        "## Limits",
        _bank_limits(len(photos)),
        "## Made by",
        f"```\n{command}\n```",
    )


def extension_card(
    model: GeolocationModel,
    metrics: Mapping[str, Any],
    added: PhotoDataset,
    options: FitOptions,
    command: str,
    base_card: str,
) -> str:
    """Return the card of a bank model to which photos were added, as Markdown.

    Args:
        model: the extended model, with its backbone.
        metrics: the result of `extend_bank`.
        added: the photos that were added.
        options: options of the fit.
        command: command line of the fit.
        base_card: card of the model that was extended.
    """
    extension = metrics["extension"]
    base, count = extension["base"], extension["base_photos"]
    quoted = "\n".join(f"> {line}".rstrip() for line in _section(base_card, "## Data and licence"))
    return _card(
        options.license,
        f"# {model.name}",
        _bank_summary(model, metrics["photos"]),
        "## What was added",
        f"{extension['added']:,} photos of {added.name} joined the {count:,} of {base}. Backbone, "
        f"statistics and options of the heads are those of {base}; heads and calibration were "
        "fitted again to all photos.",
        "\n".join(f"- {sentence}." for sentence in extension_sentences(extension)),
        "## Data and licence",
        _data(options.license, added, model.domain),
        f"The card of {base} says of its photos:\n\n{quoted}" if quoted else "",
        "## How good it is",
        "These numbers are of the added photos, which may all be of one area. The calibration is "
        "that of all photos.",
        _bank_numbers(model, metrics, options, extension["added"]),
        "## Limits",
        _bank_limits(metrics["photos"]),
        "## Made by",
        f"```\n{command}\n```",
    )


def extension_sentences(extension: Mapping[str, Any]) -> list[str]:
    """Return what the "extension" of metrics.json says, a sentence for each set of photos."""
    base = extension["base"]
    titles = {
        "extended": "extended",
        "base_alone": f"{base} alone",
        "added_alone": "the added photos alone",
    }
    sentences = []
    for key, what in (
        ("on_added", f"{extension['added']:,} added photos"),
        ("on_base", f"{extension['base_photos']:,} photos of {base}"),
    ):
        parts = []
        for name, numbers in extension[key].items():
            bounds = numbers["interval"]
            bracket = f" [{bounds[0]:,.0f}–{bounds[1]:,.0f}]" if bounds else ""
            parts.append(f"{titles[name]} {numbers['geoscore']:,.0f}{bracket}")
        sentences.append(f"GeoScore on the {what}, each held out: {', '.join(parts)}")
    return sentences


def _section(card: str, title: str) -> list[str]:
    """Return the lines of a section of a card, at most `MAX_QUOTED`."""
    lines = card.splitlines()
    if title not in lines:
        return []
    body = lines[lines.index(title) + 1 :]
    end = next((row for row, line in enumerate(body) if line.startswith("#")), len(body))
    return "\n".join(body[:end]).strip().splitlines()[:MAX_QUOTED]


def pretrain_card(
    name: str,
    options: PretrainOptions,
    dataset: PhotoDataset,
    reports: Mapping[str, Mapping[str, Any]],
    stopped: str,
) -> str:
    """Return the card of a pretrained pair of towers, as Markdown.

    Args:
        name: name of the model.
        options: its training options.
        dataset: all photos, with their splits.
        reports: split -> result of `PairEvaluator.measure`.
        stopped: when training was stopped ("after 3 of 9 steps"); empty if it was not.
    """
    return _card(
        options.license,
        f"# {name}",
        "An image tower and a text tower, trained so that a photo and a caption of where, when and "
        "in which climate it was taken have similar vectors. Image tower: "
        f"{public_name(options.backbone)}, {_TRAINED[options.train_backbone]}.",
        f"Training was stopped early: {stopped}." if stopped else "",
        "## Data and licence",
        _data(options.license, dataset),
        "## How good it is",
        _pretrain_numbers(reports),
        "## Use",
        "`python -m train fit --backbone FOLDER` trains geolocation heads on the image tower; with "
        "`--projection`, on the space that it shares with captions.",
        "## Made by",
        "`python -m train pretrain --recipe config.yaml`, with the `config.yaml` of its run "
        "folder.",
    )


def _card(license: str, *parts: str) -> str:
    """Join paragraphs below a header with the licence, as model hubs read it."""
    front = f"---\nlicense: {license.lower().replace(' ', '-')}\n---" if license else ""
    return "\n\n".join(part for part in (front, *parts) if part) + "\n"


def _data(license: str, dataset: PhotoDataset, domain: Domain | None = None) -> str:
    """Describe the photos, their licence and their authors."""
    counts = dataset.table["split"].value_counts()
    sizes = ", ".join(f"{counts[s]:,} {s}" for s in ("train", "val", "test") if s in counts)
    parts = [f"{sizes} photos of {dataset.name}. None is included."]
    if domain is not None:
        parts.append(f"The model {domain.words}.")
    if dataset.synthetic:
        parts.append(
            "**These photos are synthetic**: they were drawn by this project and show no real "
            "places. A model trained on them cannot locate real photos."
        )
    attribution = dataset.root / ATTRIBUTION
    if attribution.is_file():
        content = read_bytes(attribution, MAX_ATTRIBUTION).decode("utf-8", errors="replace")
        lines = content.strip().splitlines()
        quoted = [f"> {line}".rstrip() for line in lines if not line.startswith("#")]
        parts.append("\n".join(quoted))
    parts.append(
        f"The photos are under {license}; these weights carry the same licence."
        if license
        else "Licence of the photos: not stated."
    )
    return "\n\n".join(parts)


def _fit_summary(model: GeolocationModel, options: FitOptions) -> str:
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
            f"- Backbone: {model.backbone_config.name}, {_TRAINED[options.train_backbone]}; "
            f"{model.embedding_width:,} numbers a photo.",
            f"- Context heads: {context}.",
            f"- Coordinate head: {head}.",
        ]
    )


def _bank_summary(model: GeolocationModel, photos: int) -> str:
    backbone, head = model.backbone_config, model.coordinate_head.options
    assert model.backbone is not None  # attached by `fit_bank`
    views = ", ".join(f"{width} × {height}" for height, width in model.backbone.preprocessing.views)
    weights = ", ImageNet weights" if backbone.kind == "efficientnet-lite" else ""
    frame = {"squash": "whole frame", "crop": "centre"}[model.backbone.preprocessing.framing]
    lines = [
        f"Estimates where a photo was taken. A small model, trained on {photos} photos. It "
        "usually identifies a region rather than a place: read every answer together with its "
        "radius.",
        "",
        f"- Backbone: {backbone.name}, frozen{weights}; {frame} at {views} px; features of the "
        f"head and of blocks {', '.join(map(str, backbone.depths)) or 'none'} "
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
    return "\n".join(lines)


def _fit_numbers(model: GeolocationModel, report: Mapping[str, Any], split: str) -> str:
    chosen = (
        "The best epoch was chosen by the median error on val, not on these photos."
        if split == "test"
        else "There is no test split: the best epoch was chosen on these same photos."
    )
    lines = [
        f"On {report['n']:,} photos of the {split} split. {chosen}",
        "",
        *_errors(model.name, report, list(report.get("baselines", {}))),
    ]
    if report.get("context"):
        lines += ["", "| context head | top-1 | top-3 | macro F1 |", "|---|---|---|---|"]
        for feature, numbers in report["context"].items():
            cells = [_percent(numbers.get(key)) for key in ("top1", "top3", "macro_f1")]
            lines.append(f"| {feature} | {' | '.join(cells)} |")
    if coverage := report.get("coverage"):
        inside = ", ".join(f"{mass} % radius: {_percent(v)}" for mass, v in coverage.items())
        lines += ["", f"Share of true locations inside the radius of the answer: {inside}."]
    return "\n".join([*lines, *answer_lines(report)])


def _bank_numbers(
    model: GeolocationModel, metrics: Mapping[str, Any], options: FitOptions, photos: int
) -> str:
    intervals, validation = metrics["intervals"], metrics["cross_validation"]
    times = options.bank.repeats
    repeated = f", repeated {times} times with other folds" if times > 1 else ""
    lines = [
        f"{options.bank.folds}-fold cross-validation over the {photos} photos{repeated}: each "
        "photo was located by models that were not trained on it. In brackets: 95 % bootstrap "
        "intervals over photos. Baselines were fitted on the same training folds.",
        "",
        *([f"**{options.bank.note}**", ""] if options.bank.note else []),
        *_errors(model.name, metrics, ["constant", "nearest_photo"]),
    ]
    repeats = ", ".join(f"{score:,.0f}" for score in validation["geoscore_of_repeats"])
    near = f"photos closer than {validation['group_km']:g} km"
    far = "photos far from every training photo are harder."
    if "geoscore_spatially_blocked" in validation:
        blocked = f"{validation['geoscore_spatially_blocked']:,.0f}"
        told = f"With {near} kept in one fold: {blocked}; {far}"
    else:
        told = f"Nearly all are connected by {near}, so it says nothing about other places; {far}"
    lines += [
        "",
        f"GeoScore of each repeat: {repeats} (predictions.parquet holds the first). {told}"
        if times > 1
        else told,
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
            "| context | top-1 | top-3 | always the most common class |",
            "|---|---|---|---|",
        ]
    for feature, numbers in metrics["context"].items():
        bounds = intervals.get("context", {}).get(feature, {})
        shares = [_percent(numbers[key], bounds.get(key)) for key in ("top1", "top3")]
        shares.append(_percent(numbers["majority"]))
        lines.append(f"| {feature} ({numbers['n']} photos) | {' | '.join(shares)} |")
    inside = "; ".join(
        f"the {mass} % circle held {_percent(share, intervals['coverage'].get(mass))}"
        for mass, share in metrics["coverage"].items()
        if share is not None
    )
    lines += ["", f"Coverage, each photo judged by a calibration on the others: {inside}."]
    return "\n".join([*lines, *answer_lines(metrics)])


def answer_lines(report: Mapping[str, Any]) -> list[str]:
    """Return Markdown lines on levels, claims, hints and unlike pictures, as far as measured.

    Args:
        report: `metrics.summarise`, or with the further keys of `benchmark answers`.
    """
    lines = [*_level_lines(report), *_claim_lines(report), *_radius_lines(report)]
    for split, apart in (report.get("nearest_training_photo") or {}).items():
        sequences = "" if apart["sequences"] is None else f" of {apart['sequences']:,} sequences"
        lines += [
            "",
            f"Nearest training photo of {apart['n']:,} {split} photos{sequences}: median "
            f"{apart['median_km']:,.1f} km, farther than 12 km for "
            f"{_percent(apart['beyond_12_km'])}.",
        ]
    if hints := report.get("hints"):
        lines += ["", "| known | GeoScore | difference | median km |", "|---|---|---|---|"]
        for name, numbers in hints.items():
            difference = ""
            if change := numbers.get("difference"):
                gain = change["geoscore"]
                difference = f"{gain['difference']:+,.0f}"
                if gain["low"] is not None:
                    difference += f" [{gain['low']:+,.0f}, {gain['high']:+,.0f}]"
            title = "nothing" if name == "none" else name
            lines.append(
                f"| {title} | {numbers['geoscore']:,.0f} | {difference} | "
                f"{numbers['median_km']:,.0f} |"
            )
    if unlike := report.get("unlike"):
        kinds = ", ".join(
            f"{kind} {_percent(row['caught'])} of {row['n']}"
            for kind, row in unlike["kinds"].items()
        )
        lines += [
            "",
            f"Called unlike the training photos: {_percent(unlike['false_alarms'])} of "
            f"{unlike['held_out_photos']:,} held-out photos (aim: 1 %), and of pictures that are "
            f"no such photos: {kinds}.",
        ]
    return lines


def _radius_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence on radii that the measured photos contradict."""
    contradicted = [
        f"the {mass} % radius held {_percent(check['coverage'])} (expected: "
        f"{_percent(check['low'])} to {_percent(check['high'])})"
        for mass, check in (report.get("radius_check") or {}).items()
        if check["contradicted"]
    ]
    if not contradicted:
        return []
    return [
        "",
        f"**These photos contradict the calibrated radius: {'; '.join(contradicted)}.** It is not "
        "stated: answers give the radius that held its share of these photos.",
    ]


def _level_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a table of what the levels of the answers claim, and how often they are right."""
    levels = report.get("levels") or {}
    if not levels:
        return []
    bounds = report.get("intervals", {}).get("levels", {}).get("by_level", {})
    lines = ["", "| level of the answer | mean probability | right |", "|---|---|---|"]
    for level, numbers in levels["by_level"].items():
        right = _percent(numbers["reached"], bounds.get(level, {}).get("reached"))
        lines.append(f"| {level} | {_percent(numbers['claimed'])} | {right} |")
    headline = levels["headline"]
    if headline["n"]:
        lines += [
            "",
            f'"Probably ..." (the deepest level with at least 50 %) is said of '
            f"{_percent(headline['share'])} of the photos, with "
            f"{_percent(headline['claimed'])} on average, and is right for "
            f"{_percent(headline['reached'])} of them.",
        ]
    curve = levels["reliability"]
    bins = zip(*(curve[key] for key in ("low", "high", "claimed", "reached", "n")), strict=True)
    lines += [
        "",
        "| probability said, all levels | mean | right | answers |",
        "|---|---|---|---|",
        *(
            f"| {low:.0%}–{high:.0%} | {_percent(claimed)} | {_percent(reached)} | {n:,.0f} |"
            for low, high, claimed, reached, n in bins
        ),
    ]
    return lines


def _claim_lines(report: Mapping[str, Any]) -> list[str]:
    """Return sentences on how claims of places are judged."""
    claims = report.get("claims") or {}
    if not claims:
        return []
    rejected, power = claims["rejected"]["0.05"], claims["power"]["0.05"]
    return [
        "",
        f"Claimed places (`geoclip locate --claim`): a p-value of at most 0.05 was given to "
        f"{_percent(rejected)} of the true places (valid: about 5 %), and to {_percent(power)} of "
        "random other places (the power of the check). Largest distance of the p-values of true "
        f"places from the uniform distribution: {claims['kolmogorov_smirnov']:.3f} "
        f"(Kolmogorov–Smirnov, p = {claims['kolmogorov_smirnov_p']:.2f}, {claims['n']:,} photos).",
        *_misfit_lines(report.get("misfits") or {}),
    ]


def _misfit_lines(misfits: Mapping[str, Any]) -> list[str]:
    """Return a table of the power of both measures of how poorly a place fits."""
    titles = {
        "ratio": "ratio to the density of the training photos",
        "mass": "mass of denser places",
    }
    if not misfits:
        return []
    rows = [
        f"| {titles[name]} | {_percent(numbers['rejected'])} | {_percent(numbers['power'])} | "
        f"{_percent(numbers['power_on_land'])} |"
        for name, numbers in sorted(misfits.items(), reverse=True)
    ]
    return [
        "",
        "Shares with a p-value of at most 0.05, each half of the photos judged by the other half:",
        "",
        "| measure | true places | places of other photos | places drawn on land |",
        "|---|---|---|---|",
        *rows,
    ]


def _pretrain_numbers(reports: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(reports)
    rows = [
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
        "| photos | " + " | ".join(f"{reports[s]['n']:,}" for s in names) + " |",
        "| contrastive loss | " + " | ".join(f"{reports[s]['loss']:.3f}" for s in names) + " |",
    ]
    for key in ("image_to_text", "text_to_image"):
        shares = [_percent(reports[s]["retrieval"][key]) for s in names]
        rows.append(f"| retrieval among 16, {key.replace('_', ' ')} | {' | '.join(shares)} |")
    for feature in reports[names[0]]["zero_shot"] if names else ():
        cells = []
        for split in names:
            numbers = reports[split]["zero_shot"][feature]
            cells.append(f"{_percent(numbers['top1'])} ({_percent(numbers['majority'])})")
        rows.append(f"| {feature} from captions alone (majority class) | {' | '.join(cells)} |")
    return "\n".join(rows)


def _errors(name: str, report: Mapping[str, Any], baselines: list[str]) -> list[str]:
    """Return the lines of a table of GeoScore and errors, the model above its baselines."""
    within = " | ".join(f"< {km:,} km" for km in WITHIN_KM)
    lines = [
        f"| | GeoScore | median km | mean km | {within} |",
        "|---" * (4 + len(WITHIN_KM)) + "|",
        _error_row(f"**{name}**", report, report.get("intervals") or {}),
    ]
    for baseline in baselines:
        if baseline in report["baselines"]:
            title = baseline_title(baseline)
            lines.append(_error_row(title, report["baselines"][baseline], {}))
    return lines


def _error_row(title: str, numbers: Mapping[str, Any], intervals: Mapping[str, Any]) -> str:
    cells = []
    for key in ("geoscore", "median_km", "mean_km"):
        low_high = intervals.get(key)
        bracket = f" [{low_high[0]:,.0f}–{low_high[1]:,.0f}]" if low_high else ""
        cells.append(f"{numbers[key]:,.0f}{bracket}")
    bounds = intervals.get("accuracy_at_km", {})
    shares = numbers.get("accuracy_at_km", {})
    cells += [_percent(shares.get(str(km)), bounds.get(str(km))) for km in WITHIN_KM]
    return f"| {title} | {' | '.join(cells)} |"


def _percent(share: float | None, interval: list[float] | None = None) -> str:
    if share is None:
        return "–"
    bracket = f" [{100 * interval[0]:.1f}–{100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * share:.1f} %{bracket}"


def _fit_limits(dataset: PhotoDataset) -> str:
    train = dataset.table[dataset.table["split"] == "train"]
    return (
        f"It was trained on photos from {train['state'].nunique()} states (countries: "
        f"{train['country'].nunique()}). It cannot locate photos from elsewhere. Its answers are "
        "estimates: read every answer together with its radius. Do not use it to find people."
    )


def _bank_limits(count: int) -> str:
    return (
        f"- Every answer is one of {count} known places, so its error is at least the distance to "
        "the nearest of them.\n"
        "- It was trained on street-level photos taken from roads. It also answers for indoor "
        "pictures, portraits, drawings and aerial pictures, and those answers are meaningless.\n"
        "- Countries with few or no training photos are named rarely or never.\n"
        "- The radius is calibrated on average over photos of the same kind, not for each single "
        "photo.\n"
        "- It is an estimate, never evidence of where somebody was.\n"
        "- The checkpoint holds where each of its photos was taken: share it only if that may be "
        "known."
    )
