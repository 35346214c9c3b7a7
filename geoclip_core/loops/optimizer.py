"""AdamW with a learning rate for the heads and one for the backbone."""

import torch
from torch import nn


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
