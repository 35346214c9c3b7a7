"""Rows of all processes of a distributed step, with gradients."""

import torch
from torch import Tensor


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
