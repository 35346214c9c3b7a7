"""Rows of all processes of a distributed step, with gradients."""

from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from geoclip_core.training.options import TrainingOptions

if TYPE_CHECKING:
    from accelerate import Accelerator
from torch import Tensor


def build_accelerator(options: TrainingOptions) -> "Accelerator":
    """The accelerator that the options mean, in this process of one or many.

    Raises:
        ValueError: the device or the precision is not there.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: this computer has no CUDA GPU that torch can use")
    if options.device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps: this computer has no Apple GPU that torch can use")
    precision = options.precision
    has_gpu = torch.cuda.is_available() and options.device in ("auto", "cuda")
    if precision == "auto":
        precision = "bf16" if has_gpu and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and not has_gpu:
        raise ValueError("precision fp16 needs a GPU: take bf16 or no")
    return Accelerator(
        cpu=options.device == "cpu",
        mixed_precision=precision,
        kwargs_handlers=[
            # frozen parts and mask tokens have no gradient; BatchNorm statistics never change
            DistributedDataParallelKwargs(
                find_unused_parameters=not options.frozen, broadcast_buffers=False
            ),
            # one process may evaluate for hours while the others wait
            InitProcessGroupKwargs(timeout=timedelta(days=7)),
        ],
    )


def same_text_everywhere(accelerator: "Accelerator", text: str) -> str:
    """The main process's text, in every process."""
    if accelerator.num_processes == 1:
        return text
    length = torch.zeros(1, dtype=torch.long, device=accelerator.device)
    content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=accelerator.device)
    if accelerator.is_main_process:
        length[0] = len(content)
    torch.distributed.broadcast(length, src=0)
    if not accelerator.is_main_process:
        content = torch.zeros(int(length), dtype=torch.uint8, device=accelerator.device)
    torch.distributed.broadcast(content, src=0)
    return bytes(content.cpu().tolist()).decode()


def gather_rows(values: Tensor, counts: list[int], process: int) -> Tensor:
    """Rows of every process, in their order; those of this one keep their gradient.

    If every process computes the same loss on the result, the gradient that reaches its own rows
    is the whole gradient of that loss: nothing has to be sent back.

    Args:
        values: (own rows, ...).
        counts: rows of each process.
        process: which one this is.
    """
    if len(counts) == 1:
        return values
    longest = max(counts)
    padded = values.new_zeros((longest, *values.shape[1:]))
    padded[: len(values)] = values.detach()
    received = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(received, padded)
    parts = [part[:count] for part, count in zip(received, counts, strict=True)]
    parts[process] = values
    return torch.cat(parts)


def gather_counts(count: int, processes: int, device: torch.device) -> list[int]:
    """How many rows each process has."""
    if processes == 1:
        return [count]
    received = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(processes)]
    own = torch.tensor([count], device=device)
    torch.distributed.all_gather(received, own)
    return [int(number) for number in received]


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, whose gradient is multiplied on its way back.

    For what every process sees whole (the temperature): its gradient is not to be summed over them.
    """
    return value if factor == 1 else _ScaledGradient.apply(value, factor)
