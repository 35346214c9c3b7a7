"""Distributed training: build the accelerator, and exchange rows between processes."""

from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from geoclip_core.errors import TrainingError
from geoclip_core.model.tensors import check_device
from geoclip_core.training.options import TrainingOptions


def build_accelerator(options: TrainingOptions) -> Accelerator:
    """Return the accelerator for the device and precision of the options.

    Raises:
        ValueError: this computer does not support the device or the precision.
    """
    if options.device != "auto":
        check_device(options.device)
    precision = options.precision
    has_gpu = torch.cuda.is_available() and options.device in ("auto", "cuda")
    if precision == "auto":
        precision = "bf16" if has_gpu and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and not has_gpu:
        raise TrainingError("precision fp16 needs a GPU: use bf16 or no")
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


def same_text_everywhere(accelerator: Accelerator, text: str) -> str:
    """Return the main process's text in every process."""
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
    """Return the rows of all processes, in process order.

    Only the rows of this process carry a gradient. If every process computes the same loss on the
    result, that gradient is complete, so no gradients need to be exchanged here.

    Args:
        values: (rows of this process, ...).
        counts: number of rows of each process.
        process: index of this process.
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
    """Return the number of rows of each process."""
    if processes == 1:
        return [count]
    received = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(processes)]
    own = torch.tensor([count], device=device)
    torch.distributed.all_gather(received, own)
    return [int(number) for number in received]


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """Return a value unchanged, with its gradient multiplied by `factor`.

    This is for a parameter that every process applies to all rows: its gradient must not be summed
    over processes.
    """
    fixed = value.detach()
    return fixed + factor * (value - fixed)
