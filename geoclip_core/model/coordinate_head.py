"""What every coordinate head is: a joined vector in, a posterior over the Earth out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from geoclip_core.model.calibration import Calibration
from geoclip_core.model.posterior import Posterior


class CoordinateHead(nn.Module, ABC):
    """Base class of the heads "regression", "geocells" and "retrieval".

    A joined vector is the normalised embedding, followed by the projected context logits where
    context is used; `block_widths` are the widths of its blocks. `options` holds everything
    (JSON types only) that `type(head)(block_widths, **options)` needs to build a head into which
    the saved weights fit.
    """

    kind: ClassVar[str]

    def __init__(self, block_widths: Sequence[int]) -> None:
        super().__init__()
        self.block_widths = tuple(int(width) for width in block_widths)
        self.input_width = sum(self.block_widths)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same head again."""
        return {}

    @abstractmethod
    def forward(self, joined: Tensor) -> Any:
        """(b, input_width) -> whatever `loss` and `raw_posteriors` of this head read."""

    @abstractmethod
    def loss(self, output: Any, coordinates: Tensor) -> Tensor:
        """Scalar loss of an output against true coordinates (b, 2) in degrees."""

    @abstractmethod
    def raw_posteriors(self, output: Any) -> list[Posterior]:
        """One uncalibrated posterior a photo."""

    def posteriors(self, output: Any, calibration: Calibration | None = None) -> list[Posterior]:
        """One posterior a photo, calibrated if a calibration is given."""
        raw = self.raw_posteriors(output)
        return raw if calibration is None else [calibration.apply(item) for item in raw]
