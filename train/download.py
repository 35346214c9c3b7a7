"""Fetch OSV-Mini-129k from Kaggle, or unpack an archive of it, into its layout."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from geoclip_core.data.kaggle import download_osv_mini
from train.progress import ProgressBar


@dataclasses.dataclass(frozen=True)
class Options:
    """What to fetch, and where to put it."""

    COMMAND: ClassVar[str] = "download"
    POSITIONAL: ClassVar[tuple[str, ...]] = ("name",)

    name: Literal["osv-mini"]
    """the dataset to fetch"""
    output: Path
    """dataset folder to fill; running again goes on where it stopped"""
    archive: Path | None = None
    """ZIP or folder that was fetched by hand, instead of asking Kaggle"""
    status: Path | None = None
    """file to keep writing the progress to, as JSON"""


def run(options: Options) -> int:
    """Fetch, check, and say what is there; 1 when photos are missing."""
    with ProgressBar("placing", "files", options.status) as bar:
        counts = download_osv_mini(options.output, archive=options.archive, progress=bar.update)
        bar.message = f"{counts['train']:,} train and {counts['test']:,} test photos"
    print(f"{options.output}: {bar.message}")
    if counts["missing"]:
        print(
            f"{counts['missing']:,} photos of the tables are not there; run the command again, or "
            f"see python -m train doctor {options.output}"
        )
        return 1
    return 0
