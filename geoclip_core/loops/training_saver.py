"""Saving a training in all of its processes, and taking it up: weights, optimizer, chance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geoclip_core.atomic_writes import atomic_file
from geoclip_core.loops.training_state import (
    StateError,
    begin_state,
    finish_state,
    optimizer_tensors,
    read_state,
    restore_optimizer,
    restore_random_state,
    write_random_state,
)


class TrainingSaver:
    """Keeps the states of a training in `resume/` of its run folder.

    Args:
        accelerator: of Accelerate.
        folder: the run folder, seen by every process.
        module: what learns, before Accelerate wraps it.
        optimizer: of its parameters, before Accelerate wraps it.
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
        self._names = {p: n for n, p in module.named_parameters() if p.requires_grad}

    def save(self, step: int, best_step: int, facts: Mapping[str, Any]) -> None:
        """Write the state of a step, whole or not at all, and drop older ones."""
        if self.accelerator.is_main_process:
            begin_state(self.folder, step)
        self.accelerator.wait_for_everyone()
        write_random_state(self.folder, step, self.accelerator.process_index)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{n}": t for n, t in self._learnt().items()}
        memory = optimizer_tensors(self.optimizer, self._names)
        tensors |= {f"optimizer.{n}": t for n, t in memory.items()}
        scaler = self.accelerator.scaler
        computing = {
            "threads": torch.get_num_threads(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        finish_state(self.folder, step, tensors, {**facts, **computing})
        for old in self.folder.glob("best-*.safetensors"):
            if old != self._best_file(best_step):
                old.unlink()

    def take_up(self) -> tuple[int, dict[str, Any]] | None:
        """Restore the newest state; its step and facts, None if there is none.

        Raises:
            StateError: it is damaged, or is of another model.
        """
        state = read_state(self.folder)
        if state is None:
            return None
        own, saved = self._learnt(), state.part("model")
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
            torch.set_num_threads(state.facts["threads"])  # sums depend on it in their last bits
        restore_random_state(state, self.accelerator.process_index)
        return state.step, state.facts

    def save_best(self, step: int) -> None:
        """Keep the weights of a step as the best so far."""
        if self.accelerator.is_main_process:
            tensors = {n: t.detach().cpu().contiguous() for n, t in self._learnt().items()}
            with atomic_file(self._best_file(step)) as unfinished:
                save_file(tensors, unfinished)
        self.accelerator.wait_for_everyone()

    def restore_best(self, step: int) -> None:
        """Give the module the weights of its best step."""
        tensors = load_file(self._best_file(step))
        with torch.no_grad():
            for name, tensor in self._learnt().items():
                tensor.copy_(tensors[name])

    def _learnt(self) -> dict[str, Tensor]:
        """Trained weights and all buffers; frozen weights are the same in every step."""
        every = self.module.state_dict(keep_vars=True)
        return {
            name: tensor
            for name, tensor in every.items()
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        }

    def _best_file(self, step: int) -> Path:
        return self.folder / f"best-{step:09d}.safetensors"
