"""The state of a training between two steps, on disk: safetensors and JSON, never pickle.

A state is a folder `step-000000123/` that appears by a rename, so it is there whole or not at all,
whenever the process is killed. Everything that decides the next step is in it: weights, optimizer,
random generators of every process, position in the epoch, early stopping.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_TENSORS, _FACTS = "state.safetensors", "state.json"


class StateError(ValueError):
    """A saved state that cannot be used; the message says which file and what to do."""


@dataclass(frozen=True)
class TrainingState:
    """A state as it was read."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    folder: Path

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        start = prefix + "."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def begin_state(folder: Path, step: int) -> Path:
    """An empty folder in which every process puts its part of the state of a step."""
    work = _unfinished(folder, step)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def write_random_state(folder: Path, step: int, process: int) -> None:
    """Put the random generators of this process into the unfinished state."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, _unfinished(folder, step) / f"random-{process}.safetensors")


def restore_random_state(state: TrainingState, process: int) -> None:
    """Set the random generators of this process to what they were."""
    path = state.folder / f"random-{process}.safetensors"
    if not path.exists():
        raise StateError(
            f"{state.folder} was saved by fewer processes than are running now: resume it with as "
            "many as it was started with"
        )
    tensors = _read(path)
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def finish_state(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Add the shared part, make the state visible, and remove older ones."""
    work = _unfinished(folder, step)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, work / _TENSORS)
    (work / _FACTS).write_text(json.dumps({"step": step, **facts}), encoding="utf-8")
    target = folder / f"step-{step:09d}"
    shutil.rmtree(target, ignore_errors=True)
    os.replace(work, target)
    for other in folder.iterdir():
        if other != target and other.name.startswith(("step-", ".step-")):
            shutil.rmtree(other, ignore_errors=True)


def read_state(folder: Path) -> TrainingState | None:
    """The newest state; None if there is none yet.

    Raises:
        StateError: it is damaged.
    """
    found = sorted(folder.glob("step-*")) if folder.is_dir() else []
    if not found:
        return None
    newest = found[-1]
    try:
        facts = json.loads((newest / _FACTS).read_text(encoding="utf-8"))
        step = int(facts["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{newest / _FACTS} is damaged: start the run anew ({error})") from error
    return TrainingState(step, _read(newest / _TENSORS), facts, newest)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> dict[str, Tensor]:
    """What an optimizer remembers of each parameter, by the parameter's name.

    Raises:
        TypeError: it remembers something that is no tensor.
    """
    tensors = {}
    for parameter, memory in optimizer.state.items():
        for key, value in memory.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{type(optimizer).__name__} keeps a {type(value).__name__}: {key}")
            tensors[f"{names[parameter]}|{key}"] = value
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer its memory back."""
    parameters = {name: parameter for parameter, name in names.items()}
    for key, value in tensors.items():
        name, _, what = key.rpartition("|")
        if name not in parameters:
            raise StateError(f"the saved optimizer knows a parameter {name} that the model has not")
        parameter = parameters[name]
        device = "cpu" if what == "step" else parameter.device
        optimizer.state[parameter][what] = value.to(device)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path} is damaged: start the run anew ({error})") from error


def _unfinished(folder: Path, step: int) -> Path:
    return folder / f".step-{step:09d}"
