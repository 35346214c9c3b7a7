"""The downloaded models that are whole, and the manifest that says so."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geoclip_core.cache_folders import MANIFEST, cache_folders
from geoclip_core.hub.catalogue import GEOCLIP
from geoclip_core.hub.placement import DownloadError, sha256_of
from geoclip_core.hub.repository import is_hub_id


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
