"""The loop that `fit` and `pretrain` share: steps, validation, best weights, stop and resume.

It runs over 🤗 Accelerate: one process, several GPUs or several machines. What is to be learnt is
a `Task`; the loop knows nothing of photos.
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

from geoclip_core.training.options import TrainingOptions
from geoclip_core.training.session import RunSession
from geoclip_core.training.state import TrainingSaver

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EpochBatches:
    """The batches of every epoch: a new order each, decided by (seed, epoch) alone.

    An epoch is cut into batches of nearly equal size (they differ by one photo at most), so that
    no tiny last batch takes a step of its own. `batch_size` counts the photos of one optimizer
    step, over all processes and accumulation steps.
    """

    count: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_size < 1:
            raise ValueError(f"no batches of {self.batch_size} from {self.count} photos")

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-self.count // self.batch_size)

    def epoch(self, epoch: int) -> list[Indices]:
        """The batches of an epoch (0, 1, ...), each an array of row numbers."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return np.array_split(order, self.per_epoch)


def parts_of(batch: Indices, process: int, processes: int, accumulation: int) -> list[Indices]:
    """The accumulation parts of a batch that one process takes.

    Raises:
        ValueError: some process would get no photo.
    """
    if len(batch) < processes:
        raise ValueError(
            f"a step of {len(batch)} photos cannot be shared by {processes} processes: "
            "take a larger batch size or fewer processes"
        )
    own = np.array_split(batch, processes)[process]
    return np.array_split(own, min(accumulation, len(own)))


def learning_rate_factor(step: int, total: int, warmup: int, floor: float = 0.0) -> float:
    """Factor on the learning rate for update `step` (0 to total − 1).

    Linear warm-up that reaches 1 at update `warmup`, then a half cosine that reaches `floor` at the
    very last update, no matter how long the warm-up was (Loshchilov & Hutter, SGDR, ICLR 2017).
    """
    if not 0 <= step < total:
        raise ValueError(f"update {step} is not one of {total}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, total - 1 - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def warmup_steps(total: int, share: float) -> int:
    """Updates of the warm-up: a share of all, at least one update being left for the rest."""
    return min(round(total * share), max(total - 1, 0))


@dataclass
class BestSoFar:
    """The best validation value (lower is better) and how long ago it was seen."""

    patience: int
    """Validations without improvement after which to end; 0: never."""
    value: float = math.inf
    step: int = -1
    waited: int = 0

    def offer(self, value: float, step: int) -> bool:
        """Take note of a validation; True if it is the best so far. A NaN never is."""
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
    module: nn.Module,
    learning_rate: float,
    backbone_learning_rate: float,
    weight_decay: float,
    slow_parts: tuple[str, ...] = ("backbone.",),
) -> torch.optim.AdamW:
    """AdamW over the parameters that learn.

    Weight decay is for matrices alone: vectors (biases, norms) and numbers have nothing to decay
    to. Parameters inside a module of `slow_parts` were pretrained and have a learning rate of their
    own (OSV-5M: unfreezing the last block pays with a tenth of the heads' rate).

    Raises:
        ValueError: nothing learns.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            inside = any(f".{part}" in f".{name}" for part in slow_parts)
            groups.setdefault((inside, parameter.ndim >= 2), []).append(parameter)
    if not groups:
        raise ValueError("nothing of the model learns: every parameter is frozen")
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": backbone_learning_rate if inside else learning_rate,
                "weight_decay": weight_decay if matrix else 0.0,
            }
            for (inside, matrix), parameters in groups.items()
        ]
    )


class Task(Protocol):
    """What a loop learns."""

    module: nn.Module
    """Goes through `Accelerator.prepare`; `loss` calls what comes back."""
    optimizer: torch.optim.Optimizer
    criterion: str
    """Name of the validation value by which the best step is chosen; lower is better."""

    def inputs(self, epoch: int, batches: Sequence[Sequence[Indices]]) -> Iterator[list[Any]]:
        """For each step, the inputs of each of its parts."""
        ...

    def loss(
        self, module: nn.Module, inputs: Any, rows: Indices, batch: Indices, processes: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of the part `rows` of the step `batch`, scaled so that the mean over processes of
        the sum over parts is the loss of the whole step; and numbers to log, scaled alike.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Numbers on the validation split."""
        ...


class TrainingLoop:
    """Runs a task to its end, from wherever it was.

    Args:
        accelerator: of Accelerate.
        session: of the run folder.
        folder: the run folder, for saved states; every process sees it.
        task: what to learn.
        options: how long and how fast.
        count: number of training photos.
        start_share, end_share: which part of the run's progress this is.
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
        """Learn until the end, patience or a stop request; the module then has its best weights.

        Returns:
            False if it was stopped before the end.
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
        """The rest of the current epoch, up to a stop request, and its validation."""
        epoch, done = divmod(self.step, self.batches.per_epoch)
        batches = self.batches.epoch(epoch)[done:]
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        parts = [parts_of(b, process, processes, self.options.accumulation) for b in batches]
        self.module.train()
        hold_statistics(self.module)
        steps = zip(batches, parts, self.task.inputs(epoch, parts), strict=True)
        for batch, rows, inputs in steps:
            self._update(batch, rows, inputs)
            if self.step % self.batches.per_epoch == 0:
                self._validate(epoch)
                return
            if self._agree(self.session.stop_requested()):
                self._report(now=True)
                self._save()
                return
            if self._save_due():
                self._save()

    def _update(self, batch: Indices, parts: Sequence[Indices], inputs: list[Any]) -> None:
        factor = learning_rate_factor(self.step, self.total, self.warmup)
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        processes = self.accelerator.num_processes
        for number, (rows, values) in enumerate(zip(parts, inputs, strict=True)):
            last = number == len(parts) - 1
            waits = contextlib.nullcontext() if last else self.accelerator.no_sync(self.module)
            with waits:
                with self.accelerator.autocast():
                    loss, numbers = self.task.loss(self.module, values, rows, batch, processes)
                self.accelerator.backward(loss)
            if not math.isfinite(float(loss.detach())):
                raise FloatingPointError(
                    f"the loss became {float(loss.detach())} at step {self.step}: take a smaller "
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
        """Whether the main process says so: all must take the same turn."""
        if self.accelerator.num_processes == 1:
            return mine
        flag = torch.tensor([int(mine)], device=self.accelerator.device)
        torch.distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def _shared(self, values: dict[str, float]) -> dict[str, float]:
        """The main process's numbers: what is decided on them must be decided alike."""
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
        """Take up the newest state; True if the run had reached its end by patience."""
        found = self.saver.take_up()
        if found is not None:
            self.step, facts = found
            if facts["best"] is not None:
                self.best.value, self.best.step = facts["best"]
            self.best.waited, self.best_values = facts["waited"], facts["best_values"]
            self._sums, self._summed = facts["sums"], facts["summed"]
            self.session.log(f"resumed at step {self.step} of {self.total}")
        if self.session.run is not None:
            # what was logged after the state was saved is about to be logged again
            self.session.run.forget_metrics_after(self.step)
        return self.best.exhausted

    def _restore_best(self) -> None:
        if self.best.step >= 0:
            self.saver.restore_best(self.best.step)


def hold_statistics(module: nn.Module) -> None:
    """Keep every BatchNorm on the statistics it was pretrained with.

    A fine-tuning batch is too small to replace them, and its parts on other processes or in other
    accumulation steps would each see different ones.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
