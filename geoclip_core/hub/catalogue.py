"""List the models and backbones that can be downloaded, and those on this computer."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from geoclip_core.checks import Name, checked
from geoclip_core.errors import DownloadError
from geoclip_core.files import MANIFEST, cache_folders, read_json, sha256_of

Kind = Literal["model", "backbone"]
Progress = Callable[[str, int, int | None], None]
"""Takes the file or step, the bytes that have arrived, and all bytes, if that is known."""

GEOCLIP = "geoclip"
TOWER_BYTES = 1_710_540_580
"""Size of CLIP ViT-L/14, the image tower of GeoCLIP with its text tower."""
WHEEL_BYTES = 40_292_198
"""Size of the wheel with GeoCLIP's other weights."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a repository, "user/name"."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


@dataclass(frozen=True)
class CatalogueEntry:
    """A model or backbone that can be downloaded."""

    name: str
    """Name to download it by: a short name, or "user/name" on the hub."""
    kind: Kind
    """A "model" locates photos; a "backbone" first needs heads to be trained on it."""
    bytes: int
    """Approximate size of the download."""
    licence: str
    good_for: str


CATALOGUE = (
    CatalogueEntry(
        GEOCLIP,
        "model",
        WHEEL_BYTES + TOWER_BYTES,
        "MIT",
        "the whole world from one photo, with 100,000 candidate places (GeoCLIP, NeurIPS 2023); "
        "about 2 s a photo on two CPU cores, 2 GB of memory",
    ),
    CatalogueEntry(
        "openai/clip-vit-large-patch14",
        "backbone",
        TOWER_BYTES,
        "MIT",
        "heads, and contrastive pretraining of photos and captions on a GPU; the largest CLIP here",
    ),
    CatalogueEntry(
        "openai/clip-vit-base-patch16",
        "backbone",
        598_641_023,
        "MIT",
        "heads and contrastive pretraining with a fifth of the computation of ViT-L/14",
    ),
    CatalogueEntry(
        "facebook/dinov2-base",
        "backbone",
        346_345_912,
        "Apache-2.0",
        "heads on features learnt without captions: landscape, vegetation, buildings",
    ),
    CatalogueEntry(
        "facebook/dinov2-small",
        "backbone",
        88_249_112,
        "Apache-2.0",
        "the same as dinov2-base, but small enough to train as a whole on a laptop",
    ),
)


def catalogue_entry(name: str) -> CatalogueEntry | None:
    """Return the entry of a name, or None; models without an entry can be downloaded too."""
    return next((entry for entry in CATALOGUE if entry.name == name), None)


@dataclass(frozen=True)
class Installed:
    """A downloaded model, complete in the cache."""

    name: str
    folder: Path
    bytes: int
    source: str
    licence: str | None
    kind: str
    """"geoclip", "checkpoint" (of this project) or "backbone" (of transformers)."""


def installed_models(root: Path | str | None = None) -> list[Installed]:
    """Return the complete downloaded models, sorted by name; `root` is the cache folder."""
    folders = cache_folders(root).models
    found = (read_manifest(folder) for folder in sorted(folders.glob("*/")) if folders.is_dir())
    return [item for item in found if item is not None]


def installed_model(name: str, root: Path | str | None = None) -> Installed | None:
    """Return the downloaded model of this name ("geoclip" or "user/name"), or None."""
    return read_manifest(cache_folders(root).models / folder_name(name))


def folder_name(name: str) -> str:
    """Return the name of a model's folder in the cache: "user/name" becomes "user--name".

    Raises:
        DownloadError: The name is neither "geoclip" nor of the form "user/name".
    """
    if name != GEOCLIP and not is_hub_id(name):
        raise DownloadError(
            f'{name!r} is neither a model of the catalogue nor a repository "user/name"'
        )
    return name.replace("/", "--")


def read_manifest(folder: Path) -> Installed | None:
    """Return the model in a folder, or None if its manifest or a file listed there is missing."""
    try:
        manifest = checked(_Manifest, read_json(folder / MANIFEST), folder / MANIFEST)
        sizes = {name: file.bytes for name, file in manifest.files.items()}
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
    except (OSError, ValueError):
        return None
    total, licence = sum(sizes.values()), manifest.licence
    return Installed(manifest.name, folder, total, manifest.source, licence, manifest.kind)


@dataclass(frozen=True)
class _File:
    """A file in a manifest."""

    bytes: Annotated[int, Interval(ge=0, le=10**12)]


@dataclass(frozen=True)
class _Manifest:
    """What is read of download.json."""

    name: Name
    source: str
    kind: str
    files: dict[str, _File]
    licence: str | None = None


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest of a folder: `content`, the time, and all files with size and checksum."""
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
