"""Time a backbone in torch with whole batches, in torch in parts, and in ONNX Runtime."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.training.embeddings import onnx_engine
from geoclip_core.training.options import Views, options_class, view_sizes
from train.benchmarks.measure import alternated


@options_class
class EnginesOptions:
    """Options of `benchmark engines`."""

    backbone: str = "efficientnet-lite2"
    """hub id, folder or name of the backbone"""
    views: Views = ("380x380", "320x512")
    """HEIGHTxWIDTH of each view of a photo"""
    photos: Annotated[int, Ge(1)] = 32
    """photos in a batch"""
    rounds: Annotated[int, Ge(1)] = 3
    """rounds in which the engines are timed in turn; the median is printed"""


def engines(options: EnginesOptions) -> int:
    """Time a backbone in torch, in torch in parts, and in ONNX Runtime, on random views."""
    sizes = view_sizes(options.views)
    backbone = build_backbone(backbone_config(options.backbone, views=sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(options.photos, 3, h, w, generator=generator) for h, w in sizes]
    runs: dict[str, Callable[[Sequence[Tensor]], Any]] = {
        "torch, whole batches": lambda views: torch.cat(
            [backbone.features(view).float() for view in views], dim=1
        ),
        "torch, in parts": backbone.embed,
    }
    if (onnx := onnx_engine(backbone)) is not None:
        runs["ONNX Runtime, in parts"] = onnx
    with torch.inference_mode():
        costs = alternated(
            {name: partial(run, views) for name, run in runs.items()}, options.rounds
        )
    seconds = {name: [cost.seconds for cost in found] for name, found in costs.items()}
    print(f"{backbone.config.name}, {', '.join(options.views)}, {options.photos} photos")
    whole = statistics.median(seconds["torch, whole batches"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"  {name:<24}{1000 * median / options.photos:8.1f} ms a photo"
            f"{whole / median:8.1f} × as fast"
        )
    return 0
