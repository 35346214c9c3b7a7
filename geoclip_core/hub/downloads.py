"""Downloaded models: fetched into a waiting room, checked, and put in place whole or not at all."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from geoclip_core.atomic_writes import swap_in
from geoclip_core.cache_folders import cache_folders, is_offline
from geoclip_core.hub import geoclip_wheel
from geoclip_core.hub.catalogue import GEOCLIP, TOWER_BYTES, catalogue_entry
from geoclip_core.hub.installed_models import (
    Installed,
    folder_name,
    installed_model,
    write_manifest,
)
from geoclip_core.hub.placement import DownloadError, check_space
from geoclip_core.hub.repository import find_repository
from geoclip_core.hub.transfer import Progress, fetch
from geoclip_core.model.checkpoint import CheckpointError, load_checkpoint
from geoclip_core.model.clip_tower import extract_tower, read_tower
from geoclip_core.model.geoclip_release import (
    CLIP_REPOSITORY,
    CONFIG,
    IMAGE_TOWER,
    is_release,
    read_release,
)


def download(
    name: str,
    *,
    root: Path | str | None = None,
    offline: bool = False,
    revision: str | None = None,
    wheel: Path | None = None,
    image_tower: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Installed:
    """Fetch a model; one that is there and whole is not fetched again.

    Args:
        name: a name of the catalogue, or any repository "user/name" on the hub.
        root: cache folder; None: `GEOCLIP_CACHE` or the platform's.
        offline: do not touch the network, as `GEOCLIP_OFFLINE` says.
        revision: branch, tag or commit on the hub.
        wheel: for geoclip, a wheel that was fetched elsewhere.
        image_tower: for geoclip, a local folder with CLIP ViT-L/14.
        force: fetch again even if it is there; the old state stays until the new one is whole.
        progress: told about every chunk.

    Raises:
        DownloadError: one plain sentence; what was there before is as it was, and what arrived is
            kept for the next try unless its checksum is wrong.
    """
    key = folder_name(name)
    folders = cache_folders(root)
    present = installed_model(name, root)
    if present is not None and not force:
        return present
    needs_network = name != GEOCLIP or wheel is None or image_tower is None
    if needs_network and is_offline(offline):
        raise DownloadError(f"{name} would have to be fetched, but the network is switched off")
    waiting = folders.partial / key
    try:
        with _alone(waiting):
            if name == GEOCLIP:
                manifest = _fetch_geoclip(waiting, wheel, image_tower, revision, progress)
            else:
                manifest = _fetch_repository(name, waiting, revision, progress)
            ready = waiting / "ready"
            write_manifest(ready, {"name": name, **manifest})
            swap_in(ready, folders.models / key)
            shutil.rmtree(waiting, ignore_errors=True)
    except OSError as error:
        raise DownloadError(f"{name} could not be stored in {folders.models}: {error}") from error
    placed = installed_model(name, root)
    if placed is None:
        raise DownloadError(f"{name} was fetched, but {folders.models / key} is not whole")
    return placed


def _fetch_repository(
    name: str, waiting: Path, revision: str | None, progress: Progress | None
) -> dict[str, Any]:
    repository = find_repository(name, revision)
    arrived = _fetch_files(repository, waiting, progress)
    ready = _fresh(waiting / "ready")
    for file in repository.files:
        target = ready / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(arrived / file.name, target)
    kind = _check(ready)
    entry = catalogue_entry(name)
    licence = entry.licence if entry else repository.licence
    source = f"{name} at {repository.commit}"
    return {"kind": kind, "source": source, "licence": licence}


def _fetch_geoclip(
    waiting: Path,
    wheel: Path | None,
    image_tower: Path | None,
    revision: str | None,
    progress: Progress | None,
) -> dict[str, Any]:
    if image_tower is None:
        check_space(waiting, 2 * TOWER_BYTES, "geoclip with room to unpack it")
    fetched = wheel or geoclip_wheel.fetch_wheel(waiting / "wheel", progress)
    ready = _fresh(waiting / "ready")
    try:
        geoclip_wheel.convert_wheel(fetched, ready)
    except DownloadError:
        if wheel is None:
            fetched.unlink(missing_ok=True)
        raise
    source = geoclip_wheel.REQUIREMENT
    if image_tower is None:
        repository = find_repository(CLIP_REPOSITORY, revision)
        tower = _fetch_files(repository, waiting, progress)
        source += f" with {CLIP_REPOSITORY} at {repository.commit}"
    else:
        tower = image_tower.expanduser()
        source += f" with the image tower of {tower.absolute()}"
    # The text tower, a quarter of the file, is left behind.
    extract_tower(tower, ready / IMAGE_TOWER)
    kind = _check(ready)
    return {"kind": kind, "source": source, "licence": "MIT"}


def _fetch_files(repository: Any, waiting: Path, progress: Progress | None) -> Path:
    """Fetch what a repository has into the waiting room; what is there already stays."""
    arrived = waiting / "files"
    there = sum(f.stat().st_size for f in arrived.rglob("*") if f.is_file())
    check_space(waiting, repository.size - there, repository.name)
    for file in repository.files:
        fetch(file, arrived, progress)
    return arrived


def _check(folder: Path) -> str:
    """What a folder holds; it is read as far as a load would read it.

    Raises:
        DownloadError: if it would not load.
    """
    try:
        if is_release(folder):
            release = read_release(folder)
            if (folder / IMAGE_TOWER).is_dir():
                width = read_tower(folder / IMAGE_TOWER).config.projection_dim
                if width != release.image_mlp[0].in_features:
                    raise CheckpointError(
                        f"its image tower gives {width} features, not "
                        f"{release.image_mlp[0].in_features}: it takes {CLIP_REPOSITORY}"
                    )
            return "geoclip"
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "backbone" in config and "block_widths" in config:
            load_checkpoint(folder, with_backbone=False)
            return "checkpoint"
        for weights in folder.glob("*.safetensors"):
            with safe_open(weights, framework="pt") as stored:
                stored.keys()
    except (CheckpointError, SafetensorError, OSError, ValueError, TypeError) as error:
        raise DownloadError(f"what arrived does not load, it was not put in place: {error}") from (
            error
        )
    return "backbone"


def _link(source: Path, target: Path) -> None:
    """A second name of a file, not its move: should a check fail, nothing is fetched again."""
    try:
        target.hardlink_to(source)
    except OSError:
        # Some disks know no links.
        shutil.copyfile(source, target)


@contextmanager
def _alone(waiting: Path) -> Iterator[None]:
    """Keep a second download of the same model out."""
    from filelock import FileLock, Timeout

    waiting.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(waiting.with_name(f"{waiting.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise DownloadError("this model is being downloaded already") from error


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
