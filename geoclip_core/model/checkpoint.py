"""Save and load models as folders of safetensors and JSON, never pickle."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.errors import CheckpointError
from geoclip_core.files import atomic_folder
from geoclip_core.model.backbone import BackboneConfig
from geoclip_core.model.backbones import build_backbone
from geoclip_core.model.calibration import Calibration
from geoclip_core.model.geolocation import GeolocationModel, ModelConfig

FORMAT = 2
"""Format 1, in which the coordinate head "bank" was called "retrieval", is still read."""
WEIGHTS, CONFIG, VOCABULARIES = "model.safetensors", "config.json", "vocabularies.json"
CALIBRATION, METRICS, CARD = "calibration.json", "metrics.json", "README.md"


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
        metrics: content of metrics.json.
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
        _write_json(work / METRICS, dict(metrics or {}))
        if model.calibration is not None:
            (work / CALIBRATION).write_text(model.calibration.to_json(), encoding="utf-8")
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

    Raises:
        CheckpointError: a file is missing, damaged or does not fit; the message names it.
        BackboneError: the backbone cannot be built.
    """
    source = Path(folder)
    if not source.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {source}")
    config = _read_json(source / CONFIG)
    if config.get("format") not in (1, FORMAT):
        raise CheckpointError(
            f"{source / CONFIG} has format {config.get('format')!r}; this version reads 1 to "
            f"{FORMAT}"
        )
    try:
        model_config = ModelConfig(**_upgraded(config["model"]))
        backbone_config = BackboneConfig.from_dict(config["backbone"])
        vocabularies = {
            feature: Vocabulary.from_json(value)
            for feature, value in _read_json(source / VOCABULARIES).items()
        }
        calibration = None
        if (source / CALIBRATION).exists():
            calibration = Calibration.from_json(_read_text(source / CALIBRATION))
        model = GeolocationModel(
            model_config,
            backbone_config,
            config["block_widths"],
            vocabularies,
            calibration,
            name=str(config.get("name") or source.name),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source} does not describe a model: {error}") from error
    tensors = _read_tensors(source / WEIGHTS)
    heads = {name: t for name, t in tensors.items() if not name.startswith("backbone.")}
    _load(model, heads, source / WEIGHTS)
    if with_backbone:
        _attach_backbone(model, config, tensors, source)
    return model.to(device).eval()


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """Read the metrics.json of a checkpoint.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return _read_json(Path(folder) / METRICS)


def _attach_backbone(
    model: GeolocationModel, config: dict[str, Any], tensors: dict[str, torch.Tensor], source: Path
) -> None:
    saved = bool(config.get("backbone_saved"))
    # with saved weights, the network is built from its description, without a download
    architecture = config.get("architecture") if saved else None
    backbone = build_backbone(model.backbone_config, architecture=architecture)
    if saved:
        weights = {
            k.removeprefix("backbone."): t for k, t in tensors.items() if k.startswith("backbone.")
        }
        _load(backbone, weights, source / WEIGHTS)
    elif (wanted := config.get("backbone_hash")) and backbone.weights_hash() != wanted:
        raise CheckpointError(
            f"backbone {model.backbone_config.name} has other weights than the one that {source} "
            "was trained on: install the version that its README.md names"
        )
    try:
        model.attach_backbone(backbone)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _upgraded(model: dict[str, Any]) -> dict[str, Any]:
    """Rename what format 1 called differently in the description of a model."""
    head = model.get("coordinate_head")
    return {**model, "coordinate_head": "bank" if head == "retrieval" else head}


def _load(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise CheckpointError(f"{path} lacks the weights {name}; copy or download it again")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, "
                f"config.json says {tuple(tensor.shape)}"
            )
    if extra := sorted(set(tensors) - set(own)):
        raise CheckpointError(f"{path} contains {extra[0]}, which config.json does not describe")
    module.load_state_dict(tensors)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} contains numbers that are not finite")
    return tensors


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must contain a JSON object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
