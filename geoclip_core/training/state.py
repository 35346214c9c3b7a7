"""Save and restore the state of a training: weights, optimizer, random generators."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from annotated_types import Interval
from safetensors.torch import save_file
from torch import Tensor, nn

from geoclip_core.checks import checked
from geoclip_core.errors import FileError
from geoclip_core.files import atomic_file, read_json, saving
from geoclip_core.model.tensors import read_tensors

_TENSORS, _FACTS = "state.safetensors", "state.json"


class StateError(ValueError):
    """A saved state cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class TrainingState:
    """A saved state."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    """The loop's own values (JSON types)."""
    folder: Path

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors named `prefix.NAME`, by NAME."""
        start = prefix + "."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def begin_state(folder: Path, step: int) -> Path:
    """Create an empty folder for the state of a step; every process adds its part."""
    work = _unfinished(folder, step)
    with saving(work):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    return work


def write_random_state(folder: Path, step: int, process: int) -> None:
    """Add the random generators of this process to the unfinished state."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    path = _unfinished(folder, step) / f"random-{process}.safetensors"
    with saving(path):
        save_file(tensors, path)


def restore_random_state(state: TrainingState, process: int) -> None:
    """Set the random generators of this process to the saved ones.

    Raises:
        StateError: the state was saved by fewer processes, or is damaged.
    """
    path = state.folder / f"random-{process}.safetensors"
    if not path.exists():
        raise StateError(
            f"{state.folder} was saved by fewer processes than are running now: resume it with as "
            "many as it was started with"
        )
    tensors = _read(path)
    if "cpu" not in tensors or tensors["cpu"].shape != torch.get_rng_state().shape:
        raise StateError(f"{path} holds no state of a random generator: start a new run")
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def finish_state(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Add the part that all processes share, put the state in place, and remove older states.

    Raises:
        SaveError: it cannot be written; the state before remains.
    """
    work = _unfinished(folder, step)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    target = folder / f"step-{step:09d}"
    with saving(target):
        save_file(plain, work / _TENSORS)
        (work / _FACTS).write_text(json.dumps({"step": step, **facts}), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(work, target)
    for other in folder.iterdir():
        if other != target and other.name.startswith(("step-", ".step-")):
            shutil.rmtree(other, ignore_errors=True)


def read_state(folder: Path) -> TrainingState | None:
    """Return the newest state in a folder; None if there is none.

    Raises:
        StateError: the state is damaged.
    """
    found = sorted(folder.glob("step-*")) if folder.is_dir() else []
    if not found:
        return None
    newest = found[-1]
    path = newest / _FACTS
    try:
        facts = checked(dict[str, Any], read_json(path), path)
        step = checked(_Facts, facts, path).step
    except FileError as error:
        raise StateError(f"{error}: start a new run") from error
    return TrainingState(step, _read(newest / _TENSORS), facts, newest)


@dataclass(frozen=True)
class _Facts:
    """The part of a state's facts that is the same for every loop."""

    step: Annotated[int, Interval(ge=0, le=10**15)]
    threads: Annotated[int, Interval(ge=1, le=4096)] = 1
    scaler: dict[str, Any] = field(default_factory=dict)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> dict[str, Tensor]:
    """Return the state of an optimizer as "parameter|key" -> tensor.

    Raises:
        TypeError: a value of the state is not a tensor.
    """
    tensors = {}
    for parameter, kept in optimizer.state.items():
        for key, value in kept.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{type(optimizer).__name__} keeps a {type(value).__name__}: {key}")
            tensors[f"{names[parameter]}|{key}"] = value
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
    tensors: Mapping[str, Tensor],
) -> None:
    """Restore the result of `optimizer_tensors`.

    Raises:
        StateError: the model lacks a parameter.
    """
    parameters = {name: parameter for parameter, name in names.items()}
    for key, value in tensors.items():
        name, _, what = key.rpartition("|")
        if name not in parameters:
            raise StateError(f"the saved optimizer has a parameter {name} that the model lacks")
        parameter = parameters[name]
        device = "cpu" if what == "step" else parameter.device
        optimizer.state[parameter][what] = value.to(device)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path, any_numbers=True)
    except FileError as error:
        raise StateError(f"{error}: start a new run") from error


def _unfinished(folder: Path, step: int) -> Path:
    return folder / f".step-{step:09d}"


class TrainingSaver:
    """Saves the states of a training in `resume/` of its run folder and restores them.

    Args:
        accelerator: accelerator of this process.
        folder: run folder, shared by all processes.
        module: the trained module, before Accelerate wraps it.
        optimizer: its optimizer, before Accelerate wraps it.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.accelerator, self.folder = accelerator, folder / "resume"
        self.module, self.optimizer = module, optimizer
        self._names: dict[Tensor, str] = {
            p: n for n, p in module.named_parameters() if p.requires_grad
        }

    def save(self, step: int, best_step: int, facts: Mapping[str, Any]) -> None:
        """Write the state of a step atomically, and remove older states and best weights."""
        if self.accelerator.is_main_process:
            begin_state(self.folder, step)
        self.accelerator.wait_for_everyone()
        write_random_state(self.folder, step, self.accelerator.process_index)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{n}": t for n, t in self._trained().items()}
        kept = optimizer_tensors(self.optimizer, self._names)
        tensors |= {f"optimizer.{n}": t for n, t in kept.items()}
        scaler = self.accelerator.scaler
        computing = {
            "threads": torch.get_num_threads(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        finish_state(self.folder, step, tensors, {**facts, **computing})
        for old in self.folder.glob("best-*.safetensors"):
            if old != self._best_file(best_step):
                old.unlink()

    def restore(self) -> tuple[int, dict[str, Any]] | None:
        """Restore the newest state and return its step and facts; None if there is none.

        Raises:
            StateError: the state is damaged, or belongs to another model.
        """
        state = read_state(self.folder)
        if state is None:
            return None
        own, saved = self._trained(), state.part("model")
        if own.keys() != saved.keys() or any(own[n].shape != saved[n].shape for n in own):
            raise StateError(
                f"{state.folder} does not fit the model: was the dataset changed since the run "
                "was started?"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        restore_optimizer(self.optimizer, self._names, state.part("optimizer"))
        if state.facts["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.facts["scaler"])
        if torch.get_num_threads() != state.facts["threads"]:
            torch.set_num_threads(state.facts["threads"])  # the last bits of sums depend on it
        restore_random_state(state, self.accelerator.process_index)
        return state.step, state.facts

    def save_best(self, step: int) -> None:
        """Save the weights of a step as the best so far."""
        if self.accelerator.is_main_process:
            tensors = {n: t.detach().cpu().contiguous() for n, t in self._trained().items()}
            with atomic_file(self._best_file(step)) as unfinished:
                save_file(tensors, unfinished)
        self.accelerator.wait_for_everyone()

    def restore_best(self, step: int) -> None:
        """Load the weights of the best step into the module.

        Raises:
            StateError: they are damaged, or belong to another model.
        """
        path, own = self._best_file(step), self._trained()
        tensors = _read(path)
        if own.keys() != tensors.keys() or any(own[n].shape != tensors[n].shape for n in own):
            raise StateError(f"{path} does not fit the model: start a new run")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    def _trained(self) -> dict[str, Tensor]:
        """Return trained weights and all buffers; frozen weights never change."""
        every = self.module.state_dict(keep_vars=True)
        return {
            name: tensor
            for name, tensor in every.items()
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        }

    def _best_file(self, step: int) -> Path:
        return self.folder / f"best-{step:09d}.safetensors"
