"""Load models by name (bundled, trained, downloaded, or on a hub), and push them to a hub."""

import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geoclip_core.checks import shown
from geoclip_core.errors import BackboneError, CheckpointError, DownloadError, FileError
from geoclip_core.files import is_offline, read_text, readable
from geoclip_core.geoclip.model import load_geoclip
from geoclip_core.hub.catalogue import (
    CATALOGUE,
    GEOCLIP,
    Installed,
    catalogue_entry,
    installed_model,
    installed_models,
    is_hub_id,
)
from geoclip_core.model.checkpoint import (
    BUNDLED,
    CALIBRATION,
    CARD,
    CONFIG,
    DOMAIN,
    METRICS,
    VOCABULARIES,
    WEIGHTS,
    bundled_models,
    checkpoint_folder,
    load_checkpoint,
    named_folder,
    read_metrics,
)
from geoclip_core.model.geoclip_image import CLIP_REPOSITORY, is_release
from geoclip_core.model.geolocation import Locatable
from geoclip_core.model.tensors import check_device
from geoclip_core.training.runs import Run

PUSHED = (WEIGHTS, CONFIG, VOCABULARIES, CALIBRATION, DOMAIN, METRICS, CARD)
"""The files of a checkpoint that are pushed."""
MAX_CARD = 10**6
"""Bytes of the largest model card."""
PUBLISHED = {
    "published": {
        "source": "Vivanco Cepeda et al., NeurIPS 2023",
        "test": "IM2GPS3k",
        "accuracy_at_km": {"1": 0.141, "25": 0.345, "200": 0.507, "750": 0.697, "2500": 0.838},
    }
}
"""Metrics that the authors of GeoCLIP published."""


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    Attributes:
        model: The model, with its backbone.
        name: Its display name.
        folder: Folder of its files, or None.
        metrics: Its metrics.json; empty if it has none.
    """

    model: Locatable
    name: str
    folder: Path | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def load_model(name: str | os.PathLike[str], device: str = "cpu") -> LoadedModel:
    """Load a model with its backbone.

    Args:
        name: Bundled name, checkpoint or run folder, downloaded name, or hub id, tried in this
            order; a hub id is downloaded if needed.
        device: Torch device.

    Raises:
        CheckpointError: No model has this name, or it cannot be loaded or downloaded; the message
            lists the models to choose from.
        DeviceError: This computer does not have the device.
    """
    check_device(device)
    try:
        return _load_model(os.fspath(name), device)
    except BackboneError as error:
        raise CheckpointError(str(error)) from error


def _load_model(text: str, device: str) -> LoadedModel:
    folder = checkpoint_folder(text)
    if folder is None and named_folder(text) is not None:
        raise CheckpointError(
            f"{text} is neither a checkpoint (no {CONFIG}) nor a run with a finished checkpoint"
        )
    if folder is None:
        return _load_remote(text, device)
    if is_release(folder):
        return LoadedModel(load_geoclip(folder, device), folder.name, folder)
    model = load_checkpoint(folder, device)
    label = Run(folder.parent).title if folder.name == "checkpoint" else folder.name
    return LoadedModel(model, label, folder, read_metrics(folder))


def _load_remote(name: str, device: str) -> LoadedModel:
    """Load a downloaded model, or download "user/name" first.

    A model of the catalogue may be gigabytes large and is not downloaded without being asked for:
    the error gives the command.
    """
    try:
        present = installed_model(name) if name == GEOCLIP or is_hub_id(name) else None
        if present is None:
            if (entry := catalogue_entry(name)) is not None:
                # Not `geoclip`, which exists only after an installation.
                raise CheckpointError(
                    f"{name} is not on this computer: download it once with `python -m "
                    f"geoclip_core download {name}` ({readable(entry.bytes)}, licence "
                    f"{entry.licence})"
                )
            if not is_hub_id(name):
                raise CheckpointError(f"there is no model {shown(name)}; {_choices()}")
            if is_offline():
                raise CheckpointError(
                    f"{name} is not on this computer and the network is switched off; {_choices()}"
                )
            # takes a second to import, and bundled models do not need it
            from geoclip_core.hub.download import download

            present = download(name)
    except DownloadError as error:
        raise CheckpointError(f"{error}; {_choices()}") from error
    return _load_installed(present, device)


def _load_installed(present: Installed, device: str) -> LoadedModel:
    if present.kind == "geoclip":
        folder = None if present.name == GEOCLIP else present.folder
        # The published accuracy is that of the published image tower.
        metrics = PUBLISHED if f"with {CLIP_REPOSITORY} at" in present.source else {}
        return LoadedModel(load_geoclip(folder, device), present.name, present.folder, metrics)
    if present.kind == "checkpoint":
        model = load_checkpoint(present.folder, device)
        return LoadedModel(model, present.name, present.folder, read_metrics(present.folder))
    raise CheckpointError(
        f"{present.name} is a backbone, not a model that locates photos: train one on it with "
        f"`python -m train fit --backbone {present.name}`; {_choices()}"
    )


def _choices() -> str:
    """Return the models on this computer and those to download, for error messages."""
    downloaded = (item.name for item in installed_models() if item.kind != "backbone")
    here = [*bundled_models(), *downloaded]
    rest = [entry.name for entry in CATALOGUE if entry.kind == "model" and entry.name not in here]
    text = f"on this computer: {', '.join(here) or 'no model'}"
    return text + (f"; to download: {', '.join(rest)} or any hub id user/name" if rest else "")


def model_rows(root: Path | str | None = None) -> list[dict[str, Any]]:
    """Return every bundled, downloaded and downloadable model.

    Returns:
        Rows with "name", "kind" ("model" or "backbone"), "state" ("bundled", "downloaded" or
        "available"), "bytes", "licence", "good_for" and, if on this computer, "folder".
    """
    rows = []
    for name in bundled_models():
        folder = BUNDLED / name
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        licence, purpose = _card_facts(folder)
        rows.append(_row(name, "model", "bundled", size, licence, purpose, folder))
    here = installed_models(root)
    for item in here:
        entry = catalogue_entry(item.name)
        kind = "backbone" if item.kind == "backbone" else "model"
        licence, purpose = _card_facts(item.folder)
        licence, purpose = item.licence or licence, entry.good_for if entry else purpose
        rows.append(_row(item.name, kind, "downloaded", item.bytes, licence, purpose, item.folder))
    names = {item.name for item in here}
    for entry in CATALOGUE:
        if entry.name not in names:
            about = entry.kind, "available", entry.bytes, entry.licence, entry.good_for
            rows.append(_row(entry.name, *about))
    return rows


def _row(
    name: str,
    kind: str,
    state: str,
    size: int,
    licence: str | None,
    good_for: str,
    folder: Path | None = None,
) -> dict[str, Any]:
    row = {"name": name, "kind": kind, "state": state, "bytes": size, "licence": licence}
    return row | {"good_for": good_for} | ({"folder": str(folder)} if folder else {})


def _card_facts(folder: Path) -> tuple[str | None, str]:
    """Return the licence and the first line of text of a model card, or None and ""."""
    try:
        text = read_text(folder / CARD, MAX_CARD)
    except FileError:
        return None, ""
    licence = re.search(r"(?im)^\W*licen[cs]e\W*:\W*(.+?)\W*$", text)
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    prose = (line.strip() for line in text.splitlines() if not line.startswith(("#", "|", "-")))
    return licence[1] if licence else None, next((line for line in prose if line), "")[:200]


def push(
    checkpoint: Path, repository: str, *, private: bool = False, licence: str | None = None
) -> str:
    """Upload a checkpoint with its model card, and return the address of the commit.

    Args:
        checkpoint: A checkpoint folder, or the run folder that holds it.
        repository: "user/name"; created if it does not exist.
        private: Whether a new repository is visible to its owner only.
        licence: The hub's identifier of a licence ("mit", "cc-by-4.0"), for a card without header.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        DownloadError: The hub refuses the upload or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from geoclip_core.hub.download import hub_endpoint, hub_errors

    if not is_hub_id(repository):
        raise DownloadError(f'{repository!r} is not a repository: write "user/name"')
    if is_offline():
        raise DownloadError("nothing can be pushed: the network is switched off")
    folder = checkpoint if (checkpoint / CONFIG).is_file() else checkpoint / "checkpoint"
    model = load_checkpoint(folder, with_backbone=False)
    api = HfApi(endpoint=hub_endpoint())
    with tempfile.TemporaryDirectory(prefix="push-") as scratch, hub_errors(repository):
        for name in PUSHED:
            if (folder / name).is_file() and name != CARD:
                shutil.copyfile(folder / name, Path(scratch) / name)
        (Path(scratch) / CARD).write_text(_card(folder, model.name, licence), encoding="utf-8")
        try:
            api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=scratch,
                repo_type="model",
                commit_message=f"Upload {model.name or folder.name}",
            )
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 403):
                raise
            raise DownloadError(
                f"you may not write to {repository}: log in with `hf auth login` with a token that "
                "has write access, or set HF_TOKEN"
            ) from error
    return str(commit.commit_url)


def _card(folder: Path, name: str, licence: str | None) -> str:
    """Return the model card; a card without the header that hubs read gets one."""
    card = folder / CARD
    try:
        text = read_text(card, MAX_CARD) if card.exists() else f"# {name}\n"
    except FileError as error:
        raise CheckpointError(str(error)) from error
    if text.startswith("---\n"):
        return text
    lines = ["library_name: geoclip-core", "tags:", "- image-geolocation"]
    if licence:
        lines.insert(0, f"license: {licence}")
    return "\n".join(["---", *lines, "---", "", text])
