"""Save and load models as folders of safetensors and JSON, never pickle."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Len
from safetensors.torch import save_file

from geoclip_core.checks import Width, checked, checked_arguments, shown
from geoclip_core.data.vocabulary import Vocabulary, VocabularyError
from geoclip_core.errors import CheckpointError, FileError
from geoclip_core.files import atomic_folder, read_json
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.bank_heads import KernelContextHeads, KernelContextJoin
from geoclip_core.model.calibration import CALIBRATED_BY, Calibration, identity_of
from geoclip_core.model.context_heads import ContextHeads, ContextJoin
from geoclip_core.model.domain import Domain
from geoclip_core.model.geolocation import COORDINATE_HEADS, GeolocationModel, ModelConfig
from geoclip_core.model.tensors import Shapes, below, check_shapes, read_shapes, read_tensors
from geoclip_core.results import read_results

FORMAT = 2
"""Format 1, in which the coordinate head "bank" was called "retrieval", is still read."""
WEIGHTS, CONFIG, VOCABULARIES = "model.safetensors", "config.json", "vocabularies.json"
_MAX_VOCABULARIES = 64 * 2**20
_BACKBONE = "backbone."
CALIBRATION, METRICS, CARD = "calibration.json", "metrics.json", "README.md"
DOMAIN = "domain.json"
BUNDLED = Path(__file__).resolve().parents[1] / "checkpoints"


def bundled_models() -> list[str]:
    """Return the names of the models that ship with the package."""
    return sorted(folder.parent.name for folder in BUNDLED.glob(f"*/{CONFIG}"))


def checkpoint_folder(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of a checkpoint, given as bundled name, checkpoint or run, or None."""
    text = os.fspath(name)
    if text in bundled_models():
        return BUNDLED / text
    folder = named_folder(text)
    if folder is None:
        return None
    for candidate in (folder, folder / "checkpoint"):
        if os.path.lexists(candidate / CONFIG):
            return candidate
    return None


def named_folder(text: str) -> Path | None:
    """Return the folder that a name means, or None if there is none."""
    try:
        folder = Path(text).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, of no user, with a zero byte
        return None


def save_checkpoint(
    folder: str | Path,
    model: GeolocationModel,
    metrics: Mapping[str, Any] | None = None,
    card: str = "",
    save_backbone: bool = False,
    files: Mapping[str, Path] | None = None,
) -> Path:
    """Write a model as a folder, atomically, and return the folder.

    Args:
        folder: target; an existing checkpoint is replaced, any other non-empty folder refused.
        model: the model.
        metrics: content of metrics.json; if it measures radii, with the calibration of the model.
        card: text of the model card, README.md.
        save_backbone: whether to save the backbone's weights, needed if they were trained.
        files: name -> file to copy into the folder (predictions.parquet).

    Raises:
        CheckpointError: the folder exists and is not a checkpoint, or there is no backbone to save.
    """
    target = Path(folder)
    is_ours = all((target / name).is_file() for name in (CONFIG, WEIGHTS))
    if target.exists() and not is_ours and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists and is not a checkpoint: choose another folder")
    if save_backbone and model.backbone is None:
        raise CheckpointError("the model has no backbone whose weights could be saved")
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if save_backbone or not name.startswith("backbone.")
    }
    config: dict[str, Any] = {
        "format": FORMAT,
        "name": model.name,
        "model": asdict(model.config),
        "backbone": asdict(model.backbone_config),
        "block_widths": list(model.block_widths),
        "backbone_saved": save_backbone,
    }
    if model.backbone is not None:
        config["preprocessing"] = asdict(model.backbone.preprocessing)
        config["architecture"] = model.backbone.architecture()
        if not save_backbone:
            config["backbone_hash"] = model.backbone.weights_hash()
    vocabularies = {f: v.to_json() for f, v in model.vocabularies.items()}
    with atomic_folder(target) as work:
        save_file(tensors, work / WEIGHTS, metadata={"format": "pt"})
        _write_json(work / CONFIG, config)
        _write_json(work / VOCABULARIES, vocabularies)
        numbers = dict(metrics or {})
        if "coverage" in numbers:
            numbers.setdefault(CALIBRATED_BY, identity_of(model.calibration))
        _write_json(work / METRICS, numbers)
        if model.calibration is not None:
            (work / CALIBRATION).write_text(model.calibration.to_json(), encoding="utf-8")
        if model.domain is not None:
            (work / DOMAIN).write_text(model.domain.to_json(), encoding="utf-8")
        (work / CARD).write_text(card, encoding="utf-8")
        for name, path in (files or {}).items():
            shutil.copyfile(path, work / name)
        for path in work.iterdir():
            path.chmod(0o644)  # safetensors creates files that only the owner can read
    return target


def load_checkpoint(
    folder: str | Path, device: str | torch.device = "cpu", with_backbone: bool = True
) -> GeolocationModel:
    """Read a model that `save_checkpoint` wrote, in evaluation mode.

    Args:
        folder: the checkpoint.
        device: device of the model.
        with_backbone: whether to build the backbone; without it the model reads embeddings only.

    The folder may come from a stranger. Nothing is read but regular files of JSON and safetensors,
    within limits; the network is not used; and memory is taken for as many numbers as the file of
    weights holds.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit; the message names it.
    """
    try:
        return _loaded(Path(folder), device, with_backbone)
    except CheckpointError:
        raise
    except FileError as error:
        raise CheckpointError(str(error)) from error
    except ValueError as error:  # of a backbone, a depth that it does not have
        raise CheckpointError(f"{folder}: {error}") from error


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """Read the metrics.json of a checkpoint; numbers that are not finite become None.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return read_results(Path(folder) / METRICS)
    except FileError as error:
        raise CheckpointError(str(error)) from error


@dataclass(frozen=True)
class _Description:
    """The content of config.json; further fields are ignored."""

    model: dict[str, Any]
    backbone: dict[str, Any]
    block_widths: Annotated[tuple[Width, ...], Len(1, 512)]
    name: Annotated[str, Len(0, 500)] | None = None
    backbone_saved: bool = False
    backbone_hash: Annotated[str, Len(0, 100)] | None = None
    architecture: dict[str, Any] | None = None


def _loaded(source: Path, device: str | torch.device, with_backbone: bool) -> GeolocationModel:
    if not source.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {source}")
    description = _description(source / CONFIG)
    vocabularies = _vocabularies(source / VOCABULARIES)
    calibration = None
    if (source / CALIBRATION).exists():
        calibration = Calibration.read(source / CALIBRATION)
    config = _model_config(description, source / CONFIG)
    backbone_config = BackboneConfig.from_file(description.backbone, source / CONFIG)
    name = description.name or source.name

    def build() -> GeolocationModel:
        try:
            return GeolocationModel(
                config,
                backbone_config,
                description.block_widths,
                vocabularies,
                calibration,
                name=name,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{source} does not describe a model: {error}") from error

    weights = source / WEIGHTS
    shapes = read_shapes(weights)
    heads = {name: part for name, part in shapes.items() if not name.startswith(_BACKBONE)}
    with torch.device("meta"):  # takes no memory
        check_shapes(build(), heads, weights)
    model = build()
    saved = read_tensors(weights)
    model.load_state_dict({name: saved[name] for name in heads})
    try:
        model.check_weights()
    except ValueError as error:
        raise CheckpointError(f"{weights} cannot be used: {error}") from error
    if (source / DOMAIN).exists():
        model.domain = Domain.read(source / DOMAIN)
    if with_backbone:
        _attach_backbone(model, description, below(shapes, _BACKBONE), saved, source)
    return model.to(device).eval()


def _description(path: Path) -> _Description:
    content = checked(dict[str, Any], read_json(path), path)
    if content.get("format") not in (1, FORMAT):
        raise CheckpointError(
            f"{path} has format {shown(content.get('format'))}; this version reads 1 to {FORMAT}"
        )
    return checked(_Description, content, path)


def _vocabularies(path: Path) -> dict[str, Vocabulary]:
    content = checked(dict[str, Any], read_json(path, _MAX_VOCABULARIES), path)
    try:
        return {feature: Vocabulary.from_json(value) for feature, value in content.items()}
    except VocabularyError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def _model_config(description: _Description, path: Path) -> ModelConfig:
    """Check the options of the heads by the types of their arguments."""
    values = description.model
    if values.get("coordinate_head") == "retrieval":  # its name in format 1
        values = {**values, "coordinate_head": "bank"}
    config = checked(ModelConfig, values, path, "model")
    head = COORDINATE_HEADS[config.coordinate_head]
    linear = config.context_heads == "linear"
    heads, join = (ContextHeads, ContextJoin) if linear else (KernelContextHeads, KernelContextJoin)
    given = ("embedding_width", "vocabularies")
    return replace(
        config,
        head_options=checked_arguments(
            head, config.head_options, path, "model.head_options", ("block_widths",)
        ),
        context_options=checked_arguments(
            heads, config.context_options, path, "model.context_options", given
        ),
        join_options=checked_arguments(
            join, config.join_options, path, "model.join_options", given
        ),
    )


def _attach_backbone(
    model: GeolocationModel,
    description: _Description,
    shapes: Shapes,
    saved: Mapping[str, torch.Tensor],
    source: Path,
) -> None:
    """Build the backbone from the checkpoint's own weights, or from those on this computer."""
    config = model.backbone_config
    if description.backbone_saved:
        architecture = description.architecture or {}
        with torch.device("meta"):
            empty = build_backbone(config, "meta", architecture, local=True)
        check_shapes(empty, shapes, source / WEIGHTS)
        backbone = build_backbone(config, architecture=architecture, local=True)
        backbone.load_state_dict(below(saved, _BACKBONE))
    else:
        # only a checkpoint that was asked for by its hub id may come from the network
        backbone = build_backbone(config, local=True)
        wanted = description.backbone_hash
        if wanted and backbone.weights_hash() != wanted:
            raise CheckpointError(
                f"backbone {config.name} has other weights than the one that {source} was "
                "trained on: install the version that its README.md names"
            )
    try:
        model.attach_backbone(backbone)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
