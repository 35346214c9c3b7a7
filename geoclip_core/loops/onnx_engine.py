"""Running a frozen backbone with ONNX Runtime: the same numbers, 2 to 5 times faster on a CPU."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from geoclip_core.model.backbone import Backbone, cpu_parts

logger = logging.getLogger(__name__)
Engine = Callable[[Sequence[Tensor]], Tensor]
MOST_PARAMETERS = 250_000_000
TOLERANCE = 1e-3
"""Largest difference from torch, in units of the embedding's own size, that is accepted."""


class _Features(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone.features(pixels)


def chosen_engine(backbone: Backbone) -> Engine | None:
    """`onnx_engine` where it is worth trying; None: leave it to torch.

    Exporting holds a network several times over in memory, so large ones stay with torch.
    """
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    if backbone.device.type != "cpu" or parameters > MOST_PARAMETERS:
        return None
    return onnx_engine(backbone)


def onnx_engine(backbone: Backbone) -> Engine | None:
    """A function from views to embeddings (b, D), equal to `backbone.embed` within rounding.

    Returns:
        None where ONNX Runtime is not installed, cannot hold the network, or gives other numbers;
        the reason goes to the log.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    sessions = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    for height, width in dict.fromkeys(backbone.preprocessing.views):
        try:
            model = _exported(backbone, height, width)
            sessions[height, width] = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        # torch's exporter and the runtime raise whatever the network makes them raise
        except Exception as error:
            logger.info("no ONNX for %s: %s", backbone.config.name, str(error).splitlines()[:1])
            return None

    def run(views: Sequence[Tensor]) -> Tensor:
        parts = []
        for view in views:
            session = sessions[view.shape[2], view.shape[3]]
            inputs = [part.contiguous().numpy() for part in cpu_parts(view)]
            features = [session.run(None, {"pixels": values})[0] for values in inputs]
            parts.append(np.concatenate(features))
        return torch.from_numpy(np.concatenate(parts, axis=1))

    return run if _agrees(backbone, run) else None


def _exported(backbone: Backbone, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    example = torch.zeros(2, 3, height, width)
    # the exporter warns of every constant that it folds, and prints the graph where it fails
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Features(backbone).eval(),
            (example,),
            buffer,
            dynamo=False,
            input_names=["pixels"],
            output_names=["features"],
            dynamic_axes={"pixels": {0: "batch"}, "features": {0: "batch"}},
        )
    return buffer.getvalue()


def _agrees(backbone: Backbone, engine: Engine) -> bool:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(3, 3, h, w, generator=generator) for h, w in backbone.preprocessing.views]
    with torch.inference_mode():
        wanted = backbone.embed(views)
    difference = float((engine(views) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
    if not difference <= TOLERANCE:
        logger.info("ONNX differs from torch by %.2g: using torch", difference)
        return False
    return True
