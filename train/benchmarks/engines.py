"""What runs a backbone on this computer: torch with whole batches, torch in parts, ONNX Runtime."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from geoclip_core.model.backbone import Backbone
from geoclip_core.model.backbones import backbone_config, build_backbone
from geoclip_core.training.embeddings import onnx_engine
from geoclip_core.training.options import view_sizes

Run = Callable[[Sequence[Tensor]], Any]


@dataclass(frozen=True)
class Options:
    """Options of ``python -m train benchmark engines``."""

    COMMAND: ClassVar[str] = "benchmark engines"

    backbone: str = "efficientnet-lite2"
    """Hub id, folder or name of the backbone."""
    views: tuple[str, ...] = ("380x380", "320x512")
    """HEIGHTxWIDTH of each view of a photo."""
    photos: int = 32
    """Photos in a batch."""
    rounds: int = 3
    """How often each is timed, in turn; the median counts."""

    def __post_init__(self) -> None:
        if self.photos < 1 or self.rounds < 1:
            raise ValueError("photos and rounds must be at least 1")
        view_sizes(self.views)  # raises for a view that cannot be read


@dataclass(frozen=True)
class EnginesBenchmark:
    """Milliseconds a photo, by engine; the first is what the others are compared with."""

    title: str
    milliseconds: dict[str, float]

    def text(self) -> str:
        """A table for a terminal."""
        slowest = next(iter(self.milliseconds.values()))
        rows = [
            f"  {name:<24}{value:8.1f} ms a photo{slowest / value:8.1f} × as fast"
            for name, value in self.milliseconds.items()
        ]
        return "\n".join([self.title, *rows])


def run(options: Options) -> int:
    """Measure and print."""
    print(benchmark_engines(options).text())
    return 0


def benchmark_engines(options: Options) -> EnginesBenchmark:
    """Time each engine on the same noise."""
    sizes = view_sizes(options.views)
    backbone = build_backbone(backbone_config(options.backbone, views=sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(options.photos, 3, h, w, generator=generator) for h, w in sizes]
    engines: dict[str, Run] = {
        "torch, whole batches": lambda views: _whole(backbone, views),
        "torch, in parts": backbone.embed,
    }
    if (onnx := onnx_engine(backbone)) is not None:
        engines["ONNX Runtime, in parts"] = onnx
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    with torch.inference_mode():
        for number, (name, engine) in itertools.product(range(options.rounds + 1), engines.items()):
            started = time.perf_counter()
            engine(views)
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
