"""GeoCLIP's location encoder: coordinates to a vector that can be compared with a photo's.

Vivanco Cepeda, Nayak and Shah, "GeoCLIP", NeurIPS 2023, section 3.1: Equal Earth projection,
random Fourier features at three scales, one MLP a scale, summed.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geoclip_core.model.equal_earth import geoclip_plane

DEFAULT_SIGMAS = (2.0**0, 2.0**4, 2.0**8)
"""Standard deviations of the frequencies of the three branches."""


class FourierFeatures(nn.Module):
    """Random Fourier features (Tancik et al., NeurIPS 2020): cosines first, then sines."""

    frequencies: Tensor

    def __init__(self, sigma: float, count: int = 256) -> None:
        super().__init__()
        # Drawn once and then kept: they are weights that are not trained, so they are a buffer.
        self.register_buffer("frequencies", torch.randn(count, 2) * sigma)

    def forward(self, plane: Tensor) -> Tensor:
        """(b, 2) -> (b, 2 × count)."""
        # At σ = 256 the phases reach 1,600 radians, where float32 keeps four decimals. The weights
        # were trained on phases rounded in this order (2π first): another order moves the outcome
        # by more than 1e-5.
        phases = (2 * math.pi * plane) @ self.frequencies.T
        return torch.cat([phases.cos(), phases.sin()], dim=-1)


class LocationBranch(nn.Sequential):
    """One scale of the encoder: Fourier features and a four-layer MLP."""

    def __init__(
        self, sigma: float, frequencies: int = 256, hidden: int = 1024, width: int = 512
    ) -> None:
        super().__init__(
            FourierFeatures(sigma, frequencies),
            nn.Linear(2 * frequencies, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, width),
        )


class LocationEncoder(nn.Module):
    """Coordinates (b, 2) in degrees -> raw location vectors (b, width), the sum of all branches."""

    def __init__(
        self,
        sigmas: Sequence[float] = DEFAULT_SIGMAS,
        *,
        frequencies: int = 256,
        hidden: int = 1024,
        width: int = 512,
    ) -> None:
        super().__init__()
        if not sigmas:
            raise ValueError("a location encoder needs at least one sigma")
        self.sigmas = tuple(float(sigma) for sigma in sigmas)
        self.width = width
        self.branches = nn.ModuleList(
            LocationBranch(sigma, frequencies, hidden, width) for sigma in self.sigmas
        )

    def forward(self, coordinates: Tensor) -> Tensor:
        """Location vectors (b, width), not normalised, of coordinates (b, 2) in degrees."""
        plane = geoclip_plane(coordinates)
        # One after the other, as the sum of float32 numbers depends on its order.
        total = torch.zeros(len(plane), self.width, dtype=plane.dtype, device=plane.device)
        for branch in self.branches:
            total = total + branch(plane)
        return total
