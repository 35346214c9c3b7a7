"""Models and backbones that can be downloaded: what each weighs, allows, and is good for."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from geoclip_core.errors import DownloadError
from geoclip_core.files import MANIFEST, cache_folders, sha256_of
from geoclip_core.model.geoclip_image import CLIP_REPOSITORY

Kind = Literal["model", "backbone"]

GEOCLIP = "geoclip"
TOWER_BYTES = 1_710_540_580
WHEEL_BYTES = 40_292_198
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a repository: "user/name"."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


@dataclass(frozen=True)
class CatalogueEntry:
    """One thing that can be had."""

    name: str
    """What to type: a short name, or a repository on the hub."""
    kind: Kind
    """A "model" locates photos as it is; a "backbone" is what one trains heads on."""
    repository: str
    """Where on the hub its (larger) files are."""
    bytes: int
    """What is transferred, about; the exact size is asked for before a download."""
    licence: str
    good_for: str


CATALOGUE = (
    CatalogueEntry(
        GEOCLIP,
        "model",
        CLIP_REPOSITORY,
        WHEEL_BYTES + TOWER_BYTES,
        "MIT",
        "the whole world from one photo, with 100,000 candidate places (GeoCLIP, NeurIPS 2023); "
        "about 2 s a photo on two CPU cores, 2 GB of memory",
    ),
    CatalogueEntry(
        "openai/clip-vit-large-patch14",
        "backbone",
        "openai/clip-vit-large-patch14",
        TOWER_BYTES,
        "MIT",
        "the largest CLIP here: heads, and contrastive pretraining of photo and caption on a GPU",
    ),
    CatalogueEntry(
        "openai/clip-vit-base-patch16",
        "backbone",
        "openai/clip-vit-base-patch16",
        598_641_023,
        "MIT",
        "heads and contrastive pretraining with a fifth of the computing of ViT-L/14",
    ),
    CatalogueEntry(
        "facebook/dinov2-base",
        "backbone",
        "facebook/dinov2-base",
        346_345_912,
        "Apache-2.0",
        "heads on features that were learnt without captions: landscape, vegetation, buildings",
    ),
    CatalogueEntry(
        "facebook/dinov2-small",
        "backbone",
        "facebook/dinov2-small",
        88_249_112,
        "Apache-2.0",
        "the same, small enough to be trained whole on a laptop",
    ),
)


def catalogue_entry(name: str) -> CatalogueEntry | None:
    """The entry of a name, or None: anything else on the hub can be downloaded as well."""
    return next((entry for entry in CATALOGUE if entry.name == name), None)


@dataclass(frozen=True)
class Installed:
    """A model in the cache, with all of its files."""

    name: str
    folder: Path
    bytes: int
    source: str
    licence: str | None
    kind: str
    """"geoclip", "checkpoint" (ours) or "backbone" (a transformers model)."""


def installed_models(root: Path | str | None = None) -> list[Installed]:
    """The downloaded models that are whole, by name."""
    folders = cache_folders(root).models
    found = (read_manifest(folder) for folder in sorted(folders.glob("*/")) if folders.is_dir())
    return [item for item in found if item is not None]


def installed_model(name: str, root: Path | str | None = None) -> Installed | None:
    """The downloaded model of this name ("geoclip", "user/name"), or None."""
    return read_manifest(cache_folders(root).models / folder_name(name))


def folder_name(name: str) -> str:
    """The folder of a model inside the cache: "user/name" becomes "user--name"."""
    if name != GEOCLIP and not is_hub_id(name):
        raise DownloadError(
            f'{name!r} can be neither a model of the catalogue nor a repository "user/name"'
        )
    return name.replace("/", "--")


def read_manifest(folder: Path) -> Installed | None:
    """The model in a folder; None if it has no manifest, or not all that its manifest lists."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: int(file["bytes"]) for name, file in manifest["files"].items()}
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        name, source, kind = (str(manifest[key]) for key in ("name", "source", "kind"))
        return Installed(name, folder, sum(sizes.values()), source, manifest["licence"], kind)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """List the files of a folder with their sizes and checksums."""
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    when = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({**content, "downloaded_at": when, "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
