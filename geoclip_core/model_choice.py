"""From a name to a model: bundled, a run, a checkpoint folder, downloaded, or on a hub."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geoclip_core.model.checkpoint import CONFIG, CheckpointError, load_checkpoint, read_metrics
from geoclip_core.model.geoclip_release import is_release

BUNDLED = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to answer.

    Attributes:
        model: Offers `backbone`, `vocabularies`, `calibration` and `predict(embedding)`.
        name: What to call it.
        folder: Where its files are, or None.
        metrics: Its metrics.json; empty where there is none.
    """

    model: Any
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
        from geoclip_core.hub.remote import load_remote

        return load_remote(text, device)
    if is_release(folder):
        from geoclip_core.hub.remote import load_folder

        return load_folder(folder, device)
    model = load_checkpoint(folder, device)
    called = folder.parent.name if folder.name == "checkpoint" else folder.name
    return LoadedModel(model, called, folder, read_metrics(folder))
