"""Speed of a backbone on this computer: torch with whole batches, torch in parts, ONNX Runtime."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as options_dataclass
from torch import Tensor

from geoclip_core.model.backbone import Backbone
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.training.embeddings import onnx_engine
from geoclip_core.training.options import CONFIG, Views, view_sizes

Run = Callable[[Sequence[Tensor]], Any]


@options_dataclass(config=CONFIG, frozen=True, kw_only=True)
class EnginesOptions:
    """Options of `benchmark engines`."""

    backbone: str = "efficientnet-lite2"
    """hub id, folder or name of the backbone"""
    views: Views = ("380x380", "320x512")
    """HEIGHTxWIDTH of each view of a photo"""
    photos: Annotated[int, Field(ge=1)] = 32
    """photos in a batch"""
    rounds: Annotated[int, Field(ge=1)] = 3
    """how often each engine is timed, in turn; the median counts"""


@dataclass(frozen=True)
class EnginesBenchmark:
    """Milliseconds per photo of each engine; the first is the one to compare with."""

    title: str
    milliseconds: dict[str, float]

    def text(self) -> str:
        """Return a table for the terminal."""
        slowest = next(iter(self.milliseconds.values()))
        rows = [
            f"  {name:<24}{value:8.1f} ms a photo{slowest / value:8.1f} × as fast"
            for name, value in self.milliseconds.items()
        ]
        return "\n".join([self.title, *rows])


def engines(options: EnginesOptions) -> int:
    """Time a backbone in torch, in torch by parts, and in ONNX Runtime."""
    print(benchmark_engines(options).text())
    return 0


def benchmark_engines(options: EnginesOptions) -> EnginesBenchmark:
    """Time each engine on the same random views."""
    sizes = view_sizes(options.views)
    backbone = build_backbone(backbone_config(options.backbone, views=sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(options.photos, 3, h, w, generator=generator) for h, w in sizes]
    runs: dict[str, Run] = {
        "torch, whole batches": lambda views: _whole(backbone, views),
        "torch, in parts": backbone.embed,
    }
    if (onnx := onnx_engine(backbone)) is not None:
        runs["ONNX Runtime, in parts"] = onnx
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for number, (name, run) in itertools.product(range(options.rounds + 1), runs.items()):
            started = time.perf_counter()
            run(views)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return EnginesBenchmark(
        f"{backbone.config.name}, {', '.join(options.views)}, {options.photos} photos",
        {
            name: 1000 * statistics.median(values) / options.photos
            for name, values in seconds.items()
        },
    )


def _whole(backbone: Backbone, views: Sequence[Tensor]) -> Tensor:
    return torch.cat([backbone.features(view).float() for view in views], dim=1)
