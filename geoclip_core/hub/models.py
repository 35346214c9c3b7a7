"""Models beyond the bundled ones: downloaded, or on a hub, by name; and pushing one's own there."""

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geoclip_core.errors import CheckpointError, DownloadError
from geoclip_core.files import is_offline
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
from geoclip_core.hub.download import Progress, download, hub_endpoint
from geoclip_core.model.checkpoint import (
    CALIBRATION,
    CARD,
    CONFIG,
    METRICS,
    VOCABULARIES,
    WEIGHTS,
    load_checkpoint,
    read_metrics,
)
from geoclip_core.model.geoclip_image import CLIP_REPOSITORY, is_release
from geoclip_core.model.geolocation import Locatable

BUNDLED = Path(__file__).resolve().parents[1] / "checkpoints"


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to answer.

    Attributes:
        model: The model, with its backbone.
        name: What to call it.
        folder: Where its files are, or None.
        metrics: Its metrics.json; empty where there is none.
    """

    model: Locatable
    name: str
    folder: Path | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def bundled_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(folder.parent.name for folder in BUNDLED.glob(f"*/{CONFIG}"))


def checkpoint_folder(name: str | os.PathLike[str]) -> Path | None:
    """The checkpoint that a bundled name, a checkpoint folder or a run folder means, or None."""
    text = os.fspath(name)
    if text in bundled_models():
        return BUNDLED / text
    folder = Path(text).expanduser()
    for candidate in (folder, folder / "checkpoint"):
        if (candidate / CONFIG).is_file():
            return candidate
    return None


def load_model(name: str | os.PathLike[str], device: str = "cpu") -> LoadedModel:
    """Load the model that a name stands for, with its backbone, ready to answer.

    Tried in this order: bundled name, checkpoint or run folder, downloaded name, hub id.

    Raises:
        CheckpointError: nothing has this name, or its files are not whole.
    """
    text = os.fspath(name)
    folder = checkpoint_folder(text)
    if folder is None and Path(text).expanduser().is_dir():
        raise CheckpointError(
            f"{text} is neither a checkpoint (no {CONFIG}) nor a run with a finished checkpoint"
        )
    if folder is None:
        return load_remote(text, device)
    if is_release(folder):
        return load_folder(folder, device)
    model = load_checkpoint(folder, device)
    called = folder.parent.name if folder.name == "checkpoint" else folder.name
    return LoadedModel(model, called, folder, read_metrics(folder))


PUSHED = (WEIGHTS, CONFIG, VOCABULARIES, CALIBRATION, METRICS, CARD)
"""Files of a checkpoint that are pushed, and no others that may lie beside them."""

PUBLISHED = {
    "published": {
        "source": "Vivanco Cepeda et al., NeurIPS 2023",
        "test": "IM2GPS3k",
        "accuracy_at_km": {"1": 0.141, "25": 0.345, "200": 0.507, "750": 0.697, "2500": 0.838},
    }
}
"""What the authors of GeoCLIP report of it."""


def load_remote(
    name: str, device: str = "cpu", offline: bool = False, progress: Progress | None = None
) -> LoadedModel:
    """Load a downloaded model by its name, or fetch "user/name" from the hub first.

    A model of the catalogue that is not here is not fetched on the quiet: it may weigh gigabytes,
    so the error says how to get it.

    Raises:
        CheckpointError: in one plain sentence, with what can be done.
    """
    try:
        present = installed_model(name) if name == GEOCLIP or is_hub_id(name) else None
        if present is None:
            if (entry := catalogue_entry(name)) is not None:
                raise CheckpointError(
                    f"{name} is not on this computer: fetch it once with `python -m geoclip_core "
                    f"download {name}` ({_size(entry.bytes)}, licence {entry.licence})"
                )
            if not is_hub_id(name):
                raise CheckpointError(f"there is no model {name!r}; {choices()}")
            if is_offline(offline):
                raise CheckpointError(
                    f"{name} is not on this computer and the network is switched off; {choices()}"
                )
            present = download(name, progress=progress)
    except DownloadError as error:
        raise CheckpointError(f"{error}; {choices()}") from error
    return _load(present, device)


def load_folder(folder: Path, device: str = "cpu") -> LoadedModel:
    """Load a GeoCLIP from a folder in the layout of its releases."""
    return LoadedModel(load_geoclip(folder, device), folder.name, folder)


def choices() -> str:
    """What can be chosen without a network, for the end of a message."""
    here = [*bundled_models(), *(item.name for item in installed_models() if _serves(item))]
    had = [entry.name for entry in CATALOGUE if entry.kind == "model" and entry.name not in here]
    text = f"on this computer are {', '.join(here)}" if here else "no model is on this computer"
    return text + (f"; to be had are {', '.join(had)} or any hub id user/name" if had else "")


def push(
    checkpoint: Path, repository: str, *, private: bool = False, licence: str | None = None
) -> str:
    """Upload a checkpoint with its model card, and return the address of the commit.

    Args:
        checkpoint: a folder that `save_checkpoint` wrote, or the run around it.
        repository: "user/name"; made if it does not exist.
        private: whether a new repository is visible to its owner only.
        licence: the hub's short name of a licence ("mit", "cc-by-4.0") for the card.

    Raises:
        CheckpointError: if the folder would not load.
        DownloadError: if the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not is_hub_id(repository):
        raise DownloadError(f'{repository!r} is no repository: they are written "user/name"')
    if is_offline():
        raise DownloadError("nothing can be pushed: the network is switched off")
    folder = checkpoint if (checkpoint / CONFIG).is_file() else checkpoint / "checkpoint"
    model = load_checkpoint(folder, with_backbone=False)
    api = HfApi(endpoint=hub_endpoint())
    with tempfile.TemporaryDirectory(prefix="push-") as scratch:
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
            status = error.response.status_code if error.response is not None else None
            if status in (401, 403):
                raise DownloadError(
                    f"the hub does not let you write to {repository}: log in with `hf auth login` "
                    "with a token that may write, or set HF_TOKEN"
                ) from error
            reason = str(error).strip().splitlines()[0]
            raise DownloadError(f"the hub refuses {repository}: {reason}") from error
        except Exception as error:
            if not _is_network(error):
                raise
            raise DownloadError(f"no network: the hub cannot be reached ({error})") from error
    return str(commit.commit_url)


def _load(present: Installed, device: str) -> LoadedModel:
    if present.kind == "geoclip":
        folder = None if present.name == GEOCLIP else present.folder
        # With another tower, the published numbers are not those of this model.
        metrics = PUBLISHED if f"with {CLIP_REPOSITORY} at" in present.source else {}
        return LoadedModel(load_geoclip(folder, device), present.name, present.folder, metrics)
    if present.kind == "checkpoint":
        model = load_checkpoint(present.folder, device)
        return LoadedModel(model, present.name, present.folder, read_metrics(present.folder))
    raise CheckpointError(
        f"{present.name} is a backbone, not a model that locates photos: train one on it with "
        f"`python -m train fit --backbone {present.name}`; {choices()}"
    )


def _card(folder: Path, name: str, licence: str | None) -> str:
    """The model card with the header that hubs read, if it has none yet."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {name}\n"
    if text.startswith("---\n"):
        return text
    lines = ["library_name: geoclip-core", "tags:", "- image-geolocation"]
    if licence:
        lines.insert(0, f"license: {licence}")
    return "\n".join(["---", *lines, "---", "", text])


def _is_network(error: Exception) -> bool:
    """Whether an error of the hub's client means that there is no connection."""
    # The client's HTTP library is its own affair and has changed before: go by the names.
    names = {cls.__name__ for cls in type(error).__mro__}
    return isinstance(error, OSError) or bool(
        names & {"TransportError", "ConnectError", "TimeoutException", "OfflineModeIsEnabled"}
    )


def _serves(item: Installed) -> bool:
    return item.kind != "backbone"


def _size(size: int) -> str:
    from geoclip_core.files import readable

    return readable(size)
