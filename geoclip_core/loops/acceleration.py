"""Processes, devices and precision, by 🤗 Accelerate."""

from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from geoclip_core.loops.training_options import TrainingOptions

if TYPE_CHECKING:
    from accelerate import Accelerator


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
