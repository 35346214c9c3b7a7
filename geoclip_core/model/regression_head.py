"""Coordinate head "regression": a point on the sphere, and how far from it the photo may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geoclip_core.earth.sphere import (
    EARTH_RADIUS_KM,
    coordinates_of,
    destination,
    haversine_km,
    spherical_mean,
    unit_vectors,
)
from geoclip_core.model.coordinate_head import CoordinateHead
from geoclip_core.model.losses import great_circle_km
from geoclip_core.model.posterior import HALF_CIRCUMFERENCE_KM, Posterior

RING_QUANTILES = (1 / 7, 3 / 7, 5 / 7, 13 / 14)
"""Shares of the mass inside each of the rings that stand for the spread around the point."""
RING_POINTS = 8


@dataclass(frozen=True)
class RegressionOutput:
    """Directions (b, 3), not of length 1, and logarithms (b,) of the distance scale in km."""

    vectors: Tensor
    log_scales: Tensor


class RegressionHead(CoordinateHead):
    """A direction in space, so that neither the date line nor the poles need care.

    The spread around the point has density ∝ exp(−d / s), with s learnt for each photo.

    Args:
        block_widths: widths of the blocks of the joined vector.
        hidden: width of a hidden layer; 0 for none.
        dropout: share of the last layer's inputs dropped in training.
    """

    kind: ClassVar[str] = "regression"
    centre: Tensor
    extent_km: Tensor

    def __init__(self, block_widths: Sequence[int], hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__(block_widths)
        self.hidden, self.dropout = int(hidden), float(dropout)
        self.trunk, width = trunk(self.input_width, self.hidden, self.dropout)
        self.direction = nn.Linear(width, 3)
        self.scale = nn.Linear(width, 1)
        for layer in (self.direction, self.scale):
            nn.init.normal_(layer.weight, std=0.1 / width**0.5)
            nn.init.zeros_(layer.bias)
        self.register_buffer("centre", torch.tensor([1.0, 0.0, 0.0]))
        self.register_buffer("extent_km", torch.tensor(HALF_CIRCUMFERENCE_KM / 2))

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments (JSON types) that build the same head again."""
        return {"hidden": self.hidden, "dropout": self.dropout}

    @torch.no_grad()
    def start_from(self, coordinates: np.ndarray) -> None:
        """Begin at the mean of the training coordinates (n, 2), with their spread as the unit."""
        mean = spherical_mean(coordinates)
        extent = float(np.sqrt(np.mean(haversine_km(coordinates, mean) ** 2)))
        self.centre.copy_(torch.from_numpy(unit_vectors(mean)))
        self.extent_km.fill_(max(extent, 1.0))

    def forward(self, joined: Tensor) -> RegressionOutput:
        """(b, input_width) -> directions and distance scales."""
        shared = self.trunk(joined)
        spread = (self.extent_km / EARTH_RADIUS_KM).clamp_max(1.0)
        vectors = self.centre + spread * self.direction(shared)
        log_scales = self.scale(shared).squeeze(1).clamp(-8, 3) + self.extent_km.log()
        return RegressionOutput(vectors, log_scales)

    def loss(self, output: RegressionOutput, coordinates: Tensor) -> Tensor:
        """Mean great-circle distance in units of the training spread, plus the spread's own loss.

        The scale is fitted by the negative log likelihood of density exp(−d / s) / (2π s²); it
        does not pull on the direction.
        """
        distances = great_circle_km(output.vectors, coordinates)
        log_scales = output.log_scales
        spread = distances.detach() / log_scales.exp() + 2 * (log_scales - self.extent_km.log())
        return (distances / self.extent_km).mean() + 0.1 * spread.mean()

    @torch.no_grad()
    def answers(self, output: RegressionOutput) -> Tensor:
        """Best points (b, 2) in degrees, the fast way that validation uses."""
        return coordinates_of(output.vectors)

    def raw_posteriors(self, output: RegressionOutput) -> list[Posterior]:
        """The point in the middle of rings that hold the learnt spread."""
        centres = coordinates_of(output.vectors.detach().cpu().double()).numpy()
        scales = output.log_scales.detach().cpu().double().exp().numpy()
        radii = np.array([_radius(share) for share in RING_QUANTILES])
        bearings = np.arange(RING_POINTS) * (360 / RING_POINTS)
        posteriors = []
        for centre, scale in zip(centres, scales, strict=True):
            rings = np.minimum(radii * scale, HALF_CIRCUMFERENCE_KM * 0.9)
            # every second ring is turned, so that the points cover more directions
            turned = bearings[None, :] + (180 / RING_POINTS) * (np.arange(len(rings)) % 2)[:, None]
            around = destination(centre, turned, rings[:, None]).reshape(-1, 2)
            points = np.concatenate([centre[None], around])
            weights = np.ones(len(points)) / RING_POINTS
            weights[0] = 0.5
            bandwidth = float(np.clip(0.5 * scale, 1.0, HALF_CIRCUMFERENCE_KM / 4))
            posteriors.append(Posterior(points, np.log(weights), bandwidth))
        return posteriors


def trunk(width: int, hidden: int, dropout: float) -> tuple[nn.Sequential, int]:
    """An optional hidden layer with dropout behind it, and the width that comes out."""
    layers: list[nn.Module] = []
    if hidden:
        layers = [nn.Linear(width, hidden), nn.GELU()]
        width = hidden
    return nn.Sequential(*layers, nn.Dropout(dropout)), width


def _radius(share: float) -> float:
    """Radius in units of s inside which density exp(−d / s) on a plane holds a share of the mass.

    Solves 1 − (1 + r) exp(−r) = share by Newton's method.
    """
    radius = 1.5
    for _ in range(50):
        radius -= (1 - (1 + radius) * np.exp(-radius) - share) / (radius * np.exp(-radius))
        radius = max(radius, 1e-3)
    return float(radius)
