"""The model card of a pretrained pair of towers."""

from collections.abc import Mapping
from typing import Any

from geoclip_core.data.table import PhotoDataset
from geoclip_core.loops.fit_card import describe_data, front_matter, percent
from geoclip_core.loops.pretrain_options import PretrainOptions
from geoclip_core.model.backbones import public_name


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
        f"{options.train.replace('backbone=', 'trained part: ')}.",
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
