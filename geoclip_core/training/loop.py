"""The loop of `fit` and `pretrain`: steps, validation, best weights, stop and resume.

It trains a `Task` with 🤗 Accelerate in one process, on several GPUs or on several machines.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from geoclip_core.errors import TrainingError
from geoclip_core.training.options import TrainingOptions
from geoclip_core.training.session import RunSession
from geoclip_core.training.state import TrainingSaver

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EpochBatches:
    """The batches of each epoch, in an order that depends on (seed, epoch) alone.

    Batches of an epoch differ in size by at most one photo, so that the last is not tiny.
    `batch_size` counts the photos of an optimizer step, over all processes and accumulation parts.
    """

    count: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_size < 1:
            raise ValueError(f"cannot make batches of {self.batch_size} from {self.count} photos")

    @property
    def per_epoch(self) -> int:
        """Number of steps in an epoch."""
        return -(-self.count // self.batch_size)

    def epoch(self, epoch: int) -> list[Indices]:
        """Return the batches of an epoch (0, 1, ...), each an array of row numbers."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return np.array_split(order, self.per_epoch)


def parts_of(batch: Indices, process: int, processes: int, accumulation: int) -> list[Indices]:
    """Return the accumulation parts of a batch for one process.

    Raises:
        ValueError: there are more processes than photos.
    """
    if len(batch) < processes:
        raise TrainingError(
            f"a step of {len(batch)} photos cannot be shared by {processes} processes: "
            "use a larger batch size or fewer processes"
        )
    own = np.array_split(batch, processes)[process]
    return np.array_split(own, min(accumulation, len(own)))


def learning_rate_factor(step: int, total: int, warmup: int) -> float:
    """Return the factor on the learning rate for update `step` (0 to total − 1).

    It rises linearly to 1 at update `warmup`, then falls along a half cosine to 0 at the last
    update (Loshchilov & Hutter, SGDR, ICLR 2017).
    """
    if not 0 <= step < total:
        raise ValueError(f"update {step} is not among the {total} updates")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, total - 1 - warmup)
    return 0.5 * (1 + math.cos(math.pi * share))


def warmup_steps(total: int, share: float) -> int:
    """Return the number of warm-up updates: a share of all updates, but never all."""
    return min(round(total * share), max(total - 1, 0))


@dataclass
class BestSoFar:
    """The best validation value so far; lower is better."""

    patience: int
    """Number of validations without improvement that ends training; 0: never."""
    value: float = math.inf
    step: int = -1
    waited: int = 0
    """Validations since the best."""

    def offer(self, value: float, step: int) -> bool:
        """Record a validation value and return whether it is the best so far; NaN never is."""
        if value < self.value:
            self.value, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience > 0 and self.waited >= self.patience


def build_optimizer(
    module: nn.Module, options: TrainingOptions, pretrained: tuple[str, ...] = ("backbone.",)
) -> torch.optim.AdamW:
    """Return AdamW over the parameters that require a gradient.

    Weight decay applies to matrices only, not to biases, norms and scalars. Parameters of the
    modules in `pretrained` have the rate `backbone_learning_rate`: OSV-5M (Astruc et al., CVPR
    2024) trains the last block with a tenth of the heads' rate.

    Raises:
        ValueError: every parameter is frozen.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            inside = any(f".{part}" in f".{name}" for part in pretrained)
            groups.setdefault((inside, parameter.ndim >= 2), []).append(parameter)
    if not groups:
        raise TrainingError("nothing can be trained: every parameter of the model is frozen")
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": options.backbone_learning_rate if inside else options.learning_rate,
                "weight_decay": options.weight_decay if matrix else 0.0,
            }
            for (inside, matrix), parameters in groups.items()
        ],
        # one pass over the weights instead of ten; on a GPU torch's own choice is as fast
        fused=True if on_cpu(options.device) else None,
    )


def on_cpu(device: str) -> bool:
    """Return whether a training with this option for the device computes on the CPU."""
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return device == "cpu" or (device == "auto" and not has_gpu)


def hold_statistics(module: nn.Module) -> None:
    """Keep the pretrained statistics of every BatchNorm.

    Fine-tuning batches are too small to replace them, and the parts of a batch in other processes
    or accumulation steps would compute different ones.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


@dataclass(frozen=True)
class StepPart:
    """Photos that go through the network together: a step, or an accumulation part of one."""

    rows: Indices
    """(b,) rows of the photos in the training split."""
    inputs: Tensor | list[Tensor]
    """Embeddings (b, D), or a tensor (b, 3, height, width) for each view."""

    def inputs_on(self, device: torch.device) -> Tensor | list[Tensor]:
        """Return the inputs on a device."""
        if isinstance(self.inputs, Tensor):
            return self.inputs.to(device)
        return [view.to(device) for view in self.inputs]


class Task(Protocol):
    """What a `TrainingLoop` trains."""

    criterion: str
    """Name of the validation value by which the best step is chosen; lower is better."""

    @property
    def module(self) -> nn.Module:
        """What is trained; `loss` receives it as wrapped by `Accelerator.prepare`."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Optimizer of the parameters of `module`."""

    def parts(self, epoch: int, steps: Sequence[Sequence[Indices]]) -> Iterator[list[StepPart]]:
        """Yield the parts of each step of an epoch, without unreadable photos."""

    def loss(
        self, module: nn.Module, part: StepPart, batch: Indices, processes: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a part of the step `batch`, and numbers to log.

        Summed over the parts of a process and averaged over processes, both give the value of
        the whole step.
        """

    def validate(self) -> dict[str, float]:
        """Return metrics on the validation split, with that of `criterion`."""


class TrainingLoop:
    """Trains a task, from the last saved state if there is one.

    Args:
        accelerator: accelerator of this process.
        session: writer of status, log and metrics.
        folder: run folder, shared by all processes.
        task: what to train.
        options: training options.
        count: number of training photos.
        start_share: share of the run that is done when training starts, for its progress.
        end_share: share of the run that is done when training ends.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        session: RunSession,
        folder: Path,
        task: Task,
        options: TrainingOptions,
        count: int,
        start_share: float = 0.0,
        end_share: float = 1.0,
    ) -> None:
        self.accelerator, self.session = accelerator, session
        self.task, self.options = task, options
        self.saver = TrainingSaver(accelerator, folder, task.module, task.optimizer)
        self.shares = (start_share, end_share)
        self.batches = EpochBatches(count, options.batch_size, options.seed)
        self.total = options.epochs * self.batches.per_epoch
        self.warmup = warmup_steps(self.total, options.warmup)
        self.step = 0
        self.best = BestSoFar(options.patience)
        self.best_values: dict[str, float] = {}
        self._base_rates = [group["lr"] for group in task.optimizer.param_groups]
        self._sums: dict[str, float] = {}
        self._summed = 0
        self._saved_at = time.monotonic()

    def run(self) -> bool:
        """Train until the last step, the end of patience or a stop request; load the best weights.

        Returns:
            False if a stop was requested before the end.

        Raises:
            TrainingError: the loss became infinite or NaN.
            StateError: the saved state cannot be used.
        """
        self.module, self.optimizer = self.accelerator.prepare(
            self.task.module, self.task.optimizer
        )
        finished = self._resume()
        while not finished and self.step < self.total:
            self._epoch()
            if self._agree(self.session.stop_requested()):
                self._restore_best()
                return False
            finished = self.best.exhausted
        if finished and self.step < self.total:
            self.session.log(
                f"no better {self.task.criterion} for {self.best.waited} epochs: ending early"
            )
        self._restore_best()
        return True

    def _epoch(self) -> None:
        """Train to the end of the epoch and validate, or to a stop request and save the state."""
        epoch, done = divmod(self.step, self.batches.per_epoch)
        batches = self.batches.epoch(epoch)[done:]
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        rows = [parts_of(b, process, processes, self.options.accumulation) for b in batches]
        self.module.train()
        hold_statistics(self.module)
        for batch, parts in zip(batches, self.task.parts(epoch, rows), strict=True):
            self._update(batch, parts)
            if self.step % self.batches.per_epoch == 0:
                self._validate(epoch)
                return
            if self._agree(self.session.stop_requested()):
                self._report(now=True)
                self._save()
                return
            if self._save_due():
                self._save()

    def _update(self, batch: Indices, parts: Sequence[StepPart]) -> None:
        factor = learning_rate_factor(self.step, self.total, self.warmup)
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        processes = self.accelerator.num_processes
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            waits = contextlib.nullcontext() if last else self.accelerator.no_sync(self.module)
            with waits:
                with self.accelerator.autocast():
                    loss, numbers = self.task.loss(self.module, part, batch, processes)
                self.accelerator.backward(loss)
            if not math.isfinite(float(loss.detach())):
                raise TrainingError(
                    f"the loss became {float(loss.detach())} at step {self.step}: use a smaller "
                    "learning rate"
                )
            for name, value in numbers.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        if self.options.clip_norm > 0:
            self.accelerator.clip_grad_norm_(self.module.parameters(), self.options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._summed += 1
        if self._summed >= self.options.log_every:
            self._log_losses()
        self._report()

    def _report(self, now: bool = False, **changes: Any) -> None:
        start, end = self.shares
        epoch = 1 + (self.step - 1) // self.batches.per_epoch
        self.session.progress(
            f"training, epoch {epoch} of {self.options.epochs}",
            start + (end - start) * self.step / self.total,
            until=end,
            now=now,
            step=self.step,
            total_steps=self.total,
            **changes,
        )

    def _log_losses(self) -> None:
        if not self._summed:
            return
        names = sorted(self._sums)
        values = torch.tensor([self._sums[name] / self._summed for name in names])
        mean = self.accelerator.reduce(values.to(self.accelerator.device), "mean").tolist()
        rate = self.optimizer.param_groups[0]["lr"]
        numbers = {f"train/{n}": v for n, v in zip(names, mean, strict=True)}
        self.session.metrics(self.step, {**numbers, "train/learning_rate": rate})
        self._sums, self._summed = {}, 0

    def _validate(self, epoch: int) -> None:
        self._log_losses()
        values = self._shared(self.task.validate())
        value = values[self.task.criterion]
        better = self.best.offer(value, self.step)
        if better:
            self.best_values = values
            self.saver.save_best(self.step)
        self.session.metrics(self.step, {f"val/{name}": v for name, v in values.items()})
        shown = ", ".join(f"{name} {v:.4g}" for name, v in values.items())
        mark = " (best)" if better else ""
        self.session.log(f"epoch {epoch + 1}/{self.options.epochs}: {shown}{mark}")
        self._report(now=True, best=self.best_values)
        self._save()

    def _agree(self, mine: bool) -> bool:
        """Return the main process's value in every process, so that all take the same branch."""
        if self.accelerator.num_processes == 1:
            return mine
        flag = torch.tensor([int(mine)], device=self.accelerator.device)
        torch.distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def _shared(self, values: dict[str, float]) -> dict[str, float]:
        """Return the main process's metrics in every process, because decisions depend on them."""
        if self.accelerator.num_processes == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        on_device = numbers.to(self.accelerator.device, torch.float32)
        torch.distributed.broadcast(on_device, src=0)
        return dict(zip(values, on_device.tolist(), strict=True))

    def _save_due(self) -> bool:
        return self._agree(time.monotonic() - self._saved_at >= self.options.save_seconds)

    def _save(self) -> None:
        best = [self.best.value, self.best.step] if self.best.step >= 0 else None
        facts = {
            "best": best,
            "waited": self.best.waited,
            "best_values": self.best_values,
            "sums": self._sums,
            "summed": self._summed,
        }
        self.saver.save(self.step, self.best.step, facts)
        self._saved_at = time.monotonic()

    def _resume(self) -> bool:
        """Restore the newest state and return whether patience has run out."""
        found = self.saver.restore()
        if found is not None:
            self.step, facts = found
            if facts["best"] is not None:
                self.best.value, self.best.step = facts["best"]
            self.best.waited, self.best_values = facts["waited"], facts["best_values"]
            self._sums, self._summed = facts["sums"], facts["summed"]
            self.session.log(f"resumed at step {self.step} of {self.total}")
        if self.session.run is not None:
            # the steps after the saved state are repeated
            self.session.run.forget_metrics_after(self.step)
        return self.best.exhausted

    def _restore_best(self) -> None:
        if self.best.step >= 0:
            self.saver.restore_best(self.best.step)
